"""The bundled digits: the data, the committed network, and its training."""

import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from refquant.digits import training
from refquant.digits.architecture import architecture, parameter_count, parameters, with_parameters
from refquant.digits.data import DIGITS_FILE, enlarge, load_images
from refquant.digits.weights import WEIGHTS_FILE, calibration_images, load_digits, load_weights, save_weights
from refquant.network.float_forward import run_float
from refquant.network.graph import Add, BatchNorm, Conv, Network

# --- data


def test_enlarging_by_hand():
    """4/16 of the value where a quarter and a quarter meet, 9/16 where three quarters do."""
    x = np.array([[0.0, 16.0], [32.0, 48.0]])
    assert enlarge(x).tolist() == [[0, 4, 12, 16], [8, 12, 20, 24], [24, 28, 36, 40], [32, 36, 44, 48]]


def test_enlarging_one_pixel_repeats_it():
    assert enlarge(np.array([[[0.3]]])).tolist() == [[[0.3, 0.3], [0.3, 0.3]]]


def bilinear(image, size):
    """Resampling by definition, in fractions: new pixel i has its centre at (i + 1/2)·old/new - 1/2."""
    def along(i, old):
        centre = Fraction(2 * i + 1, 2) * old / size - Fraction(1, 2)
        left = centre.__floor__()
        share = centre - left
        return [(min(max(left, 0), old - 1), 1 - share), (min(max(left + 1, 0), old - 1), share)]
    rows, columns = len(image), len(image[0])
    return [[sum(a * b * Fraction(int(image[r][c]), 16) for r, a in along(i, rows) for c, b in along(j, columns))
             for j in range(size)] for i in range(size)]


def test_loaded_images_are_exactly_the_bilinear_ones():
    with np.load(DIGITS_FILE) as file:
        originals, order = file["images"], file["order"]
    train, test = load_images()
    loaded = np.concatenate([test.images, train.images])
    for place in range(0, 1797, 100):
        expected = bilinear(originals[order[place]], 16)
        assert [[Fraction(float(v)) for v in row] for row in loaded[place, 0]] == expected


def test_bundled_file_is_the_published_data():
    """The first row of the first image and the class counts, as scikit-learn's documentation shows them."""
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        images, labels, order = file["images"], file["labels"], file["order"]
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 8, 8), np.uint8, np.uint8)
    assert (images.min(), images.max()) == (0, 16)
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert order.tolist() == np.random.default_rng(0).permutation(1797).tolist()


def test_parts_have_their_sizes_types_and_ranges():
    train, test = load_images()
    for part, size in ((train, 1347), (test, 450)):
        assert (part.images.shape, part.images.dtype) == ((size, 1, 16, 16), np.float32)
        assert (part.labels.shape, part.labels.dtype) == ((size,), np.int64)
        assert part.images.min() == 0 and part.images.max() == 1
        assert part.images.flags.c_contiguous


def test_no_held_out_image_is_trained_on():
    """All 1 797 images differ, so that comparing pixels is enough."""
    train, test = load_images()
    seen, held_out = ({image.tobytes() for image in part.images} for part in (train, test))
    assert len(seen) == 1347 and len(held_out) == 450
    assert not seen & held_out


def test_classes_are_balanced():
    for part in load_images():
        share = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert share.min() > 0.07 and share.max() < 0.13


def test_writing_to_loaded_arrays_harms_nobody():
    (images, labels), _ = load_images()
    _, held_out, _ = load_digits()
    first = images.copy(), labels.copy(), held_out.copy()
    images[:], labels[:], held_out[:] = -1, -1, -1
    again = load_images()[0].images, load_images()[0].labels, load_digits()[1]
    for before, after in zip(first, again):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("images", "got"), [
    (np.zeros((2, 2), int), r"got int\d+ of shape \(2, 2\)"),
    (np.zeros(4), r"got float64 of shape \(4,\)"),
    (np.zeros((0, 2, 2)), r"got float64 of shape \(0, 2, 2\)"),
])
def test_enlarging_refuses_what_is_no_image(images, got):
    with pytest.raises(ValueError, match=r"images must be non-empty floats \(\.\.\., H, W\), " + got):
        enlarge(images)


def test_calibration_images_are_the_first_training_images():
    train, _ = load_images()
    np.testing.assert_array_equal(calibration_images(), train.images[:50])
    np.testing.assert_array_equal(calibration_images(1347), train.images)


@pytest.mark.parametrize("n", [0, -1, 1348, 2.0, True, "50"])
def test_calibration_images_refuses_a_foreign_count(n):
    with pytest.raises(ValueError, match="n must be an integer from 1 to 1347, got"):
        calibration_images(n)


# --- architecture and weights


def test_architecture_has_24106_parameters():
    network, _, _ = load_digits()
    assert parameter_count(network) == parameter_count(architecture()) == 24_106


