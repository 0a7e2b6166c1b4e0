def best_breakpoint(x, candidates, bits):
    """The breakpoint p with the least mean squared error of pw(x), with m = max|x|; of equals any.

    pw is that of exercise 27. Tutorial, page pwlq.
    """
    raise NotImplementedError
