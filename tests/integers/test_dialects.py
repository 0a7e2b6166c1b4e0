"""The nine requantization dialects, integer and simulated, against an oracle of integers and exact rationals."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction
from functools import cache

import dialects_oracle as oracle
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant import quantize_network
from refquant.convolution.geometry import Geometry
from refquant.integers import fast_requantization
from refquant.integers.devices import dialect_of
from refquant.integers.dialects import DIALECTS, NAMED
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.network import graph
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.program import QuantizedAdd, QuantizedConv, Term
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import QuantParams
from refquant.network.simulated_forward import run_simulated_tensors
from refquant.network.simulated_scaling import scale_by
from refquant.network.storage import load_quantized, quantized_to_bytes
from refquant.strategies import multipliers

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
F32 = np.float32
INT8, UINT8, INT4_NARROW = IntFormat(8), IntFormat(8, signed=False), IntFormat(4, narrow=True)
INT16, INT32 = IntFormat(16), IntFormat(32)
FORMATS = (INT8, UINT8, INT4_NARROW, INT16, INT32)

all_nine = pytest.mark.parametrize("name", oracle.NAMES)


def by_hand(m: int, s: int) -> Multiplier:
    """The multiplier (m, s), its real value m·2^(s-31)."""
    return Multiplier(math.ldexp(m, s - 31), m, s)


def wholes(name: str, sums: list[int], multiplier: Multiplier, zero_point: int = 0) -> list[int]:
    """The oracle's values before the zero point, for one multiplier."""
    real, m, s = multiplier.real.item(), int(multiplier.m), int(multiplier.shift)
    return [oracle.whole(name, x, real, m, s, zero_point) for x in sums]


def codes(values: list[int], fmt: IntFormat, zero_point: int = 0) -> list[int]:
    return [oracle.clamp(value + zero_point, fmt.min, fmt.max) for value in values]


def simulated(name: str, sums: list[int] | np.ndarray, multiplier: Multiplier, zero_point: int = 0) -> np.ndarray:
    """What ``scale_by`` gives, clipped to int32: beyond it every code saturates."""
    found = scale_by(np.array(sums, np.float64), multiplier, name, zero_point)
    assert found.dtype == np.float64
    clipped = np.clip(found, INT32_MIN, INT32_MAX)
    assert np.array_equal(clipped, np.rint(clipped))
    return clipped.astype(np.int64)


def compare(name: str, sums: list[int], multiplier: Multiplier, formats: tuple[IntFormat, ...] = FORMATS,
            zero_points: tuple[int, ...] = (0, 1)) -> None:
    """Integer and simulated path against the oracle, at every format and zero point."""
    acc = np.array(sums, np.int32)
    for zero_point in zero_points:
        expected = wholes(name, sums, multiplier, zero_point)
        case = name, multiplier.real.item(), zero_point
        assert simulated(name, sums, multiplier, zero_point).tolist() == codes(expected, INT32), case
        for fmt in formats:
            if fmt.min <= zero_point <= fmt.max:
                got = requantize(acc, multiplier, fmt, name, zero_point)
                assert got.dtype == fmt.dtype
                assert got.tolist() == codes(expected, fmt, zero_point), (case, fmt)


# --- the table by hand ----------------------------------------------------------------------------------------

