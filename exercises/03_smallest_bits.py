def smallest_bits(low, high):
    """The fewest bits, two's complement, that hold all integers from low to high.

    smallest_bits(-128, 127) is 8; smallest_bits(0, 0) is 1. Tutorial, chapter 1.
    """
    raise NotImplementedError
