"""KL divergences of one threshold as plain loops over exact integers.

The loops follow PAPERS' description of TensorRT, the published steps of ncnn2table and the code of EasyQuant's
authors, bin by bin on Python lists; a ratio of integers is rounded once, where its logarithm is taken.
"""

from __future__ import annotations

import math

INFINITY = float("inf")
EPSILON = 1e-4


def tensorrt_loop(counts: list[int], kept: int, levels: int) -> float:
    """One threshold. Bin k belongs to level k·levels // kept; only the last bin of P gets the tail."""
    total, inside = sum(counts), sum(counts[:kept])
    p = counts[:kept]
    p[-1] += total - inside
    mass, filled = [0] * levels, [0] * levels
    for k in range(kept):
        mass[k * levels // kept] += counts[k]
        filled[k * levels // kept] += counts[k] > 0
    terms = []
    for k in range(kept):
        if p[k] > 0:
            if counts[k] == 0:  # spread over bins that are not empty, so Q = 0 here
                return INFINITY
            level = k * levels // kept
            # P/Q = (p/total) / (mass/filled/inside): spreading a level keeps its mass, so Q sums to ``inside``.
            terms.append(p[k] / total * math.log(p[k] * filled[level] * inside / (mass[level] * total)))
    return math.fsum(terms)


def ncnn_loop(counts: list[int], kept: int, levels: int) -> float:
    """One threshold. Edges and shares are in units of 1/levels of a bin: exact until a share is used."""
    total = sum(counts)
    frequency = [count / total for count in counts]
    p = [f + EPSILON for f in frequency[:kept]]
    p[-1] += sum(counts[kept:]) / total
    q = [EPSILON] * kept
    for level in range(levels):
        start, end = level * kept, (level + 1) * kept
        left_upper, right_lower = -(-start // levels), end // levels
        left, right = (left_upper * levels - start) / levels, (end - right_lower * levels) / levels
        mean = math.fsum(frequency[left_upper:right_lower])
        if left:
            mean += left * frequency[left_upper - 1]
        if right:
            mean += right * frequency[right_lower]
        mean /= right_lower - left_upper + left + right
        if left:
            q[left_upper - 1] += left * mean
        if right:
            q[right_lower] += right * mean
        for k in range(left_upper, right_lower):
            q[k] += mean
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q))


def demo_loop(counts: list[int], kept: int, levels: int) -> float:
    """One threshold; counts without the first bin."""
    p = [float(count) for count in counts[:kept]]
    p[-1] += sum(counts[kept:])
    q, width = [0.0] * kept, kept // levels
    for level in range(levels):
        members = list(range(level * width, kept if level == levels - 1 else (level + 1) * width))
        takers = [k for k in members if p[k] > 0 and k < kept - 1]
        for k in takers:
            q[k] = sum(counts[m] for m in members) / len(takers)
    if not any(q):
        return INFINITY

    def smooth(values: list[float]) -> list[float]:
        empty = values.count(0)
        share = EPSILON * empty / (kept - empty)
        return [EPSILON if v == 0 else v - share for v in values]

    p, q = smooth(p), smooth(q)
    total_p, total_q = sum(p), sum(q)
    return math.fsum(a / total_p * math.log(a / total_p / (b / total_q)) for a, b in zip(p, q))


def first_minimum(values: list[float], levels: int) -> int:
    return levels + next(i for i, value in enumerate(values) if value <= min(values) + 1e-12)
