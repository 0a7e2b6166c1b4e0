"""``convolve_exact`` against onnxruntime's float Conv and its QLinearConv, one thread, in one run.

``python tests/benchmarks/bench_convolution.py``. Needs ``pip install onnx onnxruntime``. Targets: within 1.25x of
float Conv, and ahead of QLinearConv s8s8, on 1x64x56x56 * 64x64x3x3.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from one_thread import best_seconds, print_machine, restart_on_one_thread
from onnx import TensorProto, helper, numpy_helper

from refquant.convolution.direct import convolve, convolve_exact

SHAPES = (  # name, C, H = W, O, kernel, groups
    ("dense 3x3", 64, 56, 64, 3, 1), ("dense 3x3 small", 32, 16, 32, 3, 1), ("pointwise", 128, 28, 128, 1, 1),
    ("depthwise 3x3", 128, 28, 128, 3, 128))


def session(graph: onnx.GraphProto) -> onnxruntime.InferenceSession:
    """The graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def float_conv(x: np.ndarray, w: np.ndarray, groups: int) -> Callable[[], np.ndarray]:
    """onnxruntime's Conv."""
    pads = [w.shape[2] // 2] * 4
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=pads, group=groups)], "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), "w")])
    run, feed = session(graph), {"x": x.astype(np.float32)}
    return lambda: run.run(None, feed)[0]


def qlinear_conv(x: np.ndarray, w: np.ndarray, groups: int) -> Callable[[], np.ndarray]:
    """onnxruntime's QLinearConv with int8 operands, which also requantizes."""
    constants = {"s": np.float32(1), "z": np.int8(0), "w": w, "t": np.float32(4096)}
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "t", "z"], ["y"],
                          pads=[w.shape[2] // 2] * 4, group=groups)], "qconv",
        [helper.make_tensor_value_info("x", TensorProto.INT8, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, None)],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()])
    run = session(graph)
    return lambda: run.run(None, {"x": x})[0]


def main() -> None:
    """Print one line per shape."""
    print_machine()
    rng = np.random.default_rng(0)
    print(f"{'milliseconds':18}{'exact':>8}{'float':>8}{'ORT float':>11}{'ORT s8s8':>10}{'exact / ORT float':>19}"
          f"{'exact / ORT s8s8':>18}")
    for name, channels, size, outputs, kernel, groups in SHAPES:
        x = rng.integers(-63, 64, (1, channels, size, size)).astype(np.int8)
        w = rng.integers(-63, 64, (outputs, channels // groups, kernel, kernel)).astype(np.int8)
        xf, wf, pad = x.astype(np.float32), w.astype(np.float32), kernel // 2
        exact, real, theirs, quantized = (1e3 * best_seconds(run, 40) for run in (
            lambda x=x, w=w, p=pad, g=groups: convolve_exact(x, w, padding=p, groups=g),
            lambda x=xf, w=wf, p=pad, g=groups: convolve(x, w, padding=p, groups=g),
            float_conv(x, w, groups), qlinear_conv(x, w, groups)))
        print(f"{name:18}{exact:8.3f}{real:8.3f}{theirs:11.3f}{quantized:10.3f}{exact / theirs:19.2f}"
              f"{exact / quantized:18.2f}")


if __name__ == "__main__":
    restart_on_one_thread()
    main()
