/* Arm's Advanced SIMD instructions themselves, applied to every lane of binary files.
 *
 *     neon smlal       OUT ACC A B               int16 += int8 * int8
 *     neon smull       OUT A B                   int16  = int8 * int8
 *     neon sadalp      OUT ACC X                 int32 += int16 + its neighbour
 *     neon sqrdmulh    OUT A B                   int32  = high half of 2ab, rounded, saturated
 *     neon srshl       OUT X SHIFT               int32 shifted left, or right and rounded; SHIFT int32
 *     neon sqxtn       OUT X                     int8   = int16 saturated
 *     neon sdot        OUT ACC A B               int32 += four int8 * int8
 *     neon dot_int16   OUT X W LENGTH SCHEDULE   int32 per row of LENGTH int8
 *     neon neon_double OUT ACC M SHIFT           int32 requantized: int32, int32, int8
 *
 * The first operand says how many lanes there are; they must fill whole vectors. Files and exit codes are
 * described in ../c/binary_files.h. SDOT is an extension, hence -march and -cpu:
 *     aarch64-linux-gnu-gcc -std=c11 -O1 -static -march=armv8.2-a+dotprod -o neon neon.c
 *     qemu-aarch64-static -cpu max ./neon smull out.bin a.bin b.bin
 */
#include <arm_neon.h>
#include <string.h>

#include "../c/binary_files.h"

/* An operation reads its operands, writes its results to `out`, and says how many bytes they have. n is the
 * number of elements of the first operand. Nothing is freed: the program ends with its one operation. */

static size_t smlal(char **in, size_t n, void *out)
{
    const int16_t *acc = read_array(in[0], n, sizeof *acc);
    const int8_t *a = read_array(in[1], n, 1), *b = read_array(in[2], n, 1);
    for (size_t i = 0; i < n; i += 8)
        vst1q_s16((int16_t *)out + i, vmlal_s8(vld1q_s16(acc + i), vld1_s8(a + i), vld1_s8(b + i)));
    return 2 * n;
}

static size_t smull(char **in, size_t n, void *out)
{
    const int8_t *a = read_array(in[0], n, 1), *b = read_array(in[1], n, 1);
    for (size_t i = 0; i < n; i += 8)
        vst1q_s16((int16_t *)out + i, vmull_s8(vld1_s8(a + i), vld1_s8(b + i)));
    return 2 * n;
}

static int32x4_t add_pairs(int32x4_t acc, int16x8_t x)
{
#ifdef PLANT_FAULT
    /* A mistake that the test must catch: the last pair is forgotten. */
    x = vsetq_lane_s16(0, vsetq_lane_s16(0, x, 6), 7);
#endif
    return vpadalq_s16(acc, x);
}

static size_t sadalp(char **in, size_t n, void *out)
{
    const int32_t *acc = read_array(in[0], n, sizeof *acc);
    const int16_t *x = read_array(in[1], 2 * n, sizeof *x);
    for (size_t i = 0; i < n; i += 4)
        vst1q_s32((int32_t *)out + i, add_pairs(vld1q_s32(acc + i), vld1q_s16(x + 2 * i)));
    return 4 * n;
}

static size_t sqrdmulh(char **in, size_t n, void *out)
{
    const int32_t *a = read_array(in[0], n, sizeof *a), *b = read_array(in[1], n, sizeof *b);
    for (size_t i = 0; i < n; i += 4)
        vst1q_s32((int32_t *)out + i, vqrdmulhq_s32(vld1q_s32(a + i), vld1q_s32(b + i)));
    return 4 * n;
}

static int32x4_t rounding_shift(int32x4_t x, int32x4_t shift)
{
#ifdef PLANT_FAULT
    return vshlq_s32(x, shift); /* A mistake that the test must catch: SSHL, which truncates. */
#else
    return vrshlq_s32(x, shift);
#endif
}

/* The instruction reads the low byte of each shift lane and ignores the other three. */
static size_t srshl(char **in, size_t n, void *out)
{
    const int32_t *x = read_array(in[0], n, sizeof *x), *shift = read_array(in[1], n, sizeof *shift);
    for (size_t i = 0; i < n; i += 4)
        vst1q_s32((int32_t *)out + i, rounding_shift(vld1q_s32(x + i), vld1q_s32(shift + i)));
    return 4 * n;
}

static size_t sqxtn(char **in, size_t n, void *out)
{
    const int16_t *x = read_array(in[0], n, sizeof *x);
    for (size_t i = 0; i < n; i += 8)
        vst1_s8((int8_t *)out + i, vqmovn_s16(vld1q_s16(x + i)));
    return n;
}

