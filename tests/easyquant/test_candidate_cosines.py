"""Candidates' likeness: Gram matrices and fast codes against Python integers, rationals and brute force."""

import math
import warnings
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from convolution_oracle import convolved
from easyquant_oracle import BruteForce, cosine, quantized
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.convolution.geometry import Geometry
from refquant.easyquant import gram as gram_module
from refquant.easyquant import layer as layer_module
from refquant.easyquant.candidate_cosines import Table, direct_table, weight_codes
from refquant.easyquant.gram import gram, weight_table
from refquant.easyquant.layer import QuantizedLayer
from refquant.integers.formats import IntFormat
from refquant.scales.linear import quantize
from refquant.scales.metrics import cosine_of_sums
from refquant.strategies import geometries, reals

INT8 = IntFormat(8, narrow=True)


up_to_8, up_to_16 = st.integers(2, 8), st.integers(2, 16)


def layer_formats(bits):
    """Of inputs: signed narrow or unsigned."""
    return bits.flatmap(lambda b: st.sampled_from((IntFormat(b, narrow=True), IntFormat(b, signed=False))))


@st.composite
def small_layers(draw, bits=up_to_8):
    """A QuantizedLayer of one batch, and a plausible scale for its activations and for each output channel."""
    groups, width, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    plane = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    x = draw(reals((draw(st.integers(1, 4)), groups * width, *plane), dtype))
    w = draw(reals((groups * outputs, width, *kernel), np.float64))
    x_format, w_format = draw(layer_formats(bits)), IntFormat(draw(bits), narrow=True)
    geometry = draw(geometries(plane, kernel, groups))
    bias = draw(st.none() | reals(w.shape[:1], np.float64))
    layer = QuantizedLayer([x if x_format.signed else np.abs(x)], w, geometry, x_format, w_format, bias,
                           draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return layer, float(x_format.max * rng.uniform(0.2, 1)), w_format.max * rng.uniform(0.2, 1, len(w))


def oracle(layer: QuantizedLayer) -> BruteForce:
    return BruteForce(layer.batches[0], layer.weight, layer.x_format, layer.w_format, layer.geometry, layer.bias,
                      layer.relu)


def seen_by(layer: QuantizedLayer, activation_scale: float) -> list:
    """For each group the rows (positions) of Python integers that its outputs see: channel, row, column."""
    x = layer.batches[0]
    _, width, rows, columns = layer.weight.shape
    x_q = quantized(x, activation_scale, layer.x_format)
    parts = []
    for group in range(layer.geometry.groups):
        planes = x_q[:, group * width:(group + 1) * width]
        # Each tap is the convolution with a kernel that is one there and zero elsewhere.
        taps = np.eye(width * rows * columns, dtype=np.int64).reshape(-1, width, rows, columns)
        seen = convolved(planes, taps, layer.geometry._replace(groups=1))
        parts.append(seen.transpose(0, 2, 3, 1).reshape(-1, len(taps)).tolist())
    return parts


# --- codes ----------------------------------------------------------------------------------------------------

def rational_codes(x, scale, fmt) -> list:
    """Half away from zero, in rationals, one value at a time."""
    codes = []
    for value in x.ravel().tolist():
        exact = Fraction(value) * Fraction(float(scale))
        whole = math.floor(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
        codes.append(max(fmt.min, min(fmt.max, whole)))
    return codes


@st.composite
def values_near_ties(draw):
    """A format, a scale, and values whose products with it are ties, their neighbours, and anything else."""
    fmt = draw(layer_formats(up_to_16) | up_to_16.map(IntFormat))
    scale = draw(st.sampled_from((1.0, 0.5, 2.0**-90, 2.0**90, 1e-29, 9e29, 1 / 3, 127.0, 1.1e-30))
                 | st.floats(1e-4, 1e6) | st.floats(1e-29, 1e29))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    whole = rng.integers(fmt.min - 2, fmt.max + 3, 40)
    ends = np.array([fmt.max - 1, fmt.max, fmt.max + 1, fmt.min, fmt.min - 1, 0, -1])
    ties = np.concatenate([whole, ends]) + rng.choice([0.5, -0.5, 0.25], 47)
    x = (ties / scale).astype(dtype)
    steps = [x]
    for _ in range(draw(st.integers(0, 3))):
        steps += [np.nextafter(steps[-1], dtype(np.inf)), np.nextafter(steps[0], dtype(-np.inf))]
    # float64 values that are not float32: what float32 rounds onto the tie, or over it.
    shaken = (ties / scale * (1 + rng.uniform(-1, 1, len(ties)) * 2.0**-draw(st.integers(20, 52)))).astype(dtype)
    # Small enough that no product leaves float32; that has a test of its own.
    others = np.array([0.0, -0.0, 5e-324, 1e-45, 1.2e-38, 1e-30, -1e-12, min(1e8, 1e30 / scale)], dtype)
    return np.concatenate([*steps, shaken, others]), scale, fmt


@given(values_near_ties())
@example((np.array([0.5, 1.5, -0.5, -1.5, 2.5, 126.5, 127.5]), 1.0, INT8))  # rint alone would round to even
@example((np.array([0.5 - 2.0**-54, 0.5 + 2.0**-53]), 1.0, INT8))  # float64 neighbours that float32 makes a tie
@example((np.array([0.0, -0.0]), 1.0, INT8))
@example((np.array([1.5], np.float32), 1 + 2.0**-52, IntFormat(2, narrow=True)))  # a tie only for a float32 scale
@example((np.array([-0.5, -0.6, 255.5, 254.5]), 1.0, IntFormat(8, signed=False)))
@example((np.array([65534.5, 65535.5, 32767.5, 65534.49]), 1.0, IntFormat(16, signed=False)))
def test_codes_are_those_of_rational_arithmetic(case):
    x, scale, fmt = case
    found = quantize(x, scale, fmt)
    assert found.dtype == fmt.dtype and found.shape == x.shape
    assert found.tolist() == rational_codes(x, scale, fmt)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_tie_of_sixteen_bits_falls_away_from_zero(dtype):
    whole = np.arange(-32768, 32768)
    for fmt in (IntFormat(16, narrow=True), IntFormat(16, signed=False)):
        for scale in (1.0, 2.0**-40):
            found = quantize(((whole + 0.5) / scale).astype(dtype), scale, fmt)
            away = np.where(whole >= 0, whole + 1, whole)
            assert np.array_equal(found, np.clip(away, fmt.min, fmt.max))


@pytest.mark.parametrize(("x", "scale"), [
    (1e38, 1.0), (1e300, 1.0), (1e30, 1e-31), (5e-324, 1e308), (1e-40, 1e40), (1e-45, 9e29), (1e29, 9e29),
    (1e20, 1e25),
])
def test_codes_of_huge_and_tiny_values_are_right_and_warn_of_nothing(x, scale):
    """Values far beyond the largest code are ordinary: an initial scale may be anything."""
    values = np.array([x, -x, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = quantize(values, scale, INT8)
    assert found.tolist() == rational_codes(values, scale, INT8)


# --- tables ---------------------------------------------------------------------------------------------------

@given(small_layers())
def test_the_direct_table_holds_the_sums_of_brute_force(case):
    layer, s_a, s_w = case
    reference = oracle(layer)
    float_outputs, scales = reference.after(reference.outputs), [s_w, 0.7 * s_w]
    table = direct_table(layer, scales, [s_a])
    images, channels = float_outputs.shape[:2]
    assert table.dot.shape == table.norm.shape == (2, channels, images)
    assert table.target.shape == (channels, images)
    for k, scale in enumerate(scales):
        y = reference.after(reference.quantized_output(scale, s_a))
        for o in range(channels):
            for i in range(images):
                a, b = float_outputs[i, o].ravel(), y[i, o].ravel()
                square_a, square_b = math.fsum(a * a), math.fsum(b * b)
                assert table.target[o, i] == pytest.approx(square_a, rel=1e-12, abs=1e-20)
                assert table.norm[k, o, i] == pytest.approx(square_b, rel=1e-12, abs=1e-20)
                assert table.dot[k, o, i] == pytest.approx(math.fsum(a * b), rel=0,
                                                           abs=1e-12 * math.sqrt(square_a * square_b) + 1e-20)


@given(small_layers())
def test_one_weight_scale_serves_many_activation_scales(case):
    layer, s_a, s_w = case
    factors = [0.5, 1.0, 1.7]
    together = direct_table(layer, [s_w], [s_a * f for f in factors])
    for k, factor in enumerate(factors):
        alone = direct_table(layer, [s_w], [s_a * factor])
        assert np.array_equal(together.dot[k], alone.dot[0])
        assert np.array_equal(together.norm[k], alone.norm[0])


@given(small_layers(up_to_16))
def test_gram_tables_equal_direct_tables(case):
    layer, s_a, s_w = case
    layer = replace(layer, bias=None, relu=False)
    for scales in (np.multiply.outer([1.0, 0.6, 1.9], s_w), s_w[0] * np.array([0.5, 1.0])):
        fast, reference = weight_table(layer, scales, s_a), direct_table(layer, scales, [s_a]).over_images()
        assert fast.dot.shape == reference.dot.shape == (len(scales), len(s_w), 1)
        assert fast.target.shape == reference.target.shape == (len(s_w), 1)
        np.testing.assert_allclose(fast.norm, reference.norm, rtol=1e-12, atol=0)
        np.testing.assert_allclose(fast.target, reference.target, rtol=1e-12, atol=0)
        assert (np.abs(fast.dot - reference.dot) <= 1e-12 * np.sqrt(reference.norm * reference.target)).all()


@given(small_layers(up_to_16))
def test_gram_matrices_are_those_of_python_integers_and_norms_lose_nothing(case):
    layer, s_a, s_w = case
    layer = replace(layer, bias=None, relu=False)
    sums = gram(layer, s_a)
    groups, per_group = layer.geometry.groups, len(s_w) // layer.geometry.groups
    norm = weight_table(layer, s_w[None], s_a).norm[0, :, 0]
    for group, rows in enumerate(seen_by(layer, s_a)):
        exact = [[sum(row[i] * row[j] for row in rows) for j in range(len(rows[0]))] for i in range(len(rows[0]))]
        assert sums.G.shape == (groups, len(exact), len(exact))
        assert sums.G[group].tolist() == exact
        for o in range(group * per_group, (group + 1) * per_group):
            w_q = quantized(layer.weight[o], s_w[o], layer.w_format).ravel().tolist()
            square = sum(sum(a * b for a, b in zip(row, w_q)) ** 2 for row in rows)
            real = Fraction(square) / (Fraction(s_w[o]) * Fraction(s_a)) ** 2
            assert norm[o] == pytest.approx(float(real), rel=1e-15, abs=0)


@given(small_layers())
def test_the_other_sums_of_the_gram_are_those_of_rational_arithmetic(case):
    layer, s_a, _ = case
    layer = replace(layer, bias=None, relu=False)
    outputs = oracle(layer).outputs
    sums = gram(layer, s_a)
    per_group = outputs.shape[1] // layer.geometry.groups
    for group, rows in enumerate(seen_by(layer, s_a)):
        for o in range(per_group):
            wanted = outputs[:, group * per_group + o].ravel().tolist()
            for k in range(len(rows[0])):
                terms = [row[k] * value for row, value in zip(rows, wanted, strict=True)]
                assert sums.P[group, k, o] == pytest.approx(math.fsum(terms), rel=0,
                                                            abs=1e-13 * math.fsum(map(abs, terms)) + 1e-25)


@pytest.mark.parametrize("bits", [4, 8, 9, 10, 12])  # 10 bits are past what float32 sums hold
@pytest.mark.parametrize("signed", [True, False])
def test_sums_longer_than_a_block_stay_exact_at_the_largest_codes(bits, signed):
    """Every product is the largest there is, over more positions than one float32 sum may take."""
    fmt = IntFormat(bits, signed, narrow=signed)
    x = np.ones((3, 2, 40, 41), np.float32)
    x[:, 1] *= -1 if signed else 1
    sums = gram(QuantizedLayer([x], np.ones((1, 2, 1, 1)), Geometry(), fmt, INT8), float(fmt.max))
    whole = 3 * 40 * 41 * fmt.max**2
    assert sums.G.tolist() == [[[whole, -whole if signed else whole], [-whole if signed else whole, whole]]]


def test_gram_is_refused_exactly_where_float64_stops_holding_it():
    """65535²·2097216 is the last multiple below 2^53; past it the direct table answers."""
    wide, limit = IntFormat(16, signed=False), 2097216
    assert 65535**2 * limit < 2**53 <= 65535**2 * (limit + 1)
    for positions in (limit, limit + 1):
        x = np.zeros((1, 1, 1, positions), np.float32)
        x[..., ::1000] = 1.0
        layer = QuantizedLayer([x], np.full((1, 1, 1, 1), 0.5), Geometry(), wide, INT8)
        assert (gram(layer, 65535.0) is None) == (positions > limit)
        table = weight_table(layer, np.array([254.0]), 65535.0)
        assert table.cosines().item() == pytest.approx(1.0, abs=1e-15)
        assert table.norm.item() == pytest.approx(0.25 * -(-positions // 1000), rel=1e-13)


@pytest.mark.parametrize(("positions", "channels", "x_max", "w_max"), [
    (40, 64, 255, 32767),  # w·G·w past 2^63, though G·w is below 2^53
    (17001, 3, 65535, 127),  # G·w past 2^53, even its first term, though w·G·w is below 2^63
    (20, 3, 65535, 127),  # within both
])
def test_norms_are_exact_where_their_integers_no_longer_fit(positions, channels, x_max, w_max):
    """The largest codes there are; three channels cancel, so that a digit lost in G·w would be seen."""
    x = np.ones((1, channels, 1, positions))
    x[0, 1, 0, ::7] = (x_max - 1) / x_max
    w = np.ones((1, channels, 1, 1))
    w[0, :3, 0, 0] = 1, -1, 1 / w_max
    layer = QuantizedLayer([x], w, Geometry(), IntFormat(x_max.bit_length(), signed=False),
                           IntFormat(w_max.bit_length() + 1, narrow=True))
    table = weight_table(layer, np.array([float(w_max)]), float(x_max))
    (rows,) = seen_by(layer, float(x_max))
    w_q = quantized(w, w_max, layer.w_format).ravel().tolist()
    square = sum(sum(a * b for a, b in zip(row, w_q, strict=True)) ** 2 for row in rows)
    assert table.norm.item() == pytest.approx(float(Fraction(square, (w_max * x_max) ** 2)), rel=1e-13, abs=0)


@given(small_layers(), st.integers(1, 400))
def test_how_many_images_are_taken_at_a_time_does_not_matter(case, block):
    layer, s_a, s_w = case
    whole = direct_table(layer, [s_w], [s_a])
    plain = replace(layer, bias=None, relu=False)
    sums = gram(plain, s_a)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_module, "BLOCK", block)
        patch.setattr(gram_module, "BLOCK", block)
        parted, parted_sums = direct_table(layer, [s_w], [s_a]), gram(plain, s_a)
    for a, b in zip(whole, parted):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-20)
    assert np.array_equal(sums.G, parted_sums.G)
    np.testing.assert_allclose(sums.P, parted_sums.P, rtol=1e-12, atol=1e-12 * np.abs(sums.P).max(initial=0))
    np.testing.assert_allclose(sums.target, parted_sums.target, rtol=1e-12)


# --- badly conditioned layers ---------------------------------------------------------------------------------

def differences(x, w, bits, outputs=None) -> tuple[np.ndarray, np.ndarray]:
    """The cosines of 20 candidates by brute force, and how far those from Gram matrices are off."""
    fmt = IntFormat(bits, narrow=True)
    s_a, s_w = fmt.max / np.abs(x).max(), fmt.max / np.abs(w).max()
    layer = QuantizedLayer([x if outputs is None else (x, outputs)], w, Geometry(), fmt, fmt)
    scales = s_w * np.linspace(0.5, 2, 20)
    fast = weight_table(layer, scales, s_a).over_channels().cosines().ravel()
    reference = BruteForce(x, w, fmt, fmt, outputs=outputs)
    slow = np.array([reference.measure("paper", np.full(len(w), scale), s_a) for scale in scales])
    return slow, np.abs(fast - slow)


@pytest.mark.parametrize("bits", [4, 8, 12])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01])
def test_weights_that_sum_to_zero_over_nearly_constant_inputs(bits, noise):
    """P·w_q is a small difference of large sums: Ô keeps only the noise of the inputs."""
    rng = np.random.default_rng(0)
    x = 100 + noise * rng.normal(size=(2, 4, 16, 16))
    w = rng.normal(size=(2, 4, 3, 3))
    w -= w[:, ::-1, ::-1, ::-1]
    _, off = differences(x, w, bits)
    assert off.max() < 1e-12


@pytest.mark.parametrize("bits", [2, 8, 12])
def test_weights_over_twenty_orders_of_magnitude(bits):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 6, 8, 8)), rng.normal(size=(4, 6, 3, 3))
    _, off = differences(x * 10.0 ** rng.uniform(-10, 10, x.shape), w * 10.0 ** rng.uniform(-10, 10, w.shape), bits)
    assert off.max() < 1e-12


