def channel_scales(w, bits):
    """Each output channel's max-scale: (2^(bits-1) - 1) / max|w| of the row; 1 for a row of zeros.

    w: floats (O, K). Returns (O,). Tutorial, chapter 5.
    """
    raise NotImplementedError
