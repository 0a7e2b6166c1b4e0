def apply_multiplier(x, m, shift):
    """round(x·m·2^(shift-31)), ties up, for integers x, m and shift <= 30; in
    integers alone, as x·m can have 62 bits.

    Tutorial, chapter 6.
    """
    raise NotImplementedError
