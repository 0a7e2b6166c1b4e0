"""The Python side of binary_files.h: calls a consumer on arrays; and the arrays worth calling it on."""
from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import numpy as np

from refquant.integers.formats import IntFormat


def build(folder: Path, name: str, command: list[str], source: Path) -> Path:
    """Compiles `source` to `folder/name`; any word of the compiler's fails, and is shown."""
    done = subprocess.run([*command, "-o", folder / name, source], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return folder / name


def call(command: list[str | Path], operation: str, operands: list[np.ndarray], dtype: str,
         *numbers: int) -> np.ndarray:
    """What the consumer writes, read as `dtype`. OverflowError if it reports one; any other trouble fails."""
    folder = Path(command[-1]).parent
    paths = [folder / f"operand{i}.bin" for i in range(len(operands))]
    for path, operand in zip(paths, operands):
        path.write_bytes(operand.astype(operand.dtype.newbyteorder("<")).tobytes())
    out = folder / "out.bin"
    out.unlink(missing_ok=True)
    done = subprocess.run([*command, operation, out, *paths, *map(str, numbers)], capture_output=True, text=True,
                          timeout=120)
    if done.returncode == 3:
        raise OverflowError(done.stdout.strip())
    assert (done.returncode, done.stderr) == (0, ""), f"exit code {done.returncode}: {done.stderr}"
    return np.frombuffer(out.read_bytes(), dtype)


def corners(dtype: str) -> np.ndarray:
    """The ends of the type and every power of two of either sign, each with its neighbours; 0 too."""
    limits = np.iinfo(dtype)
    near = {value + d for k in range(limits.bits) for value in (2**k, -(2**k)) for d in (-1, 0, 1)}
    return np.array(sorted(v for v in near if limits.min <= v <= limits.max), dtype)


def lanes(rng: np.random.Generator, dtype: str, count: int) -> np.ndarray:
    """`count` random lanes, then `count` hard ones: the ends, corners, or random, in equal parts.

    Two operands made so meet as random x random, corner x random and corner x corner.
    """
    limits = np.iinfo(dtype)
    drawn = rng.integers(limits.min, limits.max, 2 * count, dtype, endpoint=True)
    ends = rng.choice(np.array([limits.min, limits.min + 1, -1, 0, 1, limits.max - 1, limits.max], dtype), count)
    kind = rng.integers(3, size=count)
    drawn[count:] = np.choose(kind, [ends, rng.choice(corners(dtype), count), drawn[count:]])
    return drawn


def rounding_cases(rng: np.random.Generator, greatest_shift: int, count: int) -> tuple[np.ndarray, ...]:
    """(acc int32, m int32, shift int8): `count` random, `count` as in a network, all corners, and ties.

    Corners: every legal shift with the ends of acc and m and what lies next to a change of rule. Ties:
    acc·m = (2n + 1)·2^(30 - shift), half an output code, with acc's four neighbours.
    """
    def mantissas() -> np.ndarray:
        return rng.integers(2**30, 2**31, count)

    parts = [(rng.integers(-(2**31), 2**31, count), mantissas(), rng.integers(-31, greatest_shift + 1, count)),
             (rng.integers(-(2**19), 2**19, count), mantissas(), rng.integers(-12, 1, count))]
    shifts = range(-31, greatest_shift + 1)
    ms = (0, 2**30, 2**30 + 1, 3 * 2**29, 0x7FFEFFFF, 0x7FFF0000, 0x7FFF8000, 2**31 - 1)
    parts.append(np.array(list(itertools.product(corners("i4"), ms, shifts))).T)
    for (odd, zeros), s in itertools.product(((1, 30), (3, 29), (5, 28), (7, 28)), shifts):
        step = 30 - s - zeros  # acc = n·2^step with an odd n is a tie, for m = odd·2^zeros
        if not 0 <= step <= 30:
            continue
        acc = (2 * rng.integers(-(2 ** (30 - step)), 2 ** (30 - step), 32) + 1) << step
        assert (acc * (odd << zeros) % 2 ** (31 - s) == 2 ** (30 - s)).all(), "no tie"
        near = np.add.outer(acc, np.arange(-2, 3)).ravel().clip(-(2**31), 2**31 - 1)
        parts.append((near, np.full(near.shape, odd << zeros), np.full(near.shape, s)))
    acc, m, shift = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return acc.astype(np.int32), m.astype(np.int32), shift.astype(np.int8)


def rows(rng: np.random.Generator, x_format: IntFormat, w_format: IntFormat, length: int) -> list[np.ndarray]:
    """Two int8 arrays (64, length): four rows at the extremes of every product, 30 of random ends, 30 random."""
    def codes(fmt: IntFormat) -> np.ndarray:
        ends = rng.choice([fmt.min, fmt.max], (30, length))
        return np.concatenate([ends, rng.integers(fmt.min, fmt.max, (30, length), endpoint=True)])

    x, w = codes(x_format), codes(w_format)
    extremes = itertools.product((x_format.min, x_format.max), (w_format.min, w_format.max))
    for a, b in extremes:
        x, w = np.vstack([np.full(length, a), x]), np.vstack([np.full(length, b), w])
    return [x.astype(np.int8), w.astype(np.int8)]
