"""Damaged ONNX and npz files: each is read, or refused in one sentence, in bounded time and memory.

    python tests/fuzz/files.py [COUNT] [SEED]

mutates valid files at random: bytes, fields of nodes and tensors, whole nodes, the archive of the data. Whatever
raises something else than ValueError, takes more than 2 s or makes the process grow beyond 1 GiB is printed, and kept
in fuzz-findings/. COUNT is 20000 unless told.
"""
from __future__ import annotations

import io
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "oracles")]

from onnx_models import onnx  # noqa: E402
from onnx_samples import MODELS  # noqa: E402

from refquant.commands.quantize import build_own, data_files, evaluate_own, load_data  # noqa: E402
from refquant.readers import load_onnx  # noqa: E402

SECONDS, BYTES = 2, 2**30


def archive(random: Random, shape: tuple[int, ...]) -> bytes:
    """A valid npz for networks of this input."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(random.randrange(2**32))
    inputs = rng.normal(size=(6, *shape)).astype(np.float32)
    np.savez(buffer, inputs=inputs, calibration_inputs=inputs[:3])
    return buffer.getvalue()


_NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**62))


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """A few bytes changed, cut out, doubled, or the end missing."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        place, kind = random.randrange(max(len(out), 1)), random.randrange(4)
        if kind == 0 and out:
            out[place % len(out)] = random.randrange(256)
        elif kind == 1:
            del out[place:place + random.randrange(1, 9)]
        elif kind == 2:
            out[place:place] = out[place:place + random.randrange(1, 33)]
        else:
            del out[place:]
    return bytes(out)


def damaged_fields(data: bytes, random: Random) -> bytes:
    """The model is still a protobuf, but something in it is another."""
    proto = onnx.load_model_from_string(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        _damage(proto.graph, random)
    if random.random() < 0.05 and proto.opset_import:
        proto.opset_import[0].version = random.choice((1, 7, 9, 10, 12, 18, 25, 2**40))
    return bytes(proto.SerializeToString())


def _damage(graph: Any, random: Random) -> None:
    nodes, kind = list(graph.node), random.randrange(8)
    one = random.choice(nodes) if nodes else None
    attributes = [a for n in nodes for a in n.attribute]
    if kind == 0 and attributes:
        attribute = random.choice(attributes)
        for values in (attribute.ints, attribute.floats):
            for k in range(len(values)):
                if random.random() < 0.5:
                    values[k] = random.choice(_NUMBERS)
            if random.random() < 0.2:
                values.extend(values[:2])
        attribute.i = random.choice(_NUMBERS)
    elif kind == 1 and graph.initializer:
        weight = random.choice(graph.initializer)
        if weight.dims and random.random() < 0.7:
            weight.dims[random.randrange(len(weight.dims))] = random.choice(_NUMBERS)
        else:
            weight.raw_data = damaged_bytes(weight.raw_data, random)
    elif kind == 2 and one is not None:
        one.op_type = random.choice([n.op_type for n in nodes] + ["Identity", "Shape", "Tile", "Range", "If", "Cast"])
    elif kind == 3 and one is not None and one.input:
        names = [name for n in nodes for name in (*n.input, *n.output)] + ["", "x"]
        one.input[random.randrange(len(one.input))] = random.choice(names)
    elif kind == 4 and one is not None:
        graph.node.remove(one)
    elif kind == 5 and one is not None:
        graph.node.insert(random.randrange(len(nodes)), one)
    elif kind == 6 and graph.initializer:
        weight = random.choice(graph.initializer)
        weight.data_type = random.choice((1, 2, 3, 6, 7, 9, 10, 11, 16))
    else:
        dims = graph.input[0].type.tensor_type.shape.dim
        if dims:
            dims[random.randrange(len(dims))].dim_value = random.choice(_NUMBERS)


def attempt(proto: bytes, random: Random, folder: Path) -> str:
    """What became of one file: "read", or the sentence's beginning. Other exceptions come through."""
    (folder / "m.onnx").write_bytes(proto)
    try:
        network = load_onnx(folder / "m.onnx")
        if sum(int(np.prod(shape)) for shape in network.shapes.values()) > 10**5:
            return "read, large"  # to run it takes the time that its size takes
        data = archive(random, network.input_shape)
        (folder / "d.npz").write_bytes(damaged_bytes(data, random) if random.random() < 0.3 else data)
        own = load_data(folder / "d.npz", network.input_shape, images=2)
        folded, built = build_own(network, own, ["max-int8"], {})
        data_files(evaluate_own(folded, built, own), built)
    except ValueError as error:
        if "\n" in str(error).strip():
            raise AssertionError(f"more than a sentence: {error}") from error
        return "refused"
    return "run"


# A file: its bytes, its suffix, and a function of these, a Random and a folder that tells what became of it.
Drawn = tuple[bytes, str, Callable[[bytes, Random, Path], str]]


def bounded(count: int, seed: int, draw: Callable[[Random], Drawn], report: bool) -> tuple[Counter[str], list[str]]:
    """What became of ``count`` files, and the findings: other exceptions, seconds, memory."""
    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    random, found, met = Random(seed), [], Counter[str]()
    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(count):
            data, suffix, tried = draw(random)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                met[tried(data, random, Path(name))] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                found.append(f"{number}: {type(error).__name__}: {error}")
                if report:
                    Path("fuzz-findings").mkdir(exist_ok=True)
                    Path(f"fuzz-findings/{seed}-{number}.{suffix}").write_bytes(data)
                    print(found[-1][:300], flush=True)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if grown > BYTES:
        found.append(f"the process grew to {grown / 2**20:.0f} MiB")
    return met, found


def campaign(count: int, seed: int, report: bool = False) -> tuple[Counter[str], list[str]]:
    """What became of ``count`` files, and the findings."""
    valid = [made.SerializeToString() for made in MODELS.values()]

    def draw(random: Random) -> Drawn:
        damage = random.choice((damaged_bytes, damaged_fields, damaged_fields, damaged_fields))
        return damage(random.choice(valid), random), "onnx", attempt

    return bounded(count, seed, draw, report)


def main(campaign: Callable[..., tuple[Counter[str], list[str]]]) -> None:
    """A campaign of COUNT files from SEED, as the command line gives them; status 1 where something was found."""
    count, seed = (int(sys.argv[k]) if len(sys.argv) > k else default for k, default in ((1, 20000), (2, 0)))
    met, found = campaign(count, seed, report=True)
    print(dict(met), f"{len(found)} findings", *found[-1:], sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main(campaign)
