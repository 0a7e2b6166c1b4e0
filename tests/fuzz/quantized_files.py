"""Damaged quantized models, .tflite and ONNX: each is run, or refused in one sentence, in bounded time and memory.

    python tests/fuzz/quantized_files.py [COUNT] [SEED]

mutates valid files at random and runs what is still read, as a kernel set chosen at random. Whatever raises something
else than ValueError, takes more than 2 s or makes the process grow beyond 1 GiB is printed, and kept in
fuzz-findings/. COUNT is 20000 unless told.
"""
from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "oracles")]

from files import Drawn, bounded, damaged_bytes, damaged_fields, main  # noqa: E402
from operators import LITERT, ONNX, Draw, litert_case, onnx_case  # noqa: E402
from tflite_models import one_operator  # noqa: E402

from refquant.digits.weights import calibration_images, load_digits  # noqa: E402
from refquant.readers import load_quantized_onnx, load_tflite  # noqa: E402
from refquant.recipes.quantize import quantize_network  # noqa: E402
from refquant.runtimes import LITERT_SETS, ONNX_SETS, run_model  # noqa: E402
from refquant.writers import to_qdq  # noqa: E402

LARGEST = 10**5  # elements of all tensors; more takes the time that its size takes


def litert_seeds() -> list[bytes]:
    """Of each operator the smallest of some random models with one input."""
    draw, found = Draw(0), {}
    for kind in LITERT * 12:
        operator, tensors, options, inputs = litert_case(draw, kind)
        data = one_operator(operator, tensors, options)
        if len(inputs) == 1 and sum(int(np.prod(t.shape)) for t in tensors) < LARGEST / 4:
            found[kind] = min(found.get(kind, data), data, key=len)
    return list(found.values())


def onnx_seeds() -> list[bytes]:
    """Of each operator the smallest of some random models, and the bundled network in QDQ form."""
    draw, found = Draw(0), {}
    for kind in ONNX * 12:
        data = onnx_case(draw, kind)[0].SerializeToString()
        found[kind] = min(found.get(kind, data), data, key=len)
    network, _, _ = load_digits()
    merged = to_qdq(quantize_network(network, calibration_images(), "channelwise-int8", activations="affine"))
    return [*found.values(), merged]


def changed_bytes(data: bytes, random: Random) -> bytes:
    """One to three bytes become others: the offsets of the rest stay."""
    out = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        out[random.randrange(len(out))] = random.choice((0, 1, 2, 127, 128, 255, random.randrange(256)))
    return bytes(out)


def attempt(data: bytes, random: Random, folder: Path, *, litert: bool) -> str:
    """What became of one file. Other exceptions than ValueError come through."""
    path = folder / ("m.tflite" if litert else "m.onnx")
    path.write_bytes(data)
    try:
        model = load_tflite(path) if litert else load_quantized_onnx(path)
        if sum(int(np.prod(t.shape)) for t in model.tensors) > LARGEST:
            return "read, large"
        entry = model.tensors[model.inputs[0]]
        x = np.random.default_rng(random.randrange(2**32)).integers(-128, 128, (2, *entry.shape[1:]))
        run_model(model, x.astype(entry.dtype), random.choice((*(LITERT_SETS if litert else ONNX_SETS), "refquant")))
    except ValueError as error:
        if "\n" in str(error).strip():
            raise AssertionError(f"more than a sentence: {error}") from error
        return "refused"
    return "run"


def campaign(count: int, seed: int, report: bool = False) -> tuple[Counter[str], list[str]]:
    """What became of ``count`` files, and the findings."""
    valid = {True: litert_seeds(), False: onnx_seeds()}

    def draw(random: Random) -> Drawn:
        litert = random.random() < 0.5
        damage = (random.choice((damaged_bytes, changed_bytes, changed_bytes)) if litert else
                  random.choice((damaged_bytes, damaged_fields, damaged_fields)))
        return damage(random.choice(valid[litert]), random), "tflite" if litert else "onnx", partial(
            attempt, litert=litert)

    return bounded(count, seed, draw, report)


if __name__ == "__main__":
    main(campaign)
