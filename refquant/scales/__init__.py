"""Reals to codes, and the choice of one tensor's scale.

Read in this order: ``linear`` (Q(X, S) and back), ``metrics`` (cosine and SQNR), ``statistics`` (extremes and counts
that merge exactly), ``thresholds`` (range estimators), ``kl`` (the divergences of TensorRT's, ncnn's and EasyQuant's
code).
"""

from refquant.scales.linear import affine_parameters, dequantize, expected_squared_error, max_scale, quantize
from refquant.scales.metrics import cosine, sqnr_db
from refquant.scales.statistics import Extremes, Histogram
from refquant.scales.thresholds import ESTIMATORS, threshold, threshold_scale

__all__ = [
    "ESTIMATORS",
    "Extremes",
    "Histogram",
    "affine_parameters",
    "cosine",
    "dequantize",
    "expected_squared_error",
    "max_scale",
    "quantize",
    "sqnr_db",
    "threshold",
    "threshold_scale",
]
