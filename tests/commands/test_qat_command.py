"""Post-training quantization beside training: the table's rows, and README's numbers of the quick methods."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from refquant import load_digits
from refquant.commands import qat
from refquant.network.batchnorm import fold_batchnorm

PAGE = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TABLE = PAGE.split("<!-- QAT table -->")[1].split("```text\n")[1].split("\n```")[0].splitlines()


def shown(method: str) -> list[str]:
    """The cells of a method's row."""
    return next(re.split(r" {2,}", line) for line in TABLE if line.startswith(f"{method} "))


@pytest.fixture(scope="module")
def rows():
    """Of the quick methods alone; training is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat, "PTQ", tuple(one for one in qat.PTQ if one[0] in ("max", "KL", "WES")))
        patch.setattr(qat, "fine_tune", lambda network, *arguments, **options: fold_batchnorm(network))
        return {row.method: row for row in qat.compare((8, 4, 3))}


@pytest.mark.parametrize("method", ["max", "KL", "WES"])
def test_readme_shows_the_accuracy_and_the_bytes_of_the_quick_methods(rows, method):
    row = rows[method]
    assert row.codes_equal and (row.images, row.labels) == (50, 0)
    cells = shown(method)
    assert cells[1:4] == [f"{value:.1f}" for value in row.top1]
    assert cells[7:] == ["/".join(map(str, row.weight_bytes)), "/".join(map(str, row.activation_bytes)), "yes"]


def test_without_training_the_row_of_qat_is_that_of_max_and_needs_all_labels(rows):
    assert rows["QAT"].top1 == rows["max"].top1
    assert rows["QAT"].images == rows["QAT"].labels == 1347


def test_readme_shows_that_training_wins_at_three_bits_alone():
    methods = ("KL", "max", "EasyQuant", "WES", "PWLQ", "QAT")
    best = {method: [float(cell) for cell in shown(method)[1:4]] for method in methods}
    assert best["QAT"][2] >= max(values[2] for method, values in best.items() if method != "QAT") + 10
    assert max(values[1] for values in best.values()) - best["WES"][1] < 2


def test_activation_bytes_are_what_one_layer_reads_and_writes():
    network, _, _ = load_digits()
    # conv1 reads 16·16 and writes 16·16·16 numbers of 4 bytes; its BatchNorm reads and writes 16·16·16; pw2's ReLU
    # reads and writes 32·16·16 each.
    assert qat.activation_bytes(network) == 4 * 2 * 32 * 16 * 16
