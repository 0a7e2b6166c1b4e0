def best_scale(x, candidates, bits):
    """The candidate S whose codes, back as reals, have the greatest cosine with x; of equals any.

    Codes are half away from zero, clipped to ±(2^(bits-1) - 1). Tutorial, page easyquant.
    """
    raise NotImplementedError
