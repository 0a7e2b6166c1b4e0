/* Three requantization dialects in plain C11: an int32 accumulator times m·2^(shift-31), to int32.
 *
 *     requantize DIALECTS OUT ACC M SHIFT
 *
 * ACC, M, OUT: int32, SHIFT: int8, one of each per element. M is 0 or from 2^30 to 2^31 - 1; a positive shift
 * goes left. SHIFT is from -31 to 30, for multiplier16 to 14. The results are saturated to int32; a zero point
 * and a narrower format would come after that.
 *
 * Each function is written as the code it is named after is: nothing here may be undefined for any int32
 * accumulator and any legal shift; the test runs it under the sanitizer to see to that:
 *     gcc -std=c11 -O1 -fsanitize=undefined -fno-sanitize-recover=all -o requantize requantize.c
 */
#include <stdbool.h>
#include <string.h>

#include "binary_files.h"

/* C11 leaves `>>` of a negative number to the compiler. Everything below needs the sign to be shifted in. */
_Static_assert((-3 >> 1) == -2, "needs an arithmetic right shift");

/* 2^(bits - 1), which makes a right shift by `bits` round: half a unit of the last place that is kept. */
static int64_t half(int bits)
{
#ifdef PLANT_FAULT
    (void)bits;
    return 0; /* A mistake that the test must catch: truncation instead of rounding. */
#else
    return (int64_t)1 << (bits - 1);
#endif
}

static int32_t saturate(int64_t value)
{
    return value < INT32_MIN ? INT32_MIN : value > INT32_MAX ? INT32_MAX : (int32_t)value;
}

/* x·2^left modulo 2^32, as a 32-bit register shifts. On int32_t it would be undefined; on uint32_t it is not,
 * and the way back keeps the bits with every compiler that uses two's complement. */
static int32_t wrap_left(int32_t x, int left)
{
#ifdef PLANT_UNDEFINED
    return x << left; /* A mistake that the sanitizer must catch. */
#else
    return (int32_t)((uint32_t)x << left);
#endif
}

/* gemmlowp's SaturatingRoundingDoublingHighMul: a·b / 2^31, ties up. C's division truncates, hence the
 * smaller nudge below zero. */
static int32_t rounding_doubling_high_multiply(int32_t a, int32_t b)
{
    if (a == INT32_MIN && b == INT32_MIN)
        return INT32_MAX; /* 2^31, the one product that does not fit */
    int64_t product = (int64_t)a * b;
    int64_t nudge = product >= 0 ? half(31) : 1 - half(31);
    return (int32_t)((product + nudge) / ((int64_t)1 << 31));
}

/* gemmlowp's RoundingDivideByPOT: x / 2^exponent, ties away from zero. The mask is made in 64 bits, for
 * 1 << 31 is no int. */
static int32_t rounding_divide_by_power_of_two(int32_t x, int exponent)
{
    int32_t mask = (int32_t)(((int64_t)1 << exponent) - 1);
    int32_t remainder = x & mask;
    int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
    return (x >> exponent) + (remainder > threshold ? 1 : 0);
}

/* Rounds twice: after the multiplication and after the right shift. */
static int32_t gemmlowp_double(int32_t x, int32_t m, int shift)
{
    int left = shift > 0 ? shift : 0, right = shift < 0 ? -shift : 0;
    return rounding_divide_by_power_of_two(rounding_doubling_high_multiply(wrap_left(x, left), m), right);
}

/* Rounds once, ties up. |x·m| < 2^62 and half <= 2^61, so that int64 holds the sum. */
static int32_t single_round(int32_t x, int32_t m, int shift)
{
    int total = 31 - shift;
    return saturate(((int64_t)x * m + half(total)) >> total);
}

/* The same with m rounded to 16 bits, for hardware whose multiplier is 32 x 16. Rounding 0x7FFF0000 and above
 * would give 2^15, which an int16 register does not hold. */
static int32_t multiplier16(int32_t x, int32_t m, int shift)
{
    int32_t m16 = m < 0x7FFF0000 ? (m + (1 << 15)) >> 16 : 0x7FFF;
    int total = 15 - shift;
    return saturate(((int64_t)x * m16 + half(total)) >> total);
}

static const struct {
    const char *name;
    int32_t (*function)(int32_t x, int32_t m, int shift);
    int greatest_shift;
} DIALECTS[] = {
    {"gemmlowp_double", gemmlowp_double, 30},
    {"single_round", single_round, 30},
    {"multiplier16", multiplier16, 14},
};

int main(int argc, char **argv)
{
    size_t known = sizeof DIALECTS / sizeof DIALECTS[0], which = 0;
    while (argc == 6 && which < known && strcmp(argv[1], DIALECTS[which].name) != 0)
        ++which;
    if (argc != 6 || which == known)
        refuse(argv[0], "call me as: DIALECTS OUT ACC M SHIFT");
    size_t count = count_elements(argv[3], sizeof(int32_t));
    int32_t *acc = read_array(argv[3], count, sizeof *acc);
    int32_t *m = read_array(argv[4], count, sizeof *m);
    int8_t *shift = read_array(argv[5], count, sizeof *shift);
    int32_t *out = new_array(count, sizeof *out);

    for (size_t i = 0; i < count; ++i) {
        bool legal = shift[i] >= -31 && shift[i] <= DIALECTS[which].greatest_shift;
        if (!legal || (m[i] != 0 && m[i] < 1 << 30))
            refuse(DIALECTS[which].name, "a shift or a multiplier is outside its range");
        out[i] = DIALECTS[which].function(acc[i], m[i], shift[i]);
    }
    write_array(argv[2], out, count, sizeof *out);
    free(acc);
    free(m);
    free(shift);
    free(out);
    return 0;
}
