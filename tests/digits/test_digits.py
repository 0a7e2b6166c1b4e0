"""The bundled digits: the data, the committed network, and its training."""

import os
from fractions import Fraction

import numpy as np
import pytest

from refquant.digits import training
from refquant.digits.architecture import architecture, parameter_count, parameters, with_parameters
from refquant.digits.data import DIGITS_FILE, enlarge, load_images
from refquant.digits.weights import WEIGHTS_FILE, calibration_images, load_digits, load_weights, save_weights
from refquant.network.float_forward import run_float
from refquant.network.graph import Conv, Network

# --- data


def bilinear(image, height, width):
    """Resampling by definition, in fractions: new pixel i has its centre at (i + 1/2)·old/new - 1/2."""
    def along(i, old, size):
        centre = Fraction(2 * i + 1, 2) * old / size - Fraction(1, 2)
        left = centre.__floor__()
        share = centre - left
        return [(min(max(left, 0), old - 1), 1 - share), (min(max(left + 1, 0), old - 1), share)]
    return [[sum(a * b * Fraction(float(image[r][c])) for r, a in along(i, len(image), height)
                 for c, b in along(j, len(image[0]), width)) for j in range(width)] for i in range(height)]


def test_images_are_enlarged_by_exactly_bilinear_interpolation():
    with np.load(DIGITS_FILE) as file:
        originals, order = file["images"] / 16, file["order"]
    train, test = load_images()
    loaded = np.concatenate([test.images, train.images])
    for place in range(0, 1797, 100):
        assert loaded[place, 0].tolist() == bilinear(originals[order[place]], 16, 16)
    for image in (np.array([[0.25]]), np.arange(6.0).reshape(3, 2)):
        assert enlarge(image).tolist() == bilinear(image, 2 * image.shape[0], 2 * image.shape[1])


def test_bundled_file_is_the_published_data():
    """The first row of the first image and the class counts, as scikit-learn's documentation shows them."""
    with np.load(DIGITS_FILE, allow_pickle=False) as file:
        images, labels, order = file["images"], file["labels"], file["order"]
    assert (images.shape, images.dtype, labels.dtype) == ((1797, 8, 8), np.uint8, np.uint8)
    assert (images.min(), images.max()) == (0, 16)
    assert images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert order.tolist() == np.random.default_rng(0).permutation(1797).tolist()


def test_parts_have_their_sizes_and_types_and_no_image_in_common():
    """All 1 797 images differ, so that comparing pixels is enough."""
    train, test = load_images()
    for part, size in ((train, 1347), (test, 450)):
        assert (part.images.shape, part.images.dtype) == ((size, 1, 16, 16), np.float32)
        assert (part.labels.shape, part.labels.dtype) == ((size,), np.int64)
        assert part.images.flags.c_contiguous
    assert len({image.tobytes() for part in (train, test) for image in part.images}) == 1797
    assert np.array_equal(calibration_images(), train.images[:50])
    assert np.array_equal(calibration_images(1347), train.images)
    train.images[:] = -1
    assert load_images()[0].images.min() == 0, "arrays are new at each call"


# --- architecture and weights


def test_committed_network_is_float32_and_read_only_and_recognizes_at_least_98_percent():
    network, images, labels = load_digits()
    assert parameter_count(network) == parameter_count(architecture()) == 24_106
    for array in parameters(network).values():
        assert array.dtype == np.float32 and not array.flags.writeable
    assert run_float(network, images[:2]).dtype == np.float32
    assert training.count_correct(network, images, labels) >= 0.98 * len(labels)


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


def test_truncated_weights_are_refused_and_a_flipped_byte_is_refused_or_harmless(tmp_path):
    """Every array has a checksum; what is outside them (dates, attributes) may go unnoticed."""
    with pytest.raises(FileNotFoundError, match=r"w\.npz"):
        load_weights(tmp_path / "w.npz")
    sound, expected = WEIGHTS_FILE.read_bytes(), parameters(load_weights())
    for kept in (0, 1, 1000, -1):
        (tmp_path / "w.npz").write_bytes(sound[:kept])
        with pytest.raises(ValueError, match=r"w\.npz must be an \.npz file of plain arrays, got: "):
            load_weights(tmp_path / "w.npz")
    for place in np.random.default_rng(0).integers(0, len(sound), 30):
        damaged = bytearray(sound)
        damaged[place] ^= 0x55
        (tmp_path / "w.npz").write_bytes(damaged)
        try:
            found = parameters(load_weights(tmp_path / "w.npz"))
        except ValueError as error:
            assert "w.npz" in str(error)
        else:
            assert all(np.array_equal(found[name], array) for name, array in expected.items())


