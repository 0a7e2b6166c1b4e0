def undo_shift(acc, m, shift, k):
    """round(acc·m·2^(shift-31)·2^-k), ties up, rounded once, for integers. Tutorial, page shift-scaler."""
    raise NotImplementedError
