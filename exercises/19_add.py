def add(a, b, M_a, M_b):
    """round(a·M_a + b·M_b), ties up, rounded once, for codes a and b and multiplier M_a and M_b.

    The multipliers are sixteenths, which floats hold exactly. Tutorial, chapter 7.
    """
    raise NotImplementedError
