"""``report.html``: what ``refquant quantize`` found, as one page without references to anything outside it.

Tables sort by a click on their head; each layer opens to the ranges of its weights and the histogram of its output.
Everything is told by words, lengths and line styles, nothing by colour alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np

from refquant.commands.layers import decibels

Histograms = Mapping[str, tuple[np.ndarray, np.ndarray]]

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #111; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
th, td { padding: .25em .6em; border-bottom: 1px solid #bbb; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .text { text-align: left; }
th button { font: inherit; font-weight: bold; border: 0; background: none; cursor: pointer; padding: 0; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
details { border-bottom: 1px solid #ddd; padding: .3em 0; } summary { cursor: pointer; }
svg { max-width: 100%; height: auto; margin: .5em 1em .5em 0; }
.warning { border: 2px solid #111; padding: .5em 1em; }
caption { text-align: left; font-weight: bold; padding: .5em 0; }
"""
_SCRIPT = """
document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("thead th").forEach(function (head, column) {
    head.querySelector("button").addEventListener("click", function () {
      var up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("thead th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var body = table.tBodies[0], rows = Array.from(body.rows);
      function key(row) {
        var text = row.cells[column].dataset.key || row.cells[column].textContent, number = parseFloat(text);
        return isNaN(number) ? text : number;
      }
      rows.sort(function (a, b) {
        var x = key(a), y = key(b), order = typeof x === typeof y ? (x < y ? -1 : x > y ? 1 : 0)
          : typeof x === "number" ? -1 : 1;
        return up ? order : -order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
"""


