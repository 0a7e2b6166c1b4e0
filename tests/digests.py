"""Digests of integers, given scales that stand beside them: what no change of layout or speed may change.

``python tests/digests.py`` writes tests/digests.json anew; with REFQUANT_MODELS also the digests of the three
networks in that folder, which otherwise stay as they are. ``test_digests.py`` compares. The scales are part of the
file, so that the integers do not depend on how scales are found.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import unittest.mock
from pathlib import Path
from typing import Any

import numpy as np

from refquant.digits.weights import calibration_images, load_digits
from refquant.integers.accumulation import dot_int16
from refquant.integers.dialects import DIALECTS
from refquant.integers.formats import IntFormat
from refquant.integers.multiplier import Multiplier
from refquant.integers.requantization import requantize
from refquant.integers.stages import Recorder
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.graph import Network
from refquant.network.integer_forward import run_integer_tensors
from refquant.network.qparams import QuantParams
from refquant.recipes.lowering import QuantizedWeight, assemble
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import RECIPES
from refquant.scales.linear import quantize
from refquant.winograd.bounds import describe_bounds
from refquant.winograd.convolution import winograd_convolve
from refquant.winograd.transforms import cook_toom

PATH = Path(__file__).with_name("digests.json")
BITS = (8, 7, 4)
DIGITS, MODELS = 20, 5  # images
MODEL_RECIPES = ("max-int8", "channelwise-int8", "tensorrt-int8", "easyquant-int7")

Case = tuple[Network, np.ndarray, np.ndarray]  # folded, calibration images, images


def digest(*arrays: Any) -> str:
    """Of shapes and values; the integer type does not matter."""
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array, np.int64)
        found.update(str(array.shape).encode() + array.tobytes())
    return found.hexdigest()[:16]


# --- networks -----------------------------------------------------------------------------------------

def digits() -> Case:
    network, images, _ = load_digits()
    return fold_batchnorm(network.without_softmax()), calibration_images(), images[:DIGITS]


def models() -> dict[str, Case]:
    """The networks of the folder that REFQUANT_MODELS names."""
    from benchmarks.networks import load  # needs onnx

    found = {}
    for name, first in (("resnet8", 0), ("dscnn", 0), ("vww96", 10)):
        network, calibration, images, _ = load(name)
        found[name] = network, calibration[:10], images[first:first + MODELS]
    return found


def find_scales(network: Network, calibration: np.ndarray, recipe: str, bits: int) -> dict[str, Any]:
    """What a recipe finds, written down: every tensor's encoding, every layer's weight scales."""
    found: dict[str, Any] = {}

    def keep(network: Network, qparams: Any, weights: Any, *more: Any) -> Any:
        found["encodings"] = {name: [e.scale, e.format.bits, e.format.signed, e.format.narrow, e.zero_point]
                              for name, e in qparams.items()}
        found["weights"] = {name: w.scale.tolist() for name, w in weights.items()}
        return assemble(network, qparams, weights, *more)

    with unittest.mock.patch("refquant.recipes.quantize.assemble", keep):
        quantize_network(network, calibration, recipe, weight_bits=bits, activation_bits=bits)
    return found


def tensors_at(network: Network, images: np.ndarray, bits: int, scales: dict[str, Any]) -> dict[str, str]:
    """The digest of every code tensor of the integer network with these scales."""
    qparams = {name: QuantParams(scale, IntFormat(*fmt), zero_point)
                 for name, (scale, *fmt, zero_point) in scales["encodings"].items()}
    fmt, weights = IntFormat(bits, narrow=True), {}
    for node in network.nodes:
        if node.name in scales["weights"]:
            scale = np.array(scales["weights"][node.name])
            weights[node.name] = QuantizedWeight(quantize(node.weight, scale, fmt, axis=0 if scale.ndim else None),
                                                 scale, fmt)
    quantized = assemble(network, qparams, weights)
    codes = run_integer_tensors(quantized, quantized.quantize_images(images))
    return {name: digest(x) for name, x in codes.items()}


# --- parts --------------------------------------------------------------------------------------------

def winograd() -> dict[str, str]:
    """Every stage of ten cases: tiles, paddings, policies, operands at random and at their extremes."""
    rng = np.random.default_rng(0)
    cases = {
        "F(2,3)": ((2, 3), 7, 1, "trap", None), "F(2,3) full": ((2, 3), 8, 0, "trap", None),
        "F(4,3)": ((4, 3), 7, 1, "trap", None), "F(4,3) ncnn": ("F(4,3) ncnn", 7, (1, 2), "trap", None),
        "F(6,3)": ((6, 3), 4, 1, "trap", None), "F(3,2)": ((3, 2), 6, 1, "trap", None),
        "F(2,5)": (cook_toom(2, 5), 4, 2, "trap", None),
        "F(4,3) wrapping": ((4, 3), 7, 1, "wrap", {"U": IntFormat(16), "V": IntFormat(16)}),
        "F(4,3) saturating": ((4, 3), 7, 1, "saturate", {"U": IntFormat(16), "sum": IntFormat(24)}),
        "F(2,3) one pixel": ((2, 3), 7, 1, "trap", None)}
    found = {}
    for name, (tile, bits, padding, policy, formats) in cases.items():
        r = 2 if name == "F(3,2)" else 5 if name == "F(2,5)" else 3
        size = (1, 1) if "pixel" in name else (9, 7)
        fmt = IntFormat(bits)
        x = rng.integers(fmt.min, fmt.max + 1, (2, 3, *size))
        w = rng.choice([fmt.min, fmt.max, 0, 1], (4, 3, r, r))
        seen = Recorder()
        y = winograd_convolve(x, w, tile, padding, policy, formats, trace=seen)
        found[name] = digest(y)
        for stage, ends in seen.ranges.items():
            values = [] if stage == "product" else [seen.values[stage]]
            found[f"{name} {stage}"] = digest([ends.min, ends.max], *values)
    return found


def bounds() -> dict[str, str]:
    """Ranges and witnesses of six settings."""
    settings = {
        "F(2,3) int7": ((2, 3), IntFormat(7, narrow=True), IntFormat(7, narrow=True), 64, {}),
        "F(4,3) int7": ((4, 3), IntFormat(7), IntFormat(7, narrow=True), 9, {}),
        "F(4,3) ncnn uint7": ("F(4,3) ncnn", IntFormat(7, signed=False), IntFormat(6), 30, {}),
        "F(6,3) int8": ((6, 3), IntFormat(8), IntFormat(8), 3, {"accumulator": IntFormat(48)}),
        "direct int8": (None, IntFormat(8), IntFormat(8), 512, {"bias": IntFormat(20), "kernel": (1, 1)}),
        "direct uint8": (None, IntFormat(8, signed=False), IntFormat(8, narrow=True), 64,
                         {"accumulator": IntFormat(24), "kernel": (5, 3)})}
    return {name: hashlib.sha256(json.dumps(describe_bounds(*setting, **options), sort_keys=True).encode()
                                 ).hexdigest()[:16] for name, (*setting, options) in settings.items()}


def lanes() -> dict[str, str]:
    """Every lane after every instruction, with the safe schedule and beyond it."""
    rng = np.random.default_rng(1)
    found = {}
    for name, x_format, w_format, products_per_lane, policy in (
            ("int7 narrow", IntFormat(7, narrow=True), IntFormat(7, narrow=True), "safe", "trap"),
            ("int7", IntFormat(7), IntFormat(7), "safe", "trap"),
            ("int8", IntFormat(8), IntFormat(8), "safe", "trap"),
            ("uint7", IntFormat(7, signed=False), IntFormat(7, narrow=True), "safe", "trap"),
            ("int7 wrapping", IntFormat(7), IntFormat(7), 12, "wrap"),
            ("int8 saturating", IntFormat(8), IntFormat(8), 9, "saturate")):
        x = rng.choice([x_format.min, x_format.max, 0, 5], (6, 1, 77))
        w = rng.integers(w_format.min, w_format.max + 1, (4, 77))
        lanes: list[np.ndarray] = []

        def trace(stage: str, fmt: IntFormat, exact: np.ndarray, kept: np.ndarray, lanes: Any = lanes) -> None:
            lanes.extend([exact] if stage != "ADDV" else [])

        total = dot_int16(x, w, x_format, w_format, products_per_lane, policy, trace=trace)
        found[name] = digest(total, *lanes)
    return found


def requantized() -> dict[str, str]:
    """100 000 sums of up to 32 bits in each dialect, near ties as well, with multipliers of legal shifts."""
    rng = np.random.default_rng(2)
    acc = np.concatenate([rng.integers(-2**31, 2**31, 40000), rng.integers(-2**20, 2**20, 40000),
                          np.arange(-10000, 10000)])
    found = {}
    for dialect, (real, zero_point) in itertools.product(DIALECTS, ((0.25, 1), (1 / 3, 0), (0.0007, -5), (1.5, 3))):
        codes = requantize(acc, Multiplier.from_real(real), IntFormat(16), dialect, zero_point)
        found[f"{dialect} {real:.4g} {zero_point}"] = digest(codes)
    return found


PARTS = {"winograd": winograd, "bounds": bounds, "lanes": lanes, "requantized": requantized}


def main() -> None:
    """Write the file anew."""
    result: dict[str, Any] = json.loads(PATH.read_text()) if PATH.exists() else {}
    result |= {name: part() for name, part in PARTS.items()}
    cases = {"digits": digits()}
    plans = [("digits", recipe, bits) for recipe in RECIPES for bits in BITS]
    if os.environ.get("REFQUANT_MODELS"):
        cases |= models()
        plans += [(name, recipe, RECIPES[recipe].bits) for name in list(cases)[1:] for recipe in MODEL_RECIPES]
    networks = result.setdefault("networks", {})
    for name, recipe, bits in plans:
        network, calibration, images = cases[name]
        scales = find_scales(network, calibration, recipe, bits)
        networks[f"{name} {recipe} {bits}"] = {"bits": bits, **scales,
                                               "tensors": tensors_at(network, images, bits, scales)}
    text = json.dumps(result, separators=(",", ":"), sort_keys=True)
    PATH.write_text(text.replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main()
