"""Figure of page golden-vectors: which case of a suite kills which bug; in red those that only built cases do."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from refquant.integers.dialects import SINGLE_ROUND
from refquant.vectors.build import SUITES, kills

SUITE = "conv-direct"


def matrix(name: str = SUITE) -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    """(bugs, cases) True where a case kills a bug; the names of both; and which cases are of random numbers alone."""
    cases = list(SUITES[name].cases(SINGLE_ROUND))
    cases.sort(key=lambda case: case.kind not in ("shape", "random"))
    table = kills(cases)
    killed = np.array([[case.id in ids for case in cases] for ids in table.values()])
    plain = np.array([case.kind in ("shape", "random") for case in cases])
    return killed, [bug.split(": ", 1)[1] for bug in table], [case.id for case in cases], plain


def draw_kills() -> Figure:
    """The kill matrix of ``conv-direct``."""
    killed, bugs, cases, plain = matrix()
    alone = ~killed[:, plain].any(axis=1)
    figure = Figure(figsize=(7.2, 8.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.where(killed, 1 + alone[:, None], 0), cmap=ListedColormap(["0.93", "C0", "C3"]), aspect="auto",
                vmin=0, vmax=2)
    axes.set_xticks(range(len(cases)), cases, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(bugs)), bugs, fontsize=7)
    axes.axvline(plain.sum() - 0.5, color="k", linewidth=1)
    axes.set_title(f"{SUITE}: coloured where the case kills the bug,\nred where no random layer (left of the line) "
                   "does", fontsize=9)
    return figure


if __name__ == "__main__":
    for suite in SUITES:
        found, names, _, random = matrix(suite)
        left = np.array(names)[~found[:, random].any(axis=1)] if random.any() else np.array(names)
        alive = int((~found.any(axis=1)).sum())
        print(f"{suite}: {len(names)} bugs, {alive} alive, {len(left)} if only random cases count")
