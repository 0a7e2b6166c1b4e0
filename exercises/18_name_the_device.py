def name_the_device(device):
    """Which of five dialects a device has: gemmlowp_double, neon_double, single_round, shift_floor, exact_half_even.

    device(x, m, shift, zero_point) gives its int8 code for round(x·m·2^(shift-31)) + zero_point.
    ``refquant dialects`` prints what each computes. Tutorial, chapter 6.
    """
    raise NotImplementedError
