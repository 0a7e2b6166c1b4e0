"""Remembered sums are those of ``direct_table``, and what is known is not convolved again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.convolution.geometry import Geometry
from refquant.easyquant import remembered
from refquant.easyquant.candidate_cosines import direct_table
from refquant.easyquant.layer import check_layer
from refquant.easyquant.remembered import RememberedTables

RNG = np.random.default_rng(11)
X = RNG.standard_normal((3, 4, 6, 6))
OUTPUTS = RNG.standard_normal((3, 6, 6, 6))
WEIGHT = RNG.standard_normal((6, 4, 3, 3))
GRID = np.linspace(0.5, 2, 7)


def layer(groups=1):
    return check_layer([(X, OUTPUTS)], WEIGHT[:, :4 // groups], 5, False, None, False, Geometry.of(1, 1, 1, groups))


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@given(st.lists(st.tuples(st.sets(st.integers(0, 5)), st.integers(0, 6), st.booleans()), min_size=1, max_size=4),
       st.sampled_from([1, 2]))
@settings(max_examples=20)
def test_tables_are_those_of_convolving_whatever_moved_in_between(moves, groups):
    """Channels move to other candidates, the activation scale moves or stays, and grids are widened or not."""
    net, tables = layer(groups), RememberedTables(layer(groups))
    start, scale, activation = np.full(6, 4.0), np.full(6, 4.0), 3.0
    for channels, row, wide in moves:
        grid = np.append(GRID, 3.0) if wide else GRID
        candidates = np.concatenate([scale[None], np.multiply.outer(grid, start)])
        same(tables.of_weights(candidates, activation), direct_table(net, candidates, [activation], pooled=True))
        scale = scale.copy()
        scale[list(channels)] = candidates[row, list(channels)]
        values = np.append(activation, grid * 3.0)
        same(tables.of_activations(scale, values), direct_table(net, [scale], values, pooled=True))
        activation = float(values[row % 2])


@pytest.mark.parametrize("moved", [[], [2], [0, 5]])
def test_only_channels_that_moved_are_convolved_again(moved, monkeypatch):
    convolved = []

    def counting(some, weights, activations, **options):
        convolved.append(len(some.weight))
        return direct_table(some, weights, activations, **options)

    monkeypatch.setattr(remembered, "direct_table", counting)
    monkeypatch.setattr(remembered, "weight_table", lambda *_: pytest.fail("every weight candidate is known"))
    tables, scale = RememberedTables(layer()), np.full(6, 4.0)
    tables.of_activations(scale, 3 * GRID)
    scale = scale.copy()
    scale[moved] = 5.0
    tables.of_activations(scale, 3 * GRID[::-1])
    assert convolved == [6, *([len(moved)] if moved else [])]


def test_weight_candidates_under_the_same_activation_scale_are_not_evaluated_twice(monkeypatch):
    tables, candidates = RememberedTables(layer()), np.multiply.outer(GRID, np.full(6, 4.0))
    first = tables.of_weights(candidates, 3.0)
    evaluated = []
    original = remembered.weight_table
    monkeypatch.setattr(remembered, "weight_table",
                        lambda net, some, scale: evaluated.append(len(some)) or original(net, some, scale))
    mixed = np.append(candidates[0, :3], candidates[4, 3:])  # each channel's is an old one
    again = tables.of_weights(np.concatenate([mixed[None], candidates]), 3.0)
    assert evaluated == []
    assert np.array_equal(again.dot[1:], first.dot) and np.array_equal(again.norm[0, 3:], first.norm[4, 3:])
    tables.of_weights(np.concatenate([mixed[None] * 1.01, candidates]), 3.0)
    tables.of_weights(candidates, 2.5)
    assert evaluated == [1, 7]
