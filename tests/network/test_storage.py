"""Files of former versions are read, other files refused; that networks come back is tested with moves."""

import functools
import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from refquant.convolution.geometry import Geometry
from refquant.network.graph import Add, Concat, Conv, Flatten, Linear, MaxPool, Network
from refquant.network.moves import Pad, Repeat, Transpose
from refquant.network.storage import load_quantized, quantized_to_bytes, read_arrays
from refquant.recipes.quantize import quantize_network


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.npz"


def rewritten(content, **changes):
    """The file with other manifest entries."""
    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files}
    manifest = json.loads(arrays.pop("manifest").tobytes()) | changes
    buffer = io.BytesIO()
    np.savez(buffer, manifest=np.frombuffer(json.dumps(manifest).encode(), np.uint8), **arrays)
    return buffer.getvalue()


def test_files_of_former_versions_are_still_read(path):
    # Written by refquant 0.1.0 when its version was 2; beside the network its inputs and outputs.
    former = Path(__file__).with_name("version_2.npz")
    with np.load(former) as file:
        arrays = {name: file[name] for name in file.files}
    network = load_quantized(former)
    assert network.dialect == "neon_double" and any(layer.rescaled_channels for layer in network.layers[:1])
    assert np.array_equal(network.run(arrays["inputs"]), arrays["outputs"])
    manifest = json.loads(arrays.pop("manifest").tobytes())
    manifest |= {"version": 1, "semantics": manifest.pop("dialect")}
    np.savez(path, manifest=np.frombuffer(json.dumps(manifest).encode(), np.uint8), **arrays)
    assert load_quantized(path).dialect == network.dialect


def test_a_file_holds_plain_arrays_and_damaged_and_foreign_ones_are_refused_in_a_sentence(path):
    network = Network((2,), [Linear("y", "input", np.ones((3, 2)))])
    content = quantized_to_bytes(quantize_network(network, np.ones((1, 2))))
    path.write_bytes(content)
    kinds = {name: array.dtype.kind for name, array in read_arrays(path).items()}
    assert {name for name, kind in kinds.items() if kind == "f"} == {n for n in kinds if n.endswith(".real")}
    foreign = io.BytesIO()
    np.savez(foreign, weights=np.ones(3))
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    for bad in (b"PK", content[:100], content[:-30], foreign.getvalue(), archive.getvalue()):
        path.write_bytes(bad)
        message = r"must be (a quantized network written by refquant|an \.npz file of plain arrays), got "
        with pytest.raises(ValueError, match=message):
            load_quantized(path)
    for changes, message in (({"version": 4}, "version 3, got 'refquant quantized network' of version 4"),
                             ({"kind": "recipe"}, "got 'recipe' of version 3"),
                             ({"layers": [{"Sneaky": {}}]}, "must describe a whole network, got: 'Sneaky'"),
                             ({"layers": []}, "must describe a whole network, got: input and output"),
                             ({"dialect": "nearest"}, "must describe a whole network, got: dialect must be")):
        path.write_bytes(rewritten(content, **changes))
        with pytest.raises(ValueError, match=message):
            load_quantized(path)
    with pytest.raises(ValueError, match=r"nowhere\.npz must be readable, got: No such file or directory"):
        load_quantized(path.parent / "nowhere.npz")


def declaring(node, *place):
    """A file of the node alone, in whose description the number at ``place`` is 10^12."""
    network = quantize_network(Network((2, 3, 3), [node]), np.ones((1, 2, 3, 3)))
    content = quantized_to_bytes(network)
    with np.load(io.BytesIO(content)) as file:
        layers = json.loads(file["manifest"].tobytes())["layers"]
    (layer,) = layers[0].values()
    *path, last = place
    functools.reduce(lambda part, key: part[key], path, layer)[last] = 10**12
    return rewritten(content, layers=layers)


