"""Tables, figures and files: how results are shown. No result is made here."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from refquant.commands.layers import decibels
from refquant.integers.devices import DEVICES, RUN, dialect_of
from refquant.integers.dialects import FORMULAS, NAMED, NOTATION
from refquant.integers.formats import IntFormat, smallest_format
from refquant.integers.stages import headroom_bits
from refquant.vectors.probes import smallest_difference


def check_directory(directory: Path) -> None:
    """ValueError where the directory cannot be made or written to; nothing is made yet."""
    standing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    if not standing.is_dir() or not os.access(standing, os.W_OK):
        reason = "Permission denied" if standing.is_dir() else "Not a directory"
        raise ValueError(f"the output directory must be writable, got {directory}: {reason}")


def prepare_directory(directory: Path) -> Path:
    """Make the directory if need be and see that it can be written; ValueError if not."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(f"the output directory must be writable, got {directory}: {error.strerror}") from None
    return directory


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: readers see all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        os.unlink(name)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    except BaseException:
        os.unlink(name)
        raise


def write_files(files: dict[str, bytes], directory: Path) -> list[Path]:
    """Write files, by their paths below a directory, each atomically and in order; returns the full paths."""
    for name, content in files.items():
        prepare_directory((directory / name).parent)
        write_atomically(directory / name, content)
    return [directory / name for name in files]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a rule; columns whose cells are all numbers go to the right."""
    columns = list(zip(header, *rows))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right)).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def demo_tables(result: dict[str, Any]) -> str:
    """The demo's tables as text."""
    accuracy = table(
        ("network", "method", "bits W/A", "scales per", "top-1 %", "simulated %", "codes_equal", "cosine", "SQNR dB",
         "weight bytes"),
        [(r["network"], r["method"], f"{r['weight_bits']}/{r['activation_bits']}", r["granularity"],
          f"{r['integer_top1']:.2f}", f"{r['simulated_top1']:.2f}", "yes" if r["codes_equal"] else "NO",
          f"{r['cosine']:.4f}", f"{r['sqnr_db']:.1f}", str(r["weight_bytes"])) for r in result["rows"]])
    sums = table(
        ("layer", "stage", "format", "seen min", "seen max", "proven min", "proven max", "headroom bits"),
        [(s["layer"], s["stage"], s["format"], str(s["min"]), str(s["max"]), str(s["proven_min"]),
          str(s["proven_max"]), f"{s['headroom_bits']:.1f}") for s in result["stages"]])
    lanes = table(
        ("layer", "input", "weights", "products per lane", "lane min", "lane max", "of int16 %", "sums equal"),
        [(r["layer"], r["x_format"], r["w_format"], str(r["products_per_lane"]), str(r["int16_min"]),
          str(r["int16_max"]),
          f"{100 * max(-r['int16_min'] / 32768, r['int16_max'] / 32767):.0f}", "yes" if r["sums_equal"] else "NO")
         for r in result["lanes"]])
    by_layer: dict[tuple[str, str], dict[str, Any]] = {}
    for stage in result["winograd"]:
        by_layer.setdefault((stage["layer"], stage["tile"]), {})[stage["stage"]] = stage
    shown = ("V", "U", "product", "sum", "output_scaled")
    winograd = table(
        ("layer", "tile", *(f"{name} bits" for name in shown), "headroom in int32", "sums equal"),
        [(*key, *(_bits_seen_and_proven(stages[name]) for name in shown),
          f"{min(headroom_bits(s['proven_min'], s['proven_max'], IntFormat(32)) for s in stages.values()):.1f}",
          "yes" if all(s["sums_equal"] for s in stages.values()) else "NO") for key, stages in by_layer.items()])
    calibration = result["calibration"]
    return (f"Digits CNN, {result['images']} held-out images, float top-1 {result['float_top1']:.2f} %\n"
            f"calibrated on {calibration['images']} {calibration['source']}; dialect {result['rows'][0]['dialect']}; "
            f"refquant {result['refquant']}\n\n"
            "Integer-only inference (after a ReLU, activations are signed for KL and EasyQuant, else unsigned)\n\n"
            f"{accuracy}\n\n"
            f"Integer sums before requantization ({result['stages_of']})\n\n{sums}\n\n"
            f"3x3 layers through int16 lanes, SMLAL and SADALP ({result['lane_images']} images)\n\n{lanes}\n\n"
            f"Dense 3x3 layers by integer Winograd, bits seen/proven ({result['lane_images']} images)\n\n{winograd}")


