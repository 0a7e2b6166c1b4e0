def shift_half_even(x, shift):
    """x / 2^shift rounded to the nearest integer, ties to even, for integers x and shift >= 0.

    Use only >>, &, + and -, as x may be larger than a float holds exactly. shift_half_even(-5, 1)
    is -2. Tutorial, chapter 2.
    """
    raise NotImplementedError