def test_architecture_has_one_of_each_difficulty():
    network = architecture()
    convolutions = [node for node in network.nodes if isinstance(node, Conv)]
    assert {(node.geometry.groups > 1, node.weight.shape[2]) for node in convolutions} == {
        (False, 3), (True, 3), (False, 1)}
    assert all(node.bias is None for node in convolutions)
    assert all(isinstance(network.only_reader(node.name), BatchNorm) for node in convolutions)
    assert [node.name for node in network.nodes if isinstance(node, Add)] == ["res_add"]
    assert (network.input, network.output, network.shapes["logits"]) == ("input", "logits", (10,))


def test_committed_network_recognizes_at_least_98_percent():
    network, images, labels = load_digits()
    assert training.count_correct(network, images, labels) >= 0.98 * len(labels)


def test_committed_network_is_float32_and_read_only():
    network, images, _ = load_digits()
    for array in parameters(network).values():
        assert array.dtype == np.float32 and not array.flags.writeable
    assert run_float(network, images[:2]).dtype == np.float32


def test_saved_weights_come_back_bit_for_bit(tmp_path):
    network = load_weights()
    save_weights(tmp_path / "copy", network)  # no .npz is appended to the name
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    again = parameters(load_weights(tmp_path / "copy"))
    for name, array in parameters(network).items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"old")

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, architecture())
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_missing_weights_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load_weights(tmp_path / "nothing.npz")


@pytest.mark.parametrize("kept", [0, 1, 10, 1000, 50_000, 101_000, -1])
def test_truncated_weights_are_refused(tmp_path, kept):
    (tmp_path / "w.npz").write_bytes(WEIGHTS_FILE.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"w\.npz must be an \.npz file of plain arrays, got: "):
        load_weights(tmp_path / "w.npz")


def test_a_flipped_byte_is_refused_or_harmless(tmp_path):
    """Every array has a checksum; what is outside them (dates, attributes) may go unnoticed."""
    sound = WEIGHTS_FILE.read_bytes()
    expected = parameters(load_weights())
    for place in np.random.default_rng(0).integers(0, len(sound), 60):
        damaged = bytearray(sound)
        damaged[place] ^= 0x55
        (tmp_path / "w.npz").write_bytes(damaged)
        try:
            found = parameters(load_weights(tmp_path / "w.npz"))
        except ValueError as error:
            assert "w.npz" in str(error)
        else:
            assert all(np.array_equal(found[name], array) for name, array in expected.items())


def foreign(**changes):
    """The arrays of the architecture, some replaced, or left out with None; '__' stands for '.'."""
    arrays = dict(parameters(architecture()))
    for name, array in changes.items():
        arrays.pop(name.replace("__", "."), None)
        if array is not None:
            arrays[name.replace("__", ".")] = array
    return arrays


@pytest.mark.parametrize(("changes", "message"), [
    ({"conv1__weight": None}, "must hold every parameter of the digits network, got no conv1.weight"),
    ({"conv9__weight": np.ones(3)}, "parameter names must be among the network's, got 'conv9.weight'"),
    ({"logits__bias": np.ones(9)}, r"logits.bias must have shape \(10,\), got \(9,\)"),
    ({"logits__bias": np.ones(10, np.int32)}, "bias must hold floats of at most 64 bits, got dtype int32"),
    ({"logits__bias": np.full(10, np.nan)}, "bias must be finite, got NaN"),
    ({"conv1_bn__variance": np.full(16, -1.0)}, "variance must be >= 0"),
    ({"logits__bias": np.array([None] * 10)}, "must be an .npz file of plain arrays, got: "),
])
def test_foreign_weights_are_refused(tmp_path, changes, message):
    np.savez(tmp_path / "w.npz", **foreign(**changes))
    with pytest.raises(ValueError, match=message) as caught:
        load_weights(tmp_path / "w.npz")
    assert "w.npz" in str(caught.value)


