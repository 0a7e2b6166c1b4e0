/* The dot product of int8 codes through int16 lanes, in plain C11, stopping at the first overflow.
 *
 *     dot_int16 dot_int16 OUT X W LENGTH SCHEDULE
 *
 * X, W: int8, rows of LENGTH codes. OUT: one int32 per row. Element i of a row goes to lane i mod 8. A step
 * multiplies eight elements and adds them to the eight int16 lanes (SMLAL); after SCHEDULE steps, and at the
 * end, neighbouring lanes are added to four int32 lanes (SADALP) and the int16 lanes start again from zero;
 * last, the four are added up (ADDV).
 *
 * A lane that leaves its format ends the program with exit code 3 and one line: instruction, step, lane, and
 * the value that did not fit. Rows are worked on one after another, so that line is about the first bad row.
 *
 *     gcc -std=c11 -O1 -fsanitize=undefined -fno-sanitize-recover=all -o dot_int16 dot_int16.c
 */
#include <string.h>

#include "binary_files.h"

#ifdef PLANT_FAULT
/* A mistake that the test must catch: lanes wider than the hardware's. Every sum is right, and nothing overflows. */
typedef int32_t lane_t;
#else
typedef int16_t lane_t;
#endif

enum { LANES = 8 };

static _Noreturn void overflow_int16(size_t step, int lane, int value)
{
    printf("SMLAL at step %zu, lane[%d] is %d, outside int16 (-32768..32767)\n", step, lane, value);
    exit(EXIT_OVERFLOW);
}

static int32_t fits_int32(int64_t value, const char *where)
{
    if (value >= INT32_MIN && value <= INT32_MAX)
        return (int32_t)value;
    printf("%s is %lld, outside int32 (-2147483648..2147483647)\n", where, (long long)value);
    exit(EXIT_OVERFLOW);
}

static int32_t dot_int16(const int8_t *x, const int8_t *w, size_t length, size_t schedule)
{
    lane_t narrow[LANES] = {0};
    int32_t wide[LANES / 2] = {0};
    size_t steps = (length + LANES - 1) / LANES;

    for (size_t step = 0; step < steps; ++step) {
        for (int lane = 0; lane < LANES; ++lane) {
            size_t i = step * LANES + (size_t)lane;
            if (i >= length)
                break; /* the last step is filled up with zeros, which add nothing */
            int product = x[i] * w[i]; /* at most 2^14: C multiplies in int */
            int before = narrow[lane];
            /* `narrow[lane] += product` would add in int and cut the sum to 16 bits without a word;
             * the builtin adds exactly and tells whether the sum fits the type it is stored in. */
            if (__builtin_add_overflow(narrow[lane], product, &narrow[lane]))
                overflow_int16(step, lane, before + product);
        }
        if ((step + 1) % schedule != 0 && step + 1 != steps)
            continue;
        for (int pair = 0; pair < LANES / 2; ++pair) {
            char where[64];
            snprintf(where, sizeof where, "SADALP at step %zu, lane[%d]", step, pair);
            /* SADALP adds both neighbours at once: only the sum of all three has to fit. */
            wide[pair] = fits_int32((int64_t)wide[pair] + narrow[2 * pair] + narrow[2 * pair + 1], where);
        }
        memset(narrow, 0, sizeof narrow);
    }
    return fits_int32((int64_t)wide[0] + wide[1] + wide[2] + wide[3], "ADDV");
}

int main(int argc, char **argv)
{
    if (argc != 7 || strcmp(argv[1], "dot_int16") != 0)
        refuse(argv[0], "call me as: dot_int16 OUT X W LENGTH SCHEDULE");
    size_t length = positive_number(argv[5]), schedule = positive_number(argv[6]);
    size_t count = count_elements(argv[3], sizeof(int8_t));
    if (count % length != 0)
        refuse(argv[3], "does not hold whole rows");
    int8_t *x = read_array(argv[3], count, sizeof *x);
    int8_t *w = read_array(argv[4], count, sizeof *w);
    int32_t *out = new_array(count / length, sizeof *out);

    for (size_t row = 0; row < count / length; ++row)
        out[row] = dot_int16(x + row * length, w + row * length, length, schedule);
    write_array(argv[2], out, count / length, sizeof *out);
    free(x);
    free(w);
    free(out);
    return 0;
}
