"""Each layer of a quantized network in plain types for reports, reports as JSON, and warnings about inputs."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from refquant.network.float_forward import float64_tensors
from refquant.network.graph import BatchNorm, Network
from refquant.network.program import Layer, QuantizedConv
from refquant.network.proof import QuantizedNetwork

# Inputs this many times as spread as a batch normalization, or the calibration, saw are told.
SUSPICIOUS = 8.0


def described(quantized: QuantizedNetwork, layer: Layer) -> dict[str, Any]:
    """Geometry, formats, scales, multipliers, and what the layer costs for one image.

    m, shift: of the layer, as [least, greatest] where channels differ; None where the layer has none. macs: products
    of a convolution, of which a pair of piecewise codes has one. weight_bytes: packed. bias_limited: channels whose
    scale is lower for their bias's sake.
    """
    read, written = [quantized.qparams[name] for name in layer.inputs], quantized.qparams[layer.output]
    found: dict[str, Any] = {
        "inputs": list(layer.inputs), "output": layer.output, "shape": list(quantized.shapes[layer.output]),
        "geometry": "", "input_formats": [str(params.format) for params in read], "format": str(written.format),
        "scale": written.scale, "zero_point": written.zero_point, "m": None, "shift": None, "macs": 0,
        "weight_bytes": 0, "bias_limited": 0}
    geometry = getattr(layer, "geometry", None)
    if geometry is not None:
        kernel = getattr(layer, "kernel", ())
        if isinstance(layer, QuantizedConv):
            kernel = layer.terms[0].weight_q.shape[2:]
        found["geometry"] = _geometry(kernel, geometry)
    if isinstance(layer, QuantizedConv):
        weight = layer.terms[0].weight_q
        found |= {"macs": math.prod(quantized.shapes[layer.output]) * weight[0].size,
                  "weight_bytes": -(-layer.weight_bits // 8), "bias_limited": len(layer.rescaled_channels)}
    multipliers = [term.multiplier for term in layer.terms] if isinstance(layer, QuantizedConv) else [
        *getattr(layer, "multipliers", ()), *([layer.multiplier] if hasattr(layer, "multiplier") else [])]
    if multipliers:
        found["m"], found["shift"] = (_ends(np.concatenate([np.ravel(getattr(M, part)) for M in multipliers]))
                                      for part in ("m", "shift"))
    return found


def decibels(entry: dict[str, Any]) -> str:
    """An entry's SQNR; null in a report is infinite, of a sign that its cosine tells."""
    if entry["sqnr_db"] is None:  # no error at all, or no signal
        return "inf" if entry["cosine"] == 1 else "-inf"
    return f"{entry['sqnr_db']:.1f}"


def json_text(report: Any) -> bytes:
    """A report as a file's content. JSON has no infinity and no NaN: both become null."""
    return (json.dumps(without_infinities(report), indent=1, allow_nan=False) + "\n").encode()


def without_infinities(value: Any) -> Any:
    """The same values in dictionaries and lists, with None for infinity and NaN."""
    if isinstance(value, dict):
        return {name: without_infinities(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_infinities(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ends(values: np.ndarray) -> int | list[int]:
    low, high = int(values.min()), int(values.max())
    return low if low == high else [low, high]


def _geometry(kernel: Any, geometry: Any) -> str:
    """As in 3x3 s2 p1 g16: kernel, and what is not as usual of stride, padding, dilation and groups."""
    def short(values: Any) -> str:
        return str(values[0]) if len(set(values)) == 1 else ",".join(map(str, values))

    parts = ["x".join(map(str, kernel))]
    parts += [f"{letter}{short(values)}" for letter, values, usual in (
        ("s", geometry.stride, {1}), ("p", geometry.padding, {0}), ("d", geometry.dilation, {1}))
        if set(values) != usual]
    return " ".join([*parts, *([f"g{geometry.groups}"] if geometry.groups != 1 else [])])


def input_warnings(network: Network, calibration: np.ndarray, images: np.ndarray) -> list[str]:
    """Sentences about inputs that look as if their preprocessing was left out.

    network: with its batch normalizations, whose stored statistics say what training saw. Images that calibrate and
    images that are evaluated are compared with each other.
    """
    told = []
    seen, now = ((float(x.min()), float(x.max())) for x in (calibration, images))
    reach, other = max(map(abs, seen)), max(map(abs, now))
    if max(reach, other) > SUSPICIOUS * min(reach, other):
        told.append(f"evaluation inputs from {now[0]:.4g} to {now[1]:.4g}, calibration inputs from {seen[0]:.4g} to "
                    f"{seen[1]:.4g}: were both preprocessed alike?")
    norm = next((node for node in network.nodes if isinstance(node, BatchNorm)), None)
    if norm is not None:
        tensors = float64_tensors(network, calibration[:8])
        x = next(x for name, x in tensors if name == norm.inputs[0])
        spread = np.sqrt(x.var(axis=tuple(k for k in range(x.ndim) if k != 1)))
        expected = np.sqrt(norm.variance.astype(np.float64) + norm.epsilon)
        ratio = float(np.median(spread / expected))
        if not 1 / SUSPICIOUS <= ratio <= SUSPICIOUS:
            told.append(f"inputs look unprocessed: at {norm.name!r} the median channel is {ratio:.3g} times as "
                        f"spread as in training; inputs run from {seen[0]:.4g} to {seen[1]:.4g}")
    return told
