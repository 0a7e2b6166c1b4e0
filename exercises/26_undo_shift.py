def undo_shift(acc, m, shift, k):
    """round(acc·m·2^(shift-31)·2^-k), ties up, rounded once, for integers. Tutorial, chapter 7."""
    raise NotImplementedError
