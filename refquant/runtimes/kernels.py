"""Which rule which kernel set has, as data: LiteRT's reference kernels, optimized ones and XNNPACK; onnxruntime's.

litert-ref: ``BUILTIN_REF``. litert-opt: ``BUILTIN_WITHOUT_DEFAULT_DELEGATES``, on x86-64 with AVX. litert-xnnpack:
the default, where XNNPACK takes all that it can. Scalings: A gemmlowp_double, B neon_double, X in float32 and rounded
to even, F in double and rounded half away from zero.

onnxruntime-avx2: on x86-64 without VNNI, where pairs of unsigned codes times signed weights saturate in int16.
onnxruntime-vnni: with it, and wherever sums are exact. refquant: its own rules, of both runtimes' files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from refquant.runtimes import elementwise as more
from refquant.runtimes import onnx_elementwise, onnx_layers, own
from refquant.runtimes import operators as rules
from refquant.runtimes.arithmetic import single_rounded
from refquant.runtimes.operators import A, B, F, Rule, X

LITERT_SETS = ("litert-ref", "litert-opt", "litert-xnnpack")
ONNX_SETS = ("onnxruntime-avx2", "onnxruntime-vnni")
LITERT_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # with weights
ONNX_LAYERS = ("QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat")
KERNEL_SETS = (*LITERT_SETS, *ONNX_SETS, "refquant")

# Operator and dtype of its codes: the rules of the three sets, in their order.
_SAME = (rules.reshape,) * 3
RULES: dict[tuple[str, str], tuple[Rule, Rule, Rule]] = {
    ("CONV_2D", "int8"): (partial(rules.convolution, scaling=A), partial(rules.convolution, scaling=B, grouped=A),
                          partial(rules.convolution, scaling=X)),
    ("CONV_2D", "uint8"): (partial(rules.convolution, scaling=A), partial(rules.convolution, scaling=B),
                           partial(rules.convolution, scaling=X, otherwise=B)),
    ("DEPTHWISE_CONV_2D", "int8"): (partial(rules.depthwise, scaling=A), partial(rules.depthwise, scaling=B, tail=A),
                                    partial(rules.depthwise, scaling=X)),
    ("DEPTHWISE_CONV_2D", "uint8"): (partial(rules.depthwise, scaling=A), partial(rules.depthwise, scaling=A),
                                     partial(rules.depthwise, scaling=X, otherwise=A)),
    ("FULLY_CONNECTED", "int8"): (partial(rules.fully_connected, scaling=F),
                                  partial(rules.fully_connected, scaling=B, single=True),
                                  partial(rules.fully_connected, scaling=X, otherwise=B)),
    ("FULLY_CONNECTED", "uint8"): (partial(rules.fully_connected, scaling=F),
                                   partial(rules.fully_connected, scaling=B, single=True),
                                   partial(rules.fully_connected, scaling=X, otherwise=B)),
    **{("ADD", dtype): (rules.add_reference, rules.add_blocks, rules.add_fixed) for dtype in ("int8", "uint8")},
    **{("AVERAGE_POOL_2D", dtype): (rules.average_pool,) * 3 for dtype in ("int8", "uint8")},
    **{("MAX_POOL_2D", dtype): (rules.max_pool, rules.max_pool, partial(rules.max_pool, fused=True))
       for dtype in ("int8", "uint8")},
    **{(kind, dtype): _SAME for kind in ("RESHAPE", "SQUEEZE") for dtype in ("int8", "uint8")},
    **{(kind, dtype): (rule,) * 3 for dtype in ("int8", "uint8") for kind, rule in (
        ("CONCATENATION", more.concatenation), ("PAD", more.pad), ("TRANSPOSE", more.transpose),
        ("RESIZE_NEAREST_NEIGHBOR", more.resize_nearest), ("HARD_SWISH", more.hard_swish), ("RELU", more.relu),
        ("RELU6", more.relu))},
    **{(kind, dtype): (reference, blocks, fused)
       for dtype in ("int8", "uint8") for kind, reference, blocks, fused in (
        ("MUL", more.multiply_reference, more.multiply_blocks, more.multiply_float),
        ("MEAN", more.mean_reference, more.mean_blocks, more.mean_float),
        ("QUANTIZE", more.rescale_reference, more.rescale_blocks, more.rescale_fixed),
        ("LEAKY_RELU", more.leaky_reference, more.leaky_reference, more.leaky_fixed),
        ("LOGISTIC", more.function_reference, more.function_reference, more.function_fused),
        ("TANH", more.function_reference, more.function_reference, more.function_fused))},
    ("QUANTIZE", "float32"): (more.quantize_reference, more.quantize_blocks, more.quantize_fused),
    **{("DEQUANTIZE", dtype): (more.dequantize_reference, more.dequantize_blocks, more.dequantize_fused)
       for dtype in ("int8", "uint8")},
    **{("SOFTMAX", dtype): (rules.softmax_reference, rules.softmax_table, rules.softmax_table)
       for dtype in ("int8", "uint8")},
}

# onnxruntime's operators: the rules of its two sets.
_PAIRS = (True, False)
ONNX_RULES: dict[str, tuple[Rule, ...]] = {
    **{kind: tuple(partial(onnx_layers.layer, pairs=pairs) for pairs in _PAIRS)
       for kind in ONNX_LAYERS},
    **{kind: (rule,) * 2 for kind, rule in (
        ("QuantizeLinear", onnx_elementwise.quantize), ("DequantizeLinear", onnx_elementwise.dequantize),
        ("QLinearAdd", onnx_elementwise.add), ("QLinearMul", onnx_elementwise.multiply),
        ("QLinearConcat", onnx_elementwise.concatenation), ("QLinearAveragePool", onnx_elementwise.average_pool),
        ("QLinearGlobalAveragePool", onnx_elementwise.global_average_pool),
        ("QLinearSigmoid", onnx_elementwise.function), ("QLinearLeakyRelu", onnx_elementwise.function),
        ("QLinearSoftmax", onnx_elementwise.softmax), ("MaxPool", onnx_elementwise.max_pool),
        ("Concat", onnx_elementwise.joined), ("Conv", onnx_layers.float_convolution))},
    **{kind: (onnx_elementwise.move,) * 2 for kind in (
        "Flatten", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")},
    **{kind: (onnx_elementwise.in_floats,) * 2 for kind in ("Add", "Clip", "LeakyRelu", "Mul", "Relu", "Sub")},
}

# refquant's own rules, where they are not those of the runtime's first set: maxima and moves are.
OWN_RULES: dict[str, Rule] = {
    "CONV_2D": partial(rules.convolution, scaling=single_rounded),
    "DEPTHWISE_CONV_2D": partial(rules.depthwise, scaling=single_rounded),
    "FULLY_CONNECTED": partial(rules.fully_connected, scaling=single_rounded),
    **dict.fromkeys(ONNX_LAYERS, own.onnx_layer),
    **dict.fromkeys(("ADD", "QLinearAdd"), own.add), **dict.fromkeys(("MUL", "QLinearMul"), own.multiply),
    **dict.fromkeys(("CONCATENATION", "QLinearConcat"), own.concatenation),
    "AVERAGE_POOL_2D": own.average_pool, "QLinearAveragePool": own.onnx_average_pool,
    **dict.fromkeys(("MEAN", "QLinearGlobalAveragePool"), own.mean),
    **dict.fromkeys(("QUANTIZE", "RELU", "RELU6"), own.rescale),
    **dict.fromkeys(("HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax",
                     "SOFTMAX", "TANH"), own.function),
    "QuantizeLinear": own.quantize,
    **dict.fromkeys(("DEQUANTIZE", "DequantizeLinear"), more.dequantize_reference),
}


def onnxruntime_here() -> str:
    """The set that onnxruntime has on this machine, by its CPU's flags; where none are told, that of exact sums."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "onnxruntime-vnni"
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    saturating = "ssse3" in flags and not flags & {"avx512_vnni", "avx_vnni"}
    return "onnxruntime-avx2" if saturating else "onnxruntime-vnni"


