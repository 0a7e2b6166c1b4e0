/* dot: 9·(63·63) = 35721 does not fit int16. */
#include <stdint.h>

#define OPERATION_dot_sequential 1
#define DIGITS 8
#define MASK 0xffffffffu
enum { x_format_min = -63, x_format_max = 63 };
enum { w_format_min = -63, w_format_max = 63 };
#define policy_wrap 1
#define order_ascending 1
#define x_count 9
static const int32_t x_shape[] = {1, 9};
static const int8_t x[9] = {
63, 63, 63, 63, 63, 63, 63, 63, 63
};
#define w_count 9
static const int32_t w_shape[] = {1, 9};
static const int8_t w[9] = {
63, 63, 63, 63, 63, 63, 63, 63, 63
};
#define expected_sums_count 9
static const int32_t expected_sums_shape[] = {1, 9};
static const int32_t expected_sums[9] = {
3969, 7938, 11907, 15876, 19845, 23814, 27783, 31752, 35721
};
#define expected_count 1
static const int32_t expected_shape[] = {1};
static const int32_t expected[1] = {
35721
};