@pytest.mark.parametrize("ratio", [1e3, 1e8, 1e15])
def test_one_channel_that_dominates(ratio):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 4, 8, 8)), rng.normal(size=(4, 4, 3, 3))
    w[1] *= ratio
    _, off = differences(x, w, 8)
    assert off.max() < 1e-12


def test_where_gram_sums_cancel_candidates_are_convolved():
    """Made to cancel: constant inputs but for one code, large weights in pairs, and outputs that are constant.

    <O, Ô> is then one product out of sums 10^8 times as large, and |Ô| is 1: from Gram sums the cosine would
    be off by 5e-9.
    """
    rng = np.random.default_rng(0)
    w = np.tile([1.0, -1.0], 32).reshape(1, 64, 1, 1)
    w[0, -2:, 0, 0] = 1 / 127, -1 / 127
    x = np.ones((1, 64, 100, 100))
    x[0, -2, 50, 50] = 126 / 127
    slow, off = differences(x, w, 8, 1 + 1e-3 * rng.normal(size=(1, 1, 100, 100)))
    assert np.abs(slow).max() < 0.02
    assert off.max() < 1e-12


# --- cosines and what precedes them ---------------------------------------------------------------------------

def test_cosines_of_zero_outputs_are_one_among_themselves_and_zero_beside_others():
    found = cosine_of_sums([0.0, 0.0, 0.0, 2.0], [0.0, 3.0, 0.0, 4.0], [0.0, 0.0, 3.0, 1.0])
    assert found.tolist() == [1.0, 0.0, 0.0, 1.0]