def html_report(result: dict[str, Any], weights: Mapping[str, np.ndarray], histograms: Histograms,
                ends: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """The page.

    result: what ``report.json`` holds. weights: max|w| of each output channel, by layer. histograms: counts and bin
    edges of each tensor on the calibration images. ends: by recipe's label and tensor, the reals at which codes end.
    """
    entries = result.get("recipes", [result])
    title = result["model"]["file"] if "model" in result else "network"
    parts = [f"<h1>{escape(title)} in integers</h1>", _made(result, entries[0]),
             _warnings(result.get("warnings", [])), _summary(entries)]
    if len(entries) > 1:
        parts.append(_comparison(entries))
    for entry in entries:
        parts += [f"<h2>{escape(entry['label'])}</h2>", _worst(entry), _outputs(entry), _layers(entry),
                  "<h3>Layer by layer</h3>",
                  *(_layer(layer, weights, histograms, ends[entry["label"]]) for layer in entry["layers"])]
    return (f"<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<title>{escape(title)}: refquant"
            f"</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) +
            f"\n<script>{_SCRIPT}</script>\n</body>\n</html>\n")


def _made(result: dict[str, Any], entry: dict[str, Any]) -> str:
    model, calibration = result.get("model"), result["calibration"]
    said = f"Model sha256 {model['sha256']}. " if model else ""
    return (f"<p>{said}Calibrated on {calibration['images']} images ({escape(calibration['source'])}), evaluated on "
            f"{entry['images']}; dialect {escape(entry['dialect'])}; refquant {escape(result['refquant'])}.</p>")


def _warnings(warnings: list[str]) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f"<div class='warning' role='note'><strong>Look at the inputs.</strong><ul>{lines}</ul></div>" if (
        warnings) else ""


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(caption: str, header: list[str], rows: list[list[Any]], text: int = 1) -> str:
    """A sortable table; a cell is a text, or (text, key to sort by). The first ``text`` columns are words."""
    def cell(value: Any, column: int) -> str:
        shown, key = value if isinstance(value, tuple) else (value, None)
        attribute = "" if key is None else f" data-key='{key}'"
        return f"<td{attribute}{words(column)}>{escape(str(shown))}</td>"

    def words(column: int) -> str:
        return " class='text'" if column < text else ""

    head = "".join(f"<th scope='col'{words(k)}><button type='button'>{escape(name)}</button></th>"
                   for k, name in enumerate(header))
    body = "\n".join("<tr>" + "".join(cell(value, k) for k, value in enumerate(row)) + "</tr>" for row in rows)
    return (f"<div class='wide'><table class='sortable'><caption>{escape(caption)}</caption><thead><tr>{head}"
            f"</tr></thead><tbody>\n{body}\n</tbody></table></div>")


def _summary(entries: list[dict[str, Any]]) -> str:
    rows = [[e["label"], f"{e['weight_bits']}/{e['activation_bits']}", e["granularity"], _number(e["float_top1"]),
             _number(e["integer_top1"]), _number(e["agreement"]), f"{e['cosine']:.4f}", _number(e["sqnr_db"], 1),
             "yes" if e["codes_equal"] else "NO", e["weight_bytes"]] for e in entries]
    return _table("Recipes: accuracy in percent, similarity of the output", [
        "recipe", "bits W/A", "scales per", "float top-1", "integer top-1", "agreement", "cosine", "SQNR dB",
        "codes equal", "weight bytes"], rows)


def _comparison(entries: list[dict[str, Any]]) -> str:
    names = [layer["name"] for layer in entries[0]["layers"]]
    by_name = [{layer["name"]: layer for layer in e["layers"]} for e in entries]
    rows = [[name, *(_number(layers[name]["sqnr_db"], 1) if name in layers else "-" for layers in by_name)]
            for name in names]
    return _table("SQNR in dB of each layer's output, by recipe", ["layer", *(e["label"] for e in entries)], rows)


def _worst(entry: dict[str, Any]) -> str:
    inexact = [layer for layer in entry["layers"] if decibels(layer) != "inf"]
    worst = sorted(inexact, key=lambda layer: float(decibels(layer)))[:5]
    said = ", ".join(f"{escape(layer['name'])} ({decibels(layer)} dB)" for layer in worst)
    return f"<p>Lowest SQNR: {said or 'every layer is exact'}.</p>"


def _outputs(entry: dict[str, Any]) -> str:
    rows = [[o["name"], "x".join(map(str, o["shape"])), f"{o['cosine']:.4f}", _number(o["sqnr_db"], 1)]
            for o in entry["outputs"]]
    return _table("Outputs", ["output", "shape", "cosine", "SQNR dB"], rows) if len(rows) > 1 else ""


# Column: what it shows of a layer.
_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "layer": lambda x: x["name"], "operator": lambda x: x["op"], "geometry": lambda x: x["geometry"],
    "formats": lambda x: f"{', '.join(x['input_formats'])} to {x['format']}",
    "scale": lambda x: (f"{x['scale']:.4g}", x["scale"]), "zero point": lambda x: x["zero_point"],
    "m": lambda x: _ends(x["m"]), "shift": lambda x: _ends(x["shift"]), "MACs": lambda x: x["macs"],
    "weight bytes": lambda x: x["weight_bytes"],
    "sums seen": lambda x: _range(x["seen"]), "sums proven": lambda x: _range(x["proven"]),
    "headroom bits": lambda x: _number(x["headroom_bits"], 1),
    "clipped %": lambda x: _number(100 * x["saturated_fraction"]), "cosine": lambda x: f"{x['cosine']:.4f}",
    "SQNR dB": lambda x: _number(x["sqnr_db"], 1),
    "dead channels": lambda x: "-" if x["dead_channels"] is None else x["dead_channels"],
    "bias-limited": lambda x: x["bias_limited"]}


def _ends(value: Any) -> Any:
    if value is None:
        return "-"
    return (f"{value[0]}..{value[1]}", value[0]) if isinstance(value, list) else value


def _range(ends: list[int] | None) -> Any:
    return "-" if ends is None else (f"{ends[0]}..{ends[1]}", max(-ends[0], ends[1]))


def _layers(entry: dict[str, Any]) -> str:
    rows = [[show(layer) for show in _COLUMNS.values()] for layer in entry["layers"]]
    return _table("Layers; a click on a column's name sorts", list(_COLUMNS), rows, text=4)