static size_t sdot(char **in, size_t n, void *out)
{
    const int32_t *acc = read_array(in[0], n, sizeof *acc);
    const int8_t *a = read_array(in[1], 4 * n, 1), *b = read_array(in[2], 4 * n, 1);
    for (size_t i = 0; i < n; i += 4)
        vst1q_s32((int32_t *)out + i, vdotq_s32(vld1q_s32(acc + i), vld1q_s8(a + 4 * i), vld1q_s8(b + 4 * i)));
    return 4 * n;
}

/* Eight codes, or what is left of the row filled up with zeros: no lane reads the next row. */
static int8x8_t load_codes(const int8_t *codes, size_t left)
{
    int8_t eight[8] = {0};
    memcpy(eight, codes, left < 8 ? left : 8);
    return vld1_s8(eight);
}

/* The inner loop of a 7-bit convolution: element i goes to lane i mod 8, and every `schedule` steps the int16
 * lanes are emptied into the int32 lanes. SMLAL wraps without a word, so a schedule that is too long gives a
 * wrong sum; the reference has to give the same wrong sum. */
static size_t dot_int16(char **in, size_t n, void *out)
{
    size_t length = positive_number(in[2]), schedule = positive_number(in[3]);
    const int8_t *x = read_array(in[0], n, 1), *w = read_array(in[1], n, 1);
    if (n % length != 0)
        refuse(in[0], "does not hold whole rows");

    for (size_t row = 0; row < n / length; ++row, x += length, w += length) {
        int16x8_t narrow = vdupq_n_s16(0);
        int32x4_t wide = vdupq_n_s32(0);
        for (size_t i = 0, step = 1; i < length; i += 8, ++step) {
            narrow = vmlal_s8(narrow, load_codes(x + i, length - i), load_codes(w + i, length - i));
            if (step % schedule == 0) {
                wide = add_pairs(wide, narrow);
                narrow = vdupq_n_s16(0);
            }
        }
        wide = add_pairs(wide, narrow); /* what is left, zero if nothing is */
        ((int32_t *)out)[row] = vaddvq_s32(wide);
    }
    return 4 * (n / length);
}

/* TFLite's requantization on NEON: SSHL left (modulo 2^32), SQRDMULH, SRSHL right. */
static size_t neon_double(char **in, size_t n, void *out)
{
    const int32_t *acc = read_array(in[0], n, sizeof *acc), *m = read_array(in[1], n, sizeof *m);
    const int8_t *s = read_array(in[2], n, 1);
    for (size_t i = 0; i < n; i += 4) {
        int32x4_t shift = {s[i], s[i + 1], s[i + 2], s[i + 3]}, zero = vdupq_n_s32(0);
        int32x4_t shifted = vshlq_s32(vld1q_s32(acc + i), vmaxq_s32(shift, zero));
        int32x4_t product = vqrdmulhq_s32(shifted, vld1q_s32(m + i));
        vst1q_s32((int32_t *)out + i, rounding_shift(product, vminq_s32(shift, zero)));
    }
    return 4 * n;
}

static const struct {
    const char *name;
    size_t (*apply)(char **in, size_t n, void *out);
    int arguments;        /* after OUT */
    size_t element, lanes; /* of the first operand: bytes, and how many make a whole vector */
} OPERATIONS[] = {
    {"smlal", smlal, 3, 2, 8},       {"smull", smull, 2, 1, 8},         {"sadalp", sadalp, 2, 4, 4},
    {"sqrdmulh", sqrdmulh, 2, 4, 4}, {"srshl", srshl, 2, 4, 4},         {"sqxtn", sqxtn, 1, 2, 8},
    {"sdot", sdot, 3, 4, 4},         {"dot_int16", dot_int16, 4, 1, 1}, {"neon_double", neon_double, 3, 4, 4},
};

int main(int argc, char **argv)
{
    for (size_t k = 0; k < sizeof OPERATIONS / sizeof OPERATIONS[0]; ++k) {
        if (argc != 3 + OPERATIONS[k].arguments || strcmp(argv[1], OPERATIONS[k].name) != 0)
            continue;
        size_t n = count_elements(argv[3], OPERATIONS[k].element);
        if (n % OPERATIONS[k].lanes != 0)
            refuse(argv[3], "does not fill whole vectors");
        void *out = new_array(n, 4); /* no operation writes more than four bytes per element */
        write_array(argv[2], out, OPERATIONS[k].apply(argv + 3, n, out), 1);
        return 0;
    }
    refuse(argv[0], "call me as: OPERATION OUT IN... [LENGTH SCHEDULE]");
}
