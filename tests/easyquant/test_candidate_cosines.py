"""Tables of candidates against brute force: by convolving, from Gram matrices, remembered, and where sums cancel."""

from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from easyquant_oracle import BruteForce, layers, quantized
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.convolution.geometry import Geometry
from refquant.easyquant import gram as gram_module
from refquant.easyquant import layer as layer_module
from refquant.easyquant import remembered
from refquant.easyquant.candidate_cosines import Table, direct_table
from refquant.easyquant.gram import gram, weight_table
from refquant.easyquant.layer import QuantizedLayer, check_layer
from refquant.easyquant.remembered import RememberedTables
from refquant.integers.formats import IntFormat

INT8 = IntFormat(8, narrow=True)


def plausible_scales(layer, seed):
    """One for the activations, and one for each output channel."""
    rng = np.random.default_rng(seed)
    return layer.x_format.max * rng.uniform(0.2, 1), layer.w_format.max * rng.uniform(0.2, 1, len(layer.weight))


@contextmanager
def slices_of(elements):
    with pytest.MonkeyPatch.context() as patch:
        for module in (layer_module, gram_module):
            patch.setattr(module, "BLOCK", elements)
        yield


def assert_same(found, wanted):
    """As sums of products are, whatever the order they are added in."""
    for name in ("norm", "target"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-12, atol=1e-20, strict=True)
    assert found.dot.shape == wanted.dot.shape
    assert (np.abs(found.dot - wanted.dot) <= 1e-12 * np.sqrt(wanted.norm * wanted.target) + 1e-20).all()


seeds = st.integers(0, 2**32 - 1)


@given(layers(), seeds, st.integers(1, 400))
def test_the_direct_table_holds_the_sums_of_brute_force(layer, seed, block):
    """Of several weight scales under one activation scale, and the other way round; images in slices."""
    reference, (s_a, s_w) = BruteForce(layer), plausible_scales(layer, seed)
    a = reference.after(reference.outputs)
    for weights, activations in (([s_w, 0.7 * s_w], [s_a]), ([s_w], [0.5 * s_a, s_a, 1.7 * s_a])):
        b = np.stack([reference.after(reference.quantized_output(weight, activation))
                      for weight in weights for activation in activations])
        sums = ((x * y).sum(axis=(-1, -2)).swapaxes(-1, -2) for x, y in ((a, b), (b, b), (a, a)))
        with slices_of(block):
            assert_same(direct_table(layer, weights, activations), Table(*sums))


@given(layers(most_bits=16), seeds, st.integers(1, 400))
def test_gram_tables_equal_direct_tables(layer, seed, block):
    layer, (s_a, s_w) = replace(layer, bias=None, relu=False), plausible_scales(layer, seed)
    for scales in (np.multiply.outer([1.0, 0.6, 1.9], s_w), s_w[0] * np.array([0.5, 1.0])):
        with slices_of(block):
            found = weight_table(layer, scales, s_a)
        assert_same(found, direct_table(layer, scales, [s_a], pooled=True))


# --- where Gram matrices are exact ----------------------------------------------------------------------------

@pytest.mark.parametrize("bits", [4, 8, 9, 10, 12])  # 10 bits are past what float32 sums hold
@pytest.mark.parametrize("signed", [True, False])
def test_sums_longer_than_a_block_stay_exact_at_the_largest_codes(bits, signed):
    """Every product is the largest there is, over more positions than one float32 sum may take."""
    fmt, sign = IntFormat(bits, signed, narrow=signed), -1 if signed else 1
    x = np.ones((3, 2, 40, 41), np.float32)
    x[:, 1] *= sign
    sums = gram(QuantizedLayer([x], np.ones((1, 2, 1, 1)), Geometry(), fmt, INT8), float(fmt.max))
    whole = 3 * 40 * 41 * fmt.max**2
    assert sums.G.tolist() == [[[whole, sign * whole], [sign * whole, whole]]]


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


@pytest.mark.parametrize(("positions", "channels", "x_max", "w_max", "off"), [
    (40, 64, 255, 32767, 1e-13),  # w·G·w past 2^63, though G·w is below 2^53
    (17001, 3, 65535, 127, 1e-13),  # G·w past 2^53, even its first term, though w·G·w is below 2^63
    (400, 3, 65535, 127, 1e-15),  # within both
])
def test_norms_are_exact_where_their_integers_no_longer_fit(positions, channels, x_max, w_max, off):
    """The largest codes there are; three channels cancel, so that a digit lost in G·w would be seen."""
    x = np.ones((1, channels, 1, positions))
    x[0, 1, 0, ::7] = (x_max - 1) / x_max
    w = np.ones((1, channels, 1, 1))
    w[0, :3, 0, 0] = 1, -1, 1 / w_max
    layer = QuantizedLayer([x], w, Geometry(), IntFormat(x_max.bit_length(), signed=False),
                           IntFormat(w_max.bit_length() + 1, narrow=True))
    table = weight_table(layer, np.array([float(w_max)]), float(x_max))
    x_q, w_q = quantized(x, x_max, layer.x_format), quantized(w, w_max, layer.w_format)
    square = ((w_q.ravel().astype(object) @ x_q[0, :, 0].astype(object)) ** 2).sum()
    assert table.norm.item() == pytest.approx(float(Fraction(square, (w_max * x_max) ** 2)), rel=off, abs=0)


