def boundary_twin(product, bits):
    """(n, n + 1): how many equal products fit a register of ``bits`` bits, and one more, which does not.

    Mind that -2^(bits-1) fits and 2^(bits-1) does not. Tutorial, page golden-vectors.
    """
    raise NotImplementedError
