"""A right solution of every exercise, and at least three that are wrong in ways that students are."""
from __future__ import annotations

import math

import numpy as np


def half_away(v):
    return np.trunc(v + np.copysign(0.5, v)).astype(int)


def most(bits):
    return 2 ** (bits - 1) - 1


def layer(x, w, S_x, S_w, S_y, *, codes=half_away, limit=127, up=0.5, multiplier=None, flip=False, end=None):
    x_q, w_q = (np.clip(codes(v * S), -limit, limit) for v, S in ((x, S_x), (w, S_w)))
    w_q = w_q[:, :, ::-1, ::-1] if flip else w_q
    seen = np.lib.stride_tricks.sliding_window_view(x_q, (3, 3), axis=(2, 3))
    acc = np.einsum("ocrs,nchwrs->nohw", w_q, seen)
    M = S_y / (S_x * S_w) if multiplier is None else multiplier
    y = np.floor(acc * M + up) if end is None else end(acc * M)
    return np.clip(y, -127, 127).astype(int)


def wrap(x, bits):
    x &= 2**bits - 1
    return x - 2**bits if x >> (bits - 1) else x


def saturate(x, bits):
    return min(max(x, -(2 ** (bits - 1))), most(bits))


def smallest_bits(low, high):
    bits = 1
    while low < -(2 ** (bits - 1)) or high > most(bits):
        bits += 1
    return bits


def shift_half_even(x, shift):
    if shift == 0:
        return x
    return (x + (1 << (shift - 1)) - 1 + ((x >> shift) & 1)) >> shift


ROUND = {"half_away": lambda v: int(half_away(v)), "half_even": lambda v: int(np.rint(v)),
         "half_up": lambda v: math.floor(v + 0.5), "half_down": lambda v: math.ceil(v - 0.5),
         "toward_zero": math.trunc,
         "floor": math.floor}


def witness(one, other):
    return next(v for v in (0.5, 1.5, -0.5, -1.5, 0.75, -0.75) if ROUND[one](v) != ROUND[other](v))


def quantize(x, S, bits):
    return int(np.clip(half_away(x * S), -most(bits), most(bits)))


def max_scale(x, bits):
    reach = np.abs(x).max()
    return most(bits) / reach if reach else 1.0


def kl_divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q) if a > 0)


def clipped_error(x, T, bits):
    S = most(bits) / T
    return np.mean((np.clip(np.rint(x * S), -most(bits), most(bits)) / S - x) ** 2)


def best_threshold(x, thresholds, bits):
    return min(thresholds, key=lambda T: clipped_error(x, T, bits))


def channel_scales(w, bits):
    return np.array([max_scale(row, bits) for row in w])


def fold_batchnorm(w, bias, gamma, beta, mean, variance):
    gain = gamma / math.sqrt(variance)
    return w * gain, (bias - mean) * gain + beta


def split_multiplier(M, round_half=half_away):
    fraction, shift = math.frexp(M)
    m = int(round_half(fraction * 2.0**31))
    return (2**30, shift + 1) if m == 2**31 else (m, shift)


def apply_multiplier(x, m, shift):
    return (x * m + (1 << (30 - shift))) >> (31 - shift)


def name_the_device(device):
    def ask(x, m, shift):
        return int(np.ravel(device(x, m, shift, 0))[0])

    if ask(-1, 2**30, 0) == -1 and ask(1, 2**30, 0) == 0:
        return "shift_floor"
    if ask(1, 2**30, 0) == 0:
        return "exact_half_even"
    if ask(1, 2**30, -1) == 0:
        return "single_round"
    return "neon_double" if ask(-3, 2**30, -1) == 0 else "gemmlowp_double"


def add(a, b, M_a, M_b):
    return math.floor(a * M_a + b * M_b + 0.5)


def average_pool(codes, zero_point):
    total, n = int(codes.sum()) - zero_point * len(codes), len(codes)
    return zero_point + (2 * total + n) // (2 * n)


def convolve_padded(x, w, zero_point, pad=None):
    padded = np.pad(x, 1, constant_values=zero_point if pad is None else pad) - zero_point
    return np.array([[int((padded[i:i + 3, j:j + 3] * w).sum()) for j in range(x.shape[1])]
                     for i in range(x.shape[0])])


