def cosine(a, b):
    """a·b / (|a|·|b|) of two arrays; 1 where both are zero, 0 where one is. Tutorial, page easyquant."""
    raise NotImplementedError
