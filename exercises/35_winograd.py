def winograd(d, g):
    """The two outputs [d0·g0 + d1·g1 + d2·g2, d1·g0 + d2·g1 + d3·g2] by four products, in integers.

    Use exercises 33 and 34; divide by 2 at the end, exactly. Tutorial, page winograd.
    """
    raise NotImplementedError
