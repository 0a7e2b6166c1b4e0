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
from terminal import printed, refused, run, write_data, write_model
from tools import require_module

import refquant
from refquant.commands.quantize import load_data
from refquant.integers.dialects import FORMULAS
from refquant.network import forward
from refquant.network.storage import load_quantized

onnx = require_module("onnx", "pip install 'refquant[onnx]'")

KEYS = set("""recipe label weight_bits activation_bits granularity activations estimator widen layer_inputs
    accumulator_bits coupling shift_bits cross_layer_equalization correct_output_mean breakpoints match_moments
    dialect refquant model calibration images float_top1 simulated_top1 integer_top1 agreement cosine sqnr_db
    codes_equal codes_equal_images weight_bytes seconds layers stages outputs warnings""".split())
LAYER_KEYS = set("""name op cosine sqnr_db weight_range_disparity dead_channels rescaled_channels saturated_fraction
    headroom_bits inputs output shape geometry input_formats format scale zero_point m shift macs weight_bytes
    bias_limited seen proven""".split())
FILES = {"activations.png", "headroom.png", "network.npz", "report.html", "report.json", "sqnr.png", "weights.png"}
MAX = ["--recipe", "max-int8", "--calibration-images", "10"]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and terminals")


@pytest.fixture
def files(tmp_path):
    return write_model(tmp_path / "model.onnx"), write_data(tmp_path / "data.npz")


@pytest.fixture
def undrawn(monkeypatch):
    """Without pictures, which take most of a small network's time."""
    monkeypatch.setattr("refquant.commands.report.png", lambda figure: b"")


def report_in(folder):
    """JSON knows no Infinity, which Python would read all the same."""
    return json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)


def started(*arguments, **options):
    return subprocess.run([sys.executable, *map(str, arguments)], text=True, capture_output=True, **options)