def worst_layer(exact, damaged):
    def sqnr(a, b):
        error = np.sum((a - b) ** 2)
        return np.sum(a**2) / error if error else math.inf
    return int(np.argmin([sqnr(a, b) for a, b in zip(exact, damaged)]))


def cosine(a, b):
    if not a.any() or not b.any():
        return float(not a.any() and not b.any())
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def coded(x, S, bits):
    return np.clip(half_away(x * S), -most(bits), most(bits)) / S


def best_scale(x, candidates, bits):
    return max(candidates, key=lambda S: cosine(x, coded(x, S, bits)))


def channel_shift(reach, largest, limit):
    k = 0
    while reach and k < limit and reach * 2 ** (k + 1) <= largest:
        k += 1
    return k


def undo_shift(acc, m, shift, k):
    return (acc * m + (1 << (30 - shift + k))) >> (31 - shift + k)


def piecewise(r, p, m, bits, *, offset=True, region=lambda size, p: size > p, clip=True):
    size = min(abs(r), m) if clip else abs(r)
    begin, end = (p if offset else 0, m) if region(size, p) else (0, p)
    step = (end - begin) / most(bits)
    value = begin + step * float(half_away((size - begin) / step))
    return math.copysign(value, r) if value else 0.0


def best_breakpoint(x, candidates, bits):
    m = np.abs(x).max()
    return min(candidates, key=lambda p: np.mean([(piecewise(v, p, m, bits) - v) ** 2 for v in x]))


def three_sums(x, region, sign, magnitude):
    return [int((x * sign * magnitude * (region == 0)).sum()), int((x * sign * magnitude * region).sum()),
            int((x * sign * region).sum())]


def ends(x, w):
    products = [a * b for a in x for b in w]
    return min(products), max(products)


