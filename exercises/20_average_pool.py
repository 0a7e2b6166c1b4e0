def average_pool(codes, zero_point):
    """The code of the mean of what the codes stand for: zero_point + round(Σ (q - zero_point) / n), ties up.

    codes: an integer array. Tutorial, chapter 7.
    """
    raise NotImplementedError
