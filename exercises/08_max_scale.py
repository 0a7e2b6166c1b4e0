def max_scale(x, bits):
    """The largest scale under which no element of the array x is clipped to ``bits`` bits, narrow.

    Of zeros it is 1. max_scale(np.array([0.5, -2.0]), 8) is 63.5. Tutorial, chapter 3.
    """
    raise NotImplementedError