# number: (x, M, zero point, (m, s), the nine codes in the order of the columns A to I, zero point included)
ROWS = {
    1: (1, 1 / 4, 0, (2**30, -1), (1, 1, 0, 0, 0, 0, 0, 0, 0)),
    2: (-2, 1 / 4, 1, (2**30, -1), (0, 1, 1, 1, 0, 1, 0, 1, 0)),
    3: (-3, 1 / 4, 0, (2**30, -1), (-1, 0, -1, -1, -1, -1, -1, -1, -1)),
    4: (5, 1 / 2, 1, (2**30, 0), (4, 4, 4, 3, 4, 4, 3, 3, 4)),
    5: (25, float(F32(0.1)), 0, (1717986944, -3), (3, 3, 3, 2, 3, 2, 2, 3, 3)),
    6: (-5, float(F32(0.7)), 0, (1503238528, 0), (-3, -3, -3, -4, -4, -4, -4, -3, -3)),
    7: (1, 1 / 2, 0, (2**30, 0), (1, 1, 1, 0, 1, 1, 0, 0, 0)),
}
CORNERS = {
    # -1/2: double rounding reaches -2^30 exactly, and then ties away from zero.
    "least sum, least multiplier": (INT32_MIN, 2.0**-32, 0, (2**30, -31), (-1, 0, 0, 0, -1, 0, -1, 0, 0)),
    "float32 loses the low bit": (2**24 + 1, 1.0, 0, (2**30, 1), tuple(2**24 + (n not in "DE") for n in "ABCDEFGHI")),
    "16-bit multipliers saturate": (100000, 1 - 2.0**-31, 0, (2**31 - 1, 0), (100000,) * 5 + (99997, 99999)
                                    + (100000,) * 2),
    # 2^30·2^2 leaves int32 before it is multiplied; the true product, 2^31, saturates.
    "the left shift wraps": (2**30, 2.0, 0, (2**30, 2), (0, 0) + (INT32_MAX,) * 7),
}
CASES = {**{f"row {n}": row for n, row in ROWS.items()}, **CORNERS}
COLUMNS = ("x", "real", "zero_point", "fixed", "row")
all_cases = pytest.mark.parametrize(COLUMNS, CASES.values(), ids=CASES)


@all_cases
def test_all_ways_give_the_published_codes(x, real, zero_point, fixed, row):
    """The oracle is a reference, so it is itself checked by hand-worked values."""
    made = Multiplier.from_real(real)
    assert oracle.NAMES == DIALECTS and oracle.fixed_point(real) == fixed == (int(made.m), int(made.shift))
    for name, code in zip(DIALECTS, row, strict=True):
        assert codes(wholes(name, [x], made, zero_point), INT32, zero_point) == [code]
        assert requantize([x], made, INT32, name, zero_point).tolist() == [code]
        assert oracle.clamp(simulated(name, [x], made, zero_point).item() + zero_point, INT32_MIN, INT32_MAX) == code


def test_rows_1_2_6_and_7_tell_all_nine_apart_and_none_of_them_can_be_left_out():
    columns = [ROWS[n][4] for n in (1, 2, 6, 7)]
    assert len(set(zip(*columns))) == 9
    assert all(len(set(zip(*three))) < 9 for three in itertools.combinations(columns, 3))


@given(st.floats(-2.0**127, 2.0**127))
@example((2**24 - 1) * 2.0**-150)  # subnormal: half of the last place
@example(3 * 2.0**-150)
@example(2.0**-150)  # ties to 0
@example(2.0**25 + 1)  # below a tie
@example(2.0**24 + 1)  # a tie, to the even significand
@example(2.0**24 + 3)
def test_the_oracles_float32_is_ieees(value):
    assert oracle.float32(Fraction(value)) == Fraction(float(F32(value)))


# --- every shift, every kind of sum ---------------------------------------------------------------------------

# Both ends, a power of two, ones that a 16-bit multiplier rounds down, at the tie, and saturates.
MANTISSAS = (2**30, 2**30 + 1, 3 * 2**29, 1717986944, 0x5A5A7FFF, 0x5A5A8000, 0x7FFE7FFF, 0x7FFE8000, 0x7FFEFFFF,
             0x7FFF0000, 0x7FFF7FFF, 0x7FFF8000, 2**31 - 1)


@cache
def hard_sums(m: int, s: int) -> tuple[int, ...]:
    """The ends of int32, numbers near zero and near what float32 holds, sums whose product ties or nearly does."""
    sums = {INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 1, 0, 1, -1, 2, -2}
    sums |= {sign * (2**k + d) for k in (24, 25, 30) for sign in (-1, 1) for d in (-1, 1, 3)}
    for n in (-129, -3, -2, -1, 0, 1, 2, 126, 1000):
        near = (2 * n + 1) * 2 ** (30 - s) // m  # (n + 1/2)·2^(31-s) / m
        sums |= {near - 1, near, near + 1}
    rng = np.random.default_rng(m % 9973 + 100 + s)
    sums |= set(rng.integers(INT32_MIN, INT32_MAX, 3, endpoint=True).tolist())
    sums |= set(rng.integers(-(2**16), 2**16, 3).tolist())
    return tuple(sorted(x for x in sums if INT32_MIN <= x <= INT32_MAX))