@pytest.mark.parametrize(("name", "array", "message"), [
    ("conv1.weight", None, " must hold every parameter of the digits network, got no conv1.weight"),
    ("conv9.weight", np.ones(3), ": parameter names must be among the network's, got 'conv9.weight'"),
    ("logits.bias", np.ones(9), r": logits.bias must have shape \(10,\), got \(9,\)"),
    ("logits.bias", np.ones(10, np.int32), ": bias must hold floats of at most 64 bits, got dtype int32"),
    ("logits.bias", np.array([None] * 10), r" must be an \.npz file of plain arrays, got: .*"),
])
def test_foreign_weights_are_refused(tmp_path, name, array, message):
    arrays = parameters(architecture()) | {name: array}
    np.savez(tmp_path / "w.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"w\.npz{message}$"):
        load_weights(tmp_path / "w.npz")


def test_with_parameters_changes_what_it_is_given_and_nothing_else():
    network = architecture()
    changed = with_parameters(network, {"pw3_bn.beta": np.arange(32.0)})
    differing = [name for name, array in parameters(changed).items()
                 if not np.array_equal(array, parameters(network)[name])]
    assert differing == ["pw3_bn.beta"]


# --- training


def test_training_lowers_the_loss_repeats_itself_given_the_seed_and_leaves_its_inputs_alone():
    (images, labels), _ = load_images()
    images, labels = images[:256], labels[:256]
    images.setflags(write=False)
    labels.setflags(write=False)
    start = training.he_initialize(architecture(), np.random.default_rng(0))
    before = {name: array.copy() for name, array in parameters(start).items()}
    runs = []
    for seed, epochs in ((0, 4), (0, 4), (1, 1)):
        losses: list[float] = []
        network = training.train(start, images, labels, np.random.default_rng(seed), epochs=epochs,
                                 on_step=losses.append)
        runs.append((losses, parameters(network)))
    (losses, first), (same_losses, same), (other_losses, _) = runs
    assert len(losses) == 4 * 4 and losses[0] > 2 and np.mean(losses[-4:]) < 0.9 * losses[0]
    assert losses == same_losses and losses[:4] != other_losses
    for name, array in first.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, same[name])
        assert np.array_equal(parameters(start)[name], before[name])


def test_he_weights_have_variance_two_over_fan_in():
    network = training.he_initialize(architecture(), np.random.default_rng(0))
    weights = {node.name: node.weight for node in network.nodes if isinstance(node, Conv)}
    assert np.var(weights["res_a"]) * 32 * 9 == pytest.approx(2, rel=0.1)  # 9 216 numbers
    assert np.var(weights["dw3"]) * 9 == pytest.approx(2, rel=0.4)  # 288 numbers: fan-in is 9, not 32·9


def test_shifting_moves_each_image_by_at_most_one_pixel_to_every_side():
    images = np.random.default_rng(0).random((200, 1, 3, 4)).astype(np.float32) + 1
    moved = training.shifted(images, np.random.default_rng(0))
    assert moved.dtype == np.float32
    framed = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = {(i, j): framed[:, :, i:i + 3, j:j + 4] for i in range(3) for j in range(3)}
    found = [[place for place, window in windows.items() if np.array_equal(window[n], moved[n])] for n in range(200)]
    assert all(len(places) == 1 for places in found)
    assert {place for places in found for place in places} == windows.keys()


def train(**changes):
    arguments = {"network": architecture(), "images": np.zeros((4, 1, 16, 16)), "labels": np.zeros(4, int)}
    return training.train(**arguments | changes, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("call", "message"), [
    *[(lambda images=images: enlarge(images), r"images must be non-empty floats \(\.\.\., H, W\), got " + got)
      for images, got in ((np.zeros((2, 2), int), r"int\d+ of shape \(2, 2\)"),
                          (np.zeros(4), r"float64 of shape \(4,\)"),
                          (np.zeros((0, 2, 2)), r"float64 of shape \(0, 2, 2\)"))],
    *[(lambda n=n: calibration_images(n), f"n must be an integer from 1 to 1347, got {n!r}")
      for n in (0, 1348, 2.0, True)],
    (lambda: train(images=np.zeros((4, 1, 8, 8))), r"images must be a non-empty \(N, 1, 16, 16\), got shape .*"),
    (lambda: train(labels=np.zeros(5, int)), r"labels must hold 4 integers, got int\d+ of shape \(5,\)"),
    *[(lambda n=n: train(epochs=n), f"epochs must be an integer >= 1, got {n}") for n in (0, 1.5)],
    (lambda: train(network=Network((1, 16, 16), architecture().nodes[:3])),
     r"the network must turn \(C, H, W\) into \(K,\), got \(1, 16, 16\) into \(16, 16, 16\)"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


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