def test_one_recipe_writes_the_documented_report_plots_and_a_network_that_loads(files, tmp_path, capsys):
    model, data = files
    out = tmp_path / "out"
    text = printed(capsys, "quantize", *files, "--recipe", "channelwise-int8", "--calibration-images", 10, "--out",
                   out)
    assert set(os.listdir(out)) == FILES
    report = report_in(out)
    assert set(report) == KEYS and all(set(layer) == LAYER_KEYS for layer in report["layers"])
    expected = {"label": "channelwise-int8", "weight_bits": 8, "activation_bits": 8, "granularity": "channel",
                "activations": "unsigned", "dialect": "single_round", "refquant": refquant.__version__,
                "calibration": {"source": "the first 10 inputs", "images": 10}, "weight_bytes": 4 * 2 * 9,
                "model": {"file": "model.onnx", "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
                "codes_equal": True, "images": 30, "codes_equal_images": 30, "warnings": []}
    assert {name: report[name] for name in expected} == expected
    assert set(report["seconds"]) == {"search", "evaluation"} and min(report["seconds"].values()) >= 0
    for word in ("channelwise-int8", "model.onnx", report["model"]["sha256"][:12], "10 images (the first 10 inputs)",
                 "single_round", refquant.__version__, "8/8", "channel", "unsigned"):
        assert word in text
    conv = report["layers"][0]
    assert (conv["name"], conv["op"], conv["dead_channels"]) == ("conv", "Conv", 1)
    assert conv["weight_range_disparity"] < 10, "the dead channel is not counted"
    inputs, labels = (np.load(data)[name] for name in ("inputs", "labels"))
    logits = load_quantized(out / "network.npz").run(inputs[10:])
    top1 = 100 * (logits.argmax(axis=1) == labels[10:]).mean()
    assert report["integer_top1"] == report["simulated_top1"] == pytest.approx(top1) and report["cosine"] > 0.99


@pytest.mark.usefixtures("undrawn")
def test_several_recipes_share_one_report_and_have_a_folder_each(files, tmp_path, capsys):
    text = printed(capsys, "quantize", *files, "--recipe", "max-int8", "--recipe", "channelwise-int8", "--recipe",
                   "max-int8", "--images", 5, "--calibration-images", 8, "--weight-bits", 4, "--activation-bits", 6,
                   "--signed", "--granularity", "channel", "--dialect", "m31,wrap,half_up,half_away", "--out",
                   tmp_path / "out")
    entries = report_in(tmp_path / "out")["recipes"]
    assert [entry["recipe"] for entry in entries] == ["max-int8", "channelwise-int8"]
    # What is not the recipe's default is in the name: channelwise-int8 at 4 and 6 bits is not int8.
    assert [entry["label"] for entry in entries] == [
        "max-w4a6-channel-signed-gemmlowp_double", "channelwise-w4a6-signed-gemmlowp_double"]
    for entry in entries:
        assert entry["images"] == 5 and entry["codes_equal"] is True and entry["label"] in text
        network = load_quantized(tmp_path / "out" / entry["label"] / "network.npz")
        assert network.dialect == "gemmlowp_double"
        assert {str(e.format) for e in network.qparams.values()} == {"int6 narrow"}
        assert str(network.layers[0].terms[0].weight_format) == "int4 narrow"
        assert network.layers[0].terms[0].multiplier.m.shape == (4,)


@pytest.mark.parametrize("arguments, checked, said_so", [
    ([], 100, "codes_equal compares the first 100"),
    (["--check-images", "all", "--images", 120], 120, "codes_equal compares all")])
@pytest.mark.usefixtures("undrawn")
def test_the_first_hundred_images_are_simulated_unless_told_otherwise(arguments, checked, said_so, tmp_path, capsys):
    inputs = np.random.default_rng(3).standard_normal((140, 2, 6, 6)).astype(np.float32)
    data = write_data(tmp_path / "d.npz", inputs=inputs, labels=np.zeros(140, int))
    assert said_so in printed(capsys, "quantize", write_model(tmp_path / "m.onnx"), data, *MAX, *arguments, "--out",
                              tmp_path / "out")
    report = report_in(tmp_path / "out")
    assert (report["codes_equal"], report["codes_equal_images"]) == (True, checked)
    assert report["simulated_top1"] == (report["integer_top1"] if checked == report["images"] else None)


def test_data_is_split_as_documented(tmp_path):
    def loaded(*options):
        return load_data(path, (2, 6, 6), *options)

    path = write_data(tmp_path / "data.npz")
    with pytest.raises(ValueError, match=r"^inputs must hold more than the 50 images that calibrate, got 40$"):
        loaded()
    inputs, labels = np.load(path)["inputs"], np.load(path)["labels"]
    data = loaded(7, 20, 6)
    assert np.array_equal(data.calibration, inputs[:7]) and (data.first, data.simulated) == (7, 6)
    assert np.array_equal(data.images, inputs[7:27]) and np.array_equal(data.labels, labels[7:27])
    calibration = np.random.default_rng(2).standard_normal((70, 2, 6, 6)).astype(np.float32)
    path = write_data(tmp_path / "data.npz", calibration_inputs=calibration)
    assert np.array_equal(loaded().calibration, calibration)
    assert np.array_equal(loaded(12).calibration, calibration[:12]) and len(loaded(12).images) == 40


def test_two_workers_write_the_same_files(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(forward, "SLICE_ELEMENTS", 2000)  # several slices
    written = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        printed(capsys, "quantize", *files, "--recipe", "easyquant-int8", "--recipe", "tensorrt-int8",
                "--calibration-images", 20, "--check-images", 7, "--workers", workers, "--out", out)
        report = report_in(out)
        for entry in report["recipes"]:
            del entry["seconds"]
        written.append((report, {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.[np]*"))}))
    assert written[0] == written[1] and len(written[0][1]) == 10


KILLED = """
import contextlib, os, signal, sys
from refquant import cli, workers
from refquant.network import forward
forward.SLICE_ELEMENTS = 10000
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


@pytest.mark.parametrize("step, slices", [("calibration, histograms", "calibration"),
                                          ("inference and simulation", "evaluation")])
def test_a_worker_that_dies_is_one_sentence_and_nothing_is_written(step, slices, tmp_path):
    inputs = np.random.default_rng(3).standard_normal((3000, 2, 6, 6)).astype(np.float32)
    data = write_data(tmp_path / "d.npz", inputs=inputs, labels=None, calibration_inputs=inputs)
    (tmp_path / "script.py").write_text(KILLED)
    done = started(tmp_path / "script.py", step, write_model(tmp_path / "m.onnx"), data, "--recipe", "tensorrt-int8",
                   "--check-images", "all", "--out", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert re.fullmatch(r"refquant: workers must live to the end, got one that died; the result of "
                        rf"{slices} images \d+\.\.\d+ is lost\n", done.stderr), done.stderr


@posix
def test_on_a_terminal_a_bar_tells_step_layer_and_the_time_left(files, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 110, 0, 0))
    arguments = [*MAX, "--recipe", "easyquant-int8", "--check-images", "7", "--out", str(tmp_path / "out")]
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


@pytest.mark.usefixtures("undrawn")
def test_without_labels_accuracies_are_null_and_calibration_inputs_leave_all_inputs_to_evaluate(tmp_path, capsys):
    nodes = [("GlobalAveragePool", ["x"], "mean", {}), ("Flatten", ["mean"], "flat", {}),
             ("Softmax", ["flat"], "softmax", {})]
    data = write_data(tmp_path / "data.npz", labels=None, calibration_inputs=np.ones((50, 2, 6, 6), np.float32))
    printed(capsys, "quantize", write_model(tmp_path / "model.onnx", nodes), data, "--recipe", "max-int8", "--out",
            tmp_path / "out")
    report = report_in(tmp_path / "out")
    assert report["calibration"] == {"source": "calibration_inputs", "images": 50}
    assert report["float_top1"] is report["integer_top1"] is report["simulated_top1"] is None
    assert report["images"] == 40 and 0 <= report["agreement"] <= 100
    assert report["layers"][-1]["name"] == "flat", "the softmax stays outside"


@pytest.mark.usefixtures("undrawn")
def test_several_outputs_of_any_shape_are_evaluated_together(files, tmp_path, capsys):
    model, labelled = files
    data = write_data(tmp_path / "d.npz", labels=None)
    text = printed(capsys, "quantize", model, data, *MAX, "--output", "relu", "--output", "mean", "--export-onnx",
                   "--out", tmp_path / "out")
    report = report_in(tmp_path / "out")
    assert "Outputs\n\nrecipe" in text
    assert [(one["name"], one["shape"]) for one in report["outputs"]] == [("relu", [4, 6, 6]), ("mean", [4, 1, 1])]
    assert report["agreement"] is None and report["outputs"][0]["cosine"] == pytest.approx(report["cosine"], abs=1e-9)
    assert load_quantized(tmp_path / "out" / "network.npz").outputs == ("relu", "mean")
    exported = onnx.load(tmp_path / "out" / "network.onnx")
    assert [one.name for one in exported.graph.output] == ["relu", "mean"]
    for options, label in ((["--recipe", "pwlq-w4a8", *MAX[2:]], "pwlq-w4a8"),
                           ([*MAX, "--weight-bits", "12"], "max-w12a8")):
        said = refused(capsys, "quantize", model, data, *options, "--export-onnx", "--out", tmp_path / "no")
        assert said.endswith(f"uniform codes of at most 8 bits and one sum per layer, got recipe {label}\n")
    said = refused(capsys, "quantize", model, data, "--recipe", "tensorrt-int7", "--recipe", "tensorrt-int8",
                   *MAX[2:], "--weight-bits", "6", "--activation-bits", "6", "--out", tmp_path / "no")
    assert said.endswith("recipes must differ under the options given, got tensorrt-w6a6, tensorrt-w6a6\n")
    said = refused(capsys, "quantize", model, labelled, *MAX, "--output", "relu", "--out", tmp_path / "no")
    assert said.endswith("one row of logits per image, got shape (N, 4, 6, 6)\n") and not (tmp_path / "no").exists()


@pytest.mark.usefixtures("undrawn")
def test_an_array_that_is_not_needed_is_ignored_by_name(files, tmp_path, capsys):
    data = write_data(tmp_path / "more.npz", lables=np.ones(40, int), note=np.array(["x", None], object))
    code, _, said = run(capsys, "quantize", files[0], data, *MAX, "--out", tmp_path / "o")
    assert (code, said) == (0, f"refquant: {data}: not needed, and not read: lables, note\n")


@pytest.mark.usefixtures("undrawn")
def test_the_report_is_written_before_a_figure_that_cannot_be_drawn(files, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("no such colour")

    monkeypatch.setattr("refquant.commands.report.draw_layer_sqnr", fail)
    code, out, said = run(capsys, "quantize", *files, *MAX, "--out", tmp_path / "out")
    assert (code, said) == (2, "refquant: no such colour\n") and "float top-1" in out
    assert set(os.listdir(tmp_path / "out")) == {"network.npz", "report.html", "report.json"}


def test_names_from_a_strangers_file_are_drawn_as_they_stand(tmp_path, capsys):
    names = ["a$b$c", "$\\frac{$", "\\frac{", "conv\n1\x07", "层" * 30, "x" * 300]
    nodes = [("MaxPool", ["x"], names[0], {"kernel_shape": [2, 2]}), ("Conv", [names[0], "w"], names[1], {}),
             ("MaxPool", [names[1]], names[2], {"kernel_shape": [1, 2]}),
             ("MaxPool", [names[2]], names[3], {"kernel_shape": [2, 1]}),
             ("GlobalAveragePool", [names[3]], names[4], {}), ("Flatten", [names[4]], names[5], {})]
    printed(capsys, "quantize", write_model(tmp_path / "m.onnx", nodes), write_data(tmp_path / "d.npz"), *MAX,
            "--out", tmp_path / "out")
    assert [layer["name"] for layer in report_in(tmp_path / "out")["layers"]] == names


@pytest.mark.parametrize("op, options, absent", [
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}, {"weights.png"}),
    ("MaxPool", {"kernel_shape": [2, 2]}, {"weights.png", "headroom.png"}),
    ("Relu", {}, {"weights.png", "headroom.png"})])
def test_a_network_without_weights_is_taken_and_without_any_error_its_sqnr_is_infinite(op, options, absent, tmp_path,
                                                                                       capsys):
    model = write_model(tmp_path / "m.onnx", [(op, ["x"], "y", options), ("Flatten", ["y"], "z", {})])
    for value in (127, 0):
        data = write_data(tmp_path / "d.npz", labels=None, inputs=np.full((40, 2, 6, 6), value, np.float32))
        out = tmp_path / str(value)
        assert " inf " in printed(capsys, "quantize", model, data, *MAX, "--signed", "--out", out)
        assert set(os.listdir(out)) == FILES - absent
        report = report_in(out)
        assert report["sqnr_db"] is report["layers"][0]["sqnr_db"] is None and report["cosine"] == 1.0


def test_a_search_without_weights_tells_its_progress(tmp_path):
    from refquant.readers.onnx_file import load_onnx

    model = write_model(tmp_path / "m.onnx", [("Relu", ["x"], "y", {}), ("Flatten", ["y"], "z", {})])
    told = []
    refquant.quantize_network(load_onnx(model), np.ones((2, 2, 6, 6), np.float32), "easyquant-int8",
                              progress=lambda *seen: told.append(seen))
    assert [seen[0] for seen in told if seen[0] == "search"] and all(0 <= seen[2] <= 1 for seen in told)


def test_a_terminal_that_cannot_show_the_path_shows_its_escapes(files, tmp_path):
    done = started("-m", "refquant", "quantize", *files, *MAX, "--out", tmp_path / "量化",
                   env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stderr) == (0, "") and "\\u91cf\\u5316" in done.stdout


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_with_what_could_not_be_written(files, tmp_path):
    import resource

    done = started("-m", "refquant", "quantize", *files, *MAX, "--out", tmp_path / "out",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert (done.returncode, done.stderr) == (2, f"refquant: {tmp_path}/out/report.json: File too large\n")
    assert os.listdir(tmp_path / "out") == [], "nothing half-written"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "refquant", "dialects"], stdout=full, stderr=subprocess.PIPE,
                              text=True)
    assert (done.returncode, done.stderr) == (2, "refquant: standard output: No space left on device\n")


def interrupted(delay, out, *arguments):
    """One line and exit code 130, and nothing is written."""
    process = subprocess.Popen([sys.executable, "-m", "refquant", *map(str, arguments), "--out", out],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)  # which waits for workers too: they hold its ends of the pipes
    return (process.returncode, *said) == (130, "", "refquant: interrupted\n") and not out.exists()


@posix
@pytest.mark.parametrize("delay", [0.15, 0.5, 1.2])
def test_an_interrupt_is_one_line_at_any_moment(delay, tmp_path):
    assert interrupted(delay, tmp_path / "out", "demo")


@posix
def test_an_interrupt_ends_the_workers_too_in_one_line(tmp_path):
    inputs = np.random.default_rng(3).standard_normal((70000, 2, 6, 6)).astype(np.float32)
    data = write_data(tmp_path / "d.npz", inputs=inputs, labels=None, calibration_inputs=inputs)
    assert interrupted(2.5, tmp_path / "out", "quantize", write_model(tmp_path / "m.onnx"), data, "--recipe",
                       "tensorrt-int8", "--check-images", "all", "--workers", "2")


INTERRUPTED_WRITE = """
import os, signal, sys
from pathlib import Path
from refquant import cli, interrupts
signal.signal(signal.SIGINT, interrupts.end_at_once)
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


@posix
def test_an_interrupted_write_leaves_no_temporary_file(tmp_path):
    done = started("-c", INTERRUPTED_WRITE, tmp_path)
    assert (done.returncode, done.stderr) == (7, "") and os.listdir(tmp_path) == []


def test_dialects_prints_every_formula_and_help_points_to_it_and_lists_every_recipe(capsys):
    lines = printed(capsys, "dialects").splitlines()
    for name, (formula, who) in FORMULAS.items():
        line = next(line for line in lines if line.startswith(name))
        assert formula in line and who in line
    text = re.sub(r"\s+", " ", printed(capsys, "quantize", "--help"))
    assert "refquant dialects" in text and "channelwise-int8: max-scaling" in text
    assert "max-int8: max-scaling, one weight scale per layer (EasyQuant Eq. 1)" in text


def test_bad_input_is_one_sentence_and_leaves_nothing(files, tmp_path, capsys):
    model, data = files
    (tmp_path / "file").write_text("x")
    inputs = np.load(data)["inputs"]
    nan = inputs.copy()
    nan[30, 1, 2, 3] = np.nan

    def changed(**changes):
        return [model, write_data(tmp_path / "changed.npz", **changes)]

    def overflow(image):
        far = inputs.copy()
        far[image] = 3e38 * np.sign(far[image])
        return changed(inputs=far)

    huge, damaged = tmp_path / "huge.npz", tmp_path / "damaged.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 2, 6, 6)})
    with zipfile.ZipFile(huge, "w") as archive:
        archive.writestr("inputs.npy", header.getvalue())
    np.savez_compressed(damaged, inputs=inputs)
    content = bytearray(damaged.read_bytes())
    content[200:300] = bytes(100)
    damaged.write_bytes(content)
    for arguments, sentence in (
            (lambda: [tmp_path / "no.onnx", data], "no.onnx"),
            (lambda: [tmp_path / "file", data], "file"),
            (lambda: [model, tmp_path / "no.npz"], "no.npz must be readable, got: No such file or directory"),
            *((lambda path=path: [model, path], "must be an .npz file of plain arrays, got other content")
              for path in (tmp_path / "file", huge, damaged)),
            (lambda: changed(inputs=None),
             "must hold 'inputs', and may hold 'labels' and 'calibration_inputs', got labels"),
            (lambda: changed(inputs=inputs[:, :1]),
             "inputs must be float32 (N, 2, 6, 6), as the network reads them, got float32 (40, 1, 6, 6)"),
            (lambda: changed(inputs=inputs.astype(float)), "got float64 (40, 2, 6, 6)"),
            (lambda: changed(inputs=nan), "inputs must be finite, got NaN or infinity"),
            (lambda: changed(labels=np.ones(40)), "labels must hold 40 integers, got float64 (40,)"),
            (lambda: changed(labels=np.ones(3, int)), "labels must hold 40 integers, got int64 (3,)"),
            (lambda: changed(labels=np.arange(40)), "labels must be from 0 to 3, got 10..39"),
            (lambda: changed(labels=np.array(None)), "the array 'labels' of Python objects"),
            (lambda: changed(calibration_inputs=inputs[:3]), "calibration_inputs must hold 10 images, got 3"),
            (lambda: overflow(4), "tensor 'conv' must stay finite in float32, got "),
            (lambda: overflow(4), "in calibration image 4"), (lambda: overflow(33), "in evaluation image 33"),
            *((lambda options=options: [model, data, *options], sentence) for options, sentence in (
                (["--calibration-images", 40], "inputs must hold more than the 40 images that calibrate, got 40"),
                (["--calibration-images", 0], "the number of calibration images must be >= 1, got 0"),
                (["--images", 31], "inputs must hold 31 images to evaluate, got 30"),
                (["--check-images", 31],
                 "the number of images to check must be from 1 to the 30 that are evaluated, got 31"),
                (["--images", 5, "--check-images", 6], "to the 5 that are evaluated, got 6"),
                (["--check-images", 0], "to the 30 that are evaluated, got 0"),
                (["--workers", -2], "workers must be an integer >= 1, got -2"),
                (["--activation-bits", 17], "activation_bits must be from 2 to 16, got 17"),
                (["--weight-bits", 1], "weight_bits must be from 2 to 16, got 1"),
                (["--out", tmp_path / "file"], "the output directory must be writable")))):
        assert sentence in refused(capsys, "quantize", *MAX, "--out", tmp_path / "out", *arguments())
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments, sentence", [
    (["--recipe", "magic", "--out", "o"], "argument --recipe: invalid choice: 'magic'"),
    (["--out", "o"], "the following arguments are required: --recipe"),
    (["--recipe", "max-int8"], "the following arguments are required: --out"),
    (["--recipe", "max-int8", "--out", "o", "--signed", "--unsigned"], "not allowed with argument --signed"),
    (["--recipe", "max-int8", "--out", "o", "--dialect", "banker"], "argument --dialect: dialect must be a name"),
    (["--recipe", "max-int8", "--out", "o", "--check-images", "some"],
     "must be a number of images, or all, got some"),
    (["--recipe", "max-int8", "--out", "o", "--workers", "two"], "argument --workers: invalid int value: 'two'")])
def test_bad_options_are_one_sentence(arguments, sentence, capsys):
    assert sentence in refused(capsys, "quantize", "m.onnx", "d.npz", *arguments)


def test_the_missing_onnx_package_is_told_in_a_sentence(files, tmp_path):
    done = started("-c", "import sys; sys.modules['onnx'] = None; from refquant.cli import main; sys.exit(main())",
                   "quantize", *files, *MAX, "--out", tmp_path / "o")
    assert done.returncode == 2 and "pip install 'refquant[onnx]'" in done.stderr and "Traceback" not in done.stderr
