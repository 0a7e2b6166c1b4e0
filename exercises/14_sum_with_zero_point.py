def sum_with_zero_point(q, w, zero_point):
    """Σ (q - zero_point)·w for integer arrays, as hardware does it: Σ q·w less zero_point times a constant of w.

    Tutorial, chapter 5.
    """
    raise NotImplementedError
