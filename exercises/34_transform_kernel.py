def transform_kernel(g):
    """[2·G·g] of Winograd's F(2,3), four integers, for a kernel g of three. Tutorial, page winograd."""
    raise NotImplementedError