def badly_conditioned():
    """Name, inputs, weights, bits, and outputs that are not the layer's own."""
    rng = np.random.default_rng(0)
    for bits, noise in ((4, 1.0), (8, 0.1), (12, 0.01)):
        # P·w_q is a small difference of large sums: Ô keeps only the noise of the inputs.
        w = rng.normal(size=(2, 4, 3, 3))
        w -= w[:, ::-1, ::-1, ::-1]
        yield f"sums to zero {noise}", 100 + noise * rng.normal(size=(2, 4, 16, 16)), w, bits, None
    x, w = rng.normal(size=(2, 6, 8, 8)), rng.normal(size=(4, 6, 3, 3))
    for bits in (2, 12):
        wide_x, wide_w = (array * 10.0 ** rng.uniform(-10, 10, array.shape) for array in (x, w))
        yield f"20 orders {bits}", wide_x, wide_w, bits, None
    for ratio in (1e3, 1e15):
        yield f"one loud channel {ratio}", x, w * np.array([1, ratio, 1, 1]).reshape(4, 1, 1, 1), 8, None
    # Made to cancel: constant inputs but for one code, large weights in pairs, and outputs that are constant.
    # <O, Ô> is then one product out of sums 10^8 times as large, and |Ô| is 1: from Gram sums the cosine would be
    # off by 5e-9.
    w = np.tile([1.0, -1.0], 32).reshape(1, 64, 1, 1)
    w[0, -2:, 0, 0] = 1 / 127, -1 / 127
    x = np.ones((1, 64, 100, 100))
    x[0, -2, 50, 50] = 126 / 127
    yield "cancelling", x, w, 8, 1 + 1e-3 * rng.normal(size=(1, 1, 100, 100))


@pytest.mark.parametrize(("x", "w", "bits", "outputs"), [pytest.param(*case, id=name)
                                                         for name, *case in badly_conditioned()])
def test_cosines_from_gram_matrices_are_right_to_1e_12_or_not_taken(x, w, bits, outputs):
    fmt = IntFormat(bits, narrow=True)
    s_a, scales = fmt.max / np.abs(x).max(), fmt.max / np.abs(w).max() * np.linspace(0.5, 2, 20)
    layer = QuantizedLayer([x if outputs is None else (x, outputs)], w, Geometry(), fmt, fmt)
    reference = BruteForce(layer)
    np.testing.assert_allclose(weight_table(layer, scales, s_a).over_channels().cosines().ravel(),
                               [reference.measure("paper", scale, s_a) for scale in scales], rtol=0, atol=1e-12)


# --- what is remembered ---------------------------------------------------------------------------------------

RNG = np.random.default_rng(11)
X, OUTPUTS, WEIGHT = (RNG.standard_normal(shape) for shape in ((3, 4, 6, 6), (3, 6, 6, 6), (6, 4, 3, 3)))
GRID = np.linspace(0.5, 2, 7)


def given_layer(groups=1):
    return check_layer([(X, OUTPUTS)], WEIGHT[:, :4 // groups], 5, False, None, False, Geometry.of(1, 1, 1, groups))


@given(st.lists(st.tuples(st.sets(st.integers(0, 5)), st.integers(0, 6), st.booleans()), min_size=1, max_size=4),
       st.sampled_from([1, 2]))
@settings(max_examples=20)
def test_remembered_tables_are_those_of_convolving_whatever_moved_in_between(moves, groups):
    """Channels move to other candidates, the activation scale moves or stays, and grids are widened or not."""
    layer = given_layer(groups)
    tables, start, scale, activation = RememberedTables(layer), np.full(6, 4.0), np.full(6, 4.0), 3.0
    for channels, row, wide in moves:
        grid = np.append(GRID, 3.0) if wide else GRID
        candidates = np.concatenate([scale[None], np.multiply.outer(grid, start)])
        assert_same(tables.of_weights(candidates, activation),
                    direct_table(layer, candidates, [activation], pooled=True))
        scale = scale.copy()
        scale[list(channels)] = candidates[row, list(channels)]
        values = np.append(activation, grid * 3.0)
        assert_same(tables.of_activations(scale, values), direct_table(layer, [scale], values, pooled=True))
        activation = float(values[row % 2])


def test_what_is_known_is_not_evaluated_again(monkeypatch):
    evaluated = []

    def counted(function, size):
        return lambda *args, **options: evaluated.append(size(*args)) or function(*args, **options)

    monkeypatch.setattr(remembered, "direct_table", counted(direct_table, lambda layer, *_: len(layer.weight)))
    monkeypatch.setattr(remembered, "weight_table", counted(weight_table, lambda layer, weights, _: len(weights)))
    tables, scale = RememberedTables(given_layer()), np.full(6, 4.0)
    for moved, channels in (([], [6]), ([], []), ([2], [1]), ([0, 5], [2])):  # of the weights, and convolved for it
        evaluated.clear()
        scale = scale.copy()
        scale[moved] += 1.0
        tables.of_activations(scale, 3 * GRID)
        assert evaluated == channels
    candidates = np.multiply.outer(GRID, np.full(6, 4.0))
    mixed = np.append(candidates[0, :3], candidates[4, 3:])  # each channel's is an old one
    for more, activation, count in (([], 3.0, [7]), ([mixed], 3.0, []), ([mixed * 1.01], 3.0, [1]), ([], 2.5, [7])):
        evaluated.clear()
        tables.of_weights(np.array([*more, *candidates]), activation)
        assert evaluated == count
