"""Which rule which of LiteRT's kernel sets has, as data: the reference kernels, the optimized ones, and XNNPACK.

litert-ref: ``BUILTIN_REF``. litert-opt: ``BUILTIN_WITHOUT_DEFAULT_DELEGATES``, on x86-64 with AVX. litert-xnnpack:
the default, where XNNPACK takes all that it can. Scalings: A gemmlowp_double, B neon_double, X in float32 and rounded
to even, F in double and rounded half away from zero.
"""

from __future__ import annotations

from functools import partial

from refquant.runtimes import elementwise as more
from refquant.runtimes import operators as rules
from refquant.runtimes.operators import A, B, F, Rule, X

KERNEL_SETS = ("litert-ref", "litert-opt", "litert-xnnpack")

# Operator and dtype of its codes: the rules of the three sets, in their order.
_SAME = (rules.reshape,) * 3
RULES: dict[tuple[str, str], tuple[Rule, Rule, Rule]] = {
    ("CONV_2D", "int8"): (partial(rules.convolution, scaling=A), partial(rules.convolution, scaling=B, grouped=A),
                          partial(rules.convolution, scaling=X)),
    ("CONV_2D", "uint8"): (partial(rules.convolution, scaling=A), partial(rules.convolution, scaling=B),
                           partial(rules.convolution, scaling=X)),
    ("DEPTHWISE_CONV_2D", "int8"): (partial(rules.depthwise, scaling=A), partial(rules.depthwise, scaling=B, tail=A),
                                    partial(rules.depthwise, scaling=X)),
    ("DEPTHWISE_CONV_2D", "uint8"): (partial(rules.depthwise, scaling=A), partial(rules.depthwise, scaling=A),
                                     partial(rules.depthwise, scaling=X)),
    ("FULLY_CONNECTED", "int8"): (partial(rules.fully_connected, scaling=F),
                                  partial(rules.fully_connected, scaling=B, single=True),
                                  partial(rules.fully_connected, scaling=X)),
    ("FULLY_CONNECTED", "uint8"): (partial(rules.fully_connected, scaling=F),
                                   partial(rules.fully_connected, scaling=B, single=True),
                                   partial(rules.fully_connected, scaling=X)),
    **{("ADD", dtype): (rules.add_reference, rules.add_blocks, rules.add_fixed) for dtype in ("int8", "uint8")},
    **{("AVERAGE_POOL_2D", dtype): (rules.average_pool, rules.average_pool, partial(rules.average_pool, fused=True))
       for dtype in ("int8", "uint8")},
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
    **{("SOFTMAX", dtype): (rules.softmax_reference, rules.softmax_table, rules.softmax_table)
       for dtype in ("int8", "uint8")},
}


_NAMES = {A: "A, gemmlowp_double", B: "B, neon_double", X: "X, float32 rounded to even",
          F: "F, double rounded away"}


def name_of_rule(rule: Rule) -> str:
    """In words: the function, and its scalings."""
    if not isinstance(rule, partial):
        return str(getattr(rule, "__name__", "rule"))
    said = [f"{key} {_NAMES.get(value, value)}" for key, value in rule.keywords.items()]
    return f"{rule.func.__name__} ({'; '.join(said)})"


def rule_of(kernel_set: str, kind: str, dtype: str) -> Rule:
    """The rule of an operator. ValueError for an unknown kernel set or operator."""
    if kernel_set not in KERNEL_SETS:
        raise ValueError(f"the kernel set must be one of {', '.join(KERNEL_SETS)}, got {kernel_set!r}")
    if (kind, dtype) not in RULES:
        raise ValueError(f"operator {kind} of {dtype} is not supported")
    return RULES[kind, dtype][KERNEL_SETS.index(kernel_set)]
