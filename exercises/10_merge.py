def merge(a, b):
    """The (least, greatest, count) of two sets of numbers together, each given as (least, greatest, count).

    So calibration can go through images in parts. Tutorial, chapter 4.
    """
    raise NotImplementedError