def safe_products(x, w, low, high):
    least, greatest = ends(x, w)
    return min(([high // greatest] if greatest > 0 else []) + ([-low // -least] if least < 0 else []))


def overflow_witness(x, w, low, high):
    k = safe_products(x, w, low, high)
    return next((a, b) for a in x for b in w if not low <= (k + 1) * a * b <= high)


def saturating_sum(products, bits):
    acc = 0
    for product in products.tolist():
        acc = saturate(acc + product, bits)
    return acc


def transform_input(d):
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def transform_kernel(g):
    return [2 * g[0], g[0] + g[1] + g[2], g[0] - g[1] + g[2], 2 * g[2]]


def winograd(d, g):
    m = [int(u * v) for u, v in zip(transform_kernel(g), transform_input(d))]
    return [(m[0] + m[1] + m[2]) // 2, (m[1] - m[2] - m[3]) // 2]


def straight_through(dy, x, S, bits):
    return dy * (np.abs(x * S) <= most(bits))


VECTORS = [(1, 2**30, 0), (-1, 2**30, 0), (5, 2**30, 0), (400, 2**30, 0), (-1000, 2**30, 0), (2**17 + 3, 2**30, -10),
           (1013760, 1717986919, -14), (1000001, 2**31 - 1, -13), (10**8, 2**31 - 1 - 12345, -20)]


def boundary_twin(product, bits):
    n = most(bits) // product if product > 0 else 2 ** (bits - 1) // -product
    return n, n + 1


RIGHT = {
    "00": layer, "01": wrap, "02": saturate, "03": smallest_bits, "04": shift_half_even, "05": witness,
           "06": quantize,
    "07": lambda S: 1 / (2 * S), "08": max_scale, "09": lambda q, S, zero_point: (q - zero_point) / S,
    "10": lambda a, b: (min(a[0], b[0]), max(a[1], b[1]), a[2] + b[2]), "11": kl_divergence, "12": best_threshold,
    "13": channel_scales, "14": lambda q, w, z: int((q * w).sum() - z * w.sum()), "15": fold_batchnorm,
    "16": split_multiplier, "17": apply_multiplier, "18": name_the_device, "19": add, "20": average_pool,
    "21": convolve_padded, "22": worst_layer, "23": cosine, "24": best_scale, "25": channel_shift, "26": undo_shift,
    "27": piecewise, "28": best_breakpoint, "29": three_sums, "30": safe_products, "31": overflow_witness,
    "32": saturating_sum, "33": transform_input, "34": transform_kernel, "35": winograd, "36": lambda a: 4 * a,
    "37": straight_through, "38": lambda: VECTORS, "39": boundary_twin,
}

WRONG = {
    "00": {"ends with ties to even": lambda *a: layer(*a, end=np.rint),
           "ends with ties away": lambda *a: layer(*a, end=half_away),
           "rounds to even": lambda *a: layer(*a, codes=lambda v: np.rint(v).astype(int)),
           "floors at the end": lambda *a: layer(*a, up=0.0),
           "forgets M": lambda *a: layer(*a, multiplier=1.0),
           "flips the kernel": lambda *a: layer(*a, flip=True)},
    "01": {"saturates": saturate, "unsigned": lambda x, bits: x & (2**bits - 1),
           "one bit too many": lambda x, bits: wrap(x, bits + 1), "wraps once": lambda x, bits: (
               x - 2**bits if x > most(bits) else x + 2**bits if x < -(2 ** (bits - 1)) else x)},
    "02": {"wraps": wrap, "symmetric": lambda x, bits: min(max(x, -most(bits)), most(bits)),
           "upper end alone": lambda x, bits: min(x, most(bits)),
           "unsigned": lambda x, bits: min(max(x, 0), 2**bits - 1)},
    "03": {"without sign": lambda low, high: max(abs(low), abs(high)).bit_length() or 1,
           "symmetric": lambda low, high: max(abs(low), abs(high)).bit_length() + 1,
           "looks at high alone": lambda low, high: max(high, 0).bit_length() + 1},
    "04": {"ties up": lambda x, shift: x if shift == 0 else (x + (1 << (shift - 1))) >> shift,
           "floors": lambda x, shift: x >> shift,
           "forgets shift 0": lambda x, shift: (x + (1 << (shift - 1)) - 1 + ((x >> shift) & 1)) >> shift,
           "through floats": lambda x, shift: int(np.rint(x / 2**shift)),
           "ties to odd": lambda x, shift: x if shift == 0 else (
               x + (1 << (shift - 1)) - 1 + (1 - ((x >> shift) & 1))) >> shift},
    "05": {"always a half": lambda one, other: 0.5, "always minus a half": lambda one, other: -0.5,
           "no tie": lambda one, other: 0.75, "an integer": lambda one, other: 1.0},
    "06": {"ties up": lambda x, S, bits: int(np.clip(np.floor(x * S + 0.5), -most(bits), most(bits))),
           "ties to even": lambda x, S, bits: int(np.clip(np.rint(x * S), -most(bits), most(bits))),
           "lets -2^(b-1) in": lambda x, S, bits: int(np.clip(half_away(x * S), -most(bits) - 1, most(bits))),
           "does not clip": lambda x, S, bits: int(half_away(x * S)),
           "divides by S": lambda x, S, bits: quantize(x, 1 / S, bits)},
    "07": {"a whole step": lambda S: 1 / S, "half of S": lambda S: S / 2, "nothing": lambda S: 0.0},
    "08": {"the full range": lambda x, bits: 2 ** (bits - 1) / np.abs(x).max() if x.any() else 1.0,
           "positive side alone": lambda x, bits: most(bits) / x.max() if x.max() > 0 else 1.0,
           "the step": lambda x, bits: np.abs(x).max() / most(bits) if x.any() else 1.0,
           "infinity for zeros": lambda x, bits: most(bits) / np.abs(x).max() if x.any() else math.inf},
    "09": {"times S": lambda q, S, z: (q - z) * S, "adds the zero point": lambda q, S, z: (q + z) / S,
           "zero point after": lambda q, S, z: q / S - z},
    "10": {"the second part alone": lambda a, b: b,
           "counts once": lambda a, b: (min(a[0], b[0]), max(a[1], b[1]), a[2]),
           "means the extremes": lambda a, b: ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, a[2] + b[2])},
    "11": {"the other way round": lambda p, q: kl_divergence(q, np.maximum(p, 1e-9)),
           "base 2": lambda p, q: kl_divergence(p, q) / math.log(2),
           "absolute": lambda p, q: float(np.abs(p - q).sum()),
           "smooths p": lambda p, q: kl_divergence(p + 1e-3, q)},
    "12": {"the largest": lambda x, T, bits: max(T), "the smallest": lambda x, T, bits: min(T),
           "forgets clipping": lambda x, T, bits: min(T, key=lambda t: np.mean(
               (np.rint(x * most(bits) / t) * t / most(bits) - x) ** 2))},
    "13": {"one for all": lambda w, bits: np.full(len(w), max_scale(w, bits)),
           "per column": lambda w, bits: np.array([max_scale(c, bits) for c in w.T]),
           "divides by zero": lambda w, bits: np.array([most(bits) / np.abs(row).max() if row.any() else np.inf
                                                        for row in w]),
           "keeps the sign": lambda w, bits: np.array([most(bits) / row.max() if row.max() > 0 else 1.0
                                                       for row in w])},
    "14": {"forgets it": lambda q, w, z: int((q * w).sum()),
           "adds it": lambda q, w, z: int((q * w).sum() + z * w.sum()),
           "subtracts z once": lambda q, w, z: int((q * w).sum() - z)},
    "15": {"forgets the bias": lambda w, b, g, beta, mean, v: (w * g / math.sqrt(v), beta - mean * g / math.sqrt(v)),
           "divides by the variance": lambda w, b, g, beta, mean, v: (w * g / v, (b - mean) * g / v + beta),
           "forgets the mean": lambda w, b, g, beta, mean, v: (w * g / math.sqrt(v), b * g / math.sqrt(v) + beta)},
    "16": {"ties to even": lambda M: split_multiplier(M, np.rint),
           "floors m": lambda M: (int(math.frexp(M)[0] * 2.0**31), math.frexp(M)[1]),
           "lets 2^31 in": lambda M: (int(half_away(math.frexp(M)[0] * 2.0**31)), math.frexp(M)[1]),
           "30 bits": lambda M: (int(half_away(math.frexp(M)[0] * 2.0**30)), math.frexp(M)[1])},
    "17": {"through floats": lambda x, m, s: math.floor(x * m / 2 ** (31 - s) + 0.5),
           "floors": lambda x, m, s: (x * m) >> (31 - s),
           "ties away": lambda x, m, s: int(half_away(x * m / 2 ** (31 - s))),
           "the other shift": lambda x, m, s: (x * m + (1 << (30 + s))) >> (31 + s),
           "shifts by 32": lambda x, m, s: (x * m + (1 << (31 - s))) >> (32 - s)},
    "18": {"always single_round": lambda device: "single_round", "always gemmlowp": lambda device: "gemmlowp_double",
           "looks at one tie": lambda device: ("shift_floor" if int(np.ravel(device(1, 2**30, 0, 0))[0]) == 0
                                               else "single_round")},
    "19": {"rounds twice": lambda a, b, M, N: math.floor(a * M + 0.5) + math.floor(b * N + 0.5),
           "floors": lambda a, b, M, N: math.floor(a * M + b * N),
           "one multiplier": lambda a, b, M, N: add(a, b, M, M)},
    "20": {"means the codes up": lambda codes, z: math.floor(float(codes.mean())),
           "forgets to add z": lambda codes, z: (
        average_pool(codes, z) - z), "rounds to even": lambda codes, z: z + round(float((codes - z).mean()))},
    "21": {"pads with code 0": lambda x, w, z: convolve_padded(x, w, z, pad=0),
           "does not subtract": lambda x, w, z: convolve_padded(x, w, 0, pad=z),
           "flips the kernel": lambda x, w, z: convolve_padded(x, w[::-1, ::-1], z)},
    "22": {"the first": lambda exact, damaged: 0, "the largest error": lambda exact, damaged: int(np.argmax(
        [np.sum((a - b) ** 2) for a, b in zip(exact, damaged)])), "the best": lambda exact, damaged: int(np.argmax(
            [np.sum(a**2) / max(np.sum((a - b) ** 2), 1e-9) for a, b in zip(exact, damaged)]))},
    "23": {"forgets a root": lambda a, b: float(a @ b / max((a @ a) * (b @ b), 1e-300)),
           "nan for zeros": lambda a, b: float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else 0.0,
           "the dot product": lambda a, b: float(a @ b)},
    "24": {"the largest": lambda x, S, bits: max(S), "the smallest": lambda x, S, bits: min(S),
           "squared error": lambda x, S, bits: min(S, key=lambda s: np.mean((coded(x, s, bits) - x) ** 2))},
    "25": {"rounds up": lambda r, R, limit: min(limit, max(0, math.ceil(math.log2(R / r)))) if r else 0,
           "never stops at the limit": lambda r, R, limit: channel_shift(r, R, 99),
           "one less": lambda r, R, limit: max(channel_shift(r, R, limit) - 1, 0)},
    "26": {"rounds twice": lambda acc, m, s, k: (apply_multiplier(acc, m, s) + (1 << k >> 1)) >> k,
           "shifts first": lambda acc, m, s, k: apply_multiplier(acc >> k, m, s),
           "forgets k": lambda acc, m, s, k: apply_multiplier(acc, m, s)},
    "27": {"no offset": lambda *a: piecewise(*a, offset=False), "all in the tail": lambda *a: piecewise(
        *a, region=lambda size, p: True), "does not clip": lambda *a: piecewise(*a, clip=False),
           "ignores the sign": lambda r, *a: piecewise(abs(r), *a)},
    "28": {"the first": lambda x, p, bits: p[0], "the last": lambda x, p, bits: p[-1],
           "half of the range": lambda x, p, bits: (
        min(p, key=lambda v: abs(v - np.abs(x).max() / 2)))},
    "29": {"the paper's third": lambda x, r, s, m: [*three_sums(x, r, s, m)[:2], int((x * r).sum())],
           "ignores the region": lambda x, r, s, m: [int((x * s * m).sum()), 0, 0],
           "ignores the sign": lambda x, r, s, m: three_sums(x, r, 0 * s + 1, m)},
    "30": {"symmetric": lambda x, w, low, high: high // max(map(abs, ends(x, w))),
           "greatest alone": lambda x, w, low, high: high // max(ends(x, w)[1], 1),
           "one more": lambda x, w, low, high: safe_products(x, w, low, high) + 1},
    "31": {"both greatest": lambda x, w, low, high: (x[1], w[1]), "both least": lambda x, w, low, high: (x[0], w[0]),
           "outside": lambda x, w, low, high: (x[1] + 1, w[1] + 1)},
    "32": {"at the end": lambda p, bits: saturate(int(p.sum()), bits),
           "wraps": lambda p, bits: wrap(int(p.sum()), bits),
           "symmetric": lambda p, bits: max(saturating_sum(p, bits), -most(bits))},
    "33": {"a sign": lambda d: [d[0] - d[2], d[1] + d[2], d[1] - d[2], d[1] - d[3]],
           "not transposed": lambda d: [d[0], d[1] - d[2] + d[3], -d[0] + d[1] + d[2], -d[3]],
           "the last": lambda d: [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]},
    "34": {"floats": lambda g: [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]],
           "a sign": lambda g: [2 * g[0], g[0] + g[1] + g[2], g[0] + g[1] - g[2], 2 * g[2]],
           "ends not doubled": lambda g: [g[0], g[0] + g[1] + g[2], g[0] - g[1] + g[2], g[2]]},
    "35": {"forgets to halve": lambda d, g: [2 * v for v in winograd(d, g)],
           "swaps outputs": lambda d, g: winograd(d, g)[::-1],
           "convolves": lambda d, g: winograd(d, g[::-1])},
    "36": {"one side": lambda a: 2 * a, "no transform": lambda a: a, "too careful": lambda a: 16 * a},
    "37": {"passes everything": lambda dy, x, S, bits: dy, "the true derivative": lambda dy, x, S, bits: 0 * dy,
           "forgets the scale": lambda dy, x, S, bits: dy * (np.abs(x) <= most(bits))},
    "38": {"all zero": lambda: [(0, 2**30, 0)] * 10, "small and even": lambda: [(2 * i, 2**30, 0) for i in range(10)],
           "eleven": lambda: [*VECTORS, *VECTORS], "no multipliers": lambda: [(1, 1, 0)]},
    "39": {"symmetric": lambda product, bits: (most(bits) // abs(product), most(bits) // abs(product) + 1),
           "one less": lambda product, bits: tuple(n - 1 for n in boundary_twin(product, bits)),
           "unsigned": lambda product, bits: ((2**bits - 1) // abs(product), (2**bits - 1) // abs(product) + 1)},
}


