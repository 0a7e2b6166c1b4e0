/* A device in plain C11: reads one golden case from its header, computes it, writes expected.hex.
 *
 *     gcc -std=c11 -fsanitize=undefined ... -include CASE/case.h -o device device.c && ./device OUT/expected.hex
 *
 * Written from the formulas alone, for the dialect single_round: (sum * m + 2^(30 - shift)) >> (31 - shift).
 * -DPLANT_PADDING pads with 0 instead of the zero point; -DPLANT_SHIFT shifts by one place too few.
 */
#include <stdio.h>
#include <stdlib.h>

static inline int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Floor of value / 2^places, places from 1 to 62, without shifting a negative number. */
static int64_t floor_shift(int64_t value, int places)
{
    int64_t divisor = (int64_t)1 << places, quotient = value / divisor;
    return quotient - (value % divisor < 0);
}

static inline int64_t requantized(int64_t sum, int64_t multiplier, int places_left)
{
#ifdef PLANT_SHIFT
    places_left += 1;
#endif
    int right = 31 - places_left;
    return floor_shift(sum * multiplier + ((int64_t)1 << (right - 1)), right);
}

#if defined OPERATION_conv
/* The sum of one output, bias and all. */
static int64_t sum_of(int n, int o, int p, int q)
{
    int channels = x_shape[1], height = x_count / x_shape[0] / channels, width = 1;
    if (sizeof x_shape / sizeof *x_shape == 4) {
        height = x_shape[2];
        width = x_shape[3];
    }
    int per_group = w_shape[1], first = o / (w_shape[0] / groups) * per_group;
    int64_t sum = 0;
    for (int c = 0; c < per_group; c++)
        for (int r = 0; r < w_shape[2]; r++)
            for (int s = 0; s < w_shape[3]; s++) {
                int64_t row = p * stride[0] - padding[0] + r * dilation[0];
                int64_t column = q * stride[1] - padding[1] + s * dilation[1];
#ifdef PLANT_PADDING
                int64_t code = 0;
#else
                int64_t code = x_zero_point;
#endif
                if (row >= 0 && row < height && column >= 0 && column < width)
                    code = x[((n * channels + first + c) * height + row) * width + column];
                sum += w[((o * per_group + c) * w_shape[2] + r) * w_shape[3] + s] * (code - x_zero_point);
            }
#ifdef bias_count
    sum += bias[o];
#endif
    return sum;
}

static int64_t output(int index)
{
    int planes = sizeof expected_shape / sizeof *expected_shape == 4;
    int columns = planes ? expected_shape[3] : 1, rows = planes ? expected_shape[2] : 1;
    int q = index % columns, p = index / columns % rows, o = index / columns / rows % expected_shape[1];
    int n = index / columns / rows / expected_shape[1], channel = m_count > 1 ? o : 0;
    int64_t code = requantized(sum_of(n, o, p, q), m[channel], shift[channel]) + y_zero_point;
    return clamp(clamp(code, y_format_min, y_format_max), low, high);
}
#elif defined OPERATION_requantize
static int64_t output(int index)
{
    return clamp(requantized(x[index], m[index], shift[index]) + zero_point[index], y_format_min, y_format_max);
}
#elif defined OPERATION_shift_scaler
static int64_t output(int index)
{
    int64_t code = requantized(acc[index], m[0], shift[0] - k[index % k_count]);
    return clamp(code + y_zero_point, y_format_min, y_format_max);
}
#elif defined OPERATION_pwlq_dot
static int64_t output(int index)
{
    int64_t sums[3] = {0, 0, 0};
    for (int i = 0; i < x_shape[1]; i++) {
        int at = index * x_shape[1] + i;
        sums[region[at]] += x[at] * sign[at] * magnitude[at];
        sums[2] += region[at] ? x[at] * sign[at] : 0;
    }
    int64_t total = sums[0] * m[0] + sums[1] * m[1] + sums[2] * m[2];
    return clamp(requantized(total, 1, shift[0]) + y_zero_point, y_format_min, y_format_max);
}
#elif defined OPERATION_add
static int64_t output(int index)
{
    int64_t sum = requantized(x0[index] - x_zero_points[0], m[0], shift[0])
        + requantized(x1[index] - x_zero_points[1], m[1], shift[1]);
#ifdef x2_count
    sum += requantized(x2[index] - x_zero_points[2], m[2], shift[2]);
#endif
    return clamp(floor_shift(sum + 128, 8) + y_zero_point, low, high);
}
#elif defined OPERATION_average_pool || defined OPERATION_max_pool
static int64_t output(int index)
{
    int columns = expected_shape[3], rows = expected_shape[2], q = index % columns, p = index / columns % rows;
    int plane = index / columns / rows;
    int64_t sum = 0, largest = y_format_min;
    for (int r = 0; r < kernel[0]; r++)
        for (int s = 0; s < kernel[1]; s++) {
            int64_t row = p * stride[0] - padding[0] + r, column = q * stride[1] - padding[1] + s;
            if (row < 0 || row >= x_shape[2] || column < 0 || column >= x_shape[3])
                continue;
            int64_t code = x[(plane * x_shape[2] + row) * x_shape[3] + column];
            sum += code - x_zero_point;
            largest = code > largest ? code : largest;
        }
#ifdef OPERATION_max_pool
    return largest;
#else
    int at = index % (rows * columns);
    return clamp(requantized(sum, m[at], shift[at]) + y_zero_point, low, high);
#endif
}
#elif defined OPERATION_concat
static int64_t output(int index)
{
    int plane = expected_shape[2] * expected_shape[3], pixel = index % plane, operand = 0;
    int o = index / plane % expected_shape[1], n = index / plane / expected_shape[1];
    int64_t code;
    if (o < x0_shape[1]) {
        code = x0[(n * x0_shape[1] + o) * plane + pixel];
    } else if (o < x0_shape[1] + x1_shape[1]) {
        operand = 1;
        code = x1[(n * x1_shape[1] + o - x0_shape[1]) * plane + pixel];
    } else {
#ifdef x2_count
        operand = 2;
        code = x2[(n * x2_shape[1] + o - x0_shape[1] - x1_shape[1]) * plane + pixel];
#else
        abort();
#endif
    }
    code = requantized(code - x_zero_points[operand], m[operand], shift[operand]) + y_zero_point;
    return clamp(code, low, high);
}
#else
#error "this device does not know the case's operation"
#endif

int main(int count, char **arguments)
{
    FILE *file = count == 2 ? fopen(arguments[1], "w") : NULL;
    if (!file)
        return EXIT_FAILURE;
    for (int index = 0; index < expected_count; index++)
        fprintf(file, "%0*x\n", DIGITS, (unsigned)output(index) & MASK);
    return fclose(file) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
