/* Integer Winograd F(4x4, 3x3) in plain C11 and int32, stopping at the first overflow.
 *
 *     winograd_f43 STAGE OUT X W CHANNELS
 *
 * X: int8 tiles of 6x6, W: int8 kernels of 3x3, CHANNELS of each to a group. OUT, int32: for STAGE
 *     V        BT d B      6x6 for each channel
 *     U        G g GT      6x6 for each channel; G times 24
 *     sum      U * V entry by entry, added over the channels    6x6 for each group
 *     output   AT sum A / 576, the convolution                  4x4 for each group
 *
 * Every product and sum that leaves int32 is undefined in C; the sanitizer ends the program there:
 *     gcc -std=c11 -O1 -fsanitize=undefined -fno-sanitize-recover=all -o winograd_f43 winograd_f43.c
 * With -DLATER_SCALING a quarter of G's last row is taken, and AT makes up for it.
 */
#include <string.h>

#include "binary_files.h"

#ifdef LATER_SCALING
enum { LAST_G = 6, LAST_A = 4 };
#else
enum { LAST_G = 24, LAST_A = 1 };
#endif

static const int BT[6][6] = {{4, 0, -5, 0, 1, 0},  {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0},
#ifdef PLANT_FAULT
                             {0, -2, -1, 2, 1, 0}, {0, 2, 1, -2, 1, 0}, /* A mistake that the test must catch. */
#else
                             {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0},
#endif
                             {0, 4, 0, -5, 0, 1}};
static const int G[6][3] = {{6, 0, 0}, {-4, -4, -4}, {-4, 4, -4}, {1, 2, 4}, {1, -2, 4}, {0, 0, LAST_G}};
static const int AT[4][6] = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, LAST_A}};

static void input_transform(const int8_t d[6][6], int32_t v[6][6])
{
    int32_t columns[6][6] = {{0}};
    memset(v, 0, 36 * sizeof(int32_t));
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
            for (int k = 0; k < 6; ++k)
                columns[i][j] += BT[i][k] * d[k][j];
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
            for (int k = 0; k < 6; ++k)
                v[i][j] += columns[i][k] * BT[j][k];
}

static void kernel_transform(const int8_t g[3][3], int32_t u[6][6])
{
    int32_t columns[6][3] = {{0}};
    memset(u, 0, 36 * sizeof(int32_t));
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 3; ++j)
            for (int k = 0; k < 3; ++k)
                columns[i][j] += G[i][k] * g[k][j];
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
            for (int k = 0; k < 3; ++k)
                u[i][j] += columns[i][k] * G[j][k];
}

/* The terms of the output transform, such as 8 times a sum, can leave int32 although the sums before it and the
 * result after it fit: they cancel. In unsigned arithmetic, modulo 2^32 and always defined, the result is right. */
#ifdef PLANT_UNDEFINED
typedef int32_t word_t; /* A mistake that the sanitizer must catch. */
#else
typedef uint32_t word_t;
#endif

static void output_transform(const int32_t sum[6][6], int32_t y[4][4])
{
    word_t columns[4][6] = {{0}}, scaled[4][4] = {{0}};
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 6; ++j)
            for (int k = 0; k < 6; ++k)
                columns[i][j] += (word_t)AT[i][k] * (word_t)sum[k][j];
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            for (int k = 0; k < 6; ++k)
                scaled[i][j] += columns[i][k] * (word_t)AT[j][k];
            if ((int32_t)scaled[i][j] % 576 != 0)
                refuse("output", "is not a multiple of 576");
            y[i][j] = (int32_t)scaled[i][j] / 576;
        }
}

int main(int argc, char **argv)
{
    static const char *const STAGES[] = {"V", "U", "sum", "output"};
    static const size_t SIZES[] = {36, 36, 36, 16};
    size_t stage = 0;
    while (argc == 6 && stage < 4 && strcmp(argv[1], STAGES[stage]) != 0)
        ++stage;
    if (argc != 6 || stage == 4)
        refuse(argv[0], "call me as: STAGE OUT X W CHANNELS");
    size_t channels = positive_number(argv[5]), steps = count_elements(argv[3], 1) / 36;
    if (steps % channels != 0)
        refuse(argv[3], "does not hold whole groups");
    const int8_t(*x)[6][6] = read_array(argv[3], 36 * steps, 1);
    const int8_t(*w)[3][3] = read_array(argv[4], 9 * steps, 1);
    size_t count = SIZES[stage] * (stage < 2 ? steps : steps / channels);
    int32_t *out = new_array(count, sizeof *out), *next = out;

    for (size_t group = 0; group < steps / channels; ++group) {
        int32_t sum[6][6] = {{0}}, v[6][6], u[6][6], y[4][4];
        for (size_t c = group * channels; c < (group + 1) * channels; ++c) {
            input_transform(x[c], v);
            kernel_transform(w[c], u);
            if (stage < 2) {
                memcpy(next, stage == 0 ? v : u, sizeof v);
                next += 36;
                continue;
            }
            for (int i = 0; i < 6; ++i)
                for (int j = 0; j < 6; ++j)
                    sum[i][j] += u[i][j] * v[i][j];
        }
        if (stage == 2) {
            memcpy(next, sum, sizeof sum);
            next += 36;
        } else if (stage == 3) {
            output_transform(sum, y);
            memcpy(next, y, sizeof y);
            next += 16;
        }
    }
    write_array(argv[2], out, count, sizeof *out);
    return 0; /* nothing is freed: the program ends with its one operation */
}