def test_cosines_stay_within_one_and_broadcast_over_candidates():
    dot = np.array([[5.0, -10.0], [-5.0, 8.0]])
    # The first column would come out at 1 + 2^-52 without a clip.
    found = cosine_of_sums(dot, np.full((2, 2), 25.0), np.array([1 - 2.0**-53, 4.0]))
    assert found.tolist() == [[1.0, -1.0], [-1.0, 0.8]]


@pytest.mark.parametrize("power", [-500, -300, 300, 500])
def test_cosines_see_no_gain_of_the_outputs(power):
    """As ``metrics.cosine``: the layer times a power of two has the very same cosines."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 2, 4, 4)), rng.normal(size=(3, 2, 2, 2))
    plain = direct_table(QuantizedLayer([x], w, Geometry(), INT8, INT8), [30.0], [40.0]).over_channels().cosines()
    gain = 2.0**power
    far = direct_table(QuantizedLayer([x * gain], w, Geometry(), INT8, INT8), [30.0], [40.0 / gain])
    assert far.over_channels().cosines().tolist() == plain.tolist()


def test_sums_over_images_and_channels_by_hand():
    table = Table(np.arange(12.0).reshape(2, 3, 2), np.ones((2, 3, 2)), np.arange(6.0).reshape(3, 2))
    assert table.over_images().dot.tolist() == [[[1.0], [5.0], [9.0]], [[13.0], [17.0], [21.0]]]
    assert table.over_images().target.tolist() == [[1.0], [5.0], [9.0]]
    assert table.over_channels().dot.tolist() == [[[6.0, 9.0]], [[24.0, 27.0]]]
    assert table.over_channels().norm.tolist() == [[[3.0, 3.0]]] * 2
    assert table.over_channels().target.tolist() == [[6.0, 9.0]]


def test_bias_and_relu_act_on_outputs_counted_in_units():
    layer = QuantizedLayer([], np.ones((2, 1, 1, 1)), Geometry(), INT8, INT8, np.array([1.0, -3.0]), True)
    y = np.array([[[[2.0, -5.0]], [[8.0, 4.0]]]])
    assert layer.finish(y.copy()).tolist() == [[[[3.0, 0.0]], [[5.0, 1.0]]]]
    # Half a real unit each: the biases are 2 and -6 of them; or one unit per channel.
    assert layer.finish(y.copy(), 0.5).tolist() == [[[[4.0, 0.0]], [[2.0, 0.0]]]]
    assert layer.finish(y.copy(), np.array([0.25, 1.0])).tolist() == [[[[6.0, 0.0]], [[5.0, 1.0]]]]


@given(small_layers(), st.integers(1, 200))
def test_slices_cover_every_image_once_with_its_own_outputs(case, block):
    layer, _, _ = case
    x, outputs = layer.batches[0], oracle(layer).outputs
    given_outputs = np.random.default_rng(0).normal(size=outputs.shape).astype(np.float32)
    halves = [x[:1], x[1:]] if len(x) > 1 else [x]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_module, "BLOCK", block)
        patch.setattr(gram_module, "BLOCK", block)
        for batches, wanted in (([x], outputs), (halves, outputs), ([(x, given_outputs)], given_outputs)):
            found = list(replace(layer, batches=batches).slices())
            assert np.array_equal(np.concatenate([some for some, _ in found]), x)
            assert all(o.dtype == np.float64 for _, o in found)
            np.testing.assert_allclose(np.concatenate([o for _, o in found]), wanted, rtol=1e-12, atol=1e-12)


def test_weight_codes_take_one_scale_or_one_per_channel():
    w = np.array([[0.5, -0.25], [0.5, -0.25]]).reshape(2, 2, 1, 1)
    layer = QuantizedLayer([], w, Geometry(), INT8, INT8)
    assert weight_codes(layer, 10.0).ravel().tolist() == [5, -3, 5, -3]
    assert weight_codes(layer, np.array([10.0, 2.0])).ravel().tolist() == [5, -3, 1, -1]


def test_the_oracle_itself_by_hand():
    x = np.array([[[[0.5, -1.0], [0.25, 0.0]]]])
    w = np.array([[[[1.0, 2.0]]]])
    reference = BruteForce(x, w, INT8, INT8, Geometry(padding=(0, 0, 0, 1)))
    assert reference.outputs.tolist() == [[[[-1.5, -1.0], [0.25, 0.0]]]]
    # Codes 1, -2, 1 (a tie, away from zero), 0 and 1, 2; sums -3, -2, 1, 0, in units of 1/2.
    assert reference.quantized_output(np.array([1.0]), 2.0).tolist() == [[[[-1.5, -1.0], [0.5, 0.0]]]]
    assert cosine(reference.outputs, np.array([[[[-1.5, -1.0], [0.5, 0.0]]]])) == pytest.approx(
        3.375 / math.sqrt(3.3125 * 3.5), rel=1e-15)
    assert reference.measure("paper", np.array([1.0]), 2.0) == reference.measure("ncnn", np.array([1.0]), 2.0)
