def largest_V(a):
    """The greatest |V| of F(2,3) in two dimensions, V = B^T·d·B, for codes from -a to a. Tutorial, page winograd."""
    raise NotImplementedError