def _bits_seen_and_proven(stage: dict[str, Any]) -> str:
    seen, proven = (smallest_format(stage[f"{kind}min"], stage[f"{kind}max"]).bits for kind in ("", "proven_"))
    return f"{seen}/{proven}"


def draw_accuracy(result: dict[str, Any]) -> Figure:
    """Integer top-1 against bits, one line per method and granularity."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in result["rows"]:
        if row["network"] != "digits" or row["weight_bits"] != row["activation_bits"]:
            continue
        key = f"{row['method']}, one scale per {row['granularity']}"
        lines.setdefault(key, []).append((row["weight_bits"], row["integer_top1"]))
    for marker, (label, points) in zip("os^vDPX*", lines.items()):
        bits, accuracy = zip(*sorted(points))
        axes.plot(bits, accuracy, marker=marker, label=label)
    axes.axhline(result["float_top1"], color="0.4", linestyle="--", label="float")
    axes.axhline(result["chance"], color="C3", linestyle=":", label=f"chance, 1 of {round(100 / result['chance'])}")
    axes.set(xlabel="bits of weights and activations", ylabel="top-1, integer inference (%)",
             title=f"Digits CNN, {result['images']} held-out images")
    axes.set_xticks(sorted({row["weight_bits"] for row in result["rows"]}))
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def draw_headroom(result: dict[str, Any]) -> Figure:
    """Per stage, bits needed by the sums seen and by the proven worst case, against the format."""
    stages = result["stages"]
    figure = Figure(figsize=(6.4, 0.3 * len(stages) + 1.4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(stages))
    limits = [float(s["format"].removeprefix("int")) for s in stages]
    # Signed bits: log2 of the larger magnitude, and the sign.
    proven = [1 + np.log2(max(-s["proven_min"], s["proven_max"], 1)) for s in stages]
    seen = [1 + np.log2(max(-s["min"], s["max"], 1)) for s in stages]
    axes.barh(places, proven, color="0.8", label="proven worst case")
    axes.barh(places, seen, height=0.4, color="C0", label="seen")
    axes.plot(limits, places, "|", color="C3", markersize=14, markeredgewidth=2, label="bits of the format")
    axes.set_yticks(places, [f"{_shown(s['layer'])} {s['stage']}" for s in stages], parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel="bits of the sum, sign included",
             title=f"Integer sums before requantization\n{result['stages_of']}")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def own_table(result: dict[str, Any]) -> str:
    """The table of ``refquant quantize``: how the networks were made, and a row per recipe."""
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    entries = result.get("recipes", [result])
    rows = [(e["label"], f"{e['weight_bits']}/{e['activation_bits']}", e["granularity"], e["activations"],
             percent(e["integer_top1"]), percent(e["agreement"]), "yes" if e["codes_equal"] else "NO",
             f"{e['cosine']:.4f}", decibels(e), str(e["weight_bytes"]), f"{e['seconds']['search']:.1f}",
             f"{e['seconds']['evaluation']:.1f}") for e in entries]
    images, checked = entries[0]["images"], entries[0]["codes_equal_images"]
    header = ("recipe", "bits W/A", "scales per", "activations", "top-1 %", "agreement %", "codes_equal", "cosine",
              "SQNR dB", "weight bytes", "search s", "evaluation s")
    made, calibration = result.get("model"), result["calibration"]
    equalized = entries[0]["cross_layer_equalization"]
    left = "" if not equalized else "".join(f"; {count} left at {what}" for what, count in equalized["left"].items())
    pairs = f"cross-layer equalization of {equalized['pairs']} pairs{left}\n" if equalized else ""
    model = f"{made['file']}, sha256 {made['sha256'][:12]}; " if made else ""
    return (f"{images} images, float top-1 {percent(entries[0]['float_top1'])} %; codes_equal compares "
            f"{'all' if checked == images else f'the first {checked}'}\n"
            f"{model}calibrated on {calibration['images']} images ({calibration['source']}); "
            f"dialect {entries[0]['dialect']}; refquant {result['refquant']}\n{pairs}\n"
            f"Integer-only inference\n\n{table(header, rows)}{_outputs_table(entries)}")


def _outputs_table(entries: list[dict[str, Any]]) -> str:
    """Each output's similarity, where there are several."""
    if len(entries[0]["outputs"]) < 2:
        return ""
    rows = [(e["label"], o["name"], "x".join(map(str, o["shape"])), f"{o['cosine']:.4f}",
             decibels(o)) for e in entries for o in e["outputs"]]
    return f"\n\nOutputs\n\n{table(('recipe', 'output', 'shape', 'cosine', 'SQNR dB'), rows)}"


