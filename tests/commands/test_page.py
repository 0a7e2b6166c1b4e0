"""``report.html`` in a real browser: it opens without errors, sorts, and shows every layer."""
from __future__ import annotations

import json
import re
import subprocess
from html import unescape

import numpy as np
import pytest
from terminal import run, write_data, write_model
from tools import require_tool

from refquant.cli import main
from refquant.commands.layers import input_warnings, json_text
from refquant.commands.page import _worst
from refquant.network.graph import BatchNorm, Conv, Network

# What a visitor would do, done by the page itself; what came of it, and every error, goes into the title.
CLICKS = """
<script>
var errors = [];
window.addEventListener("error", function (event) { errors.push(event.message); });
window.addEventListener("load", function () {
  var table = Array.from(document.querySelectorAll("table.sortable")).find(function (t) {
    return t.caption.textContent.indexOf("Layers") === 0; });
  function column(name) {
    var heads = Array.from(table.tHead.rows[0].cells);
    var index = heads.findIndex(function (h) { return h.textContent === name; });
    heads[index].querySelector("button").click();
    return Array.from(table.tBodies[0].rows).map(function (row) { return row.cells[index].textContent; });
  }
  var up = column("SQNR dB"), down = column("SQNR dB"), names = column("layer");
  document.querySelectorAll("details").forEach(function (d) { d.querySelector("summary").click(); });
  var opened = document.querySelectorAll("details[open]").length, plots = 0;
  document.querySelectorAll("svg").forEach(function (svg) { plots += svg.getBoundingClientRect().height > 50; });
  document.body.setAttribute("data-found", JSON.stringify({up: up, down: down, names: names, opened: opened,
    plots: plots, errors: errors, wide: document.documentElement.scrollWidth - window.innerWidth}));
});
</script></body>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    model, data = write_model(folder / "a<b>&'.onnx"), write_data(folder / "d.npz")
    assert main(["quantize", str(model), str(data), "--recipe", "max-int8", "--recipe", "channelwise-int8",
                 "--calibration-images", "10", "--out", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


def in_browser(path, tmp_path):
    """What the page's visitor found."""
    browser = require_tool("chromium", "apt install chromium")
    visited = tmp_path / "visited.html"
    visited.write_text(path.read_text(encoding="utf-8").replace("</body>", CLICKS), encoding="utf-8")
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
                           f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", visited.as_uri()],
                          capture_output=True, text=True, timeout=120)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))


def test_a_browser_opens_it_sorts_it_and_sees_every_plot(page, tmp_path):
    found = in_browser(page, tmp_path)
    layers = json.loads((page.parent / "report.json").read_text())["recipes"][0]["layers"]
    assert found["errors"] == [] and found["wide"] <= 0
    up, down = ([float(v) for v in found[way] if v != "-"] for way in ("up", "down"))
    assert up == sorted(up) and down == sorted(down, reverse=True) and len(up) > 1
    assert sorted(found["names"]) == sorted(layer["name"] for layer in layers)
    assert found["opened"] == 2 * len(layers)
    assert found["plots"] == 2 * (len(layers) + 1), "a histogram each, and weights of the one convolution"


def test_it_refers_to_nothing_outside_escapes_names_and_says_what_layers_are(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|@import|url\(|https?://", text)
    assert "a&lt;b&gt;&amp;&#x27;.onnx" in text and "a<b>" not in text
    for column in ("geometry", "MACs", "sums proven", "headroom bits", "clipped %", "dead channels", "bias-limited"):
        assert f">{column}<" in text
    first = json.loads((page.parent / "report.json").read_text())["recipes"][0]["layers"][0]
    assert (first["geometry"], first["macs"], first["weight_bytes"]) == ("3x3 p1", 4 * 36 * 18, 72)
    assert first["shape"] == [4, 6, 6] and first["input_formats"] == ["int8 narrow"] and first["format"] == "uint8"
    assert first["proven"][0] <= first["seen"][0] <= first["seen"][1] <= first["proven"][1]


def test_infinite_decibels_are_null_in_json_and_an_output_without_signal_is_the_worst():
    assert json.loads(json_text({"a": float("inf"), "b": [float("nan"), 1.5]})) == {"a": None, "b": [None, 1.5]}
    layers = [{"name": name, "sqnr_db": sqnr, "cosine": cosine}
              for name, sqnr, cosine in (("exact", None, 1), ("near", 30.0, 0.9), ("gone", None, 0.0))]
    assert "gone (-inf dB), near (30.0 dB)." in _worst({"layers": layers})
    assert "every layer is exact" in _worst({"layers": layers[:1]})


def test_inputs_that_were_not_preprocessed_are_told(tmp_path, capsys):
    inputs = np.random.default_rng(1).normal(size=(40, 2, 6, 6)).astype("f4")
    data = write_data(tmp_path / "d.npz", inputs=99 * inputs, calibration_inputs=inputs)
    code, _, said = run(capsys, "quantize", write_model(tmp_path / "m.onnx"), data, "--recipe", "max-int8", "--out",
                        tmp_path / "o")
    assert code == 0 and re.match(r"refquant: warning: evaluation inputs from -[\d.]+ to [\d.]+, calibration inputs "
                                  r"from -[\d.]+ to [\d.]+: were both preprocessed alike\?\n", said)
    assert "were both preprocessed alike?" in (tmp_path / "o" / "report.html").read_text()
    one = np.ones(2)
    network = Network((2, 6, 6), [Conv("c", "input", np.eye(2).reshape(2, 2, 1, 1)),
                                  BatchNorm("n", "c", one, one, one, one)])
    assert input_warnings(network, inputs, inputs) == []
    (told,) = input_warnings(network, 255 * inputs, 255 * inputs)
    assert told.startswith("inputs look unprocessed: at 'n' the median channel is 239 times")
