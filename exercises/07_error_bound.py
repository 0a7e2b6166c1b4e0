def error_bound(S):
    """The largest |Q(x, S)/S - x| over all x that are not clipped. Tutorial, chapter 3."""
    raise NotImplementedError
