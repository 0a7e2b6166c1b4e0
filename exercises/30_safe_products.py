def safe_products(x, w, low, high):
    """The largest k for which k products of a code of x and a code of w always fit low..high, partial sums included.

    x, w: (least, greatest) code, as in (-64, 63). low, high: of the register. Tutorial, page int7-lanes.
    """
    raise NotImplementedError