def _layer(layer: dict[str, Any], weights: Mapping[str, np.ndarray], histograms: Histograms,
           ends: Mapping[str, tuple[float, float]]) -> str:
    plots = []
    if layer["name"] in weights:
        plots.append(_channel_bars(weights[layer["name"]], layer["name"]))
    if layer["output"] in histograms and layer["output"] in ends:
        plots.append(_histogram(*histograms[layer["output"]], ends[layer["output"]], layer["output"]))
    said = f"{escape(layer['name'])}: {escape(layer['op'])}, SQNR {_number(layer['sqnr_db'], 1)} dB"
    return f"<details><summary>{said}</summary>{''.join(plots)}</details>"


# --- plots --------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 190, 62, 34


def _frame(content: str, name: str, x_label: str, y_label: str, x_ends: tuple[str, str], y_ends: tuple[str, str]
           ) -> str:
    """A labelled frame around what is drawn between (_LEFT, 10) and (_WIDTH - 8, _HEIGHT - _BOTTOM)."""
    base, right = _HEIGHT - _BOTTOM, _WIDTH - 8
    text = "".join(f"<text x='{x}' y='{y}' text-anchor='{anchor}' font-size='11'{turn}>{escape(said)}</text>"
                   for x, y, anchor, said, turn in (
        (_LEFT, base + 13, "start", x_ends[0], ""), (right, base + 13, "end", x_ends[1], ""),
        ((_LEFT + right) / 2, _HEIGHT - 5, "middle", x_label, ""), (_LEFT - 4, base, "end", y_ends[0], ""),
        (_LEFT - 4, 18, "end", y_ends[1], ""),
        (12, base / 2, "middle", y_label, f" transform='rotate(-90 12 {base / 2})'")))
    said = f"{escape(name)}: {escape(y_label)} against {escape(x_label)}"
    size = f"width='{_WIDTH}' height='{_HEIGHT}' viewBox='0 0 {_WIDTH} {_HEIGHT}'"
    return (f"<svg role='img' {size} aria-label='{said}'>{content}"
            f"<path d='M{_LEFT} 10V{base}H{right}' fill='none' stroke='#111'/>{text}</svg>")


def _bars(heights: np.ndarray) -> str:
    """Bars from 0 to 1, side by side."""
    base, width = _HEIGHT - _BOTTOM, (_WIDTH - 8 - _LEFT) / len(heights)
    return "".join(
        f"<rect x='{_LEFT + k * width:.1f}' y='{base - h * (base - 10):.1f}' width='{max(width, 0.5):.2f}' "
        f"height='{h * (base - 10):.1f}' fill='#777'/>" for k, h in enumerate(heights) if h > 0)


def _channel_bars(reach: np.ndarray, name: str) -> str:
    """The largest weight of each output channel; of more than 256, of groups."""
    step = -(-len(reach) // 256)
    grouped = np.array([reach[k:k + step].max() for k in range(0, len(reach), step)], np.float64)
    top = float(grouped.max()) or 1.0
    label = "output channel" if step == 1 else f"output channels, {step} a bar"
    return _frame(_bars(grouped / top), f"weights of {name}", label, "max |w|", ("0", str(len(reach) - 1)),
                  ("0", f"{top:.3g}"))


def _histogram(counts: np.ndarray, edges: np.ndarray, ends: tuple[float, float], name: str) -> str:
    """Counts on a log scale, and dashed lines where the codes end."""
    heights = np.log10(counts + 1.0)
    base, span = _HEIGHT - _BOTTOM, float(edges[-1] - edges[0])
    lines = "".join(
        f"<line x1='{x:.1f}' x2='{x:.1f}' y1='10' y2='{base}' stroke='#111' stroke-dasharray='5 3'/>"
        for end in ends if math.isfinite(end) and edges[0] <= end <= edges[-1]
        for x in [_LEFT + (end - edges[0]) / span * (_WIDTH - 8 - _LEFT)])
    return _frame(_bars(heights / max(float(heights.max()), 1e-9)) + lines, f"output {name}",
                  f"value of {json.dumps(name, ensure_ascii=False)}; codes end at {ends[0]:.3g} and {ends[1]:.3g}",
                  "count, log", (f"{edges[0]:.3g}", f"{edges[-1]:.3g}"), ("0", str(int(counts.max()))))
