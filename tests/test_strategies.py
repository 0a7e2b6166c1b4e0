"""The strategies draw what they promise, and really reach the corners they are there for."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from refquant.convolution.direct import convolve_exact
from refquant.convolution.geometry import pad
from refquant.integers.dialects import NAMED
from refquant.integers.formats import IntFormat
from refquant.integers.requantization import requantize
from refquant.network import graph
from refquant.network.float_forward import run_float_tensors
from refquant.recipes.quantize import quantize_network
from refquant.strategies import (
    bell_shaped_tensors,
    codes,
    convolution_cases,
    dialects,
    geometries,
    images,
    int_formats,
    multipliers,
    networks,
    reals,
    scales,
    weights_with_disparity,
    winograd_cases,
)
from refquant.vectors.descriptions import descriptions
from refquant.winograd.convolution import winograd_convolve
from refquant.winograd.transforms import PRESETS

SEARCH = settings(max_examples=1500, derandomize=True, database=None, deadline=None,
                  suppress_health_check=list(HealthCheck), phases=["generate"])


def reaches(strategy, condition) -> bool:
    """Whether a search, without shrinking, meets ``condition``."""
    try:
        find(strategy, condition, settings=SEARCH)
    except NoSuchExample:
        return False
    return True


# --- formats and codes ----------------------------------------------------------------------------------------

@given(st.integers(1, 64), st.integers(1, 64), st.data())
def test_formats_have_as_many_bits_as_asked_for(a, b, data):
    fmt = data.draw(int_formats(min(a, b), max(a, b)))
    assert min(a, b) <= fmt.bits <= max(a, b)


@pytest.mark.parametrize("wanted", [IntFormat(1), IntFormat(1, signed=False), IntFormat(2, narrow=True), IntFormat(8),
                                    IntFormat(8, signed=False), IntFormat(8, narrow=True), IntFormat(64)])
def test_every_kind_of_format_is_drawn(wanted):
    assert reaches(int_formats(wanted.bits, wanted.bits), lambda fmt: fmt == wanted)


@pytest.mark.parametrize(("low", "high"), [(0, 8), (8, 7), (1, 65)])
def test_bits_outside_the_formats_are_refused(low, high):
    with pytest.raises(ValueError, match=rf"min_bits >= 1 to max_bits <= 64, got {low} to {high}"):
        find(int_formats(low, high), lambda _: True)


@given(int_formats(), st.lists(st.integers(1, 4), max_size=3).map(tuple), st.data())
def test_codes_are_codes_of_the_format_in_its_dtype(fmt, shape, data):
    array = data.draw(codes(fmt, shape))
    assert array.shape == shape and array.dtype == fmt.dtype
    assert fmt.min <= int(array.min()) and int(array.max()) <= fmt.max


@pytest.mark.parametrize("fmt", [IntFormat(1), IntFormat(8), IntFormat(7, narrow=True), IntFormat(64),
                                 IntFormat(64, signed=False)], ids=str)
def test_codes_reach_both_extremes_everywhere_at_once(fmt):
    for code in (fmt.min, fmt.max):
        assert reaches(codes(fmt, (3, 2)), lambda array, code=code: (array == code).all())
    assert reaches(codes(fmt, (50,)), lambda array: {fmt.min, fmt.max} <= set(array.tolist()))


# --- convolutions ---------------------------------------------------------------------------------------------

@given(convolution_cases())
def test_every_convolution_case_can_be_run(case):
    for array, fmt in ((case.x_q, case.x_format), (case.w_q, case.w_format)):
        assert array.dtype == fmt.dtype and fmt.min <= array.min() and array.max() <= fmt.max
    assert case.x_format.min <= case.zero_point <= case.x_format.max
    y = convolve_exact(case.x_q, case.w_q, **case.geometry._asdict(), zero_point=case.zero_point)
    assert y.shape[:2] == (len(case.x_q), len(case.w_q))


@given(convolution_cases(int_formats(12, 16), st.just(IntFormat(3))))
def test_convolution_cases_take_the_formats_asked_for(case):
    assert 12 <= case.x_format.bits <= 16 and case.w_format == IntFormat(3)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.data())
def test_geometries_fit_the_plane_they_are_drawn_for(height, width, r, s, data):
    geometry = data.draw(geometries((height, width), (r, s), 2))
    assert min(geometry.output_size(height, width, (r, s))) >= 1
    assert geometry.groups == 2


@given(winograd_cases(max_bits=3, largest=4, transforms=st.just(PRESETS["F(2,3)"])))
def test_winograd_cases_take_the_sizes_asked_for(case):
    assert np.abs(case.x_q).max() <= 7 and np.abs(case.w_q).max() <= 7
    assert max(case.x_q.shape[2:]) <= 4 and case.tile is PRESETS["F(2,3)"]


# --- networks -------------------------------------------------------------------------------------------------

@given(st.data())
def test_networks_run_and_quantize(data):
    dtype = data.draw(st.sampled_from((np.float32, np.float64)))
    network = data.draw(networks(5, dtype))
    batch = data.draw(images(network, 3, dtype))
    assert 1 <= len(network.nodes) <= 5
    assert batch.shape == (3, *network.input_shape)
    for node in network.nodes:
        assert all(v.dtype == dtype for v in vars(node).values() if isinstance(v, np.ndarray))
    assert all(np.isfinite(x).all() and x.dtype == dtype for x in run_float_tensors(network, batch).values())
    quantize_network(network, batch)


def some(*kinds, where=lambda node: True):
    """Whether a network has such a node."""
    return lambda network: any(type(node) in kinds and where(node) for node in network.nodes)


def read_twice(network) -> bool:
    readers = [name for node in network.nodes for name in set(node.inputs)]
    return any(readers.count(node.name) > 1 for node in network.nodes)


def followed(*kinds, by):
    """Whether such a node has one reader, which is of the other kind."""
    return lambda network: some(*kinds, where=lambda node: type(network.only_reader(node.name)) is by)(network)


def unfusable_relu(network) -> bool:
    """A ReLU behind a convolution that somebody else reads, too, or that is the output."""
    convolutions = {node.name for node in network.nodes if isinstance(node, graph.Conv)}
    return some(graph.Clip, where=lambda node: node.inputs[0] in convolutions
                and network.only_reader(node.inputs[0]) is None)(network)


KINDS = [graph.Conv, graph.Linear, graph.BatchNorm, graph.Clip, graph.MaxPool, graph.AveragePool,
         graph.GlobalAveragePool, graph.Add, graph.Concat, graph.Flatten]
REACHED = {
    convolution_cases: {
        "depthwise": lambda c: c.geometry.groups == c.x_q.shape[1] == len(c.w_q) > 1,
        "depthwise with multiplier": lambda c: len(c.w_q) > c.geometry.groups == c.x_q.shape[1] > 1,
        "grouped": lambda c: 1 < c.geometry.groups < c.x_q.shape[1],
        "uneven padding": lambda c: len(set(c.geometry.padding)) == 3,
        "padding beyond the input": lambda c: c.geometry.padding[0] > c.x_q.shape[2],
        "uneven stride": lambda c: c.geometry.stride[0] != c.geometry.stride[1],
        "dilation": lambda c: c.geometry.dilation == (2, 2) and c.w_q.shape[2:] == (3, 3),
        "one output pixel": lambda c: not any(c.geometry.padding) and c.w_q.shape[2:] == c.x_q.shape[2:] != (1, 1),
        "pointwise": lambda c: c.w_q.shape[2:] == (1, 1) and c.geometry.stride == (1, 1),
        "not square": lambda c: c.x_q.shape[2] != c.x_q.shape[3],
        "a batch": lambda c: len(c.x_q) == 2,
        "lowest zero point": lambda c: c.zero_point == c.x_format.min < 0,
        "no zero point": lambda c: c.zero_point == 0,
        "dead weights": lambda c: not c.w_q.any() and c.x_q.any()},
    winograd_cases: {
        "a preset": lambda c: c.tile is PRESETS["F(6,3)"],
        "no transform": lambda c: c.tile.m == c.tile.r == 1,
        "uneven padding": lambda c: len(set(c.padding)) == 4,
        "less than a tile": lambda c: c.x_q.shape[2] < c.tile.n,
        "a cut tile": lambda c: (c.x_q.shape[2] + c.padding[0] + c.padding[2] - c.tile.r + 1) % c.tile.m,
        "-128": lambda c: c.x_q.min() == -128,
        "dead weights": lambda c: not c.w_q.any() and c.x_q.any()},
    networks: {
        **{kind.__name__: some(kind) for kind in KINDS},
        "a tensor that is read twice": read_twice,
        "a ReLU that cannot be fused": unfusable_relu,
        "a ReLU that can": followed(graph.Conv, by=graph.Clip),
        "a BatchNorm that can be folded": followed(graph.Conv, graph.Linear, by=graph.BatchNorm),
        "two different operands": some(graph.Add, where=lambda node: len(set(node.inputs)) == 2),
        "a dead channel": some(graph.Conv, where=lambda node: node.weight.any()
                               and not node.weight.any(axis=(1, 2, 3)).all()),
        "padding that is not counted": some(graph.AveragePool, where=lambda node: any(node.geometry.padding)
                                            and not node.count_include_pad)}}


@pytest.mark.parametrize(("strategy", "what"), [(one, what) for one in REACHED for what in REACHED[one]],
                         ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_strategies_reach(strategy, what):
    assert reaches(strategy(), REACHED[strategy][what])


def test_every_node_type_is_drawn():
    """A node type added to the graph must be added to the strategy and to this list.

    Softmax has no integer form, so a network that holds one cannot be quantized.
    """
    concrete = {value for value in vars(graph).values() if isinstance(value, type) and issubclass(value, graph.Node)}
    assert concrete - {graph.Node, graph.Final, graph.Softmax} == set(KINDS)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), st.data())
def test_reals_are_small_finite_floats(shape, data):
    dtype = data.draw(st.sampled_from((np.float32, np.float64)))
    x = data.draw(reals(shape, dtype))
    assert x.shape == shape and x.dtype == dtype and np.abs(x).max() < 10


def test_reals_tie_when_they_are_rounded_and_have_dead_channels():
    assert reaches(reals((4,)), lambda x: (np.abs(x * 8) % 1 == 0.5).any())
    assert reaches(reals((3, 2)), lambda x: x.any(axis=1).tolist() == [True, False, True])
    assert reaches(reals((3, 2)), lambda x: not x.any())


@pytest.mark.parametrize(("least", "greatest"), [(0.3, 0.4), (0.26, 0.3), (1.0, 1.0), (1e-9, 1e-8), (130.0, 200.0)])
@given(data=st.data())
def test_scales_lie_between_their_limits_whether_a_power_of_two_does_or_not(least, greatest, data):
    assert least <= data.draw(scales(least, greatest)) <= greatest


@pytest.mark.parametrize(("least", "greatest"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, float("inf"))])
def test_limits_that_hold_no_scale_are_refused(least, greatest):
    with pytest.raises(ValueError, match=f"^scales must run from least > 0 .*, got {least} to {greatest}$"):
        scales(least, greatest)


# --- imports -------------------------------------------------------------------------------------------------

def test_without_hypothesis_the_error_names_the_command_that_installs_it():
    script = "import sys; sys.modules['hypothesis'] = None; import refquant.strategies"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode != 0
    assert "ModuleNotFoundError: refquant.strategies needs Hypothesis: pip install 'refquant[test]'" in done.stderr


# --- what is left of a planted bug ----------------------------------------------------------------------------

def shrunk(strategy, bug):
    """The smallest input that Hypothesis finds on which ``bug`` shows."""
    return find(strategy, bug, settings=settings(max_examples=3000, derandomize=True, database=None, deadline=None,
                                                 suppress_health_check=list(HealthCheck)))


@pytest.mark.parametrize(("strategy", "bug", "simplest"), [
    (int_formats(), lambda fmt: fmt.min != -(1 << (fmt.bits - 1)), IntFormat(1, signed=False)),
    (int_formats(), lambda fmt: fmt.narrow, IntFormat(2, narrow=True)),
    (dialects(), lambda dialect: dialect.multiplier == "m31", NAMED["single_round"]),
    (dialects(named=True), lambda dialect: dialect.left == "wrap", NAMED["gemmlowp_double"]),
    (dialects(), lambda dialect: dialect.end == "wrap", next(one for one in descriptions() if one.end == "wrap"))])
def test_formats_and_dialects_shrink_to_the_first_that_matters(strategy, bug, simplest):
    assert shrunk(strategy, bug) == simplest


def test_codes_shrink_to_the_one_element_that_matters():
    assert shrunk(codes(IntFormat(8), (4,)), lambda x: -128 in x).tolist() == [0, 0, 0, -128]


def test_scales_and_multipliers_shrink_to_the_simplest_number_that_matters():
    assert shrunk(scales(), lambda S: S != 1) in (0.125, 0.5, 2.0)
    cut = shrunk(multipliers(), lambda M: M.m & 0x7FFF)  # "m is cut to 16 bits"
    assert (int(cut.m), int(cut.shift)) == (2**30 + 1, 0)
    twice = shrunk(multipliers(), lambda M: requantize([1, -3, 5], M, IntFormat(8)).tolist()
                   != requantize([1, -3, 5], M, IntFormat(8), "gemmlowp_double").tolist())
    assert (int(twice.m), int(twice.shift)) == (2**30, -1)  # a quarter: the first rounding makes a tie


def test_a_convolution_padded_with_0_for_the_zero_point_shrinks_to_one_code_beside_its_padding():
    def padded_with_0(case):
        x = pad(case.x_q.astype(np.int64), case.geometry.padding, 0)
        unpadded = case.geometry._replace(padding=(0, 0, 0, 0))
        return (convolve_exact(x, case.w_q, **unpadded._asdict(), zero_point=case.zero_point)
                != convolve_exact(case.x_q, case.w_q, **case.geometry._asdict(), zero_point=case.zero_point)).any()

    case = shrunk(convolution_cases(), padded_with_0)
    assert case.x_q.size == 1 and np.count_nonzero(case.w_q) == sum(case.geometry.padding) == 1
    assert case.w_q.size <= 2 and case.zero_point != 0


def test_a_winograd_stage_that_is_too_narrow_shrinks_to_one_weight_and_few_codes():
    def too_narrow(case):
        narrow = winograd_convolve(case.x_q, case.w_q, case.tile, case.padding, "wrap", {"V": IntFormat(6)})
        return (narrow != convolve_exact(case.x_q, case.w_q, padding=case.padding)).any()

    case = shrunk(winograd_cases(largest=3, channels=1, transforms=st.just(PRESETS["F(2,3)"])), too_narrow)
    assert np.count_nonzero(case.w_q) == 1 and np.count_nonzero(case.x_q) <= 2


def test_weights_shrink_to_the_channels_that_matter_and_bell_shapes_to_one_outlier():
    w = shrunk(weights_with_disparity((3, 4)), lambda w: np.abs(w).max(axis=1).min() < 2.0**-7)
    reach = np.abs(w).max(axis=1)
    assert reach[0] > 0.5 and (reach[1:] < 2.0**-7).sum() == 1
    x = shrunk(bell_shaped_tensors((20,)), lambda x: np.abs(x).max() == 8)
    assert np.flatnonzero(np.abs(x) == 8).tolist() == [0]


def test_a_network_shrinks_to_the_one_node_that_matters():
    network = shrunk(networks(), some(graph.Add))
    assert len(network.nodes) == 1 and network.input_shape == (1, 1, 1)
