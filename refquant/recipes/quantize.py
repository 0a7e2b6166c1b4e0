"""Recipes: a float network and a few calibration images become a quantized network."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from refquant.integers.dialects import Dialect
from refquant.integers.formats import IntFormat
from refquant.network.batchnorm import fold_batchnorm
from refquant.network.float_forward import check_images
from refquant.network.graph import Conv, Linear, Network
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import PiecewiseParams, QuantParams, TensorParams
from refquant.recipes.calibration import Statistics, calibrate, observe_extremes
from refquant.recipes.corrections import correct_output_mean as correct_output_mean_of
from refquant.recipes.corrections import cross_layer_equalize
from refquant.recipes.lowering import AnyWeight, assemble, check_integer_forms, qparam_sources
from refquant.recipes.network_search import search_network
from refquant.recipes.settings import RECIPES, Settings, settings
from refquant.recipes.weights import initial_scale, quantize_weight, quantize_weight_piecewise
from refquant.scales.linear import affine_parameters, max_scale
from refquant.scales.statistics import BINS
from refquant.scales.thresholds import in_float32, threshold, threshold_scale
from refquant.workers import Progress


def quantize_network(network: Network, images: Any, recipe: str = "max-int8", *,
                     weight_bits: int | None = None, activation_bits: int | None = None,
                     granularity: str | None = None, coupling: str | None = None, shift_bits: int | None = None,
                     activations: str | None = None, estimator: str | None = None,
                     cross_layer_equalization: bool = False, correct_output_mean: bool | None = None,
                     breakpoints: str | None = None, match_moments: bool | None = None,
                     widen: bool = False, layer_inputs: str = "quantized", accumulator_bits: int = 32,
                     dialect: str | Dialect = "single_round", executor: Executor | None = None,
                     progress: Progress | None = None) -> QuantizedNetwork:
    """Quantize a float network after training.

    ``max-int8`` and ``channelwise-int8``: every scale is q_max / max|x|, over the weights of a layer
    or of each output channel, and over each activation tensor on the calibration images.
    ``tensorrt-int8``, ``-int7``: the same per channel, but activations are clipped at the threshold of least KL
    divergence (``scales.kl``, variant ``nvidia``). The network's outputs keep max-scaling.
    ``easyquant-int8``, ``-int7``: from max-scaling, EasyQuant's search improves the scales of each layer's weights
    and input, layer by layer. A tensor that several layers read gets its scale from the first convolution or
    linear layer among them. A tensor that none of these reads keeps max-scaling.
    ``wes-int8``: one weight scale per layer and a shift per output channel (``shift_equalizer``), searched together
    for the weights' relative error; activations by max; then the output means are corrected.

    ``pwlq-w4a8``: piecewise linear weight codes, their moments matched; activations as for ``channelwise-int8``.
    ``pwlq-w4a4``: activations piecewise too. Each layer then adds up several sums and rounds once.

    network: may hold BatchNorm nodes, but no Softmax (``Network.without_softmax``).
    images: calibration images, floats (N, *input_shape).
    weight_bits, activation_bits: 2..16. What is None, here and below, is the recipe's.
    granularity: of the weights' scales, ``layer``, ``channel``, or ``shift``: one per layer and a shift per channel.
    coupling: how shifts and layer scale are chosen: ``floor``, ``nearest`` and ``ceil``, with max-scaling;
        ``floor_mse``, with the scale of least squared error; ``search_weight`` and ``search_cosine``, both searched.
        EasyQuant's search then moves the layer scale alone.
    shift_bits: of each channel's shift, 0..5; by default 4.
    activations: ``unsigned`` (0..2^b-1 where calibration saw nothing negative, as after ReLU; otherwise signed
        narrow), ``signed`` (always signed narrow, as EasyQuant's), ``affine`` (signed with an integer zero point,
        as TFLite's; not with KL or EasyQuant), ``piecewise`` (``network.PiecewiseParams``, at the breakpoint of the
        least expected error on the calibration histogram; with piecewise weights alone).
    estimator: of the activations' ranges, one of ``scales.ESTIMATORS``.
    cross_layer_equalization, correct_output_mean: DFQ's corrections, before and after (``recipes.corrections``).
    breakpoints: of piecewise weights, one of ``pwlq.METHODS``; ``none``: weight codes are linear.
    match_moments: each channel's quantized weights get their mean and deviation back (``pwlq.match_weight_moments``).
    widen: EasyQuant's ranges, as ``easyquant.search_paper`` says.
    layer_inputs: EasyQuant sees the inputs of a layer as the layers already ``quantized`` give them, or as the
        ``float`` network does.
    accumulator_bits: 16, 24, 32, 48 or 64.
    dialect: how sums are requantized: a name or words, as ``integers.dialect_of`` takes them.
    executor: where slices of the images are calibrated on and searched, as ``workers.worker_processes`` gives one;
        scales and integers are the same.
    progress: called with a step's name, what of it is done, and the fraction of it that is done.
    ValueError for other values, bad images, and accumulators that are proven too narrow.

    >>> import refquant
    >>> network, images, labels = refquant.load_digits()
    >>> quantized = refquant.quantize_network(network, refquant.calibration_images(), recipe="max-int8")
    >>> bool((quantized.run(images).argmax(axis=1) == labels).mean() > 0.98)
    True
    """
    chosen = settings(recipe, weight_bits=weight_bits, activation_bits=activation_bits, granularity=granularity,
                      coupling=coupling, shift_bits=shift_bits, activations=activations, estimator=estimator,
                      cross_layer_equalization=cross_layer_equalization, correct_output_mean=correct_output_mean,
                      breakpoints=breakpoints, match_moments=match_moments, widen=widen, layer_inputs=layer_inputs,
                      accumulator_bits=accumulator_bits, dialect=dialect)
    folded = fold_batchnorm(network)
    check_integer_forms(folded)
    images = check_images(images, folded.input_shape)
    if chosen.cross_layer_equalization:
        folded = cross_layer_equalize(folded)
    accumulator = IntFormat(chosen.accumulator_bits)
    qparams = _max_qparams(folded, images, chosen, executor, progress)
    weights: dict[str, Any]
    if RECIPES[recipe].searched or chosen.coupling == "search_cosine":
        qparams, weights = search_network(folded, images, qparams, chosen, executor, progress)
    else:
        sources = qparam_sources(folded)
        weights = {node.name: _weight(node, chosen, qparams[sources[node.inputs[0]]])
                   for node in folded.nodes if isinstance(node, (Conv, Linear))}
    quantized = assemble(folded, qparams, weights, accumulator, chosen.dialect)
    if chosen.correct_output_mean:
        quantized = correct_output_mean_of(quantized, folded, images, executor, progress)
    return quantized


def _weight(node: Conv | Linear, chosen: Settings, qparam: TensorParams) -> AnyWeight:
    if chosen.breakpoints != "none":
        return quantize_weight_piecewise(node, chosen, qparam)
    assert isinstance(qparam, QuantParams)
    return quantize_weight(node, *initial_scale(node, chosen), chosen, qparam)


def _max_qparams(network: Network, images: np.ndarray, chosen: Settings, executor: Executor | None,
                 progress: Progress | None) -> dict[str, Any]:
    """Every tensor's qparams by max-scaling, or at the estimator's threshold; linear outputs keep max-scaling."""
    bits, activations = chosen.activation_bits, chosen.activations
    if activations == "piecewise":
        return {name: piecewise_qparam(seen, bits, chosen.estimator)
                for name, seen in calibrate(network, images, executor, progress).items()}
    if chosen.estimator == "max":
        return {name: activation_qparam(seen.low, seen.high, bits, activations)
                for name, seen in observe_extremes(network, images, executor, progress).items()}
    sources = qparam_sources(network)
    outputs = {sources[name] for name in network.outputs}
    qparams = {}
    for name, (extremes, histogram) in calibrate(network, images, executor, progress).items():
        qparams[name] = activation_qparam(extremes.low, extremes.high, bits, activations)
        if name not in outputs:
            limit = threshold(extremes, histogram, chosen.estimator, qparams[name].format)
            qparams[name] = replace(qparams[name], scale=threshold_scale(limit, qparams[name].format))
    return qparams


def activation_qparam(low: float, high: float, bits: int, activations: str) -> QuantParams:
    """The qparams of a tensor whose calibration values span [low, high] (see ``quantize_network``)."""
    low, high = in_float32(low), in_float32(high)
    if activations == "affine":
        scale, zero_point = affine_parameters(low, high, IntFormat(bits))
        return QuantParams(scale, IntFormat(bits), zero_point)
    unsigned = activations == "unsigned" and low >= 0
    fmt = IntFormat(bits, signed=not unsigned, narrow=not unsigned)
    return QuantParams(float(max_scale(np.array([low, high]), fmt)), fmt)


def piecewise_qparam(seen: Statistics, bits: int, estimator: str) -> PiecewiseParams:
    """Piecewise codes of a tensor: its limit m by the estimator, p where Eq. 4 is least for the histogram's parts.

    Both steps are whole numbers of 1/scale, of which m has nearly 32767; the breakpoint is K centre steps.
    """
    low, histogram = in_float32(seen.extremes.low), seen.histogram
    signed = low < 0
    fmt = IntFormat(bits + 1, signed=signed, narrow=signed)
    m = in_float32(threshold(seen.extremes, histogram, estimator, fmt)) or 1.0
    largest = 2 ** (bits - signed) - 1
    edges = np.arange(1, BINS) / BINS * histogram.limit
    inside = np.cumsum(histogram.counts)[:-1] / max(int(histogram.counts.sum()), 1)
    # Both regions have K steps, so that C(b-1) does not matter.
    errors = np.where(edges < m, edges**2 * inside + (m - edges) ** 2 * (1 - inside), np.inf)
    p = float(edges[np.argmin(errors)]) if np.isfinite(errors).any() else m / 2
    scale = np.nextafter((IntFormat(16).max - largest) / m, 0)
    centre = max(round(p * scale / largest), 1)
    return PiecewiseParams(float(scale), bits, signed, centre, max(round((m - p) * scale / largest), 1))
