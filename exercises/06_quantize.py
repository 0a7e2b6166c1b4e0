def quantize(x, S, bits):
    """Q(x, S): the code round(x·S), ties away from zero, clipped to ±(2^(bits-1) - 1).

    x, S: floats. quantize(-0.3125, 8, 4) is -3. Tutorial, chapter 3.
    """
    raise NotImplementedError