_NAMES = {single_rounded: "C, single_round", A: "A, gemmlowp_double", B: "B, neon_double",
          X: "X, float32 rounded to even", F: "F, double rounded away"}


def name_of_rule(rule: Rule) -> str:
    """In words: the function, and its scalings."""
    if not isinstance(rule, partial):
        return str(getattr(rule, "__name__", "rule")) + (" (refquant's)" if rule.__module__ == own.__name__ else "")
    said = [f"{key} {_NAMES.get(value, value)}" for key, value in rule.keywords.items()]
    return f"{rule.func.__name__} ({'; '.join(said)})"


def rule_of(kernel_set: str, kind: str, dtype: str) -> Rule:
    """The rule of an operator. ValueError for an unknown kernel set or operator."""
    if kernel_set not in KERNEL_SETS:
        raise ValueError(f"the kernel set must be one of {', '.join(KERNEL_SETS)}, got {kernel_set!r}")
    if kernel_set == "refquant" and (kind in ONNX_RULES or (kind, dtype) in RULES):
        if (kind, dtype) == ("QUANTIZE", "float32"):
            return own.quantize
        return OWN_RULES[kind] if kind in OWN_RULES else (ONNX_RULES.get(kind) or RULES[kind, dtype])[0]
    if kernel_set in ONNX_SETS and kind in ONNX_RULES:
        return ONNX_RULES[kind][ONNX_SETS.index(kernel_set)]
    if kernel_set not in LITERT_SETS or (kind, dtype) not in RULES:
        raise ValueError(f"operator {kind} of {dtype} is not supported as {kernel_set}")
    return RULES[kind, dtype][LITERT_SETS.index(kernel_set)]
