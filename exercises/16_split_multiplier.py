def split_multiplier(M):
    """(m, shift) with M ≈ m·2^(shift-31) and 2^30 <= m < 2^31, m rounded half away from zero.

    Mind M = 1 - 2^-33. Tutorial, chapter 6.
    """
    raise NotImplementedError