def bounds_table(result: dict[str, Any]) -> str:
    """The tables of ``refquant bounds``: ranges, and operands that attain their ends."""
    accumulator, lane = result["accumulator"], result["products_per_lane"]
    what = f"{result['tile']}, divisor {result['divisor']}" if result["tile"] else (
        f"Direct {'x'.join(map(str, result['kernel']))} convolution")
    bias = f", bias {result['bias']}" if result["bias"] else ""
    ranges = table(
        ("stage", "min", "max", "bits", "format", "headroom bits", f"fits {accumulator}"),
        [(s["stage"], str(s["min"]), str(s["max"]), str(s["bits"]), s["format"], f"{s['headroom_bits']:.1f}",
          {None: "", True: "yes", False: "NO"}[s["fits_accumulator"]]) for s in result["stages"]])
    witnesses = table(("stage", "min attained at", "max attained at"),
                      [(s["stage"], s["witness_min"], s["witness"]) for s in result["stages"]])
    most = ", ".join(f"{stage} {count}" for stage, count in result["largest_channels"].items())
    lanes = (f"Products that an int16 lane holds: {lane}" if lane else
             "No int16 lanes: an operand has more than 8 bits, or one product leaves int16")
    return (f"{what}: {result['channels']} channels of {result['x_format']} times {result['w_format']}{bias}\n\n"
            f"{ranges}\n\n{witnesses}\n\nInput channels that fit {accumulator}: {most}\n{lanes}")


def dialects_table() -> str:
    """The table of ``refquant dialects``."""
    rows = [(name, *texts) for name, texts in FORMULAS.items()]
    words = [(name, *dialect.words.split(",")) for name, dialect in NAMED.items()]
    return (f"Value before zero point and clamping\n\n{table(('dialect', 'value', 'who computes so'), rows)}\n\n"
            f"{NOTATION}\n\nThe same in six words (refquant.integers.dialects)\n\n"
            f"{table(('dialect', 'multiplier', 'left', 'first', 'last', 'zero', 'end'), words)}\n\n"
            "Devices and libraries by name: what was run of each in refquant's tests, or else whose text was read\n\n"
            f"{devices_table()}")


def devices_table() -> str:
    """The nine and the devices, with their words, and what was run or read."""
    rows = [(name, dialect.words, f"run: {RUN[name]}" if name in RUN else
             "a definition" if name in ("shift_floor", "exact_half_even") else f"read: {FORMULAS[name][1]}")
            for name, dialect in NAMED.items()]
    rows += [(name, device.words.words, f"run: {device.run}" if device.run else f"read: {device.source}")
             for name, device in DEVICES.items()]
    return table(("name", "words", "run or read"), rows)


