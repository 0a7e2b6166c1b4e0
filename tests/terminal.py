"""What the tests of the commands share: a command run in this process, and a small network with data."""
from __future__ import annotations

import numpy as np

from refquant.cli import main
from refquant.convolution.geometry import Geometry
from refquant.network.graph import Clip, Conv, Flatten, GlobalAveragePool, Network


def run(capsys, *arguments):
    """The exit code, and what was printed and said, of ``refquant`` with these arguments."""
    return main([*map(str, arguments)]), *capsys.readouterr()


def printed(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    return out


def refused(capsys, *arguments):
    """The one sentence that a caller's mistake gets, with exit code 2 and nothing printed."""
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), (arguments, err)
    return err


def write_model(path, nodes=None):
    """An ONNX network of (2, 6, 6): by default Conv 2->4 (channel 3 dead), ReLU, global average, Flatten.

    nodes: (op, input, output, attributes), others than these.
    """
    import onnx

    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32)}
    arrays["w"][3] *= 1e-30
    arrays["b"] = rng.standard_normal(4).astype(np.float32)
    nodes = nodes or [("Conv", ["x", "w", "b"], "conv", {"pads": [1, 1, 1, 1]}), ("Relu", ["conv"], "relu", {}),
                      ("GlobalAveragePool", ["relu"], "mean", {}), ("Flatten", ["mean"], "flatten", {})]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, read, [written], **options) for op, read, written, options in nodes], "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 2, 6, 6])], [value(nodes[-1][2], onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_data(path, **changes):
    """Forty random images and labels; an array that is None is left out."""
    rng = np.random.default_rng(1)
    arrays = {"inputs": rng.standard_normal((40, 2, 6, 6)).astype(np.float32),
              "labels": rng.integers(0, 4, 40)} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def small_network():
    """Convolutions of (2, 5, 5): dense, depthwise, strided, dilated and of one pixel."""
    rng = np.random.default_rng(3)
    return Network((2, 5, 5), (
        Conv("conv", "input", rng.standard_normal((6, 2, 3, 3)), rng.standard_normal(6), Geometry.of(1, 1)),
        Clip("relu", "conv"),
        Conv("deep", "relu", rng.standard_normal((6, 1, 3, 3)), None, Geometry.of(1, 1, 1, 6)),
        Conv("strided", "deep", rng.standard_normal((3, 6, 3, 3)), None, Geometry.of(2, 1)),
        Conv("spread", "strided", rng.standard_normal((3, 3, 3, 3)), None, Geometry.of(1, 2, 2)),
        Conv("point", "spread", rng.standard_normal((4, 3, 1, 1))),
        GlobalAveragePool("mean", "point"),
        Flatten("logits", "mean")))
