def channel_shift(reach, largest, limit):
    """The largest k from 0 to limit with 2^k·reach <= largest; 0 for reach 0.

    reach: max|w| of a channel. largest: of the layer. Tutorial, page shift-scaler.
    """
    raise NotImplementedError
