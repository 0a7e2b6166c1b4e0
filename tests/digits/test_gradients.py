"""Back-propagation: every closed form against central finite differences, in float64."""

import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.convolution.direct import Geometry, convolve
from refquant.digits.architecture import parameters, with_parameters
from refquant.digits.gradients import (
    backward,
    backward_batch,
    cross_entropy,
    forward_batch,
    with_batch_statistics,
)
from refquant.network.float_forward import evaluate
from refquant.network.graph import (
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)
from refquant.strategies import convolution_cases

H = 1e-5  # the step of the differences: h²·f'''/6 and 1e-16/h are both about 1e-11


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def spread(*shape, seed=0):
    """Values at least 0.1 apart and 0.05 from every multiple of 0.1: no ties, and no kink within H."""
    size = int(np.prod(shape))
    return (np.random.default_rng((seed, *shape)).permutation(size) - size // 2 + 0.5).reshape(shape) / 10


def batchnorm(c, epsilon=1e-5):
    """Mean and variance are deliberately not those of any batch: training mode must replace them."""
    return BatchNorm("y", ("x",), normal(c), normal(c, seed=1), np.full(c, 9.0), np.full(c, 7.0), epsilon)


CASES = {  # of convolutions also random ones, below
    "conv": (Conv("y", ("x",), normal(4, 3, 3, 2), normal(4), Geometry.of((1, 2), (2, 0, 1, 3), (2, 1), 2)),
             [normal(2, 6, 4, 4)]),
    "linear": (Linear("y", ("x",), normal(3, 5)), [normal(4, 5)]),
    "linear with bias": (Linear("y", ("x",), normal(3, 5), normal(3)), [normal(4, 5)]),
    "batch norm": (batchnorm(3), [normal(4, 3, 3, 2) * 3 + 1]),
    "batch norm, large epsilon, one image": (batchnorm(2, epsilon=0.5), [normal(1, 2, 3, 3)]),
    "batch norm of features": (batchnorm(4), [normal(6, 4)]),
    "relu6": (Clip("y", ("x",), 0.0, 6.0), [spread(2, 3, 5, 5)]),
    "clip from above only": (Clip("y", ("x",), None, 0.2), [spread(2, 3, 2, 2)]),
    "clip nothing": (Clip("y", ("x",), None, None), [spread(2, 3, 2, 2)]),
    "max pool overlapping, padded": (MaxPool("y", ("x",), (3, 2), Geometry.of((2, 1), (2, 0, 0, 1))),
                                     [spread(2, 2, 5, 6) - 9]),
    "max pool dilated": (MaxPool("y", ("x",), (2, 2), Geometry.of(dilation=2)), [spread(1, 2, 4, 5)]),
    "average pool padded": (AveragePool("y", ("x",), (3, 3), Geometry.of(padding=(1, 0, 2, 1))),
                            [normal(2, 2, 4, 4)]),
    "average pool, padding counted": (
        AveragePool("y", ("x",), (3, 3), Geometry.of(stride=2, padding=1), True), [normal(1, 2, 5, 5)]),
    "global average pool": (GlobalAveragePool("y", ("x",)), [normal(2, 3, 4, 5)]),
    "add": (Add("y", ("a", "b")), [normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)]),
    "add, one operand repeated": (Add("y", ("a", "b")), [normal(2, 3, 2, 2), normal(2, 3, 1, 1)]),
    "add, both operands repeated": (Add("y", ("a", "b")), [normal(2, 1, 4), normal(2, 3, 1)]),
    "concat of rows": (Concat("y", ("a", "b"), axis=1), [normal(2, 3, 1, 2), normal(2, 3, 4, 2)]),
    "concat": (Concat("y", ("a", "b", "c")), [normal(2, 1, 2, 2), normal(2, 3, 2, 2), normal(2, 2, 2, 2)]),
    "flatten": (Flatten("y", ("x",)), [normal(2, 3, 2, 2)]),
}


def in_training(node, inputs):
    return with_batch_statistics(node, *inputs) if isinstance(node, BatchNorm) else node


def trained_fields(node):
    return [field.name for field in fields(node)
            if isinstance(getattr(node, field.name), np.ndarray) and field.name not in ("mean", "variance")]


