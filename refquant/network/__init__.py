"""Graph, integer program, and three interpreters.

Read in this order: ``graph`` (a float network as a list of nodes), ``moves`` and ``pointwise`` (more nodes),
``forward`` (tensors one after another), ``float_forward``, ``batchnorm`` (folding), ``qparams`` (what codes mean),
``program`` and ``pointwise_layers`` (the integer layers), ``integer_forward`` (integers only), ``simulated_scaling``
and ``simulated_forward`` (an independent implementation in float64), ``proof`` (``QuantizedNetwork``, whose sums are
proven to fit), ``storage``, ``costs`` (what hardware is asked for).
"""

from refquant.network.batchnorm import fold_batchnorm
from refquant.network.costs import layer_costs
from refquant.network.float_forward import run_float, run_float_tensors
from refquant.network.graph import Network
from refquant.network.proof import QuantizedNetwork
from refquant.network.qparams import PiecewiseParams
from refquant.network.storage import load_quantized

__all__ = [
    "Network",
    "PiecewiseParams",
    "QuantizedNetwork",
    "fold_batchnorm",
    "layer_costs",
    "load_quantized",
    "run_float",
    "run_float_tensors",
]
