"""The demo: the bundled CNN and the bundled digits, through every method, in integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from refquant import __version__
from refquant.commands import report
from refquant.commands.evaluation import Evaluation, evaluate_together
from refquant.commands.kernel_check import run_lanes, run_winograd
from refquant.digits.disparity import with_disparity
from refquant.digits.weights import calibration_images, load_digits
from refquant.network.proof import QuantizedNetwork
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import settings
from refquant.workers import Progress


@dataclass(frozen=True)
class Row:
    """One line of the demo's table: a method at its bits and granularity, on one of the two networks."""

    method: str
    recipe: str
    bits: int
    granularity: str
    always: bool = True  # otherwise only with --all
    network: str = "digits"
    activation_bits: int = 0  # 0: those of the weights
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)  # of ``quantize_network``


ROWS = (*(Row("max", recipe, bits, granularity, always=bits in (8, 7, 5, 4))
          for granularity, recipe in (("layer", "max-int8"), ("channel", "channelwise-int8"))
          for bits in (8, 7, 6, 5, 4, 3)),
        *(Row(method, recipe, bits, "channel", always=bits in (8, 7, 4))
          for method, recipe in (("KL", "tensorrt-int8"), ("EasyQuant", "easyquant-int8"))
          for bits in (8, 7, 6, 5, 4, 3)),
        *(Row(method, recipe, bits, "layer", activation_bits=8, options={"match_moments": moments})
          for method, recipe, bits, moments in (
              ("max", "max-int8", 4, False), ("max, moments", "max-int8", 4, True), ("max", "max-int8", 5, False),
              ("PWLQ", "pwlq-w4a8", 4, False), ("PWLQ, moments", "pwlq-w4a8", 4, True))),
        Row("PWLQ, moments", "pwlq-w4a4", 4, "layer", always=False),
        *(Row(method, recipe, 8, granularity, network="digits-disparity", options=options)
          for method, recipe, granularity, options in (
              ("max", "max-int8", "layer", {}),
              ("CLE", "max-int8", "layer", {"cross_layer_equalization": True}),
              ("WES floor", "max-int8", "shift", {}),
              ("WES searched", "max-int8", "shift", {"coupling": "search_weight"}),
              ("WES, mean", "wes-int8", "shift", {}),
              ("max", "channelwise-int8", "channel", {}))))
# The row whose sums the second table and the headroom figure show.
STAGES_OF = Row("max", "channelwise-int8", 8, "channel")

# EasyQuant's INT7 inference: signed narrow codes, eight products in an int16 lane.
KERNEL_BITS, KERNEL_IMAGES = 7, 100
WINOGRAD_TILES = ((2, 3), (4, 3))


def run_demo(everything: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Quantize and evaluate every row; returns what ``report.json`` holds.

    everything: also the rows that the short table leaves out. progress: called before each.
    """
    network, images, labels = load_digits()
    networks = {"digits": network, "digits-disparity": with_disparity(network)}
    calibration = calibration_images()
    chosen = [row for row in ROWS if row.always or everything]
    found: dict[Row, Evaluation] = {}
    for name, graph in networks.items():
        rows = [row for row in chosen if row.network == name]
        quantized: list[QuantizedNetwork] = []
        for row in rows:
            if progress:
                progress("rows", _describe(row), (len(found) + len(quantized)) / len(chosen))
            quantized.append(quantize_network(graph, calibration, row.recipe, weight_bits=row.bits,
                                              activation_bits=row.activation_bits or row.bits,
                                              granularity=row.granularity, **row.options))
        found.update(zip(rows, evaluate_together(quantized, images, labels, graph, progress=progress)))
    stages = found[STAGES_OF].stages if STAGES_OF in found else ()
    return {"refquant": __version__, "network": "digits",
            "calibration": {"source": "training images", "images": len(calibration)},
            "float_top1": next(iter(found.values())).float_top1, "chance": 100 / network.shapes[network.output][0],
            "images": len(images), "rows": [_row_entry(*item) for item in found.items()],
            "stages_of": _describe(STAGES_OF), "stages": [stage.entry() for stage in stages],
            "lane_images": KERNEL_IMAGES, **run_kernels()}


def run_kernels() -> dict[str, Any]:
    """The 3x3 layers at 7 bits through int16 lanes and the dense ones through Winograd, on some held-out images."""
    network, images, _ = load_digits()
    quantized = quantize_network(network, calibration_images(), "channelwise-int8", weight_bits=KERNEL_BITS,
                                 activation_bits=KERNEL_BITS, activations="signed")
    images = images[:KERNEL_IMAGES]
    return {"lanes": [lane.entry() for lane in run_lanes(quantized, images)],
            "winograd": [{"tile": f"F({tile[0]},{tile[1]})", **stage.entry()} for tile in WINOGRAD_TILES
                         for stage in run_winograd(quantized, images, tile)]}


def _describe(row: Row) -> str:
    where = "" if row.network == "digits" else f"{row.network}: "
    return f"{where}{row.method}, {row.bits} bits, per {row.granularity}"


def _row_entry(row: Row, result: Evaluation) -> dict[str, Any]:
    chosen = settings(row.recipe, weight_bits=row.bits, activation_bits=row.activation_bits or row.bits,
                      granularity=row.granularity, **row.options)
    return {"network": row.network, "method": row.method, "label": chosen.label, "weight_bits": row.bits,
            "activation_bits": chosen.activation_bits, "granularity": row.granularity,
            "activations": chosen.activations, "dialect": chosen.dialect, "simulated_top1": result.simulated_top1,
            "integer_top1": result.integer_top1, "codes_equal": result.codes_equal, "cosine": result.cosine,
            "sqnr_db": result.sqnr_db, "weight_bytes": result.weight_bytes}


def demo_figures(result: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The two figures, by file name."""
    yield "accuracy.png", report.png(report.draw_accuracy(result))
    yield "headroom.png", report.png(report.draw_headroom(result))
