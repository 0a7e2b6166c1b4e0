def three_sums(x, region, sign, magnitude):
    """[P1, P2, P3] of an inner product with piecewise weights.

    P1 = Σ x·sign·magnitude over region 0, P2 the same over region 1, P3 = Σ x·sign over region 1.
    All are integer arrays of one length. Tutorial, page pwlq.
    """
    raise NotImplementedError
