"""Given scales, every integer is the same on any machine: other BLAS kernels, threads and vector units."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

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

# NumPy named its vector units differently before 2.4.
NEW_NAMES = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4)
WITHOUT_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR" if NEW_NAMES else "AVX512F AVX512CD AVX512_SKX"
WITHOUT_AVX2 = f"X86_V3 {WITHOUT_AVX512}" if NEW_NAMES else f"AVX2 FMA3 {WITHOUT_AVX512}"
MACHINES = {
    "as it is": {},
    "an old one": {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "1",
                   "NPY_DISABLE_CPU_FEATURES": WITHOUT_AVX2},
    "a middling one": {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2",
                       "NPY_DISABLE_CPU_FEATURES": WITHOUT_AVX512},
}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the stand-ins are x86 machines")
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
