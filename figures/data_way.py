"""Figure of chapter 0: the way of the data through one layer in integers."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

BOXES = {  # name: (x, y, text, grey)
    "x": (0.0, 1.0, "x\nfloat32", 1.0), "w": (0.0, 0.0, "w\nfloat32", 1.0),
    "x_q": (1.6, 1.0, "x_q\nint8", 0.82), "w_q": (1.6, 0.0, "w_q\nint8", 0.82),
    "acc": (3.2, 0.5, "Σ w_q·x_q\nint32", 0.68), "y_q": (4.9, 0.5, "y_q\nint8", 0.82),
    "y": (6.4, 0.5, "ŷ\nfloat32", 1.0)}
ARROWS = (("x", "x_q", "round(·S_x)"), ("w", "w_q", "round(·S_w)"), ("x_q", "acc", ""), ("w_q", "acc", ""),
          ("acc", "y_q", "round(·M)"), ("y_q", "y", "/S_y"))


def draw_data_way() -> Figure:
    """Boxes for tensors, arrows for what is done; darker boxes are wider integers."""
    figure = Figure(figsize=(7.6, 2.3), layout="constrained")
    axes = figure.subplots()
    for x, y, text, grey in BOXES.values():
        axes.add_patch(FancyBboxPatch((x - 0.42, y - 0.27), 0.84, 0.54, boxstyle="round,pad=0.04",
                                      facecolor=str(grey), edgecolor="black"))
        axes.text(x, y, text, ha="center", va="center", fontsize=9)
    for start, end, label in ARROWS:
        (x0, y0, *_), (x1, y1, *_) = BOXES[start], BOXES[end]
        axes.annotate("", (x1 - 0.48, y1), (x0 + 0.48, y0), arrowprops={"arrowstyle": "->", "linewidth": 1.3})
        axes.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.08, label, ha="center", va="bottom", fontsize=8)
    axes.text(3.2, -0.28, "M = S_y / (S_x·S_w)", ha="center", fontsize=9)
    axes.set(xlim=(-0.6, 7.0), ylim=(-0.45, 1.45), aspect="equal")
    axes.axis("off")
    return figure
