"""``convolve_exact`` against onnxruntime's float Conv and its QLinearConv, one thread, in one run.

``python tests/benchmarks/bench_convolution.py``. Needs ``pip install onnx onnxruntime``. Targets: within 1.25x of
float Conv, and ahead of QLinearConv s8s8, on 1x64x56x56 * 64x64x3x3.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from one_thread import best_seconds, print_machine, restart_on_one_thread
from onnx import helper, numpy_helper

from refquant.convolution.direct import convolve, convolve_exact

SHAPES = (  # name, C, H = W, O, kernel, groups
    ("dense 3x3", 64, 56, 64, 3, 1), ("dense 3x3 small", 32, 16, 32, 3, 1), ("pointwise", 128, 28, 128, 1, 1),
    ("depthwise 3x3", 128, 28, 128, 3, 128))


def onnx_conv(kind: str, x: np.ndarray, inputs: str, groups: int, **constants: Any) -> Callable[[], np.ndarray]:
    """onnxruntime's Conv or QLinearConv, on one thread."""
    element = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node(kind, inputs.split(), ["y"], pads=[constants["w"].shape[2] // 2] * 4, group=groups)
    graph = helper.make_graph([node], kind, [helper.make_tensor_value_info("x", element, x.shape)],
                              [helper.make_tensor_value_info("y", element, None)],
                              [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def main() -> None:
    """Print one line per shape."""
    print_machine()
    rng = np.random.default_rng(0)
    print(f"{'milliseconds':18}{'exact':>8}{'float':>8}{'ORT float':>11}{'ORT s8s8':>10}{'exact / ORT float':>19}"
          f"{'exact / ORT s8s8':>18}")
    for name, channels, size, outputs, kernel, groups in SHAPES:
        x = rng.integers(-63, 64, (1, channels, size, size)).astype(np.int8)
        w = rng.integers(-63, 64, (outputs, channels // groups, kernel, kernel)).astype(np.int8)
        xf, wf, how = x.astype(np.float32), w.astype(np.float32), {"padding": kernel // 2, "groups": groups}
        exact, real, theirs, quantized = (1e3 * seconds for seconds in best_seconds([
            lambda: convolve_exact(x, w, **how), lambda: convolve(xf, wf, **how),  # noqa: B023
            onnx_conv("Conv", xf, "x w", groups, w=wf),
            onnx_conv("QLinearConv", x, "x s z w s z t z", groups, w=w, s=np.float32(1), t=np.float32(4096),
                      z=np.int8(0))], 40))
        print(f"{name:18}{exact:8.3f}{real:8.3f}{theirs:11.3f}{quantized:10.3f}{exact / theirs:19.2f}"
              f"{exact / quantized:18.2f}")


if __name__ == "__main__":
    restart_on_one_thread()
    main()
