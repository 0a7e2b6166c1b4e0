def layer(x, w, S_x, S_w, S_y):
    """Run one convolution of codes.

    x: floats (1, C, H, W), the first axis is of images, here one. w: floats (O, C, 3, 3). S_x, S_w, S_y: scales,
    powers of two here, so that acc·M is exact. Codes are from -127 to 127.

    1. Codes: x_q = round(x·S_x), w_q = round(w·S_w), ties away from zero, clipped.
    2. Sums: acc = Σ w_q·x_q over channels and kernel, stride 1, no padding, in integers.
    3. M = S_y / (S_x·S_w); y_q = round(acc·M), ties up, clipped.

    Returns y_q, integers (1, O, H-2, W-2). Tutorial, chapter 0.
    """
    raise NotImplementedError
