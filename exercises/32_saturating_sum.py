def saturating_sum(products, bits):
    """What a register of ``bits`` bits holds after it added the products one by one and saturated each time.

    Tutorial, page int7-lanes.
    """
    raise NotImplementedError
