"""ONNX models of every operator that can be read, and what onnxruntime computes of them."""

from __future__ import annotations

import numpy as np
from onnx_models import chain, helper, model, onnx, run_onnxruntime, tensor

from refquant.network.float_forward import run_float
from refquant.readers import load_onnx

RNG = np.random.default_rng(0)
node = helper.make_node
W, B = RNG.normal(size=(3, 2, 3, 2)).astype(np.float32), np.array([0.5, -1, 2], np.float32)
CONV, FLATTEN = ("Conv", {"w": W}, {}), ("Flatten", {}, {})
F = RNG.normal(size=(4, 72)).astype(np.float32)  # for a flattened (2, 6, 6)
NORM = dict(zip("gbmv", np.abs(RNG.normal(size=(4, 2))).astype(np.float32)))


def weights(*shape):
    return (RNG.standard_normal(shape) / 2).astype(np.float32)


def one(operator, inputs=None, attributes=None, **keywords):
    """A model of one operator behind a 1x1 convolution, so that there is a layer before it."""
    return chain(("Conv", {"w": weights(2, 2, 1, 1)}, {}), (operator, inputs or {}, attributes or {}), **keywords)


def ints(*values):
    return np.array(values, np.int64)


def with_listed_initializer():
    """As files before IR version 4 do."""
    made = chain(CONV)
    made.graph.input.append(helper.make_tensor_value_info("w0", onnx.TensorProto.FLOAT, W.shape))
    return made


def rounding_up(size, kernel, stride, pads, **count_include_pad):
    """A pool whose last window may reach behind the input."""
    return chain(("AveragePool" if count_include_pad else "MaxPool", {}, {
        "kernel_shape": [1, kernel], "strides": [1, stride], "pads": [0, pads[0], 0, pads[1]], "ceil_mode": 1,
        **count_include_pad}), shape=(1, 2, 1, size))