def reshaped(nodes, shape):
    """The file of a network for (1, 3), that says its input is of another shape."""
    network = quantize_network(Network((1, 3), nodes), np.ones((1, 1, 3)))
    return rewritten(quantized_to_bytes(network), input_shape=shape)


AROUND = Geometry.of(padding=1)
NESTED = functools.reduce(lambda inner, _: [inner], range(500), [])


@pytest.mark.parametrize(("content", "got"), [
    (lambda: declaring(Pad("y", "input", (0, 0, 0), (0, 1, 0)), "move", "Pad", "after", 1),
     "layer 'y': {}, got shape (2, 1000000000003, 3)"),
    (lambda: declaring(Repeat("y", "input", (1, 1, 2)), "move", "Repeat", "factors", 2),
     "layer 'y': {}, got shape (2, 3, 3000000000000)"),
    (lambda: declaring(Conv("y", "input", np.ones((1, 2, 3, 3)), geometry=AROUND), "geometry", "Geometry", 1, 0),
     "layer 'y': {}, got shape (2, 1000000000004, 5)"),
    (lambda: declaring(MaxPool("y", "input", (3, 3), AROUND), "geometry", "Geometry", 1, 3),
     "layer 'y': {}, got shape (2, 5, 1000000000004)"),
    (lambda: reshaped([Transpose("t", "input", (1, 0)), Add("y", ("input", "t"))], (1, 2**14)),
     "layer 'y': {}, got shape (16384, 16384)"),
    (lambda: reshaped([Flatten("f", "input"), Concat("y", ("f", "f"))], (2**6, 2**20)),
     "layer 'y': {}, got shape (134217728,)"),
    (lambda: reshaped([Flatten("y", "input")], (10**14, 1)), "{}, got shape (100000000000000, 1)"),
    (lambda: rewritten(reshaped([Flatten("y", "input")], (1, 3)), layers=NESTED),
     "maximum recursion depth exceeded")])
def test_what_a_file_declares_is_bounded_before_anything_is_computed(content, got, path):
    path.write_bytes(content())
    sentence = f"must describe a whole network, got: {got.format('a tensor must have at most 67108864 elements')}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_quantized(path)


def test_a_manifest_of_a_hundred_thousand_brackets_is_another_kind_of_file(path):
    np.savez(path, manifest=np.full(100_000, ord("["), np.uint8))
    with pytest.raises(ValueError, match=r"must be a quantized network written by refquant, got another kind"):
        load_quantized(path)


def test_arrays_alone_are_stored(monkeypatch):
    """NumPy 1.26 stores every argument by name as an array."""
    stored: dict[str, object] = {}
    monkeypatch.setattr(np, "savez_compressed", lambda file, **arrays: stored.update(arrays))
    quantized_to_bytes(quantize_network(Network((2,), [Linear("y", "input", np.ones((3, 2)))]), np.ones((1, 2))))
    assert stored and all(isinstance(array, np.ndarray) for array in stored.values())


def test_the_sentence_says_what_kind_of_file_it_is(path):
    x = np.zeros((2, 3))
    torch = io.BytesIO()
    with zipfile.ZipFile(torch, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"inputs": x}))
    npy = io.BytesIO()
    np.save(npy, x)
    objects = io.BytesIO()
    np.savez(objects, inputs=np.array([x, None], object), plain=x)
    for content, got in ((npy.getvalue(), "a single array, as in a .npy file"),
                         (pickle.dumps({"inputs": x}), "a pickle, which is never read"),
                         (torch.getvalue(), "an archive of other files, such as archive/data.pkl"),
                         (objects.getvalue(), "the array 'inputs' of Python objects, which only a pickle can hold"),
                         (b"inputs", "other content"), (b"", "other content")):
        path.write_bytes(content)
        message = f"{path} must be an .npz file of plain arrays, got {got}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            read_arrays(path)
    path.write_bytes(objects.getvalue())
    assert read_arrays(path, ["plain", "absent"]).keys() == {"plain"}, "what is not wanted is not opened"
