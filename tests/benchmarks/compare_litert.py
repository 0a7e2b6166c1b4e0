"""Where LiteRT's three kernel sets differ on MLPerf Tiny's int8 models: README's table.

    python tests/benchmarks/compare_litert.py [FOLDER]

FOLDER: of the models and their data; by default the environment variable REFQUANT_MODELS.
"""
from __future__ import annotations

import os
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

from refquant.commands.compare import differences
from refquant.commands.report import table
from refquant.readers.tflite_file import load_tflite
from refquant.runtimes import LITERT_SETS, run_model
from refquant.runtimes.model import QuantizedModel

MODELS = {"pretrainedResnet_quant": ("resnet8_cifar10_data", "test_images", 1.0, "test_labels"),
          "vww_96_int8": ("vww96_data", "images", 255.0, None)}

PAIRS = tuple(combinations(LITERT_SETS, 2))


def load(folder: Path, name: str) -> tuple[QuantizedModel, np.ndarray, np.ndarray | None]:
    """One of MODELS, images as it reads them, and their labels."""
    file, array, unit, labels = MODELS[name]
    model, data = load_tflite(folder / f"{name}.tflite"), np.load(folder / f"{file}.npz")
    entry, real = model.tensors[model.inputs[0]], data[array].astype(np.float64) / unit
    codes = np.clip(np.rint(real / entry.step[0]) + entry.zero, -128, 127).astype(np.int8)
    return model, codes, None if labels is None else data[labels]


def rows(folder: Path, names: tuple[str, ...] = tuple(MODELS), pairs: tuple[tuple[str, str], ...] = PAIRS
         ) -> list[tuple[str, ...]]:
    """One for each model and pair of kernel sets."""
    found = []
    for name in names:
        model, codes, labels = load(folder, name)
        answers = {one: run_model(model, codes, one)[model.outputs[0]].argmax(axis=1) for one in LITERT_SETS}
        for one, other in pairs:
            each = differences(model, codes, one, other)
            worst = max(each, key=lambda d: d.chain / d.size)
            total, size = sum(d.chain for d in each), sum(d.size for d in each)
            top1 = "-" if labels is None else " and ".join(
                f"{100 * (answers[k] == labels).mean():.2f}" for k in (one, other))
            found.append((name, f"{one} and {other}", f"{100 * each[0].chain / each[0].size:.2f}",
                          f"{100 * worst.chain / worst.size:.2f}", f"{100 * total / size:.2f}",
                          str(int((answers[one] != answers[other]).sum())), top1))
    return found


HEADER = ("model", "kernel sets", "% first operation", "% worst operation", "% all codes", "other answers", "top-1 %")

if __name__ == "__main__":
    print(table(HEADER, rows(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["REFQUANT_MODELS"]))))
