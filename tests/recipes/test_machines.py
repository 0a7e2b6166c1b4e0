"""Every scale, integer and table row is the same on any machine: other BLAS kernels, threads and vector units."""

import os

from machines import on_x86, printed

# Whole recipes, from float weights and images to the report's table.
RECIPES = """
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
from refquant import load_digits
from refquant.digits.weights import calibration_images
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.storage import quantized_to_bytes
from refquant.commands.quantize import Data, build_own, evaluate_own
from refquant.commands.report import own_table
def digest(data):
    return hashlib.sha256(data).hexdigest()
network, images, labels = load_digits()
cases = [("digits", network, Data(calibration_images()[:20], images[:60], labels[:60]),
          ("channelwise-int8", "tensorrt-int8", "easyquant-int7"))]
if os.environ.get("REFQUANT_MODELS") and os.environ.get("REFQUANT_SLOW"):
    from refquant.readers.onnx_file import load_onnx
    folder = Path(os.environ["REFQUANT_MODELS"])
    file = np.load(folder / "resnet8_cifar10_data.npz")
    calibration, images = (np.ascontiguousarray(file[key].transpose(0, 3, 1, 2), np.float32)
                           for key in ("calibration_images", "test_images"))
    data = Data(calibration[:5], images[:50], file["test_labels"][:50])
    network = load_onnx(folder / "resnet8_cifar10_bn.onnx")
    cases.append(("resnet8", network, data, ("tensorrt-int8",)))
floats = np.random.default_rng(0).standard_normal((200, 300)).astype(np.float32)
print(digest((floats @ floats.T).tobytes()))
for name, network, data, recipes in cases:
    for recipe in recipes:
        network, built = build_own(network, data, [recipe], {})
        quantized = built[recipe].quantized
        scales = {tensor: qparams.scale.hex() for tensor, qparams in quantized.qparams.items()}
        codes = run_integer_tensors(quantized, quantized.quantize_images(data.images))
        result = evaluate_own(network, built, data)
        result["seconds"] = {"search": 0, "evaluation": 0}
        saved = digest(quantized_to_bytes(quantized))
        row = own_table(result).splitlines()[-1]
        tensors = digest(b"".join(x.tobytes() for x in codes.values()))
        print(name, recipe, json.dumps(scales), saved, tensors, row, sep="|")
"""


@on_x86
def test_every_machine_finds_the_same_scales_codes_and_table_rows_from_the_same_network():
    (_, *own), (old_float, *old), (new_float, *new) = printed(RECIPES)
    assert old_float != new_float, "the two must differ in their floats for the test to mean anything"
    assert len(own) == (4 if os.environ.get("REFQUANT_MODELS") and os.environ.get("REFQUANT_SLOW") else 3)
    for one, *others in zip(own, old, new, strict=True):
        for other in others:
            assert one.split("|") == other.split("|")
