def overflow_witness(x, w, low, high):
    """Codes (a, b), of x and of w, whose product leaves low..high after one repetition more than is safe.

    Arguments as for exercise 30. Tutorial, page int7-lanes.
    """
    raise NotImplementedError