def difference_text(one: str, other: str) -> str:
    """The smallest input on which two dialects differ, for ``refquant dialects ONE OTHER``."""
    found = smallest_difference(dialect_of(one), dialect_of(other), IntFormat(8))
    if found is None:
        return f"No input was found on which {one} and {other} differ, for int8 codes."
    rows, *codes = found
    x, m, shift, zero_point = (int(column[0]) for column in rows[:4])
    lines = [(name, dialect_of(name).words, str(code)) for name, code in zip((one, other), codes)]
    return (f"x = {x}, m = {m}, shift = {shift}, zero point {zero_point}: x·M = {x * float(rows.real[0]):.8g} "
            f"(the smallest x that was found, for int8 codes)\n\n{table(('dialect', 'words', 'code'), lines)}")


def draw_layer_sqnr(entry: dict[str, Any]) -> Figure:
    """SQNR of every layer's output against the float network's."""
    layers = entry["layers"]
    figure = Figure(figsize=(max(6.4, 0.28 * len(layers) + 1.5), 4.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(layers))
    axes.bar(places, [layer["sqnr_db"] or 0.0 for layer in layers])
    for place, layer in zip(places, layers):
        if layer["sqnr_db"] is None:
            axes.text(float(place), 0, "∞" if layer["cosine"] == 1 else "-∞", ha="center", va="bottom")
    axes.set_xticks(places, [_shown(layer["name"]) for layer in layers], rotation=90, fontsize="small",
                    parse_math=False)
    axes.set(ylabel="SQNR of the output (dB)", title=f"{entry['label']}, {entry['images']} images")
    axes.grid(axis="y", alpha=0.3)
    return figure


def draw_weight_ranges(weights: dict[str, np.ndarray]) -> Figure:
    """max|w| of every output channel, a column of dots per layer; dead and zero channels lie at the foot."""
    figure = Figure(figsize=(max(6.4, 0.28 * len(weights) + 1.5), 4.2), layout="constrained")
    axes = figure.subplots()
    largest = max(float(ranges.max()) for ranges in weights.values())
    floor = (largest or 1.0) * 1e-8
    for place, ranges in enumerate(weights.values()):
        axes.plot(np.full(len(ranges), place), np.maximum(ranges, floor), "_", color="C0", alpha=0.5)
    axes.set_yscale("log")
    axes.set_xticks(range(len(weights)), list(map(_shown, weights)), rotation=90, fontsize="small", parse_math=False)
    axes.set(ylabel="max |w| of a channel", title="Weight ranges per output channel, after folding batch norm")
    axes.grid(axis="y", alpha=0.3)
    return figure


def draw_activations(tensors: dict[str, tuple[np.ndarray, np.ndarray, tuple[float, ...]]]) -> Figure:
    """Every encoded tensor on the calibration images: counts, the edges of their bins, the ends of its format."""
    columns = 4
    rows = -(-len(tensors) // columns)
    figure = Figure(figsize=(11, 1.7 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, (counts, edges, ends)) in zip(grid.flat, tensors.items()):
        axes.stairs(counts, edges, color="C0", fill=True)
        axes.set_yscale("log")
        for end in ends:
            axes.axvline(end, color="C3", linestyle="--", linewidth=1)
        axes.set_title(_shown(name), fontsize="small", parse_math=False)
        axes.tick_params(which="both", labelsize="x-small")
    for axes in grid.flat[len(tensors):]:
        axes.axis("off")
    figure.suptitle("Activations on the calibration images; dashed: the ends of the integer format")
    return figure


def _shown(name: str) -> str:
    """A name from a stranger's file as a label: control characters escaped, the middle of a long one left out."""
    name = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
    room = 32 if name.isascii() else 16  # other alphabets can be twice as wide
    return name if len(name) <= room else f"{name[:room // 2]}...{name[3 - room // 2:]}"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
