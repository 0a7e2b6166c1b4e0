"""Bad arguments get one sentence: what was expected and what was got. Each sentence once; variants in ``checks``."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest

from refquant.convolution.bounds import direct_bounds, dot_product_range, l1_budget, largest_count
from refquant.convolution.direct import convolve_exact
from refquant.convolution.int16 import convolve_int16
from refquant.integers.accumulation import dot_int16, dot_sequential, safe_products_per_lane
from refquant.integers.checks import (
    as_integers,
    finite,
    fitting_int64,
    float32_or_float64,
    integer,
    moderate,
    one_of,
    positive,
)
from refquant.integers.dialects import DIALECTS, Dialect
from refquant.integers.formats import IntFormat, apply_policy, check_codes, check_zero_point, saturate, trap, wrap
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.rounding import (
    RULES,
    round_fraction,
    round_product,
    round_product_sum,
    round_values,
    shift_right,
)
from refquant.integers.simd import sadalp, sdot
from refquant.network.simulated_scaling import scale_by
from refquant.scales.kl import demo_divergences, ncnn_divergences, tensorrt_divergences
from refquant.scales.linear import affine_parameters, dequantize, expected_squared_error, max_scale, quantize
from refquant.scales.metrics import cosine, sqnr_db
from refquant.scales.statistics import Extremes, Histogram
from refquant.scales.thresholds import ESTIMATORS, aciq, aciq_ratio, kl, percentile, threshold, threshold_scale
from refquant.shift_equalizer import (
    WAYS,
    equalizing_shifts,
    least_squares_scale,
    limit_shifts,
    search_shifts,
    undo_shifts,
)

SEVEN, EIGHT, UNSIGNED = IntFormat(7, narrow=True), IntFormat(8), IntFormat(8, signed=False)
X = np.array([[0.1, -0.2, 0.3], [1.0, 2.0, -3.0]])
PLANES, KERNEL = np.ones((1, 4, 5, 5), int), np.ones((2, 4, 3, 3), int)
HALF, COUNTS = Multiplier.from_real(0.5), Histogram(np.array([1, 2]), 0, 1.0)

INTEGER = "must be an integer"
LAST_AXIS = "x_q and w_q must share a last axis of length >= 1"
INTEGERS = "must hold integers of at most 64 bits, got dtype"
FLOATS = "must hold floats of at most 64 bits, got dtype"
DIALECT = ("dialect must be a name, such as single_round, or 4 to 6 words, such as m31,wrap,half_up,half_away "
           "(see refquant dialects)")
REFUSALS = [
    # formats and policies
    (lambda: IntFormat(0), f"bits {INTEGER} from 1 to 64, got 0"),
    (lambda: IntFormat(65), f"bits {INTEGER} from 1 to 64, got 65"),
    (lambda: IntFormat(8.0), f"bits {INTEGER} from 1 to 64, got 8.0"),
    *[(call, f"{name} must be an IntFormat, as in IntFormat(8), got 8") for name, call in (
        ("fmt", lambda: wrap(3, 8)), ("fmt", lambda: check_codes(3, 8, "x")), ("fmt", lambda: saturate(3, 8)),
        ("fmt", lambda: trap(3, 8)), ("x_format", lambda: dot_int16([1], [1], 8, EIGHT)),
        ("w_format", lambda: safe_products_per_lane(EIGHT, 8)),
        ("x_format", lambda: safe_products_per_lane(8, EIGHT)),
        ("x_format", lambda: direct_bounds(8, EIGHT, 1, (3, 3))),
        ("accumulator", lambda: l1_budget(EIGHT, 8)), ("x_format", lambda: l1_budget(8, EIGHT)),
        ("fmt", lambda: undo_shifts([1], HALF, 1, 8)))],
    (lambda: check_codes(np.uint64(2**64 - 1), IntFormat(64, False), "x"), f"x must fit int64, got {2**64 - 1}"),
    *[(lambda k=k: HALF.shifted_right(k), f"a multiplier must be finite and > 0, got {real}")
      for k, real in ((2**32, "0.0"), (-2**32, "inf"))],
    *[(lambda peak=peak: moderate(peak, "x"), f"x must be 0 or from 1e-140 to 1e140, got {peak:.3g}")
      for peak in (1e-140, 1e140)],
    (lambda: Multiplier(1.0, 2**30, np.uint64(2**63)), f"shift must fit int64, got {2**63}"),
    (lambda: IntFormat(1, narrow=True), "narrow needs a signed format of 2 bits or more, got 1 bits, signed=True"),
    (lambda: IntFormat(8, False, True), "narrow needs a signed format of 2 bits or more, got 8 bits, signed=False"),
    (lambda: IntFormat(8, 2), "signed must be True or False, got 2"),
    (lambda: IntFormat(8, narrow=None), "narrow must be True or False, got None"),
    (lambda: wrap([1], IntFormat(8, narrow=True)), "wrap needs a full-range format, got int8 narrow"),
    *[(lambda policy=policy: apply_policy([0.5], EIGHT, policy), f"x {INTEGERS} float64")
      for policy in ("wrap", "saturate", "trap")],
    (lambda: apply_policy([1], EIGHT, "Wrap"), "policy must be one of wrap, saturate, trap, got 'Wrap'"),
    (lambda: apply_policy([1], EIGHT, None), "policy must be one of wrap, saturate, trap, got None"),
    *[(lambda call=call: call("clip"), "policy must be one of wrap, saturate, trap, got 'clip'") for call in (
        lambda policy: dot_int16([1], [1], EIGHT, EIGHT, 1, policy), lambda policy: convolve_int16(
            np.ones((1, 1, 1, 1), int), np.ones((1, 1, 1, 1), int), EIGHT, EIGHT, policy=policy))],
    (lambda: check_codes([3, 200], EIGHT, "w"), "w must hold codes of int8 (-128..127), got 3..200"),
    *[(lambda z=z, fmt=fmt: check_zero_point(z, fmt), f"zero_point must be a code of {fmt} ({fmt.min}..{fmt.max}), "
       f"got {z}") for z, fmt in ((128, EIGHT), (-129, EIGHT), (-1, UNSIGNED), (-128, IntFormat(8, narrow=True)))],
    # rounding
    *[(lambda call=call: call("HALF_UP"), f"rounding must be one of {', '.join(RULES)}, got 'HALF_UP'") for call in (
        lambda rule: round_values(np.array([0.5]), rule), lambda rule: shift_right([1], 1, rule),
        lambda rule: round_product(0.5, 1.0, rule, 9.0), lambda rule: round_fraction(Fraction(1, 2), rule),
        lambda rule: round_product_sum(0.5, 1.0, 1, rule, 9.0), lambda rule: quantize(X, 1.0, EIGHT, rule))],
    (lambda: round_values(np.array([1, 2])), "x must hold floats, got dtype int64"),
    (lambda: shift_right([1], [5, -2]), "shift must be from 0 to 62, got -2..5"),
    (lambda: shift_right([1], 63), "shift must be from 0 to 62, got 63..63"),
    (lambda: shift_right([1], np.array([2**64 - 1], np.uint64)),
     "shift must be from 0 to 62, got 18446744073709551615..18446744073709551615"),
    (lambda: shift_right([1.0], 1), f"x {INTEGERS} float64"),
    (lambda: shift_right([1], 1.0), f"shift {INTEGERS} float64"),
    (lambda: shift_right(np.array([1], np.uint64), 1), "x must fit int64, got dtype uint64"),
    *[(lambda limit=limit: round_product(0.5, 1.0, "floor", limit),
       f"limit must be above 0 and at most 2^50, got {limit}") for limit in (0.0, 2.0**51, np.nan)],
    # multipliers and requantization
    *[(lambda real=real: Multiplier.from_real(real), f"a multiplier must be finite and > 0, got {got}")
      for real, got in ((0, "0"), (-0.5, "-0.5"), (np.nan, "nan"), ([0.5, np.inf], "inf"), ([[1.0, -2.0]], "-2.0"))],
    (lambda: Multiplier.from_real("0.5"), "a multiplier must be a number of at most 64 bits, got dtype <U3"),
    (lambda: Multiplier.from_real([0.5, 0.25]).along(2, 2), "axis must be within 2 axes, got 2"),
    (lambda: Multiplier.from_real(0.5).shifted_right(1.0), f"k {INTEGERS} float64"),
    *[(lambda parts=parts: Multiplier(*parts), message) for parts, message in (
        (([0.5] * 3, [2**30, 5, 2**31], [0] * 3), "m must be from 0 to 2^31 - 1, got 5..2147483648"),
        ((0.5, -1, 0), "m must be from 0 to 2^31 - 1, got -1..-1"),
        ((0.5, 2.0**30, 0), f"m {INTEGERS} float64"),
        ((0.5, 2**30, 0.5), f"shift {INTEGERS} float64"),
        ((0.5, [2**30], [0]), "real, m and shift must have one shape, got (), (1,), (1,)"),
        ((-0.5, 2**30, 0), "a multiplier must be finite and > 0, got -0.5"))],
    (lambda: requantize(1.0, HALF, EIGHT), f"acc {INTEGERS} float64"),
    (lambda: requantize([1], 0.5, EIGHT), "multiplier must be a Multiplier (see Multiplier.from_real), got 0.5"),
    (lambda: requantize([1], HALF, 8), "fmt must be an IntFormat, as in IntFormat(8), got 8"),
    (lambda: requantize([1.5], HALF, EIGHT, "gemmlowp_double"), f"acc {INTEGERS} float64"),
    (lambda: requantize([1], HALF, IntFormat(34)), "requantization takes formats of at most 33 bits, got int34"),
    (lambda: requantize([1], HALF, EIGHT, zero_point=1.0), f"zero_point {INTEGER}, got 1.0"),
    (lambda: requantize([1], HALF, EIGHT, zero_point=128), "zero_point must be a code of int8 (-128..127), got 128"),
    (lambda: requantize([1], HALF, EIGHT, "A"), f"{DIALECT}, got 'A'"),
    (lambda: requantize([1], HALF, EIGHT, None), f"{DIALECT}, got None"),
    (lambda: requantize([1], HALF, EIGHT, "m31,wrap,half_up"), f"{DIALECT}, got 'm31,wrap,half_up'"),
    (lambda: requantize([1], HALF, EIGHT, "m31,left,none,floor"),
     "left must be one of merged, wrap, saturate, got 'left'"),
    (lambda: scale_by(np.ones(1), HALF, "A"), f"{DIALECT}, got 'A'"),
    (lambda: requantize(np.ones((2, 4), int), Multiplier.from_real([0.1, 0.2, 0.3]), EIGHT),
     "the multiplier must broadcast against acc, got shapes (3,) and (2, 4)"),
    *[(lambda name=name: requantize([2**31, 1], HALF, EIGHT, name),
       f"acc must fit int32 where {name} shifts it left, got values from 1 to 2147483648")
      for name in ("gemmlowp_double", "neon_double")],
    *[(lambda name=name: requantize([0], Multiplier.from_real(2.0**128), EIGHT, name),
       f"{name} takes multipliers that float32 holds, got {2.0**128}") for name in DIALECTS[3:5]],
    (lambda: requantize([0], Multiplier.from_real(200.0), EIGHT, Dialect("m8")),
     "this dialect takes shifts from -31 to 7, got 8..8"),
    *[(lambda words=words: Dialect(*words), message) for words, message in (
        (("m32",), f"multiplier must be one of real, float32, {', '.join(f'm{w}' for w in range(1, 32))}, got 'm32'"),
        (("m31", "wrap", "up"), f"first must be one of none, {', '.join(RULES)}, got 'up'"),
        (("m31", "wrap", "none", "none"), f"last must be one of {', '.join(RULES)}, got 'none'"),
        (("m31", "wrap", "none", "floor", 1), "zero must be one of after, before, got 1"),
        (("m31", "wrap", "none", "floor", "after", "clip"), "end must be one of saturate, wrap, got 'clip'"),
        (("real", "wrap"), "left and first must be merged and none with multiplier real, got wrap and none"),
        (("float32", "merged", "floor"),
         "left and first must be merged and none with multiplier float32, got merged and floor"))],
    # lanes and registers
    *[(lambda x=x, w=w: dot_int16(x, w, SEVEN, SEVEN), message) for x, w, message in (
        ([1, -64], [1, 1], "x_q must hold codes of int7 narrow (-63..63), got -64..1"),
        ([1], [2**63], f"w_q must hold codes of int7 narrow (-63..63), got {2**63}..{2**63}"),
        ([1.0], [1], f"x_q {INTEGERS} float64"),
        (1, 1, f"{LAST_AXIS}, got () and ()"),
        (1, [1], f"{LAST_AXIS}, got () and (1,)"),
        ([[1, 2]], [[1], [1]], f"{LAST_AXIS}, got (1, 2) and (2, 1)"),
        (np.zeros((3, 0), int), np.zeros((3, 0), int), f"{LAST_AXIS}, got (3, 0) and (3, 0)"),
        (np.ones((2, 9), int), np.ones((3, 9), int), "x_q and w_q must broadcast, got (2, 9) and (3, 9)"))],
    *[(lambda formats=formats: dot_int16([1], [1], *formats), message) for formats, message in (
        ((IntFormat(9), SEVEN), "x_format must have at most 8 bits, got int9"),
        ((SEVEN, IntFormat(9)), "w_format must have at most 8 bits, got int9"),
        ((UNSIGNED, UNSIGNED), "one product of uint8 and uint8 must fit int16, got 0..65025"))],
    *[(lambda per_lane=per_lane: dot_int16([1], [1], SEVEN, SEVEN, per_lane),
       f"products_per_lane must be 'safe' or an integer >= 1, got {per_lane!r}")
      for per_lane in (0, np.int64(0), 8.0, "fast", None, True, [8], np.array([8, 8]))],
    *[(lambda x=x, w=w, options=options: convolve_int16(x, w, SEVEN, SEVEN, **options), message)
      for x, w, options, message in (
        (64 * PLANES, KERNEL, {}, "input must hold codes of int7 narrow (-63..63), got 64..64"),
        (PLANES, -64 * KERNEL, {}, "weight must hold codes of int7 narrow (-63..63), got -64..-64"),
        (PLANES, KERNEL, {"products_per_lane": 0}, "products_per_lane must be 'safe' or an integer >= 1, got 0"),
        (PLANES[0], KERNEL, {}, "input must be a non-empty (N, C, H, W), got shape (4, 5, 5)"),
        (PLANES, KERNEL, {"dilation": 3}, "the kernel must fit the padded input, got extent 7 over 5"))],
    *[(lambda arguments=arguments: dot_sequential([0], [0], *arguments), message) for arguments, message in (
        ((EIGHT, EIGHT, UNSIGNED), "accumulator must be a signed IntFormat, got uint8"),
        ((EIGHT, EIGHT, 32), "accumulator must be a signed IntFormat, got 32"),
        ((EIGHT, EIGHT, IntFormat(64, narrow=True)), "accumulator must not be narrow at 64 bits, got int64 narrow"),
        ((EIGHT, EIGHT, EIGHT, "clip"), "policy must be one of wrap, saturate, trap, got 'clip'"),
        ((EIGHT, EIGHT, EIGHT, "trap", [0, 0]), "order must hold 0..0, each once, got [0, 0]"),
        ((EIGHT, EIGHT, EIGHT, "trap", [0.0]), f"order {INTEGERS} float64"),
        *[((EIGHT, EIGHT, EIGHT, "trap", order), f"order must hold 0..0, each once, got {order}")
          for order in (0, [[0]])],
        ((IntFormat(32), IntFormat(32), IntFormat(64)),
         f"one product must fit 63 bits, got {-2**62 + 2**31}..{2**62}"),
        ((IntFormat(1), IntFormat(63, False), IntFormat(64)),
         f"one product must fit 63 bits, got {1 - 2**63}..0"))],
    *[(lambda acc=acc, x=x: sadalp(np.zeros(acc, int), np.zeros(x, int)),
       f"x must have twice the lanes of acc, got shapes {x} and {acc}")
      for acc, x in (((), (2,)), ((1,), (3,)), ((2, 1), (2,)), ((2, 1), (1, 2)))],
    *[(lambda acc=acc, a=a: sdot(np.zeros(acc, int), np.zeros(a, int), np.zeros(a, int)),
       f"a and b must have four times the lanes of acc, got {a} for {acc}")
      for acc, a in (((), (4,)), ((1,), (8,)), ((2, 1), (4,)))],
    # linear quantization
    (lambda: quantize(np.array([1]), 1.0, EIGHT), f"x {FLOATS} int64"),
    (lambda: max_scale(np.array([True]), EIGHT), f"x {FLOATS} bool"),
    *[(lambda bad=bad: quantize([1.0, bad], 1.0, EIGHT), "x must be finite, got NaN or infinity")
      for bad in (np.nan, np.inf, -np.inf)],
    (lambda: max_scale([np.nan], EIGHT), "x must be finite, got NaN or infinity"),
    *[(lambda s=s: quantize(X, [1.0, s], EIGHT, axis=0), f"scale must be finite and > 0, got {s}")
      for s in (0.0, -1.0, np.nan, np.inf)],
    (lambda: dequantize([[1]], 0), "scale must be finite and > 0, got 0"),
    (lambda: dequantize([1], "2.0"), "scale must be a number of at most 64 bits, got dtype <U3"),
    (lambda: quantize(X, 1.0, EIGHT, zero_point=128), "zero_point must be a code of int8 (-128..127), got 128"),
    (lambda: quantize(X, 1.0, EIGHT, zero_point=[0.0, 1.0], axis=0), f"zero_point {INTEGERS} float64"),
    (lambda: dequantize([1], 1.0, zero_point=True), f"zero_point {INTEGERS} bool"),
    *[(lambda call=call: call(2), f"axis {INTEGER} from -2 to 1, got 2") for call in (
        lambda axis: quantize(X, 1.0, EIGHT, axis=axis), lambda axis: max_scale(X, EIGHT, axis),
        lambda axis: dequantize(X.astype(int), 1.0, axis=axis))],
    (lambda: quantize(X, 1.0, EIGHT, axis=(0,)), f"axis {INTEGER} from -2 to 1, got (0,)"),
    *[(lambda call=call: call(IntFormat(33)), "linear quantization takes formats of at most 32 bits, got int33")
      for call in (lambda fmt: quantize(X, 1.0, fmt), lambda fmt: max_scale(X, fmt),
                   lambda fmt: affine_parameters(0, 1, fmt))],
    *[(lambda call=call, v=v, axis=axis: call(v, axis), f"{name} must be a scalar {message}, got {np.shape(v)}")
      for name, call in (("scale", lambda v, axis: quantize(X, v, EIGHT, axis=axis)),
                         ("zero_point", lambda v, axis: quantize(X, 1.0, EIGHT, zero_point=v, axis=axis)),
                         ("scale", lambda v, axis: dequantize(X.astype(int), v, axis=axis)),
                         ("zero_point", lambda v, axis: dequantize(X.astype(int), 1.0, zero_point=v, axis=axis)))
      for v, axis, message in (([1], 0, "or have shape (2,), one per channel"),
                               ([1, 2, 3], -2, "or have shape (2,), one per channel"),
                               ([[1], [2]], 0, "or have shape (2,), one per channel"))],
    (lambda: quantize(X, [1.0], EIGHT), "scale must be a scalar when axis is None, got shape (1,)"),
    (lambda: dequantize([1], 1, zero_point=[1, 2]), "zero_point must be a scalar when axis is None, got shape (2,)"),
    (lambda: quantize(X, 1.0, 8), "fmt must be an IntFormat, as in IntFormat(8), got 8"),
    (lambda: quantize(X, 1.0, EIGHT, arithmetic="float16"),
     "arithmetic must be one of exact, float32_divide, float32_multiply, got 'float16'"),
    (lambda: quantize(X, 1e39, EIGHT, arithmetic="float32_multiply"),
     "scale must be finite and > 0 in float32, got inf..inf"),
    (lambda: quantize(X, 1e-50, EIGHT, arithmetic="float32_multiply"),
     "scale must be finite and > 0 in float32, got 0.0..0.0"),
    (lambda: quantize(X, 1e-39, EIGHT, arithmetic="float32_divide"),
     "step 1/scale must be finite and > 0 in float32, got inf..inf"),
    (lambda: quantize(X, [1.0, 1e50], EIGHT, axis=0, arithmetic="float32_divide"),
     "step 1/scale must be finite and > 0 in float32, got 0.0..1.0"),
    (lambda: dequantize([1.0], 1.0), f"x_q {INTEGERS} float64"),
    (lambda: quantize(X, 1.0, UNSIGNED, zero_point=np.array([0, 2**63], np.uint64), axis=0),
     "zero_point must be a code of uint8 (0..255), got [                  0 9223372036854775808]"),
    (lambda: quantize(X, 1.0, EIGHT, zero="first"), "zero must be one of after, before, got 'first'"),
    (lambda: max_scale(np.zeros((0, 3)), EIGHT), "x must not be empty, got shape (0, 3)"),
    (lambda: max_scale(X, IntFormat(1)), "a scale needs a format with positive codes, got int1"),
    *[(lambda low=low, high=high: affine_parameters(low, high, EIGHT),
       f"low and high must be finite with low <= high, got {low} and {high}")
      for low, high in ((1.0, 0.5), (0.0, np.inf))],
    (lambda: expected_squared_error(np.nan, 1.0, 8), "low and high must be finite with low <= high, got nan and 1.0"),
    (lambda: expected_squared_error(0.0, 1.0, 0), f"bits {INTEGER} >= 1, got 0"),
    # metrics, statistics, thresholds
    *[(lambda m=m: m([1.0], [1.0, 2.0]), "both tensors must have one shape, got (1,) and (2,)")
      for m in (cosine, sqnr_db)],
    (lambda: cosine(np.ones((0, 3)), np.ones((0, 3))), "the tensors must not be empty, got shape (0, 3)"),
    (lambda: sqnr_db([np.nan], [1.0]), "the tensors must be finite, got NaN or infinity"),
    (lambda: cosine([1j], [1.0]), "the tensors must hold numbers of at most 64 bits, got dtype complex128"),
    *[(lambda divergences=divergences: divergences(np.ones((4, 4), int), 2),
       "counts must be one row of more than 2 integers, got shape (4, 4) of int64")
      for divergences in (tensorrt_divergences, ncnn_divergences, demo_divergences)],
    (lambda: tensorrt_divergences(np.ones(0, int), 1),
     "counts must be one row of more than 1 integers, got shape (0,) of int64"),
    (lambda: tensorrt_divergences(np.ones(4), 2),
     "counts must be one row of more than 2 integers, got shape (4,) of float64"),
    (lambda: tensorrt_divergences(np.zeros(4, int), 2), "counts must be >= 0 and not all zero, got 0..0"),
    (lambda: tensorrt_divergences(np.array([1, -1, 3]), 2), "counts must be >= 0 and not all zero, got -1..3"),
    (lambda: tensorrt_divergences(np.ones(4, int), 2.0), f"levels {INTEGER} >= 1, got 2.0"),
    (lambda: Extremes.of(np.ones(3, int)), "calibration values must hold float32 or float64, got dtype int64"),
    (lambda: Extremes.of(np.zeros((3, 0))), "calibration values must not be empty, got shape (3, 0)"),
    (lambda: Histogram.of([1.0, np.nan], 2.0), "calibration values must be finite, got NaN or infinity"),
    (lambda: Histogram.of(np.array([2.0]), np.inf), "limit must be finite and at least max|x| = 2.0, got inf"),
    (lambda: Histogram.of(np.array([2.0]), 1.0), "limit must be finite and at least max|x| = 2.0, got 1.0"),
    (lambda: Histogram.of(np.array([1.0]), 1.0, 0), f"bins {INTEGER} from 1 to 1048576, got 0"),
    (lambda: COUNTS.merge(Histogram(np.array([1, 1]), 0, 2.0)),
     "histograms must have the same bins to merge, got 2 up to 1.0 and 2 up to 2.0"),
    (lambda: Histogram(np.array([0.5]), 0, 1.0), f"counts {INTEGERS} float64"),
    (lambda: percentile(COUNTS, 100.5), "gamma must be above 0 and at most 100 percent, got 100.5"),
    (lambda: percentile(COUNTS, "99"), "gamma must be above 0 and at most 100 percent, got '99'"),
    (lambda: aciq_ratio(18), f"bits {INTEGER} from 1 to 17, got 18"),
    (lambda: aciq(COUNTS, 17), f"bits {INTEGER} from 1 to 16, got 17"),
    (lambda: aciq_ratio(4, "Laplace"), "distribution must be laplace or gauss, got 'Laplace'"),
    (lambda: kl(COUNTS, 1, "kl"), "variant must be tensorrt, nvidia, ncnn or demo, got 'kl'"),
    (lambda: kl(Histogram(np.ones(64, int), 0, 1.0)),
     "counts must be one row of more than 128 integers, got shape (64,) of int64"),
    (lambda: kl(Histogram(np.ones(127, int), 0, 1.0), 8, "nvidia"),
     "counts must be one row of more than 127 integers, got shape (127,) of int64"),
    (lambda: threshold(None, COUNTS, "max", IntFormat(1)), "fmt must be an IntFormat with positive codes, got int1"),
    (lambda: threshold(None, COUNTS, "kl_", EIGHT), f"estimator must be one of {', '.join(ESTIMATORS)}, got 'kl_'"),
    *[(lambda bad=bad: threshold_scale(bad, EIGHT), f"limit must be finite and >= 0, got {bad}")
      for bad in (np.inf, np.nan, -2.0)],
    # convolution
    (lambda: convolve_exact(np.ones((1, 1, 1, 1), int), np.ones((1, 1, 1, 1), int), zero_point=0.5),
     f"zero_point {INTEGER}, got 0.5"),
    *[(lambda low=low, high=high: dot_product_range([[1]], low, high), f"the range must contain 0, got {low}..{high}")
      for low, high in ((1, 2), (-2, -1), (3, -3))],
    (lambda: dot_product_range(np.ones((1, 1)), -1, 1), f"weight {INTEGERS} float64"),
    (lambda: direct_bounds(EIGHT, EIGHT, 0, (3, 3)), f"channels {INTEGER} >= 1, got 0"),
    (lambda: direct_bounds(EIGHT, EIGHT, 1, (3, 0)), f"kernel {INTEGER} >= 1, got 0"),
    *[(lambda low=low, high=high: largest_count(low, high, EIGHT),
       f"the range must contain 0 and another value, got {low}..{high}") for low, high in ((0, 0), (1, 2), (-2, -1))],
    (lambda: l1_budget(EIGHT, UNSIGNED), "accumulator must be signed, got uint8"),
    # shifts
    *[(lambda call=call, w=w: call(w), message) for call in (equalizing_shifts, search_shifts, lambda w:
                                                              least_squares_scale(w, [0, 0])) for w, message in (
        (np.ones((2, 3, 4)), "w must be (O, C/groups, R, S) or (O, F), got shape (2, 3, 4)"),
        (np.ones((2, 2), int), "w must hold float32 or float64, got dtype int64"),
        (np.ones((2, 0)), "w must not be empty, got shape (2, 0)"),
        (np.array([[1.0, np.nan]]), "w must be finite, got NaN or infinity"),
        (np.array([[1.0, -np.inf]]), "w must be finite, got NaN or infinity"),
        (np.zeros((2, 2)), "w must hold a weight that is not zero, got zeros alone"))],
    *[(lambda call=call, bits=bits: call(X, shift_bits=bits), f"shift_bits {INTEGER} from 0 to 5, got {bits!r}")
      for call in (equalizing_shifts, search_shifts) for bits in (-1, 6, 4.0, True)],
    (lambda: equalizing_shifts(X, rule="round"), "rule must be one of floor, nearest, ceil, got 'round'"),
    (lambda: search_shifts(X, objective="mse"), "objective must be one of weight, cosine, got 'mse'"),
    (lambda: search_shifts(X, 1), f"bits {INTEGER} from 2 to 16, got 1"),
    (lambda: search_shifts(X, objective="cosine"), "the objective cosine needs inputs, got none"),
    (lambda: search_shifts(X, objective="cosine", inputs=[]), "inputs must hold at least one batch, got none"),
    (lambda: search_shifts(X, objective="cosine", inputs=np.ones((1, 4))),
     "weight must be (O, 4, R, S) for 4 input channels in 1 groups, got shape (2, 3, 1, 1)"),
    (lambda: undo_shifts(1, HALF, 1, EIGHT, way="second"),
     "way must be one of fused, multiplier_per_channel, second_shift, shift_first, got 'second'"),
    *[(lambda way=way: undo_shifts(1.0, HALF, 1, EIGHT, way=way), f"acc {INTEGERS} float64")
      for way in ("fused", "shift_first", "second_shift")],
    (lambda: undo_shifts(1, HALF, 25, EIGHT), "shifts must be from 0 to 24, got 25..25"),
    (lambda: undo_shifts(1, HALF, [-1, 3], EIGHT), "shifts must be from 0 to 24, got -1..3"),
    (lambda: limit_shifts([0.5], HALF), f"shifts {INTEGERS} float64"),
    (lambda: limit_shifts(9, 0.5), "shifts must be (O,) and multiplier one Multiplier, got () and 0.5"),
    (lambda: least_squares_scale(X, [1]), "shifts must have shape (2,), got (1,)"),
    (lambda: undo_shifts(1, 0.75, 1, EIGHT), "multiplier must be a Multiplier, got 0.75"),
    *[(lambda way=way: undo_shifts(1, HALF, 1, EIGHT, way=way, zero_point=1000),
       "zero_point must be a code of int8 (-128..127), got 1000") for way in WAYS],
    (lambda: undo_shifts(1, HALF, 1, IntFormat(33), way="second_shift"),
     "the way second_shift takes formats of at most 32 bits, got int33"),
    (lambda: search_shifts(X, objective="cosine", inputs=5), "inputs must be an array or a list of batches, got 5"),
    *[(lambda big=big: search_shifts(X, objective="cosine", inputs=big * np.ones((2, 3))),
       f"inputs must be moderate: the largest magnitude of a batch must be 0 or from 1e-140 to 1e140, got {big}")
      for big in (1e-170, 1e170)],
    (lambda: undo_shifts(1, Multiplier.from_real(2.0**-20), 15, EIGHT),
     "single_round takes shifts from -31 to 30, got -34..-34"),
    # the checks themselves
    *[(lambda v=v: integer(v, "n", 1, 3), f"n {INTEGER} from 1 to 3, got {v!r}")
      for v in (0, 4, 1.0, "1", None, True, [1])],
    (lambda: integer(np.int64(0), "n", 1), f"n {INTEGER} >= 1, got 0"),
    (lambda: integer(np.True_, "n"), f"n {INTEGER}, got {np.True_!r}"),
    *[(lambda x=x: as_integers(x, "x"), f"x {INTEGERS} {dtype}") for x, dtype in (
        (1.0, "float64"), ([], "float64"), ([True], "bool"), (None, "object"), ("7", "<U1"), (1j, "complex128"))],
    (lambda: fitting_int64(np.array([2**63], np.uint64), "x"), f"x must fit int64, got {2**63}"),
    *[(lambda x=x: finite(x, "x"), f"x {FLOATS} {dtype}") for x, dtype in (
        (1, "int64"), (True, "bool"), ("1", "<U1"), (1j, "complex128"), (None, "object"))],
    (lambda: float32_or_float64(np.ones(1, "f2"), "x"), "x must hold float32 or float64, got dtype float16"),
    (lambda: float32_or_float64(np.zeros((2, 0)), "x"), "x must not be empty, got shape (2, 0)"),
    (lambda: positive([True], "x"), "x must be a number of at most 64 bits, got dtype bool"),
    (lambda: one_of(1, ("a", "b"), "x"), "x must be one of a, b, got 1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS, ids=[message[:60] for _, message in REFUSALS])
def test_a_bad_argument_gets_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="this platform's long double is float64")
def test_floats_wider_than_float64_are_refused_rather_than_rounded():
    below_the_tie = np.longdouble(0.5) - np.longdouble(2) ** -60  # as float64 it is the tie
    for call in (lambda: quantize(below_the_tie, 1.0, EIGHT), lambda: quantize(1.0, below_the_tie, EIGHT)):
        with pytest.raises(ValueError, match=r"of at most 64 bits, got dtype float\d+$"):
            call()