def differences(loss, x):
    """∂loss/∂x, element by element: (loss(x + h) - loss(x - h)) / 2h."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[index] += H
        below[index] -= H
        gradient[index] = (loss(above) - loss(below)) / (2 * H)
    return gradient


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_finite_differences_and_keeps_float32(name):
    node, inputs = CASES[name]

    def output(node, *inputs):
        return evaluate(in_training(node, inputs), *inputs)

    y = output(node, *inputs)
    dy = normal(*y.shape, seed=5)
    for array in (dy, y, *inputs):
        array.setflags(write=False)  # inputs are never written to
    d_inputs, d_fields = backward(in_training(node, inputs), dy, y, *inputs)

    assert len(d_inputs) == len(inputs)
    for position, (x, dx) in enumerate(zip(inputs, d_inputs)):
        def loss_of_input(value, position=position):
            return np.sum(dy * output(node, *inputs[:position], value, *inputs[position + 1:]))
        np.testing.assert_allclose(dx, differences(loss_of_input, x), rtol=1e-7, atol=1e-8)
    assert sorted(d_fields) == sorted(trained_fields(node))
    for field, gradient in d_fields.items():
        def loss_of_field(value, field=field):
            return np.sum(dy * output(replace(node, **{field: value}), *inputs))
        np.testing.assert_allclose(gradient, differences(loss_of_field, getattr(node, field)),
                                   rtol=1e-7, atol=1e-8)

    dy, *inputs = (array.astype(np.float32) for array in (dy, *inputs))
    d_inputs, d_fields = backward(in_training(node, inputs), dy, output(node, *inputs), *inputs)
    assert {gradient.dtype for gradient in (*d_inputs, *d_fields.values())} == {np.dtype(np.float32)}


@given(convolution_cases(), st.integers(0, 2**32 - 1))
def test_conv_gradient_is_the_exact_adjoint(case, seed):
    """Convolution is linear in x and in w, so that Σ dy·conv(x, w) = Σ dx·x = Σ dw·w, exactly in integers."""
    rng = np.random.default_rng(seed)
    x, w = (rng.integers(-9, 10, codes.shape).astype(float) for codes in (case.x_q, case.w_q))
    y = convolve(x, w, **case.geometry._asdict())
    dy = rng.integers(-9, 10, y.shape).astype(float)
    (dx,), gradients = backward(Conv("y", ("x",), w, geometry=case.geometry), dy, y, x)
    assert np.sum(dy * y) == np.sum(dx * x) == np.sum(gradients["weight"] * w)


@pytest.mark.parametrize(("node", "x", "dy", "dx"), [
    (MaxPool("y", ("x",), (2, 2), Geometry(stride=(2, 2))), [[0, 5, 1, 1], [5, 5, 1, 1]], [[3, 4]],
     [[0, 3, 4, 0], [0, 0, 0, 0]]),
    (Clip("y", ("x",), 0.0, 6.0), [[-1, 0, 3, 6, 7]], [[2] * 5], [[0, 0, 2, 0, 0]]),
])
def test_max_pool_gives_a_tie_to_one_element_and_clip_passes_nothing_at_its_kinks(node, x, dy, dx):
    x, dy = np.array([[x]], float), np.array([[dy]], float)
    (found,), _ = backward(node, dy, evaluate(node, x), x)
    assert found.tolist() == [[dx]]


def test_unknown_operation_has_no_gradient():
    with pytest.raises(TypeError, match="no gradient for Node"):
        backward(Node("y", ("x",)), np.ones(1), np.ones(1), np.ones(1))


def test_cross_entropy_equals_finite_differences():
    logits, labels = normal(5, 4) * 3, np.array([0, 3, 3, 1, 2])
    loss, gradient = cross_entropy(logits, labels)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(softmax[np.arange(5), labels]).mean(), rel=1e-12)
    expected = differences(lambda z: cross_entropy(z, labels)[0], logits)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-10)


def test_cross_entropy_survives_large_logits():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], np.float32)
    loss, gradient = cross_entropy(logits, [0, 0])
    assert loss == 1e4  # the mean of 0 and 2e4
    assert gradient.dtype == np.float32
    assert gradient.tolist() == [[0, 0, 0], [-0.5, 0.5, 0]]


@pytest.mark.parametrize(("logits", "labels", "message"), [
    *[(np.zeros((2, 3)), labels, message) for labels, message in (
        ([0, 1, 2], r"labels must hold 2 integers, got int\d+ of shape \(3,\)"),
        ([0.0, 1.0], r"labels must hold 2 integers, got float64 of shape \(2,\)"),
        ([0, 3], "labels must be from 0 to 2, got 0 to 3"),
        ([-1, 2], "labels must be from 0 to 2, got -1 to 2"))],
    *[(np.zeros(shape), [0, 0], rf"logits must be a non-empty \(N, K\), got shape {re.escape(str(shape))}")
      for shape in ((3,), (0, 3), (2, 3, 1))],
])
def test_cross_entropy_refuses_foreign_labels_and_logits(logits, labels, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        cross_entropy(logits, labels)


BRANCHING = Network((2, 4, 4), (  # with a tensor read twice by one node, one read by three, and a node nobody reads
    Conv("a", ("input",), normal(3, 2, 3, 3), geometry=Geometry.of(padding=1)),
    BatchNorm("a_bn", ("a",), normal(3), normal(3, seed=1), np.zeros(3), np.ones(3)),
    Clip("a_relu", ("a_bn",)),
    Add("twice", ("a_relu", "a_relu")),
    Conv("b", ("a_relu",), normal(3, 3, 1, 1), normal(3)),
    Conv("unread", ("a_relu",), normal(1, 3, 1, 1)),
    Add("sum", ("twice", "b")),
    Concat("both", ("sum", "a_bn")),
    GlobalAveragePool("mean", ("both",)),
    Flatten("flatten", ("mean",)),
    Linear("logits", ("flatten",), normal(4, 6), normal(4)),
))


def test_gradients_of_a_branching_network_equal_finite_differences():
    network, images, labels = BRANCHING, normal(3, 2, 4, 4), np.array([1, 0, 3])

    def loss(changed):
        _, tensors = forward_batch(with_parameters(network, changed), images)
        return cross_entropy(tensors["logits"], labels)[0]

    batch_network, tensors = forward_batch(network, images)
    gradients = backward_batch(batch_network, tensors, cross_entropy(tensors["logits"], labels)[1])
    assert sorted(gradients) == ["a.weight", "a_bn.beta", "a_bn.gamma", "b.bias", "b.weight",
                                 "logits.bias", "logits.weight"]
    for name, gradient in gradients.items():
        def loss_of_parameter(value, name=name):
            return loss({name: value})
        expected = differences(loss_of_parameter, parameters(network)[name])
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9, err_msg=name)
