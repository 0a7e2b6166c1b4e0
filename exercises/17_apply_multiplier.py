def apply_multiplier(x, m, shift):
    """round(x·m·2^(shift-31)), ties up, for integers x, m and shift; in integers alone.

    Tutorial, chapter 6.
    """
    raise NotImplementedError
