def witness(one, other):
    """A number, exact in binary, that two rounding rules round differently.

    one, other: of half_away, half_even, half_up, half_down, toward_zero, floor. Tutorial, chapter 2.
    """
    raise NotImplementedError
