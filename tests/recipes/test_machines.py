"""Every scale, integer and table row is the same on any machine: other BLAS kernels, threads and vector units."""

import os
import subprocess
import sys

from machines import MACHINES, on_x86

from refquant import load_digits, quantize_network
from refquant.network.storage import quantized_to_bytes

SCRIPT = """
import hashlib, sys
import numpy as np
from refquant import load_digits, load_quantized
from refquant.network.integer_forward import run_integer_tensors
network, (_, images, _) = load_quantized(sys.argv[1]), load_digits()
digest = hashlib.sha256()
for name, codes in sorted(run_integer_tensors(network, network.quantize_images(images[:60])).items()):
    digest.update(name.encode() + str(codes.dtype).encode() + np.ascontiguousarray(codes).tobytes())
floats = np.random.default_rng(0).standard_normal((200, 300)).astype(np.float32)
print(digest.hexdigest(), hashlib.sha256((floats @ floats.T).tobytes()).hexdigest())
"""

# Whole recipes, from float weights and images to the report's table.
RECIPES = """
import hashlib, json, os, sys
from pathlib import Path
import numpy as np
from refquant import load_digits
from refquant.digits.weights import calibration_images
from refquant.network.storage import quantized_to_bytes
from refquant.commands.quantize import Data, build_own, evaluate_own
from refquant.commands.report import own_table
def digest(data):
    return hashlib.sha256(data).hexdigest()
network, images, labels = load_digits()
cases = [("digits", network, Data(calibration_images(), images[:150], labels[:150]),
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
        codes = quantized.run(data.images)
        result = evaluate_own(network, built, data)
        result["seconds"] = {"search": 0, "evaluation": 0}
        saved = digest(quantized_to_bytes(quantized))
        row = own_table(result).splitlines()[-1]
        print(name, recipe, json.dumps(scales), saved, digest(codes.tobytes()), row, sep="|")
"""

@on_x86
def test_two_machines_find_the_same_scales_codes_and_table_rows_from_the_same_network():
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "NPY_DISABLE"))}
    lines = []
    running = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", RECIPES], env={**clean, **MACHINES[machine]},
                                stdout=subprocess.PIPE, text=True) for machine in ("an old one", "a middling one")]
    for process in running:
        lines.append(process.communicate()[0].splitlines())
        assert process.returncode == 0
    (old_float, *old), (new_float, *new) = lines
    assert old_float != new_float, "the two must differ in their floats for the test to mean anything"
    assert len(old) == (4 if os.environ.get("REFQUANT_MODELS") and os.environ.get("REFQUANT_SLOW") else 3)
    for one, other in zip(old, new, strict=True):
        assert one.split("|") == other.split("|")


@on_x86
def test_a_saved_network_gives_the_same_codes_on_every_machine(tmp_path):
    network, images, _ = load_digits()
    (tmp_path / "network.npz").write_bytes(quantized_to_bytes(quantize_network(network, images, "channelwise-int8")))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "NPY_DISABLE"))}
    lines = {}
    for machine, settings in MACHINES.items():
        # A unit that the CPU lacks anyway only draws a warning when it is disabled.
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "network.npz")],
                              env={**clean, **settings}, capture_output=True, text=True, check=True)
        lines[machine] = done.stdout.split()
    assert len({codes for codes, _ in lines.values()}) == 1, lines


def test_the_script_itself_tells_other_codes_apart(tmp_path):
    network, images, _ = load_digits()
    digests = set()
    for bits in (7, 8):
        path = tmp_path / f"{bits}.npz"
        path.write_bytes(quantized_to_bytes(quantize_network(network, images, weight_bits=bits)))
        done = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True)
        digests.add(done.stdout.split()[0])
    assert len(digests) == 2
