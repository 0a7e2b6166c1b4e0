def channel_scales(w, bits):
    """Each output channel's max-scale: (2^(bits-1) - 1) / max|w| of the row; 1 for a row of zeros
    (the chapter's library gives such a row the layer's scale).

    w: floats (O, K). Returns (O,). Tutorial, chapter 5.
    """
    raise NotImplementedError
