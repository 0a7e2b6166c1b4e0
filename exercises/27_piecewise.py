def piecewise(r, p, m, bits):
    """pw(r): r rounded on a grid of K = 2^(bits-1) - 1 steps from 0 to p, or, beyond p, of K steps from p to m.

    Ties away from zero; beyond m it is m; odd in r. Tutorial, page pwlq.
    """
    raise NotImplementedError
