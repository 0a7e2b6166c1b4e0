def wrap(x, bits):
    """What a register of ``bits`` bits, two's complement, holds after it was given the integer x.

    wrap(130, 8) is -126. Tutorial, chapter 1.
    """
    raise NotImplementedError
