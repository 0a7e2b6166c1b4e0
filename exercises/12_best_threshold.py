def best_threshold(x, thresholds, bits):
    """The threshold T under which quantizing x has the least mean squared error; of equals any.

    x, thresholds: arrays. S = (2^(bits-1) - 1) / T; codes are rint(x·S), clipped to ±(2^(bits-1) - 1).
    Tutorial, chapter 4.
    """
    raise NotImplementedError
