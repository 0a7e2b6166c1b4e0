"""EasyQuant by brute force: every candidate quantized, convolved, scaled back and compared. No shortcuts.

Written from the table of the three modes and the searches' descriptions, for comparison with
``refquant/easyquant.py``: no Gram matrices, no tables, no adding up over batches. A candidate's whole
output is formed in exact integers, divided by its scales, and its cosine taken from ``math.fsum``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from convolution_oracle import convolved

from refquant.convolution.geometry import Geometry
from refquant.integers.formats import IntFormat

# Which of a half-step's candidates is taken: (cosines, do differences up to 1e-12 not count?) -> index.
Choice = Callable[[list[float], bool], int]


class Step(NamedTuple):
    """What a ``HalfStep`` has to say."""

    operand: str
    channel: int | None
    candidates: np.ndarray
    cosines: list[float]
    chosen: int


class Found(NamedTuple):
    weight_scale: np.ndarray
    activation_scale: float
    cosine: float
    steps: list[Step]


def first_maximum(cosines: list[float], settle: bool) -> int:
    """The first maximum; with ``settle`` the first that is within 1e-12 of it, the current scale being entry 0."""
    least = max(cosines) - (1e-12 if settle else 0)
    return next(i for i, value in enumerate(cosines) if value >= least)


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


@dataclass
class BruteForce:
    """One layer: x (N, C, H, W), w (O, C/groups, R, S), and what its float outputs are without bias."""

    x: np.ndarray
    w: np.ndarray
    x_format: IntFormat
    w_format: IntFormat
    geometry: Geometry = Geometry()
    bias: np.ndarray | None = None
    relu: bool = False
    outputs: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.x, self.w = np.asarray(self.x, np.float64), np.asarray(self.w, np.float64)
        if self.outputs is None:
            self.outputs = convolved(self.x, self.w, self.geometry)
        # What was asked once is not worked out again; nothing else is shared between candidates.
        self._codes: dict[float, np.ndarray] = {}
        self._channels: dict[tuple[int, float, float], np.ndarray] = {}

    def quantized_output(self, weight_scales: np.ndarray, activation_scale: float) -> np.ndarray:
        """Ô = conv(Q(A, S_a), Q(W, S_w)) / (S_a·S_w), one weight scale per output channel."""
        return np.stack([self.quantized_channel(channel, float(scale), float(activation_scale))
                         for channel, scale in enumerate(weight_scales)], axis=1)

    def quantized_channel(self, channel: int, weight_scale: float, activation_scale: float) -> np.ndarray:
        """(N, P, Q): one output channel, from the input channels of its group."""
        key = channel, weight_scale, activation_scale
        if key not in self._channels:
            if activation_scale not in self._codes:
                self._codes[activation_scale] = quantized(self.x, activation_scale, self.x_format)
            x_q, width = self._codes[activation_scale], self.w.shape[1]
            first = channel * self.geometry.groups // len(self.w) * width
            w_q = quantized(self.w[channel:channel + 1], weight_scale, self.w_format)
            sums = convolved(x_q[:, first:first + width], w_q, self.geometry._replace(groups=1))
            self._channels[key] = sums[:, 0].astype(np.float64) / (weight_scale * activation_scale)
        return self._channels[key]

    def after(self, y: np.ndarray) -> np.ndarray:
        """Bias and ReLU, where the layer has them."""
        y = y if self.bias is None else y + np.asarray(self.bias, np.float64)[:, None, None]
        return np.maximum(y, 0) if self.relu else y

    # --- the three measures

    def measure(self, mode: str, weight_scales: np.ndarray, activation_scale: float) -> float:
        """``paper``: all outputs of all images as one. ``demo``, ``ncnn``: the mean over images, of whole outputs."""
        y = self.quantized_output(weight_scales, activation_scale)
        if mode == "paper":
            return cosine(self.outputs, y)
        wanted, y = self.after(self.outputs), self.after(y)
        if mode == "ncnn":  # an image of zeros is left out
            seen = wanted.reshape(len(wanted), -1).any(axis=1)
            if not seen.any():
                return 1.0
            wanted, y = wanted[seen], y[seen]
        return self._mean_over_images(wanted, y)

    def channel_measure(self, channel: int, weight_scale: float, activation_scale: float) -> float:
        """``demo``'s measure for weights: one channel's cosine, mean over images."""
        y, bias = self.quantized_channel(channel, weight_scale, activation_scale), 0.0
        if self.bias is not None:
            bias = float(self.bias[channel])
        y = np.maximum(y + bias, 0) if self.relu else y + bias
        return self._mean_over_images(self.after(self.outputs)[:, channel], y)

    @staticmethod
    def _mean_over_images(a: np.ndarray, b: np.ndarray) -> float:
        return math.fsum(cosine(one, other) for one, other in zip(a, b, strict=True)) / len(a)

    # --- the three searches

    def paper(self, start: tuple[np.ndarray, float], *, alpha: float = 0.5, beta: float = 2.0, n: int = 100,
              rounds: int = 10, tolerance: float = 1e-6, listed: Sequence[float] = (),
              choose: Choice = first_maximum) -> Found:
        """Alternating, from ``start``, whose weight scale is () for the layer or (O,) for its channels.

        listed: activation scales to try beside the grid; the search under test knows no such thing.
        """
        initial, activation_initial = np.asarray(start[0], np.float64), float(start[1])
        grid = np.linspace(alpha, beta, n)
        weight, activation = np.broadcast_to(initial, len(self.w)).copy(), activation_initial
        own = [slice(None)] if initial.ndim == 0 else list(range(len(self.w)))
        steps: list[Step] = []
        reached = self.measure("paper", weight, activation)
        for _ in range(rounds):
            before = reached
            for channel in own:
                first = initial if initial.ndim == 0 else initial[channel]
                current = weight[0] if initial.ndim == 0 else weight[channel]
                candidates = np.array([current, *(first * grid)])
                cosines = []
                for scale in candidates:
                    trial = weight.copy()
                    trial[channel] = scale
                    cosines.append(self.measure("paper", trial, activation))
                chosen = choose(cosines, True)
                weight[channel] = candidates[chosen]
                steps.append(Step("weight", None if initial.ndim == 0 else channel, candidates, cosines, chosen))
            candidates = np.array([activation, *listed, *(activation_initial * grid)])
            cosines = [self.measure("paper", weight, scale) for scale in candidates]
            chosen = choose(cosines, True)
            activation, reached = float(candidates[chosen]), cosines[chosen]
            steps.append(Step("activation", None, candidates, cosines, chosen))
            if reached - before < tolerance:
                break
        return Found(weight[0] if initial.ndim == 0 else weight, activation, reached, steps)

    def demo(self, start: tuple[np.ndarray, float], *, choose: Choice = first_maximum) -> Found:
        """S0 and the inner points of linspace(1, S0, 100), every channel by itself; then the activations."""
        initial, activation = np.array(start[0], np.float64), float(start[1])
        steps, weight = [], initial.copy()
        # Of all channels at once: NumPy's last bit depends on whether any of them is 1.
        inner = np.linspace(1, initial, 100)[1:-1]
        for channel, first in enumerate(initial):
            candidates = np.array([first, *inner[:, channel]])
            cosines = [self.channel_measure(channel, float(scale), activation) for scale in candidates]
            chosen = choose(cosines, False)
            weight[channel] = candidates[chosen]
            steps.append(Step("weight", channel, candidates, cosines, chosen))
        candidates = np.array([activation, *np.linspace(0.8 * activation, activation, 200)[1:-1]])
        return self._finish("demo", weight, candidates, steps, choose)

    def ncnn(self, start: tuple[np.ndarray, float], *, choose: Choice = first_maximum) -> Found:
        """100 candidates over [0.5, 2)·S0, for one channel after another, earlier ones already moved."""
        weight, activation = np.array(start[0], np.float64), float(start[1])
        if not self.after(self.outputs).any():
            return Found(weight, activation, 1.0, [])
        steps: list[Step] = []
        factors = np.linspace(0.5, 2, 100, endpoint=False)
        for channel in range(len(weight)):
            candidates = weight[channel] * factors
            cosines = [self.measure("ncnn", np.where(np.arange(len(weight)) == channel, scale, weight), activation)
                       for scale in candidates]
            chosen = choose(cosines, False)
            weight[channel] = candidates[chosen]
            steps.append(Step("weight", channel, candidates, cosines, chosen))
        return self._finish("ncnn", weight, activation * factors, steps, choose)

    def _finish(self, mode: str, weight: np.ndarray, candidates: np.ndarray, steps: list[Step],
                choose: Choice) -> Found:
        cosines = [self.measure(mode, weight, scale) for scale in candidates]
        chosen = choose(cosines, False)
        steps.append(Step("activation", None, candidates, cosines, chosen))
        return Found(weight, float(candidates[chosen]), cosines[chosen], steps)
