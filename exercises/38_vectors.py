def vectors():
    """At most ten test vectors (x, m, shift) that kill eight buggy requantizers.

    Right is round(x·m·2^(shift-31)), ties up, clamped to -128..127, for int32 x and 2^30 <= m < 2^31. The bugs: it
    never rounds; ties away from zero; ties to even; wraps; clamps to -127; shifts one place too far right; cuts m
    to 16 bits; keeps x in 16 bits. Tutorial, page golden-vectors.
    """
    raise NotImplementedError
