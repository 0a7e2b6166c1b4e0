def dequantize(q, S, zero_point):
    """The real number that the code q stands for. Tutorial, chapter 3 and chapter 5."""
    raise NotImplementedError
