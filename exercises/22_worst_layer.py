def worst_layer(exact, damaged):
    """The index of the layer with the least SQNR = Σ exact² / Σ (exact - damaged)².

    exact, damaged: lists of arrays, a layer each. A layer without error has an infinite SQNR. Tutorial, chapter 7.
    """
    raise NotImplementedError
