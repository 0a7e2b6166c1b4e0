"""``refquant quantize``: a network and data of one's own, its report, its files, and bad input."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from tools import require_module

import refquant
from refquant.cli import main
from refquant.commands.quantize import load_data
from refquant.integers.dialects import FORMULAS
from refquant.network.storage import load_quantized

onnx = require_module("onnx", "pip install 'refquant[onnx]'")

MADE_KEYS = {"recipe", "label", "weight_bits", "activation_bits", "granularity", "activations", "estimator", "widen",
             "layer_inputs", "accumulator_bits", "coupling", "shift_bits", "cross_layer_equalization",
             "correct_output_mean", "breakpoints", "match_moments", "dialect", "refquant", "model", "calibration"}
KEYS = MADE_KEYS | {"images", "float_top1", "simulated_top1", "integer_top1", "agreement", "cosine", "sqnr_db",
                    "codes_equal", "codes_equal_images", "weight_bytes", "seconds", "layers", "stages", "outputs",
                    "warnings"}
LAYER_KEYS = {"name", "op", "cosine", "sqnr_db", "weight_range_disparity", "dead_channels", "rescaled_channels",
              "saturated_fraction", "headroom_bits", "inputs", "output", "shape", "geometry", "input_formats",
              "format", "scale", "zero_point", "m", "shift", "macs", "weight_bytes", "bias_limited", "seen", "proven"}


def write_model(path, tail=("Flatten",)):
    """Conv 2->4 (channel 3 dead), ReLU, global average, and what is in ``tail``."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    weight[3] *= 1e-30
    arrays = {"w": weight, "b": rng.standard_normal(4).astype(np.float32)}
    nodes = [onnx.helper.make_node("Conv", ["x", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
             onnx.helper.make_node("Relu", ["conv"], ["relu"]),
             onnx.helper.make_node("GlobalAveragePool", ["relu"], ["mean"])]
    last = "mean"
    for op in tail:
        nodes.append(onnx.helper.make_node(op, [last], [op.lower()]))
        last = op.lower()
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("x", onnx.TensorProto.FLOAT, [1, 2, 6, 6])],
                                   [value(last, onnx.TensorProto.FLOAT, None)],
                                   [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def write_data(path, **changes):
    rng = np.random.default_rng(1)
    arrays = {"inputs": rng.standard_normal((40, 2, 6, 6)).astype(np.float32),
              "labels": rng.integers(0, 4, 40)} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.fixture
def files(tmp_path):
    return write_model(tmp_path / "model.onnx"), write_data(tmp_path / "data.npz")


def run(capsys, *arguments):
    code = main(["quantize", *map(str, arguments)])
    return code, capsys.readouterr()


def test_one_recipe_writes_the_documented_report_plots_and_a_network_that_loads(files, tmp_path, capsys):
    model, data = files
    code, said = run(capsys, model, data, "--recipe", "channelwise-int8", "--calibration-images", 10,
                     "--out", tmp_path / "out")
    assert code == 0 and "channelwise-int8" in said.out and said.err == ""
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["activations.png", "headroom.png", "network.npz", "report.html", "report.json",
                                       "sqnr.png", "weights.png"]
    report = json.loads((out / "report.json").read_text())
    assert (report["label"], report["weight_bits"], report["activation_bits"]) == ("channelwise-int8", 8, 8)
    assert (report["granularity"], report["activations"]) == ("channel", "unsigned")
    assert report["dialect"] == "single_round"
    assert report["calibration"] == {"source": "the first 10 inputs", "images": 10}
    assert report["model"] == {"file": "model.onnx", "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    assert report["refquant"] == refquant.__version__
    assert set(report["seconds"]) == {"search", "evaluation"} and min(report["seconds"].values()) >= 0
    for word in ("model.onnx", report["model"]["sha256"][:12], "10 images (the first 10 inputs)", "single_round",
                 refquant.__version__, "8/8", "channel", "unsigned"):
        assert word in said.out
    assert set(report) == KEYS and all(set(layer) == LAYER_KEYS for layer in report["layers"])
    assert report["codes_equal"] is True and report["images"] == report["codes_equal_images"] == 30
    assert report["integer_top1"] == report["simulated_top1"] and report["cosine"] > 0.99
    conv = report["layers"][0]
    assert (conv["name"], conv["op"], conv["dead_channels"]) == ("conv", "Conv", 1)
    assert conv["weight_range_disparity"] < 10, "the dead channel is not counted"
    assert report["weight_bytes"] == 4 * 2 * 9
    network = load_quantized(out / "network.npz")
    inputs, labels = (np.load(data)[name] for name in ("inputs", "labels"))
    logits = network.run(inputs[10:])
    assert 100 * (logits.argmax(axis=1) == labels[10:]).mean() == pytest.approx(report["integer_top1"])


def test_several_recipes_share_one_report_and_have_a_folder_each(files, tmp_path, capsys):
    code, said = run(capsys, *files, "--recipe", "max-int8", "--recipe", "channelwise-int8", "--recipe", "max-int8",
                     "--images", 5, "--calibration-images", 8, "--weight-bits", 4, "--activation-bits", 6, "--signed",
                     "--granularity", "channel", "--dialect", "m31,wrap,half_up,half_away", "--out", tmp_path / "out")
    assert code == 0, said.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [entry["recipe"] for entry in report["recipes"]] == ["max-int8", "channelwise-int8"]
    # What is not the recipe's default is in the name: channelwise-int8 at 4 and 6 bits is not int8.
    assert [entry["label"] for entry in report["recipes"]] == [
        "max-w4a6-channel-signed-gemmlowp_double", "channelwise-w4a6-signed-gemmlowp_double"]
    for entry in report["recipes"]:
        assert entry["images"] == 5 and entry["codes_equal"] is True and entry["label"] in said.out
        network = load_quantized(tmp_path / "out" / entry["label"] / "network.npz")
        assert network.dialect == "gemmlowp_double"
        assert {str(e.format) for e in network.qparams.values()} == {"int6 narrow"}
        assert str(network.layers[0].terms[0].weight_format) == "int4 narrow"
        assert network.layers[0].terms[0].multiplier.m.shape == (4,)


@pytest.mark.parametrize("arguments, checked, said_so", [
    ([], 100, "codes_equal compares the first 100"),
    (["--check-images", 7], 7, "codes_equal compares the first 7"),
    (["--check-images", "all"], 140, "codes_equal compares all"),
    (["--images", 60], 60, "codes_equal compares all")])
def test_the_first_hundred_images_are_simulated_unless_told_otherwise(arguments, checked, said_so, tmp_path, capsys):
    inputs = np.random.default_rng(3).standard_normal((150, 2, 6, 6)).astype(np.float32)
    data = write_data(tmp_path / "d.npz", inputs=inputs, labels=np.zeros(150, int))
    code, said = run(capsys, write_model(tmp_path / "m.onnx"), data, "--recipe", "max-int8",
                     "--calibration-images", 10, *arguments, "--out", tmp_path / "out")
    assert code == 0 and said_so in said.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["codes_equal"], report["codes_equal_images"]) == (True, checked)
    assert report["simulated_top1"] == (report["integer_top1"] if checked == report["images"] else None)


def test_two_workers_write_the_same_files(files, tmp_path, capsys):
    written = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        code, said = run(capsys, *files, "--recipe", "easyquant-int8", "--recipe", "tensorrt-int8",
                         "--calibration-images", 10, "--workers", workers, "--out", out)
        assert (code, said.err) == (0, "")
        report = json.loads((out / "report.json").read_text())
        for entry in report["recipes"]:
            del entry["seconds"]
        written.append((report, {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.[np]*"))
                                 if path.is_file() and path.suffix not in (".json", ".html")}))
    assert written[0] == written[1] and len(written[0][1]) == 10


KILLED = """
import contextlib, os, signal, sys
from refquant import cli, workers
class Watched(workers.ProcessPoolExecutor):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        cli._bar = lambda: contextlib.nullcontext(self.kill)
    def kill(self, step, *_):
        if step == sys.argv[1] and self._processes:
            os.kill(next(iter(self._processes)), signal.SIGTERM)
            sys.argv[1] = "once"
if __name__ == "__main__":
    workers.ProcessPoolExecutor = Watched
    sys.exit(cli.main(["quantize", *sys.argv[2:], "--workers", "2"]))
"""


@pytest.mark.parametrize("step, slices", [("calibration, extremes", "calibration"),
                                          ("calibration, histograms", "calibration"),
                                          ("inference and simulation", "evaluation")])
def test_a_worker_that_dies_is_one_sentence_and_nothing_is_written(step, slices, tmp_path):
    inputs = np.random.default_rng(3).standard_normal((70000, 2, 6, 6)).astype(np.float32)  # ten slices
    data = write_data(tmp_path / "d.npz", inputs=inputs, labels=None, calibration_inputs=inputs)
    (tmp_path / "script.py").write_text(KILLED)
    done = subprocess.run([sys.executable, tmp_path / "script.py", step, write_model(tmp_path / "m.onnx"), data,
                           "--recipe", "tensorrt-int8", "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert re.fullmatch(rf"refquant: workers must live to the end, got one that died; {slices} images \d+\.\.\d+ "
                        r"came to nothing\n", done.stderr), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_on_a_terminal_a_bar_tells_step_layer_and_the_time_left(files, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 110, 0, 0))
    arguments = ["--recipe", "max-int8", "--recipe", "easyquant-int8", "--calibration-images", "10",
                 "--check-images", "7", "--out", str(tmp_path / "out")]
    with subprocess.Popen([sys.executable, "-m", "refquant", "quantize", *map(str, files), *arguments],
                          stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(controller, 1 << 16)
            except OSError:  # the other end is closed
                break
    os.close(controller)
    assert process.returncode == 0
    text = shown.decode()
    for step in ("calibration, extremes", "search", "inference and simulation", "inference", "figures"):
        assert re.search(rf"{step}: +\d+%\|.*\| \d\d:\d\d, .* left, ", text), step
    assert re.search(r"[\r\n]30 images, float top-1 .*\r\n", text), "the table begins where the bar was"
    assert "easyquant-int8: search" in text and "left, conv" in text and "left, 30 images" in text


def test_without_labels_accuracies_are_null_and_calibration_inputs_leave_all_inputs_to_evaluate(tmp_path, capsys):
    model = write_model(tmp_path / "model.onnx", ("Flatten", "Softmax"))
    calibration = np.random.default_rng(2).standard_normal((50, 2, 6, 6)).astype(np.float32)
    data = write_data(tmp_path / "data.npz", labels=None, calibration_inputs=calibration)
    code, said = run(capsys, model, data, "--recipe", "max-int8", "--out", tmp_path / "out")
    assert code == 0, said.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["calibration"] == {"source": "calibration_inputs", "images": 50}
    assert report["float_top1"] is report["integer_top1"] is report["simulated_top1"] is None
    assert report["images"] == 40 and 0 <= report["agreement"] <= 100
    assert report["layers"][-1]["name"] == "flatten", "the softmax stays outside"


def test_a_bias_that_no_register_holds_lowers_its_channels_scale_and_says_so(tmp_path, capsys):
    """Folded MobileNets have channels of weights near 1e-7 of the layer's beside ordinary biases."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((4, 2, 3, 3)).astype(np.float32)
    weight[1] *= 2e-7  # alive: above 2^-24 of the largest
    model = write_model(tmp_path / "model.onnx")
    proto = onnx.load(model)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.full(4, 3.0, np.float32), "b"))
    model.write_bytes(proto.SerializeToString())
    data = write_data(tmp_path / "data.npz")
    code, said = run(capsys, model, data, "--recipe", "channelwise-int8", "--calibration-images", 10,
                     "--out", tmp_path / "out")
    assert code == 0, said.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["layers"][0]["dead_channels"], report["layers"][0]["rescaled_channels"]) == (0, 1)
    assert report["cosine"] > 0.99 and report["codes_equal"] is True
    network = load_quantized(tmp_path / "out" / "network.npz")
    assert network.layers[0].rescaled_channels == (1,)
    # The largest scale that fits: the next code up, of the bias or of a weight, would not.
    assert 2**31 - 1 - 256 < network.stages[0].max <= 2**31 - 1


def test_an_array_that_is_not_needed_is_ignored_by_name(files, tmp_path, capsys):
    model, _ = files
    data = write_data(tmp_path / "more.npz", lables=np.ones(40, int), note=np.array(["x", None], object))
    code, said = run(capsys, model, data, "--recipe", "max-int8", "--calibration-images", 10, "--out", tmp_path / "o")
    assert code == 0 and said.err == f"refquant: {data}: not needed, and not read: lables, note\n"


def test_the_report_is_written_before_a_figure_that_cannot_be_drawn(files, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no such colour")

    monkeypatch.setattr("refquant.commands.report.draw_layer_sqnr", fail)
    code, said = run(capsys, *files, "--recipe", "max-int8", "--calibration-images", 10, "--out", tmp_path / "out")
    assert code == 2 and said.err == "refquant: no such colour\n" and "float top-1" in said.out
    assert sorted(os.listdir(tmp_path / "out")) == ["network.npz", "report.html", "report.json"]
    assert load_quantized(tmp_path / "out" / "network.npz") and json.loads((tmp_path / "out/report.json").read_text())


@pytest.mark.parametrize("name, other", [("a$b$c", "$"), ("\\frac{", "conv\n1\x07"), ("层" * 30, "x" * 300)])
def test_names_from_a_strangers_file_are_drawn_as_they_stand(name, other, tmp_path, capsys):
    model = write_model(tmp_path / "model.onnx")
    proto = onnx.load(model)
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = name
    proto.graph.node[2].output[0] = proto.graph.node[3].input[0] = other
    model.write_bytes(proto.SerializeToString())
    data = write_data(tmp_path / "d.npz")
    code, said = run(capsys, model, data, "--recipe", "max-int8", "--calibration-images", 10,
                     "--out", tmp_path / "out")
    assert (code, said.err) == (0, "")
    layers = json.loads((tmp_path / "out" / "report.json").read_text())["layers"]
    assert [layer["name"] for layer in layers][:2] == [name, other]


def network_without_weights(path, *nodes):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [*nodes, onnx.helper.make_node("Flatten", ["y"], ["z"])], "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 2, 6, 6])], [value("z", onnx.TensorProto.FLOAT, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("op, options, absent", [
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {"weights.png"}),
    ("MaxPool", {"kernel_shape": [2, 2]}, {"weights.png", "headroom.png"}),
    ("Relu", {}, {"weights.png", "headroom.png"})])
def test_a_network_without_weights_is_taken(op, options, absent, tmp_path, capsys):
    model = network_without_weights(tmp_path / "m.onnx", onnx.helper.make_node(op, ["x"], ["y"], **options))
    data = write_data(tmp_path / "d.npz", labels=None)
    code, said = run(capsys, model, data, "--recipe", "max-int8", "--calibration-images", 10,
                     "--out", tmp_path / "out")
    assert (code, said.err) == (0, "")
    everything = {"activations.png", "headroom.png", "network.npz", "report.html", "report.json", "sqnr.png",
                  "weights.png"}
    assert set(os.listdir(tmp_path / "out")) == everything - absent


@pytest.mark.parametrize("inputs, shown", [(np.full((40, 2, 6, 6), 127), "inf"), (np.zeros((40, 2, 6, 6)), "inf")])
def test_a_network_without_any_error_has_an_infinite_sqnr(inputs, shown, tmp_path, capsys):
    model = network_without_weights(tmp_path / "m.onnx", onnx.helper.make_node("Relu", ["x"], ["y"]))
    data = write_data(tmp_path / "d.npz", labels=None, inputs=inputs.astype(np.float32))
    code, said = run(capsys, model, data, "--recipe", "max-int8", "--signed", "--calibration-images", 10,
                     "--out", tmp_path / "out")
    assert (code, said.err) == (0, "") and f" {shown} " in said.out
    # JSON knows no Infinity, which Python would read all the same.
    report = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["sqnr_db"] is report["layers"][0]["sqnr_db"] is None and report["cosine"] == 1.0


def test_a_search_without_weights_tells_its_progress(tmp_path):
    from refquant.readers.onnx_file import load_onnx

    network = load_onnx(network_without_weights(tmp_path / "m.onnx", onnx.helper.make_node("Relu", ["x"], ["y"])))
    told = []
    refquant.quantize_network(network, np.ones((2, 2, 6, 6), np.float32), "easyquant-int8",
                              progress=lambda *seen: told.append(seen))
    assert [seen[0] for seen in told if seen[0] == "search"] and all(0 <= seen[2] <= 1 for seen in told)


def started(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "refquant", *map(str, arguments)], text=True, capture_output=True,
                          **options)


def test_a_terminal_that_cannot_show_the_path_shows_its_escapes(files, tmp_path):
    done = started("quantize", *files, "--recipe", "max-int8", "--calibration-images", 10, "--out", tmp_path / "量化",
                   env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stderr) == (0, "") and "\\u91cf\\u5316" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_with_what_could_not_be_written(files, tmp_path):
    import resource

    done = started("quantize", *files, "--recipe", "max-int8", "--calibration-images", 10, "--out", tmp_path / "out",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert done.returncode == 2 and done.stderr == f"refquant: {tmp_path}/out/report.json: File too large\n"
    assert os.listdir(tmp_path / "out") == [], "nothing half-written"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "refquant", "dialects"], stdout=full, stderr=subprocess.PIPE,
                              text=True)
    assert (done.returncode, done.stderr) == (2, "refquant: standard output: No space left on device\n")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8, 1.5])
def test_an_interrupt_is_one_line_at_any_moment(delay, tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "refquant", "demo", "--out", str(tmp_path / "out")],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "refquant: interrupted\n") and not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupt_ends_the_workers_too_in_one_line(tmp_path):
    inputs = np.random.default_rng(3).standard_normal((70000, 2, 6, 6)).astype(np.float32)
    data = write_data(tmp_path / "d.npz", inputs=inputs, labels=None, calibration_inputs=inputs)
    arguments = [write_model(tmp_path / "m.onnx"), data, "--recipe", "tensorrt-int8", "--check-images", "all",
                 "--workers", "2", "--out", tmp_path / "out"]
    process = subprocess.Popen([sys.executable, "-m", "refquant", "quantize", *map(str, arguments)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)  # which waits for the workers: they hold its ends of the pipes
    assert (process.returncode, out, err) == (130, "", "refquant: interrupted\n") and not (tmp_path / "out").exists()


INTERRUPTED_WRITE = """
import os, signal, sys
from pathlib import Path
from refquant import cli
signal.signal(signal.SIGINT, cli.end_at_once)
rename = os.replace
def interrupted(*paths):
    os.kill(os.getpid(), signal.SIGINT)
    rename(*paths)
os.replace = interrupted
try:
    cli._write({"x": b"1"}, Path(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_an_interrupted_write_leaves_no_temporary_file(tmp_path):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_WRITE, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "") and os.listdir(tmp_path) == []


def test_dialects_prints_every_formula_and_help_points_to_it(capsys):
    assert main(["dialects"]) == 0
    text = capsys.readouterr().out
    for name, (formula, who) in FORMULAS.items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert formula in line and who in line
    with pytest.raises(SystemExit):
        main(["quantize", "--help"])
    assert "refquant dialects" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_bad_input_is_one_sentence_exit_code_2_and_leaves_nothing(files, tmp_path, capsys):
    model, data = files
    (tmp_path / "file").write_text("x")
    inputs = np.load(data)["inputs"]
    nan = inputs.copy()
    nan[30, 1, 2, 3] = np.nan

    def changed(name, **changes):
        return write_data(tmp_path / f"{name}.npz", **changes)

    def overflow(image):
        far = inputs.copy()
        far[image] = 3e38 * np.sign(far[image])
        return far

    huge, damaged = tmp_path / "huge.npz", tmp_path / "damaged.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 2, 6, 6)})
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("inputs.npy", header.getvalue())
    np.savez_compressed(damaged, inputs=inputs)
    content = bytearray(damaged.read_bytes())
    content[200:300] = bytes(100)
    damaged.write_bytes(content)
    out = ["--recipe", "max-int8", "--calibration-images", "10", "--out", str(tmp_path / "out")]
    for arguments, sentence in (
            ([tmp_path / "no.onnx", data, *out], "no.onnx"),
            ([tmp_path / "file", data, *out], "file"),
            ([model, tmp_path / "no.npz", *out], "no.npz must be readable, got: No such file or directory"),
            ([model, tmp_path / "file", *out], "must be an .npz file of plain arrays, got other content"),
            ([model, changed("a", inputs=None), *out],
             "must hold 'inputs', and may hold 'labels' and 'calibration_inputs', got labels"),
            ([model, changed("b", inputs=inputs[:, :1]), *out],
             "inputs must be float32 (N, 2, 6, 6), as the network reads them, got float32 (40, 1, 6, 6)"),
            ([model, changed("c", inputs=inputs.astype(float)), *out], "got float64 (40, 2, 6, 6)"),
            ([model, changed("d", inputs=nan), *out], "images must be finite, got NaN or infinity"),
            ([model, changed("e", labels=np.ones(40)), *out], "labels must hold 40 integers, got float64 (40,)"),
            ([model, changed("f", labels=np.ones(3, int)), *out], "labels must hold 40 integers, got int64 (3,)"),
            ([model, data, *out, "--calibration-images", "40"],
             "inputs must hold more than the 40 images that calibrate, got 40"),
            ([model, data, *out, "--calibration-images", "0"],
             "the number of calibration images must be >= 1, got 0"),
            ([model, data, *out, "--images", "31"], "inputs must hold 31 images to evaluate, got 30"),
            ([model, data, *out, "--check-images", "31"],
             "the number of images to check must be from 1 to the 30 that are evaluated, got 31"),
            ([model, data, *out, "--images", "5", "--check-images", "6"], "to the 5 that are evaluated, got 6"),
            ([model, data, *out, "--check-images", "0"], "to the 30 that are evaluated, got 0"),
            ([model, data, *out, "--workers", "0"], "workers must be an integer >= 1, got 0"),
            ([model, data, *out, "--workers", "-2"], "workers must be an integer >= 1, got -2"),
            ([model, changed("g", calibration_inputs=inputs[:3]), *out],
             "calibration_inputs must hold 10 images, got 3"),
            ([model, changed("h", labels=np.arange(40)), *out], "labels must be from 0 to 3, got 10..39"),
            ([model, changed("i", labels=np.array(None)), *out], "the array 'labels' of Python objects"),
            ([model, changed("j", inputs=overflow(4)), *out], "tensor 'conv' must stay finite in float32, got "),
            ([model, changed("k", inputs=overflow(4)), *out], "in calibration image 4"),
            ([model, changed("l", inputs=overflow(33)), *out], "in evaluation image 33"),
            ([model, huge, *out], "must be an .npz file of plain arrays, got other content"),
            ([model, damaged, *out], "must be an .npz file of plain arrays, got other content"),
            ([model, data, *out, "--activation-bits", "17"], "activation_bits must be from 2 to 16, got 17"),
            ([model, data, *out, "--weight-bits", "1"], "weight_bits must be from 2 to 16, got 1"),
            ([model, data, *out[:-1], tmp_path / "file"], "the output directory must be writable")):
        code, said = run(capsys, *arguments)
        assert code == 2 and said.out == "", arguments
        assert sentence in said.err and said.err.count("\n") == 1, said.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, sentence", [
    (["--recipe", "magic", "--out", "o"], "argument --recipe: invalid choice: 'magic'"),
    (["--out", "o"], "the following arguments are required: --recipe"),
    (["--recipe", "max-int8"], "the following arguments are required: --out"),
    (["--recipe", "max-int8", "--out", "o", "--signed", "--unsigned"], "not allowed with argument --signed"),
    (["--recipe", "max-int8", "--out", "o", "--dialect", "banker"], "argument --dialect: dialect must be a name"),
    (["--recipe", "max-int8", "--out", "o", "--check-images", "some"],
     "must be a number of images, or all, got some"),
    (["--recipe", "max-int8", "--out", "o", "--workers", "two"], "argument --workers: invalid int value: 'two'"),
])
def test_bad_options_are_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["quantize", "m.onnx", "d.npz", *arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and sentence in said.err and said.err.count("\n") == 1


def test_several_outputs_of_any_shape_are_evaluated_together(files, tmp_path, capsys):
    model, _ = files
    data = write_data(tmp_path / "d.npz", labels=None)
    code, said = run(capsys, model, data, "--recipe", "max-int8", "--calibration-images", 10, "--output", "relu",
                     "--output", "mean", "--export-onnx", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (code, said.err) == (0, "") and "Outputs\n\nrecipe" in said.out
    assert [(one["name"], one["shape"]) for one in report["outputs"]] == [("relu", [4, 6, 6]), ("mean", [4, 1, 1])]
    assert report["agreement"] is None and report["outputs"][0]["cosine"] == pytest.approx(report["cosine"], abs=1e-9)
    assert load_quantized(tmp_path / "out" / "network.npz").outputs == ("relu", "mean")
    exported = onnx.load(tmp_path / "out" / "network.onnx")
    assert [one.name for one in exported.graph.output] == ["relu", "mean"]
    labelled = write_data(tmp_path / "labelled.npz")
    code, said = run(capsys, model, labelled, "--recipe", "max-int8", "--calibration-images", 10, "--output", "relu",
                     "--out", tmp_path / "no")
    assert code == 2 and said.err.endswith("one row of logits per image, got shape (N, 4, 6, 6)\n")
    assert not (tmp_path / "no").exists()


def test_help_lists_every_recipe_with_its_source(capsys):
    with pytest.raises(SystemExit):
        main(["quantize", "--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "max-int8: max-scaling, one weight scale per layer (EasyQuant Eq. 1)" in text
    assert "channelwise-int8: max-scaling" in text


def test_the_missing_onnx_package_is_told_in_a_sentence(files, tmp_path):
    model, data = files
    script = ("import sys; sys.modules['onnx'] = None; from refquant.cli import main;"
              f"sys.exit(main(['quantize', {str(model)!r}, {str(data)!r}, '--recipe', 'max-int8', '--out', 'o']))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "pip install 'refquant[onnx]'" in done.stderr and "Traceback" not in done.stderr


def test_calibration_inputs_calibrate_all_unless_told_otherwise(tmp_path):
    calibration = np.random.default_rng(2).standard_normal((70, 2, 6, 6)).astype(np.float32)
    path = write_data(tmp_path / "data.npz", calibration_inputs=calibration)
    assert np.array_equal(load_data(path, (2, 6, 6)).calibration, calibration)
    assert np.array_equal(load_data(path, (2, 6, 6), 12).calibration, calibration[:12])
    assert len(load_data(path, (2, 6, 6), 12).images) == 40


def test_data_is_split_as_documented(tmp_path):
    path = write_data(tmp_path / "data.npz")
    inputs, labels = np.load(path)["inputs"], np.load(path)["labels"]
    data = load_data(path, (2, 6, 6), 7, 20)
    assert np.array_equal(data.calibration, inputs[:7])
    assert np.array_equal(data.images, inputs[7:27]) and np.array_equal(data.labels, labels[7:27])
