def saturate(x, bits):
    """The integer of ``bits`` bits, two's complement, that is nearest to the integer x.

    saturate(130, 8) is 127. Tutorial, chapter 1.
    """
    raise NotImplementedError
