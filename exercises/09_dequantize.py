def dequantize(q, S, zero_point):
    """The real number that the code q stands for. Tutorial, chapters 3 and 5."""
    raise NotImplementedError