MODELS = {
    # functions of one tensor
    **{operator: one(operator, opset=22) for operator in (
        "Abs", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Neg", "Softplus", "Tanh")},
    "Exp": chain(("Clip", {"a": np.float32(-4), "b": np.float32(2)}, {}), ("Exp", {}, {})),
    "Sqrt": chain(("Relu", {}, {}), ("Sqrt", {}, {})),
    "Gelu by tanh": one("Gelu", {}, {"approximate": "tanh"}, opset=22),
    "Sigmoid inside": chain(("Sigmoid", {}, {}), ("Relu", {}, {})),
    "PRelu, one slope": one("PRelu", {"slope": np.array([0.25], np.float32)}),
    "PRelu per channel": one("PRelu", {"slope": np.array([0.5, -0.25], np.float32).reshape(2, 1, 1)}),
    "Pow 2": one("Pow", {"e": np.float32(2)}),
    "Pow 3": one("Pow", {"e": np.float32(3)}),
    "SiLU of two nodes": model([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])]),
    "HardSwish of four nodes": model(
        [node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]),
         node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"])],
        [tensor("three", 3.0), tensor("zero", 0.0), tensor("six", 6.0)]),
    "GELU of five nodes": model(
        [node("Div", ["x", "root"], ["d"]), node("Erf", ["d"], ["e"]), node("Add", ["e", "one"], ["a"]),
         node("Mul", ["x", "a"], ["m"]), node("Mul", ["m", "half"], ["y"])],
        [tensor("root", 2**0.5), tensor("one", 1.0), tensor("half", 0.5)]),
    # constants
    **{f"{operator} {name}": chain((operator, {"c": value}, {}), ("Relu", {}, {}))
       for operator in ("Add", "Sub", "Mul", "Div") for name, value in (
           ("number", np.float32(1.5)), ("per channel", np.array([0.5, -2], np.float32).reshape(2, 1, 1)),
           ("per column", np.arange(1, 7, dtype=np.float32)), ("per value", 1 + np.abs(weights(2, 6, 6))))},
    "constant less x": model([node("Sub", ["c", "x"], ["y"])], [tensor("c", 1.0)]),
    "Conv and then Mul": one("Mul", {"c": np.array([0.5, -2], np.float32).reshape(2, 1, 1)}),
    "Conv and then Div": one("Div", {"c": np.float32(3)}),
    "numbers of three axes": chain(("Mul", {"c": np.float32(0.5)}, {}), ("Add", {"c": np.float32(1)}, {}),
                                   shape=("N", 4, 5)),
    # two tensors
    "Mul": model([node("Relu", ["x"], ["r"]), node("Conv", ["x", "w"], ["c"]), node("Mul", ["r", "c"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    "Sub": model([node("Conv", ["x", "w"], ["c"]), node("Sub", ["x", "c"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    "squeeze and excite": model(
        [node("GlobalAveragePool", ["x"], ["g"]), node("Conv", ["g", "w"], ["c"]), node("HardSigmoid", ["c"], ["h"]),
         node("Mul", ["x", "h"], ["y"])], [tensor("w", weights(2, 2, 1, 1))]),
    "Add of (C, 1, 1)": model([node("GlobalAveragePool", ["x"], ["g"]), node("Add", ["g", "x"], ["y"])]),
    "x times x": model([node("Mul", ["x", "x"], ["y"])]),
    "Max": model([node("Conv", ["x", "w"], ["c"]), node("Max", ["x", "c"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    "Min of three and a number": model(
        [node("Conv", ["x", "w"], ["c"]), node("Relu", ["x"], ["r"]), node("Min", ["x", "c", "r", "n"], ["y"])],
        [tensor("w", weights(2, 2, 1, 1)), tensor("n", 0.25)]),
    "Sum": model([node("Conv", ["x", "w"], ["c"]), node("Relu", ["x"], ["r"]), node("Sum", ["x", "c", "r"], ["y"])],
                 [tensor("w", weights(2, 2, 1, 1))]),
    # layers and windows
    **{f"ConvTranspose {attributes}": chain(
        ("ConvTranspose", {"w": weights(2, 3, 3, 2), "b": weights(3)}, attributes)) for attributes in (
            {}, {"strides": [2, 3], "pads": [1, 0, 2, 1]}, {"strides": [2, 2], "output_padding": [1, 1]},
            {"dilations": [2, 1], "pads": [0, 1, 1, 0]}, {"pads": [3, 2, 3, 2]})},
    "ConvTranspose in groups": chain(("ConvTranspose", {"w": weights(2, 2, 2, 2)}, {"group": 2, "strides": [2, 2]})),
    "Conv 1-D": chain(("Conv", {"w": weights(3, 4, 3), "b": weights(3)}, {"pads": [1, 2], "strides": [2]}),
                      shape=("N", 4, 9)),
    "ConvTranspose 1-D": chain(("ConvTranspose", {"w": weights(4, 3, 3)}, {"strides": [2]}), shape=("N", 4, 5)),
    "pools 1-D": chain(("MaxPool", {}, {"kernel_shape": [3], "pads": [1, 1]}),
                       ("AveragePool", {}, {"kernel_shape": [2], "strides": [2]}), shape=("N", 4, 9)),
    "BatchNormalization of three axes": chain(
        ("BatchNormalization", {"g": weights(4), "b": weights(4), "m": weights(4), "v": np.abs(weights(4)) + 1}, {}),
        shape=("N", 4, 5)),
    "GlobalMaxPool": one("GlobalMaxPool"),
    "GlobalAveragePool 1-D": chain(("GlobalAveragePool", {}, {}), shape=("N", 4, 5)),
    **{f"ReduceMean {axes} {keep}": chain(("ReduceMean", {}, {"axes": axes, "keepdims": keep}))
       for axes in ([1], [1, 2], [-1], [3, 2], [1, 2, 3]) for keep in (0, 1)},
    "ReduceSum": chain(("ReduceSum", {"axes": ints(2, 3)}, {"keepdims": 0})),
    "MatMul of rows": chain(("MatMul", {"w": weights(6, 5)}, {})),
    # moves
    "NHWC": chain(("Transpose", {}, {"perm": [0, 3, 1, 2]}), ("Conv", {"w": weights(3, 2, 3, 3)}, {}),
                  ("Transpose", {}, {"perm": [0, 2, 3, 1]}), ("Mul", {"c": weights(3)}, {}),
                  ("Transpose", {}, {"perm": [0, 3, 1, 2]}), ("Relu", {}, {}), shape=("N", 6, 6, 2)),
    "Reshape to five axes and back": chain(
        ("Reshape", {"s": ints(0, 2, 3, 2, 6)}, {}), ("Transpose", {}, {"perm": [0, 2, 1, 4, 3]}),
        ("Reshape", {"s": ints(0, -1)}, {})),
    "Reshape of a fixed batch": chain(("Reshape", {"s": ints(1, 4, 18)}, {}), shape=(1, 2, 6, 6)),
    "Flatten on the last axis": chain(("GlobalAveragePool", {}, {}), ("Reshape", {"s": ints(0, 1, 2)}, {}),
                                      ("Flatten", {}, {"axis": 2})),
    "Unsqueeze and Squeeze": chain(("Unsqueeze", {"a": ints(1, 5)}, {}), ("Squeeze", {"a": ints(1)}, {}),
                                   ("Squeeze", {"a": ints(-1)}, {})),
    "Squeeze of old operator sets": chain(("GlobalAveragePool", {}, {}), ("Squeeze", {}, {"axes": [2, 3]}), opset=11),
    "Slice": chain(("Slice", {"s": ints(1, -1), "e": ints(6, -7), "a": ints(2, 3), "t": ints(2, -2)}, {})),
    "Slice of old operator sets": chain(("Slice", {}, {"starts": [1], "ends": [-1], "axes": [3]}), opset=9),
    "Split": model([node("Split", ["x"], ["a", "b", "c"], axis=2), node("Concat", ["c", "a"], ["y"], axis=-2)]),
    "Split by sizes": model([node("Split", ["x", "s"], ["a", "b"], axis=-1), node("Relu", ["b"], ["y"])],
                            [tensor("s", [2, 4], np.int64)]),
    "Concat of rows": model([node("Relu", ["x"], ["r"]), node("Concat", ["x", "r"], ["y"], axis=3)]),
    **{f"{operator} {attributes}": chain((operator, {}, {"blocksize": 2, **attributes}), shape=("N", 4, 6, 6))
       for operator, attributes in (("DepthToSpace", {}), ("DepthToSpace", {"mode": "CRD"}), ("SpaceToDepth", {}))},
    "Pad of everything": chain(("Pad", {"p": ints(0, 1, 0, 2, 0, 0, 1, 0)}, {})),
    "Pad before a pool": chain(("Pad", {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, {}),
                               ("MaxPool", {}, {"kernel_shape": [2, 2]})),
    "Pad read twice": model([node("Pad", ["x", "p"], ["q"]), node("Conv", ["q", "w"], ["c"]),
                             node("Relu", ["q"], ["r"]), node("Add", ["c", "r"], ["y"])],
                            [tensor("p", [0, 0, 1, 1, 0, 0, 1, 1], np.int64), tensor("w", weights(2, 2, 1, 1))]),
    "cropping": chain(("Pad", {"p": ints(0, 0, -1, 1, 0, 0, 0, -2)}, {})),
    "Resize by scales": chain(("Resize", {"r": None, "s": np.array([1, 1, 2, 3], np.float32)},
                               {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                                "nearest_mode": "floor"})),
    "Resize by sizes": chain(("Resize", {"r": None, "s": None, "z": ints(1, 2, 12, 6)}, {"mode": "nearest"}),
                             shape=(1, 2, 6, 6)),
    "Upsample": chain(("Upsample", {"s": np.array([1, 1, 2, 2], np.float32)}, {}), opset=9),
    # the end
    **{f"{operator} on axis {axis}": one(operator, {}, {"axis": axis})
       for operator in ("Softmax", "LogSoftmax", "ArgMax") for axis in (1, -1)},
    "ArgMax without its axis": chain(FLATTEN, ("ArgMax", {}, {"axis": 1, "keepdims": 0})),
    "Sigmoid at the end": one("Sigmoid"),
    # functions too large to be one node
    "roots of squares": chain(*[("Pow", {"e": np.float32(2)}, {}), ("Sqrt", {}, {})] * 8),
    "sums of sums of functions": model(
        [node("Sigmoid", ["x"], ["t0"]), *[node("Add", [f"t{k}", f"t{k - 1}" if k else "x"], [f"t{k + 1}"])
                                           for k in range(12)], node("Relu", ["t12"], ["y"])]),
    # constants that the graph computes
    "Shape, Gather, Concat, Reshape": model(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Unsqueeze", ["n", "axis"], ["u"]),
         node("Concat", ["u", "rest"], ["t"], axis=0), node("Reshape", ["x", "t"], ["y"])],
        [tensor("zero", 0, np.int64), tensor("axis", [0], np.int64), tensor("rest", [-1], np.int64)]),
    "weights by arithmetic": model(
        [node("Mul", ["w", "two"], ["v"]), node("Transpose", ["v"], ["t"], perm=[1, 0, 2, 3]),
         node("Cast", ["t"], ["h"], to=10), node("Cast", ["h"], ["f"], to=1), node("Conv", ["x", "f"], ["y"])],
        [tensor("w", weights(2, 3, 1, 1)), tensor("two", 2.0)]),
    "ConstantOfShape, Range, Expand": model(
        [node("ConstantOfShape", ["shape"], ["c"], value=tensor("", [0.5])), node("Range", ["a", "b", "d"], ["r"]),
         node("Expand", ["r", "wide"], ["e"]), node("Add", ["x", "c"], ["k"]), node("Mul", ["k", "e"], ["y"])],
        [tensor("shape", [2, 1, 1], np.int64), tensor("a", 1.0), tensor("b", 7.0), tensor("d", 1.0),
         tensor("wide", [6, 6], np.int64)]),
    # variants of what random models hold, and operator sets of other years
    "Conv with everything": chain(("Conv", {"w": weights(4, 1, 3, 2), "b": weights(4)}, {
        "group": 2, "pads": [0, 1, 2, 3], "strides": [2, 1], "dilations": [2, 3], "kernel_shape": [3, 2],
        "auto_pad": "NOTSET"})),
    "Conv VALID, dilated": chain(("Conv", {"w": W}, {"auto_pad": "VALID", "dilations": [2, 2]})),
    "operator set 7": chain(
        ("BatchNormalization", NORM, {"momentum": 0.5, "spatial": 1}), ("Clip", {}, {"min": 0.0, "max": 1.5}),
        ("Dropout", {}, {"ratio": 0.5}), ("Clip", {}, {}), FLATTEN, ("Softmax", {}, {}), opset=7),
    "BatchNormalization of operator set 15": chain(("BatchNormalization", NORM, {"training_mode": 0}), opset=15),
    "BatchNormalization of flat tensors": chain(FLATTEN, ("BatchNormalization", dict(zip("gbmv", np.abs(F))), {})),
    "BatchNormalization, epsilon": chain(("BatchNormalization", NORM, {"epsilon": 0.1})),
    "MaxPool, ceil": chain(("MaxPool", {}, {
        "kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 1, 1], "ceil_mode": 1, "dilations": [2, 1],
        "storage_order": 1})),
    "MaxPool SAME, ceil": chain(("MaxPool", {}, {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER", "ceil_mode": 1})),
    **{f"pool of {size} by {kernel}, ceil {more}": rounding_up(size, kernel, stride, pads, **more)
       for more in ({}, {"count_include_pad": 0}, {"count_include_pad": 1}) for size, kernel, stride, pads in (
           (5, 2, 2, (0, 0)),  # the last window sees one element alone, and divides by it alone
           (6, 3, 2, (0, 1)),  # explicit padding on the right counts, the element beyond it does not
           (6, 3, 2, (1, 1)), (5, 2, 3, (1, 1)),  # rounding up would start a window in the padding: it is left out
           (4, 5, 2, (0, 0)))},  # a kernel larger than the padded input by less than a stride
    "ReduceMean of operator set 18": chain(("ReduceMean", {"axes": ints(3, -2)}, {"keepdims": 0}), opset=18),
    "addends behind a layer": chain(("Conv", {"w": W, "b": B}, {}), ("Add", {"b": B.reshape(3, 1, 1)}, {}), (
        "Add", {"b": np.float32(3)}, {}), ("Add", {"b": np.float32([4])}, {})),
    "addend first": model([node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["y"])],
                          [tensor("w", F[:3].T), tensor("b", B)], ("N", 72)),
    "Concat of flat tensors": model([node("Concat", ["x", "x"], ["y"], axis=-1)], shape=("N", 7)),
    "Gemm": chain(FLATTEN, ("Gemm", {"w": F.T}, {})),
    "Gemm with one bias": chain(FLATTEN, ("Gemm", {"w": F.T, "b": np.float32(5)}, {"alpha": 0.3, "beta": 0.5})),
    "Flatten, negative axis": chain(("Flatten", {}, {"axis": -3}), opset=11),
    **{f"Reshape to {target}": chain(CONV, ("Reshape", {"shape": ints(*target)}, {}))
       for target in ((1, -1), (1, 60), (-1, 60), (0, 60))},
    "Identity": chain(("Identity", {}, {}), ("Relu", {}, {}), ("Identity", {}, {})),
    "Dropout by inputs": chain(("Relu", {}, {}), ("Dropout", {"ratio": np.float32(0.5), "train": np.bool_(False)}, {
        "seed": 1})),
    "Dropout with a mask": model([node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])]),
    "MaxPool with indices": model([node("MaxPool", ["x"], ["y", "indices"], kernel_shape=[2, 2])]),
    "constants": model([node("Constant", [], ["w"], value=tensor("", W)), node("Identity", ["w"], ["v"]),
                        node("Constant", [], ["zero"], value_float=0.0),
                        node("Constant", [], ["i"], value_ints=[0, -1]),
                        node("Conv", ["x", "v"], ["c"]), node("Clip", ["c", "zero"], ["r"]),
                        node("Reshape", ["r", "i"], ["y"])]),
    "Pad by attribute": chain(("Pad", {}, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "constant"}), CONV, opset=10),
    "Pad by input": chain(("Pad", {"pads": ints(0, 0, 1, 2, 0, 0, 3, 0), "value": np.float32(0)}, {}), (
        "Conv", {"w": W}, {"pads": [1, 0, 0, 1]})),
    "Pad some axes": chain(("Pad", {"pads": ints(1, 2, 3, 4), "value": None, "axes": ints(-1, 2)}, {}), CONV,
                           opset=18),
    "Pad before SAME": chain(("Pad", {"pads": ints(0, 0, 1, 1, 0, 0, 0, 0)}, {}), (
        "Conv", {"w": W}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]})),
    "listed initializer": with_listed_initializer(),
    "Softmax of large numbers": chain(("Mul", {"c": np.float32(1e4)}, {}), FLATTEN, ("Softmax", {}, {"axis": 1})),
}


for name in ("ArgMax on axis 1", "ArgMax on axis -1", "ArgMax without its axis"):
    MODELS[name].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def load(proto, file):
    file.write_bytes(proto.SerializeToString())
    return load_onnx(file)


def check_floats(proto, file):
    """The network and its images, whose outputs are onnxruntime's."""
    network = load(proto, file)
    fixed = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    images = np.random.default_rng(1).standard_normal((fixed or 3, *network.input_shape)).astype(np.float32)
    (wanted,), got = run_onnxruntime(proto, images), run_float(network, images)
    if wanted.ndim > 1:  # a mean over everything keeps an axis
        assert got.shape == wanted.shape
    np.testing.assert_allclose(got.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5 * max(1, np.abs(wanted).max()))
    return network, images
