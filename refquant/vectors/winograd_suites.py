"""The suites of golden cases of integer Winograd: every stage at both ends of its range, and one beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refquant.integers.dialects import Dialect
from refquant.integers.formats import IntFormat, smallest_format
from refquant.vectors.cases import Case, described
from refquant.vectors.streams import Stream
from refquant.vectors.suites import FLAG, SEVEN, make
from refquant.winograd.bounds import winograd_bounds
from refquant.winograd.convolution import STAGES
from refquant.winograd.transforms import transforms_for


def winograd_suite(tile: tuple[int, int]) -> Callable[[Dialect], Iterator[Case]]:
    """The suite of F(m, r): every stage, at both ends of its range and beyond."""
    transforms, channels = transforms_for(tile), 3
    bounds = {bound.stage: bound for bound in winograd_bounds(tile, SEVEN, SEVEN, channels)}

    def case(id: str, x: np.ndarray, w: np.ndarray, why: str, kind: str, policy: str = "wrap",
             flags: tuple[str, ...] = (), small: bool = False, padding: tuple[int, ...] = (0, 0, 0, 0),
             **registers: int) -> Case:
        formats = {stage: IntFormat(max(bounds[stage].bits, 2)) for stage in STAGES}
        formats |= {stage: IntFormat(bits) for stage, bits in registers.items()}
        trap = policy == "trap"
        p = {"tile": list(tile), "bt": transforms.bt.ravel().tolist(), "g": transforms.g.ravel().tolist(),
             "at": transforms.at.ravel().tolist(), "divisor": transforms.divisor, "padding": list(padding),
             "policy": policy, "formats": {stage: described(fmt) for stage, fmt in formats.items()},
             "y_format": described(FLAG if trap else formats["output"])}
        stages = {f"expected_{stage}": formats[stage] for stage in STAGES[1:-1]}
        return make(id, "winograd", p, {"x": (x, SEVEN), "w": (w, SEVEN)}, why, kind, flags, small, stages,
                    {"expected_V": "NCTUVW", "expected_U": "OCVW", "expected_product": "CNOTUVW",
                     "expected_sum": "CNOTUVW", "expected_output_scaled": "NOTUVW"})

    def suite(dialect: Dialect) -> Iterator[Case]:
        n, r = transforms.n, transforms.r
        for stage in STAGES[1:]:
            bound = bounds[stage]
            for end in ("min", "max"):
                x, w = getattr(bound, f"x_{end}"), getattr(bound, f"w_{end}")
                x = np.full((channels, n, n), 1) if x is None else x
                w = np.full((channels, r, r), 1) if w is None else w
                yield case(f"witness-{stage.replace('_', '-')}-{end}", x[None], np.stack([w, -w]),
                           f"Codes at ±63 by the signs of one row of the transform: {stage} reaches "
                           f"{getattr(bound, end)}, which needs {bound.bits} bits.", "witness", "wrap", (stage,),
                           stage in ("V", "U"))
        top = bounds["sum"]
        bits, reach = smallest_format(top.min, top.max).bits, top.max // channels
        most = (2 ** (bits - 1) - 1) // reach
        kernel, plane = top.w_max[:1], top.x_max[:1]  # type: ignore[index]
        x = np.zeros((2, most + 1, n, n), np.int64)
        x[0, :most], x[1] = plane, plane
        for policy in ("wrap", "saturate", "trap"):
            yield case(f"twin-sum-{policy}", x, np.repeat(kernel, most + 1, axis=0)[None],
                       f"{most} channels of {reach} fit {bits} bits, {most + 1} do not.", "twin",
                       policy, ("sum", "overflow"), policy == "saturate", sum=bits, output_scaled=30, output=30)
        stream = Stream(f"winograd-{tile}")
        for id, x_shape, outputs, padding, why in (
                ("one-tile", (1, 1, n, n), 1, (0, 0, 0, 0), "One tile of one channel."),
                ("odd", (2, 3, 2 * n + 1, n + 2), 2, (1, 1, 1, 1), "Sizes that no whole number of tiles covers."),
                ("uneven", (1, 2, n, 3 * n - 1), 3, (0, 2, 1, 3), "Padding 0, 2, 1, 3 at top, left, bottom, right."),
                ("small", (1, 3, r, r), 2, (0, 0, 0, 0), "One output: most of the tile lies beyond the input.")):
            x, w = stream.codes(SEVEN, x_shape), stream.codes(SEVEN, (outputs, x_shape[1], r, r))
            yield case(id, x, w, why, "shape" if id != "one-tile" else "random", "wrap", ("tile",), id == "odd",
                       padding)

    suite.__doc__ = f"Integer Winograd F({tile[0]},{tile[1]}), every stage in its proven register, and one beyond."
    return suite


winograd_2_3_suite, winograd_4_3_suite = winograd_suite((2, 3)), winograd_suite((4, 3))