def test_a_single_array_is_no_weights_file(tmp_path):
    np.save(tmp_path / "w.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"w\.npy must be an \.npz file"):
        load_weights(tmp_path / "w.npy")


def test_with_parameters_changes_what_it_is_given_and_nothing_else():
    network = architecture()
    changed = with_parameters(network, {"pw3_bn.beta": np.arange(32.0)})
    differing = [name for name, array in parameters(changed).items()
                 if not np.array_equal(array, parameters(network)[name])]
    assert differing == ["pw3_bn.beta"]
    assert parameters(network)["pw3_bn.beta"].tolist() == [0.0] * 32


# --- training


def short_training(seed=0, images_used=128, epochs=2):
    (images, labels), _ = load_images()
    rng = np.random.default_rng(seed)
    losses: list[float] = []
    network = training.train(training.he_initialize(architecture(), rng), images[:images_used],
                             labels[:images_used], rng, epochs=epochs, on_step=losses.append)
    return network, losses


def test_training_lowers_the_loss():
    _, losses = short_training(images_used=320, epochs=4)
    assert len(losses) == 4 * 5
    assert losses[0] > 2 and np.mean(losses[-5:]) < 0.9 * losses[0]


def test_training_repeats_itself_given_the_seed():
    (first, losses), (second, again), (other, _) = short_training(), short_training(), short_training(1)
    assert losses == again
    for name, array in parameters(first).items():
        np.testing.assert_array_equal(array, parameters(second)[name])
        assert array.dtype == np.float32
    assert not np.array_equal(parameters(first)["conv1.weight"], parameters(other)["conv1.weight"])


def test_training_leaves_its_inputs_alone():
    (images, labels), _ = load_images()
    images, labels = images[:64], labels[:64]
    images.setflags(write=False)
    labels.setflags(write=False)
    rng = np.random.default_rng(0)
    network = training.he_initialize(architecture(), rng)
    before = {name: array.copy() for name, array in parameters(network).items()}
    training.train(network, images, labels, rng, epochs=1)
    for name, array in parameters(network).items():
        np.testing.assert_array_equal(array, before[name])


def test_he_weights_have_variance_two_over_fan_in():
    network = training.he_initialize(architecture(), np.random.default_rng(0))
    weights = {node.name: node.weight for node in network.nodes if isinstance(node, Conv)}
    assert np.var(weights["res_a"]) * 32 * 9 == pytest.approx(2, rel=0.1)  # 9 216 numbers
    assert np.var(weights["pw4"]) * 32 == pytest.approx(2, rel=0.15)  # 2 048 numbers
    assert weights["dw3"].var() * 9 == pytest.approx(2, rel=0.4)  # 288 numbers: fan-in is 9, not 32·9


def test_shifting_moves_each_image_by_at_most_one_pixel():
    images = np.random.default_rng(0).random((200, 1, 3, 4)).astype(np.float32) + 1
    moved = training.shifted(images, np.random.default_rng(0))
    assert moved.dtype == np.float32
    places = set()
    for before, after in zip(images[:, 0], moved[:, 0]):
        candidates = {}
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                wanted = np.zeros((3, 4), np.float32)
                for i in range(3):
                    for j in range(4):
                        if 0 <= i - down < 3 and 0 <= j - across < 4:
                            wanted[i, j] = before[i - down, j - across]
                candidates[down, across] = wanted
        places.update(place for place, wanted in candidates.items() if np.array_equal(wanted, after))
    assert len(places) == 9


@pytest.mark.parametrize(("change", "message"), [
    ({"images": np.zeros((4, 1, 8, 8))}, r"images must be a non-empty \(N, 1, 16, 16\), got shape"),
    ({"images": np.full((4, 1, 16, 16), np.nan)}, "images must be finite, got NaN or infinity"),
    ({"labels": np.zeros(5, int)}, r"labels must hold 4 integers, got int\d+ of shape \(5,\)"),
    ({"labels": np.array([0, 1, 2, 10])}, "labels must be from 0 to 9, got 0 to 10"),
    ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
    ({"epochs": 1.5}, r"epochs must be an integer >= 1, got 1\.5"),
    ({"network": Network((1, 16, 16), architecture().nodes[:3])},
     r"the network must turn \(C, H, W\) into \(K,\), got \(1, 16, 16\) into \(16, 16, 16\)"),
])
def test_training_refuses_what_does_not_fit(change, message):
    arguments = {"network": architecture(), "images": np.zeros((4, 1, 16, 16)), "labels": np.zeros(4, int),
                 "rng": np.random.default_rng(0)} | change
    with pytest.raises(ValueError, match=message):
        training.train(**arguments)


def test_hits_counts_labels_that_have_the_largest_logit():
    logits = architecture().nodes[-1]
    network = architecture().replace_nodes(
        [*architecture().nodes[:-1], replace(logits, bias=np.eye(10)[4])])
    assert training.count_correct(network, np.zeros((5, 1, 16, 16)), np.array([4, 0, 4, 4, 9])) == 3


def test_command_trains_and_writes_only_the_named_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert training.main(["--epochs", "1", "--seed", "3", "--out", "w.npz"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("this training: ") and lines[1].startswith("committed weights: 9")
    assert all(line.endswith("of 450)") for line in lines) and len(lines) == 2
    assert err == ""  # no progress bar where there is no terminal
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]
    _, images, labels = load_digits()
    assert f"({training.count_correct(load_weights('w.npz'), images, labels)} of 450)" in lines[0]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--epochs", "0"], "argument --epochs: must be an integer >= 1, got '0'"),
    (["--epochs", "many"], "argument --epochs: must be an integer >= 1, got 'many'"),
    (["--seed", "-1"], "argument --seed: must be an integer >= 0, got '-1'"),
    (["--out", "no/such/directory/w.npz"], "argument --out: must be a file in a writable directory, got"),
    (["--out", "."], "argument --out: must be a file in a writable directory, got '.'"),
    (["--epoch", "1"], "unrecognized arguments: --epoch 1"),
    (["surplus"], "unrecognized arguments: surplus"),
])
def test_command_refuses_bad_arguments_in_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        training.main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == ""
    assert err.startswith(f"python -m refquant.digits.training: {message}") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.environ.get("REFQUANT_SLOW") != "1",
                    reason="trains for a quarter of a minute or more: set REFQUANT_SLOW=1")
def test_full_training_reaches_98_percent():
    (images, labels), test = load_images()
    rng = np.random.default_rng(0)
    network = training.train(training.he_initialize(architecture(), rng), images, labels, rng)
    assert training.count_correct(network, *test) >= 0.98 * len(test.labels)
