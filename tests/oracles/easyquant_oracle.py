"""EasyQuant by brute force: every candidate quantized, convolved, scaled back and compared. No shortcuts.

A candidate's whole output is formed in exact integers, divided by its scales, and its cosine taken from
``math.fsum``: no Gram matrices, no tables, no adding up over batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from convolution_oracle import convolved
from hypothesis import strategies as st

from refquant.easyquant import ScaleSearch, search_demo, search_ncnn, search_paper
from refquant.easyquant.layer import QuantizedLayer
from refquant.integers.formats import IntFormat
from refquant.strategies import geometries, reals

# Weight scales, () for the layer or (O,) for its channels, and the activation scale.
Scales = tuple[np.ndarray, float]
# Which candidate a half-step takes: (operand, channel, candidates, cosines) -> index.
Choice = Callable[[str, "int | None", np.ndarray, "list[float]"], int]

SEARCHES = {"paper": search_paper, "demo": search_demo, "ncnn": search_ncnn}


def search_layer(inputs: Any, weights: Any, mode: str = "paper", **options: Any) -> ScaleSearch:
    """The search of one mode, without the options that the others have."""
    for name in ("bias", "relu") if mode == "paper" else ("granularity", "direct"):
        options.pop(name, None)
    return SEARCHES[mode](inputs, weights, **options)


def search(layer: QuantizedLayer, mode: str = "paper", **options: Any) -> ScaleSearch:
    return search_layer(layer.batches, layer.weight, mode, bits=(layer.w_format.bits, layer.x_format.bits),
                        bias=layer.bias, relu=layer.relu, unsigned=not layer.x_format.signed,
                        **layer.geometry._asdict(), **options)


@st.composite
def layers(draw: st.DrawFn, largest: int = 8, most_bits: int = 8) -> QuantizedLayer:
    """Every geometry: stride, uneven padding, dilation, groups, depthwise; a few images, in one batch or several."""
    groups = draw(st.sampled_from((1, 1, 2, 3, 6)))
    width, outputs = draw(st.integers(1, 6 // groups)), draw(st.integers(1, 6 // groups))
    plane = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dtype, unsigned = draw(st.sampled_from((np.float32, np.float64))), draw(st.booleans())
    x = draw(reals((draw(st.integers(1, 4)), groups * width, *plane), dtype))
    w = draw(reals((groups * outputs, width, *kernel), dtype)).astype(np.float64)
    bits, cuts = st.integers(2, most_bits), [cut for cut in range(1, len(x)) if draw(st.booleans())]
    return QuantizedLayer(np.split(np.abs(x) if unsigned else x, cuts), w, draw(geometries(plane, kernel, groups)),
                          IntFormat(draw(bits), signed=not unsigned, narrow=not unsigned),
                          IntFormat(draw(bits), narrow=True), draw(st.none() | reals(w.shape[:1], dtype)),
                          draw(st.booleans()))


def assert_searched(found: ScaleSearch, layer: QuantizedLayer, mode: str, starts: list[Scales], **options: Any
                    ) -> None:
    """Every half-step compares what brute force does, cosines to 1e-12, and takes the first within 1e-12 of its best.

    starts: the pairs to start from; where there are several, the first half-step chooses among them.
    """
    reference = BruteForce(layer)
    history = list(found.history)

    def half_step(operand: str, channel: int | None, candidates: np.ndarray, cosines: list[float]) -> int:
        step = history.pop(0)
        assert (step.operand, step.channel) == (operand, channel)
        assert step.candidates.tolist() == candidates.tolist()
        np.testing.assert_allclose(step.cosines, cosines, rtol=0, atol=1e-12)
        assert step.chosen == np.argmax(step.cosines >= max(step.cosines) - 1e-12)
        return step.chosen

    first = 0 if len(starts) == 1 else half_step("start", None, np.arange(len(starts)),
                                                 [reference.measure(mode, *start) for start in starts])
    weight, activation, cosine = getattr(reference, mode)(starts[first], half_step, **options)
    assert not history
    assert found.weight_scale.dtype == np.float64 and np.array_equal(found.weight_scale, weight)
    assert found.activation_scale == activation and type(found.activation_scale) is float
    assert found.cosine == pytest.approx(cosine, abs=1e-12) and type(found.cosine) is float


def quantized(x: np.ndarray, scale: float, fmt: IntFormat) -> np.ndarray:
    """clip(round(x·S)), ties away from zero: in floats, and in rationals wherever a tie is near."""
    scale = float(scale)
    with np.errstate(over="ignore"):
        product = np.abs(x.astype(np.float64)) * scale
    whole = np.floor(np.minimum(product, 2.0**33) + 0.5).astype(np.int64)
    near = np.abs(product - np.floor(product) - 0.5) < 1e-4
    for index in zip(*np.nonzero(near & (product < 2.0**33)), strict=True):
        exact = Fraction(abs(float(x[index]))) * Fraction(scale)
        whole[index] = math.floor(exact + Fraction(1, 2))
    return np.clip(np.where(x < 0, -whole, whole), fmt.min, fmt.max)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """<a, b> / (|a|·|b|); 1 where both are zero, 0 where one is."""
    norm_a, norm_b = math.fsum(np.square(a).ravel().tolist()), math.fsum(np.square(b).ravel().tolist())
    if norm_a == 0 or norm_b == 0:
        return float(norm_a == norm_b)
    return math.fsum((a * b).ravel().tolist()) / math.sqrt(norm_a) / math.sqrt(norm_b)


class BruteForce:
    """One layer, all its images at once."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.layer, self.w = layer, layer.weight
        pairs = [batch if isinstance(batch, tuple) else (batch, None) for batch in layer.batches]
        self.x = np.concatenate([x for x, _ in pairs]).astype(np.float64)
        self.outputs = (convolved(self.x, self.w, layer.geometry) if pairs[0][1] is None
                        else np.concatenate([outputs for _, outputs in pairs]).astype(np.float64))
        # What was asked once is not worked out again; nothing else is shared between candidates.
        self._codes: dict[float, np.ndarray] = {}
        self._channels: dict[tuple[int, float, float], np.ndarray] = {}

    def quantized_output(self, weight_scale: np.ndarray, activation_scale: float) -> np.ndarray:
        """Ô = conv(Q(A, S_a), Q(W, S_w)) / (S_a·S_w); the weight scale () or (O,)."""
        return np.stack([self.quantized_channel(channel, float(scale), float(activation_scale))
                         for channel, scale in enumerate(np.broadcast_to(weight_scale, len(self.w)))], axis=1)

    def quantized_channel(self, channel: int, weight_scale: float, activation_scale: float) -> np.ndarray:
        """(N, P, Q): one output channel, from the input channels of its group."""
        key = channel, weight_scale, activation_scale
        if key not in self._channels:
            if activation_scale not in self._codes:
                self._codes[activation_scale] = quantized(self.x, activation_scale, self.layer.x_format)
            x_q, width, geometry = self._codes[activation_scale], self.w.shape[1], self.layer.geometry
            first = channel * geometry.groups // len(self.w) * width
            w_q = quantized(self.w[channel:channel + 1], weight_scale, self.layer.w_format)
            sums = convolved(x_q[:, first:first + width], w_q, geometry._replace(groups=1))
            self._channels[key] = sums[:, 0].astype(np.float64) / (weight_scale * activation_scale)
        return self._channels[key]

    def after(self, y: np.ndarray) -> np.ndarray:
        """Bias and ReLU, where the layer has them."""
        y = y if self.layer.bias is None else y + self.layer.bias[:, None, None]
        return np.maximum(y, 0) if self.layer.relu else y

    def measure(self, mode: str, weight_scale: np.ndarray, activation_scale: float, channel: int | None = None
                ) -> float:
        """``paper``: all outputs of all images as one, as they are convolved. The others: the mean over images.

        channel: of the outputs, one alone.
        """
        y = self.quantized_output(weight_scale, activation_scale)
        if mode == "paper":
            return cosine(self.outputs, y)
        wanted, y = (self.after(outputs)[:, slice(None) if channel is None else channel]
                     for outputs in (self.outputs, y))
        # ncnn leaves images of zeros out.
        cosines = [cosine(a, b) for a, b in zip(wanted, y, strict=True) if a.any() or mode == "demo"]
        return math.fsum(cosines) / len(cosines) if cosines else 1.0

    # --- the three searches, each told by ``choose`` which candidate is taken

    def paper(self, start: Scales, choose: Choice, *, alpha: float = 0.5, beta: float = 2.0, n: int = 100,
              rounds: int = 10, tolerance: float = 1e-6, keep_activation: bool = False
              ) -> tuple[np.ndarray, float, float]:
        """Weights and activations by turns, around where they start, the current scale listed first."""
        (weight, activation), grid, reached = start, np.linspace(alpha, beta, n), 0.0
        for _ in range(rounds):
            before = self.measure("paper", weight, activation)
            candidates = np.concatenate([weight[None], np.multiply.outer(grid, start[0])])
            weight = self._weights("paper", weight, activation, candidates, choose)
            candidates = np.array([activation, *([] if keep_activation else grid * start[1])])
            activation, reached = self._activation("paper", weight, candidates, choose)
            if reached - before < tolerance:
                break
        return weight, activation, reached

    def demo(self, start: Scales, choose: Choice, *, keep_activation: bool = False
             ) -> tuple[np.ndarray, float, float]:
        """S0 and the inner points of linspace(1, S0, 100), every channel by itself; then the activations."""
        weight, activation = start
        # Of all channels at once: NumPy's last bit depends on whether any of them is 1.
        candidates = np.concatenate([weight[None], np.linspace(1, weight, 100)[1:-1]])
        weight = self._weights("demo", weight, activation, candidates, choose)
        inner = [] if keep_activation else np.linspace(0.8 * activation, activation, 200)[1:-1]
        return weight, *self._activation("demo", weight, np.array([activation, *inner]), choose)

    def ncnn(self, start: Scales, choose: Choice, *, keep_activation: bool = False
             ) -> tuple[np.ndarray, float, float]:
        """100 candidates over [0.5, 2)·S0, for one channel after another, earlier ones already moved."""
        weight, activation = start
        if not self.after(self.outputs).any():
            return weight, activation, 1.0
        factors = np.linspace(0.5, 2, 100, endpoint=False)
        weight = self._weights("ncnn", weight, activation, np.multiply.outer(factors, weight), choose)
        candidates = activation * (np.ones(1) if keep_activation else factors)
        return weight, *self._activation("ncnn", weight, candidates, choose)

    def _weights(self, mode: str, weight: np.ndarray, activation: float, candidates: np.ndarray, choose: Choice
                 ) -> np.ndarray:
        """The layer's one scale, or one channel's after another. candidates: (K,) or (K, O)."""
        weight = np.array(weight)
        for channel in range(len(weight)) if weight.ndim else [None]:
            where, cosines = ... if channel is None else channel, []
            for scale in candidates[:, where]:
                trial = weight.copy()
                trial[where] = scale
                cosines.append(self.measure(mode, trial, activation, channel if mode == "demo" else None))
            weight[where] = candidates[choose("weight", channel, candidates[:, where], cosines), where]
        return weight

    def _activation(self, mode: str, weight: np.ndarray, candidates: np.ndarray, choose: Choice
                    ) -> tuple[float, float]:
        """The scale taken, and its cosine."""
        cosines = [self.measure(mode, weight, scale) for scale in candidates]
        chosen = choose("activation", None, candidates, cosines)
        return float(candidates[chosen]), cosines[chosen]
