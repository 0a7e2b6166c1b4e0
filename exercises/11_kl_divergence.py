def kl_divergence(p, q):
    """KL(p || q) = Σ p·log(p/q), natural logarithm; terms with p = 0 are 0.

    p, q: arrays of probabilities, q > 0. Tutorial, chapter 4.
    """
    raise NotImplementedError
