"""Golden cases of a network of one's own: its layers and the whole, against the independent simulation."""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from golden import answer, wrong
from hypothesis import given
from hypothesis import strategies as st

from refquant import calibration_images, load_digits, load_quantized, quantize_network
from refquant.cli import main
from refquant.network.graph import Network
from refquant.network.simulated_forward import simulated_tensors
from refquant.network.storage import quantized_to_bytes
from refquant.strategies import images, networks
from refquant.vectors import build
from refquant.vectors.check import check_answers
from refquant.vectors.faults import faults
from refquant.vectors.network_cases import file_name, network_cases
from refquant.vectors.reading import read_suite


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Networks of several recipes and dialects, and inputs."""
    folder = tmp_path_factory.mktemp("networks")
    network, inputs, _ = load_digits()
    for name, recipe, options in (("affine", "channelwise-int8", {"activations": "affine"}),
                                  ("double", "max-int8", {"dialect": "gemmlowp_double"}), ("terms", "pwlq-w4a8", {}),
                                  ("levels", "pwlq-w4a4", {})):
        quantized = quantize_network(network, calibration_images(20), recipe, **options)
        (folder / f"{name}.npz").write_bytes(quantized_to_bytes(quantized))
    np.savez(folder / "data.npz", inputs=inputs[:5])
    np.savez(folder / "other.npz", images=np.zeros(3))
    np.savez(folder / "number.npz", inputs=np.float32(3))
    return folder


def run(files, out, name: str, *options: str, images: str = "2", data: str = "data") -> int:
    return main(["vectors", "network", str(files / f"{name}.npz"), str(files / f"{data}.npz"), "--images", images,
                 "--out", str(out), *options])


@pytest.mark.parametrize("name", ["affine", "double", "terms", "levels"])
def test_the_simulation_passes_layer_by_layer_and_end_to_end(name, files, tmp_path, capsys):
    assert run(files, tmp_path, name) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'network'}: 15 cases, ")
    network = load_quantized(files / f"{name}.npz")
    tensors = dict(simulated_tensors(network, network.quantize_images(np.load(files / "data.npz")["inputs"][:2])))
    layers = [one for one in network.layers if type(one).__name__ != "QuantizedFlatten"]
    *cases, whole = read_suite(tmp_path / "network")[1]
    for number, (case, layer) in enumerate(zip(cases, layers, strict=True), 1):
        assert case.id == f"{number:02d}-{file_name(layer.name)}"
        assert np.array_equal(case.inputs.get("x", case.inputs.get("x0")), tensors[layer.inputs[0]])
        answer(tmp_path / "device", case, tensors[layer.output])
    assert whole.id == "15-end-to-end"
    answer(tmp_path / "device", whole, tensors[network.output])
    stages = [layer.output for layer in network.layers if layer.output != network.output]
    for stage, tensor in zip(whole.stages[:-1], stages):
        answer(tmp_path / "device", whole, tensors[tensor], stage)
    found = check_answers(tmp_path / "network", tmp_path / "device")
    assert found.result == "pass" and len(found.cases) == 15


def test_a_bug_in_one_layer_is_named_there_and_end_to_end_its_stage_is_the_first(files, tmp_path):
    assert run(files, tmp_path, "affine") == 0
    shutil.copytree(tmp_path / "network", tmp_path / "device")
    cases = {case.id: case for case in read_suite(tmp_path / "network")[1]}
    for path in (tmp_path / "device").glob("*/*.hex"):
        path.unlink()
    bug = cases["08-res_b"]
    answers = dict(faults("conv", bug.inputs, bug.json["parameters"]))
    answer(tmp_path / "device", bug, answers["kernel transposed"])
    whole = cases["15-end-to-end"]
    stage = next(name for name in whole.stages if "res_b" in name)
    for name in whole.stages[whole.stages.index(stage):]:
        answer(tmp_path / "device", whole, whole.tensor(name).values[::-1], name)
    layer, end = wrong(check_answers(tmp_path / "network", tmp_path / "device"))
    assert (layer.id, layer.diagnosis) == ("08-res_b", "kernel transposed")
    assert (end.id, end.first_stage) == ("15-end-to-end", stage)


@given(st.data())
def test_any_network_has_cases_whose_plain_outputs_are_the_interpreters(data):
    network = data.draw(networks(max_nodes=5))
    some = data.draw(images(network))
    try:
        quantized = quantize_network(network, some, "channelwise-int8", activations="affine")
    except ValueError:  # a network without layers, or sums that do not fit
        return
    cases = list(network_cases(quantized, quantized.quantize_images(some)))  # compares them itself
    assert cases[-1].operation == "network"
    assert len({case.id for case in cases}) == len(cases)


def test_the_layers_asked_for_are_written_and_the_kill_table_tells_what_images_leave_alive(files, tmp_path):
    assert run(files, tmp_path, "affine", "--layers", "conv1", "logits", images="1") == 0
    assert [case.id for case in read_suite(tmp_path / "network")[1]] == ["01-conv1", "14-logits"]
    table = json.loads((tmp_path / "network" / "kills.json").read_bytes())
    assert table["conv: kernel transposed"] and not table["conv: lowest bit of m dropped"]


@pytest.mark.parametrize(("name", "data", "count", "options", "sentence"), [
    ("affine", "data", "1", ["--layers", "conv9"], "layers must be of conv1, dw2, .*, got conv9"),
    ("affine", "data", "6", [], "must hold 6 inputs, got 5"),
    ("affine", "data", "0", [], "argument --images: must be from 1 to 1000000, got 0"),
    ("affine", "other", "1", [], "must hold 'inputs', got images"),
    ("affine", "number", "1", [], r"number.npz: inputs must be \(N, 1, 16, 16\), got \(\)"),
    ("data", "data", "1", [], "must be a quantized network written by refquant, got another kind of file"),
    ("nothing", "data", "1", [], "must be readable, got: No such file or directory")])
def test_a_callers_mistake_is_one_sentence_and_nothing_is_written(name, data, count, options, sentence, files,
                                                                  tmp_path, capsys):
    try:
        assert run(files, tmp_path / "out", name, *options, images=count, data=data) == 2
    except SystemExit as error:
        assert error.code == 2
    said = capsys.readouterr().err
    assert re.search(sentence, said) and said.count("\n") == 1 and not list(tmp_path.rglob("*"))


def test_a_suite_that_fails_leaves_nothing_behind(files, tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no case")
    monkeypatch.setattr(build, "case_files", broken)
    assert run(files, tmp_path / "out", "affine") == 2
    assert not list((tmp_path / "out").glob("*"))


def test_names_longer_than_a_file_name_are_cut_and_stay_distinct():
    network, inputs, _ = load_digits()
    long = "model/" + "block/" * 20
    renamed = Network(network.input_shape, tuple(replace(node, name=long + node.name, inputs=tuple(
        name if name == "input" else long + name for name in node.inputs)) for node in network.nodes),
        long + network.output)
    quantized = quantize_network(renamed, calibration_images(5), "channelwise-int8", activations="affine")
    *cases, whole = network_cases(quantized, quantized.quantize_images(inputs[:1]))
    assert len({case.id for case in cases}) == len(cases) == 14 and {len(case.id) for case in cases} == {100}
    assert len(whole.stages) == len(quantized.layers) and {len(name) for name in whole.stages[:-1]} == {100}


def test_ctrl_c_ends_with_one_line_and_leaves_nothing_behind(files, tmp_path):
    script = ("import signal, sys\n"
              "from refquant.interrupts import install\n"
              "from refquant import cli\n"
              "from refquant.vectors import build\n"
              "build.case_files = lambda *_: signal.raise_signal(signal.SIGINT)\n"
              "install()\n"
              "sys.exit(cli.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", script, "vectors", "network", files / "affine.npz",
                           files / "data.npz", "--images", "1", "--out", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "refquant: interrupted\n")
    assert not list(tmp_path.iterdir())