@all_nine
def test_every_legal_shift_equals_the_oracle(name):
    for s in range(-31, oracle.GREATEST_SHIFT.get(name, 30) + 1):
        for index, m in enumerate(MANTISSAS[s % 2::2]):
            # One narrow format a time, and int32, where the low bits of large products show.
            formats = (FORMATS[(index + s) % 4], INT32)
            compare(name, list(hard_sums(m, s)), by_hand(m, s), formats, ((index + s // 2) % 2,))


@all_nine
def test_a_dialect_reads_either_m_and_shift_or_the_real_value(name):
    sums, shifts = list(hard_sums(3 * 2**29, -2)), name in oracle.GREATEST_SHIFT
    compare(name, sums, Multiplier(1000.0, 3 * 2**29, -2) if shifts else Multiplier(0.1875, 2**31 - 1, -32))


# Reals whose product with x is a tie but for the last bits of float64, or of float32: x·M, rounded, is a tie.
@cache
def near_ties(significand_bits: int) -> tuple[tuple[int, float], ...]:
    rng = np.random.default_rng(significand_bits)
    found = []
    for x in (*rng.integers(3, 2**20, 60).tolist(), 3, 5, 7, 2**24 - 1, 2**24 + 1, INT32_MAX, INT32_MIN):
        for n in (0, 1, 2, -1, -2, -3, 126, 127, 1001):
            real = abs(Fraction(2 * n + 1, 2 * x))
            unit = oracle.power(math.frexp(real)[1] - significand_bits)
            nearest = round(real / unit)
            found += [(x * sign, float(k * unit)) for k in (nearest - 1, nearest, nearest + 1) for sign in (-1, 1)]
    return tuple((x, real) for x, real in found if INT32_MIN <= x <= INT32_MAX)


@all_nine
@pytest.mark.parametrize("bits", [53, 24])
def test_products_a_last_place_beside_a_tie_equal_the_oracle(name, bits):
    cases = near_ties(bits)
    dtype = np.float64 if bits == 53 else np.float32
    hidden = sum(2 * Fraction(x) * Fraction(real) % 2 != 1 and float(dtype(x) * dtype(real)) % 1 == 0.5
                 for x, real in cases)
    assert hidden > 500, "products that only seem to tie, once rounded"
    acc, many = np.array([x for x, _ in cases]), Multiplier.from_real([real for _, real in cases])
    for zero_point in (0, 1):
        expected = [oracle.whole(name, x, real, *oracle.fixed_point(real), zero_point) for x, real in cases]
        assert simulated(name, acc, many, zero_point).tolist() == codes(expected, INT32)
        got = requantize(acc, many, INT32, name, zero_point)
        assert got.dtype == np.int32 and got.tolist() == codes(expected, INT32, zero_point)


sums_anywhere = st.integers(INT32_MIN, INT32_MAX) | st.integers(-(2**12), 2**12) | st.sampled_from(
    [INT32_MIN, INT32_MAX, 2**24 + 1, -(2**24) - 1])


@all_nine
@given(data=st.data())
def test_any_sums_at_any_multiplier_equal_the_oracle(name, data):
    top = 2.0 ** oracle.GREATEST_SHIFT.get(name, 60) * 0.9999
    reals = st.floats(5e-324, top) | st.floats(2.0**-20, 2.0)
    made = data.draw(multipliers(NAMED[name]) | reals.map(Multiplier.from_real))
    sums = data.draw(st.lists(sums_anywhere, min_size=1, max_size=8))
    fmt = data.draw(st.sampled_from(FORMATS))
    zero_point = data.draw(st.integers(fmt.min, fmt.max) | st.sampled_from([fmt.min, fmt.max]))
    compare(name, sums, made, (fmt,), (zero_point,))


@all_nine
@pytest.mark.parametrize("real", [2.0**-33, 2.0**-149, 2.0**-160, 5e-324])
def test_a_multiplier_below_every_shift_gives_the_zero_point(name, real):
    # A negative product however small has floor -1, but a multiplier that vanished is exactly 0.
    compare(name, [INT32_MIN, -1, 0, 1, INT32_MAX], Multiplier.from_real(real))
    assert requantize([-(2**30), 0, 2**30], Multiplier.from_real(real), INT8, name, 5).tolist() == [5, 5, 5]


@pytest.mark.parametrize("name, real", [
    ("float32_half_even", float(np.finfo(F32).max)), ("float32_half_away", float(np.finfo(F32).max)),
    ("exact_half_even", 2.0**200), ("exact_half_even", 1.7e308), ("zero_point_first", 1.7e308)])
def test_products_beyond_what_floats_hold_saturate_without_a_warning(name, real):
    compare(name, [INT32_MIN, -2, -1, 0, 1, 2, INT32_MAX], Multiplier.from_real(real))


@pytest.mark.parametrize("name, top", oracle.GREATEST_SHIFT.items())
def test_shifts_outside_the_dialects_range_are_refused(name, top):
    for s in (-32, top + 1):
        with pytest.raises(ValueError, match=rf"^{name} takes shifts from -31 to {top}, got {s}\.\.{s}$"):
            requantize([0], by_hand(2**30, s), INT8, name)
    with pytest.raises(ValueError, match=rf"^{name} takes shifts from -31 to {top}, got -32\.\.{top + 1}$"):
        requantize([0, 0, 0], Multiplier(np.ones(3), [2**30] * 3, [-32, 0, top + 1]), INT8, name)


@pytest.mark.parametrize("name", ["exact_half_even", "zero_point_first"])
@pytest.mark.parametrize("x", [2**53 + 2**21 + 1, -(2**53) - 2**21 - 1, 2**53 + 2**22 + 2**21 - 1, 2**53 - 2**21])
def test_sums_that_float64_rounds_onto_a_tie_are_seen_as_exact(name, x):
    multiplier, fmt = Multiplier.from_real(2.0**-22), IntFormat(33)  # the tie is at an odd multiple of 2^21
    for sums in ([x], [0, x], [x, -1]):
        expected = [oracle.whole(name, v, 2.0**-22, 2**30, -21) for v in sums]
        assert requantize(sums, multiplier, fmt, name).tolist() == expected


@pytest.mark.parametrize("name", oracle.NAMES[2:])
@given(data=st.data())
def test_sums_of_up_to_64_bits_equal_the_oracle(name, data):
    """In integers; and in simulation, which holds 2^53."""
    x = data.draw(st.one_of(st.integers(-2**63, 2**63 - 1), st.integers(-2**36 - 3, 2**36 + 3),
                            st.sampled_from([-2**63, 2**63 - 1, 2**36, 2**36 + 1, 2**53, -2**53, 3 * 2**40])))
    multiplier, z, fmt = data.draw(multipliers(NAMED[name])), data.draw(st.integers(-128, 127)), IntFormat(33)
    (code,) = codes(wholes(name, [x], multiplier, z), fmt, z)
    assert int(requantize(x, multiplier, fmt, name, z)) == code
    if abs(x) <= 2**53:
        found = scale_by(np.array([float(x)]), multiplier, name, z)
        assert oracle.clamp(int(found[0]) + z, fmt.min, fmt.max) == code


# --- shapes, layouts and blocks -------------------------------------------------------------------------------

BLOCK = 64
CHANNEL_REALS = (0.0031, 2.0**-7, 0.00477, 1.5 * 2.0**-9, 0.0102)
POOL = (INT32_MIN, -40000, -30001, -192, -64, -63, -1, 0, 1, 64, 192, 300, 320, 4095, 29999, 2**24 + 1, INT32_MAX)


@cache
def pool_wholes(name: str, zero_point: int) -> np.ndarray:
    """The oracle's values of every sum of POOL, per channel of CHANNEL_REALS, within int32."""
    return np.array([codes(wholes(name, list(POOL), Multiplier.from_real(real), zero_point), INT32)
                     for real in CHANNEL_REALS])


# The shape of the sums, and of the multipliers: around the size of a block, along any axis, one or many for each.
SHAPES = [((), ()), ((0,), ()), ((3, 0), (3, 1)), ((2, 0, 4), (1, 0, 1)), ((BLOCK - 1,), ()), ((BLOCK,), ()),
          ((2 * BLOCK + 3,), ()), ((2, BLOCK - 1), (2, 1)), ((2, BLOCK), (2, 1)), ((3, BLOCK + 1), (3, 1)),
          ((5, BLOCK // 2 + 1), (5, 1)), ((4, BLOCK // 3), (4, 1)), ((1, 5, 9, 11), (1, 5, 1, 1)),
          ((BLOCK + 1, 1), (BLOCK + 1, 1)), ((BLOCK - 1, 2), (1, 2)), ((40, 3, 30), (30,)), ((3, 1, 71), (1, 1, 1)),
          ((2, 3, 4, 5), (2, 1, 1, 1)), ((6, 4, 5), (6, 4, 5)), ((6, 4, 5), (6, 1, 5)), ((9,), (5, 1))]


@pytest.mark.parametrize("shape, of_multipliers", SHAPES)
@all_nine
def test_arrays_are_the_same_as_element_by_element(name, shape, of_multipliers, monkeypatch):
    monkeypatch.setattr(fast_requantization, "_BLOCK", BLOCK)
    rng = np.random.default_rng(5)
    # Any block that is displaced or left out shows.
    picks, channels = rng.integers(0, len(POOL), shape), rng.integers(0, len(CHANNEL_REALS), of_multipliers)
    acc, made = np.array(POOL, np.int32)[picks], Multiplier.from_real(np.array(CHANNEL_REALS)[channels])
    for zero_point in (0, -3):
        expected = pool_wholes(name, zero_point)[channels, picks]
        got = requantize(acc, made, INT8, name, np.int8(zero_point))
        assert got.dtype == np.int8 and got.shape == expected.shape
        assert np.array_equal(got, np.clip(expected + zero_point, -128, 127))
        assert np.array_equal(simulated(name, acc, made, zero_point), expected)


# --- whole networks -------------------------------------------------------------------------------------------

def both_ways(network: QuantizedNetwork, x_q: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the integer run, after checking that the simulated run gives the same codes."""
    tensors, twins = run_integer_tensors(network, x_q), run_simulated_tensors(network, x_q)
    assert tensors.keys() == twins.keys()
    assert all(np.array_equal(tensors[name], twins[name]) for name in tensors)
    return tensors


def network_of_one_weight(name: str, x: int, real: float, zero_point: int) -> QuantizedNetwork:
    """y = 1·x, the input no wider than x needs."""
    bits = (x if x >= 0 else ~x).bit_length() + 1
    weight = Term(np.ones((1, 1, 1, 1), int), INT8, Multiplier.from_real(real))
    layer = QuantizedConv("y", ("x",), "y", INT32.min, INT32.max, (weight,))
    qparams = {"x": QuantParams(1.0, IntFormat(bits)), "y": QuantParams(1.0, INT32, zero_point)}
    return QuantizedNetwork("x", "y", (1, 1, 1), (layer,), qparams, name)


@pytest.mark.parametrize("name", ["gemmlowp_double", "neon_double"])
def test_a_network_whose_sums_would_wrap_when_shifted_left_is_refused(name):
    message = f"^layer 'y': {name} shifts a sum left to .* which does not fit int32$"
    for x, real in ((2**30 - 1, 2.0), (2**30, 1.0), (-(2**30) - 1, 1.0), (127, 2.0**24)):
        with pytest.raises(ValueError, match=message):
            network_of_one_weight(name, x, real, 0)
    for x, real, code in ((2**30 - 1, 1.0, 2**30 - 1), (-(2**30), 1.0, -(2**30)), (127, 2.0**23, 127 * 2**23)):
        assert both_ways(network_of_one_weight(name, x, real, 0), np.full((1, 1, 1, 1), x))["y"].item() == code


# Where the second operand of a sum goes down to 2^8 above -2^31, in float32 too, clipping of the first one shows.
BACK = (-(2**24 - 1), 0, 128 - 2.0**-17)
STEEP = math.ldexp(0x6FFF9000, 7 - 31)  # 16 bits round it up


@pytest.mark.parametrize("operand", [
    pytest.param((0, 2**15 - 1, 65538.0), id="2^31 - 2, which float32 rounds to 2^31"),
    pytest.param((0, math.floor((2**31 - 2) / STEEP), STEEP), id="2^31 - 2, which 16 bits round up"),
    pytest.param((0, 2**24 - 1, 128.0), id="2^31 - 128, where the shift to the left wraps")])
@all_nine
def test_an_addition_at_the_ends_of_int32_is_the_same_both_ways_or_refused(name, operand):
    one, layers, samples = Multiplier.from_real(1.0), [], []
    for tensor, weight, (low, high, _) in zip("ab", np.eye(2, dtype=int).reshape(2, 1, 2, 1, 1), (operand, BACK)):
        layers.append(QuantizedConv(tensor, ("x",), tensor, low, high, (Term(weight, INT8, one),)))
        samples.append(sorted({low, low + 1, low // 2 - 1, low // 2, 0, high // 2, high // 2 + 1, high - 1, high}))
    reals = tuple(Multiplier.from_real(real) for *_, real in (operand, BACK))
    layers.append(QuantizedAdd("y", ("a", "b"), "y", INT32.min, INT32.max, reals))
    qparams = {**dict.fromkeys("xab", QuantParams(1.0, IntFormat(26))), "y": QuantParams(1.0, INT32)}
    try:
        network = QuantizedNetwork("x", "y", (2, 1, 1), tuple(layers), qparams, name)
    except ValueError as error:
        assert str(error).startswith("layer 'y': ")
        return
    both_ways(network, np.array(list(itertools.product(*samples))).reshape(-1, 2, 1, 1))


def small_network() -> tuple[graph.Network, np.ndarray]:
    rng = np.random.default_rng(11)
    padding = Geometry(padding=(1, 1, 1, 1))
    nodes = (
        graph.Conv("conv", "input", rng.normal(size=(2, 2, 3, 3)), rng.normal(size=2), padding),
        graph.Add("add", ("conv", "input")),
        graph.Concat("concat", ("add", "conv")),
        graph.AveragePool("average", "concat", (3, 3), Geometry((2, 2), (1, 1, 1, 1))))
    return graph.Network((2, 8, 8), nodes, "average"), rng.normal(size=(40, 2, 8, 8))


@pytest.mark.parametrize("words", ["m31,merged,half_up,half_away", "m15,wrap,none,floor", "rvv_rod", "nvdla_sdp",
                                   "real,merged,none,half_down,before", "float32,merged,none,to_odd,before",
                                   "m31,saturate,none,toward_zero,before,wrap"])
def test_a_network_runs_in_any_words(words, tmp_path):
    network, batch = small_network()
    quantized = quantize_network(network, batch, dialect=words, activations="affine")
    assert dialect_of(quantized.dialect) == dialect_of(words)
    both_ways(quantized, quantized.quantize_images(batch))
    (tmp_path / "network.npz").write_bytes(quantized_to_bytes(quantized))
    assert load_quantized(tmp_path / "network.npz").dialect == quantized.dialect


def test_the_dialect_of_a_network_is_a_name_or_words():
    network, batch = small_network()
    quantized = quantize_network(network, batch)
    assert quantized.dialect == "single_round"
    for call in (lambda: quantize_network(network, batch, dialect="double_round"),
                 lambda: dataclasses.replace(quantized, dialect="double_round")):
        with pytest.raises(ValueError, match=r"^dialect must be a name, .* got 'double_round'$"):
            call()
