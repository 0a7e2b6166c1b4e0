def transform_input(d):
    """[B^T·d] of Winograd's F(2,3), four numbers, for four inputs d. Tutorial, page winograd."""
    raise NotImplementedError
