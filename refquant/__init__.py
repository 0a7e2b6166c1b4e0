"""refquant: the bit-exact NumPy reference for post-training quantization of CNNs.

Shape letters, used everywhere: N images, C input channels, O output channels, H x W input plane,
P x Q output plane, R x S kernel, F features of a flat tensor.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refquant.digits.weights import calibration_images, load_digits
    from refquant.integers.formats import IntFormat
    from refquant.integers.multiplier import Multiplier
    from refquant.integers.requantization import requantize
    from refquant.network.float_forward import run_float
    from refquant.network.graph import Network
    from refquant.network.proof import QuantizedNetwork
    from refquant.network.storage import load_quantized
    from refquant.recipes.quantize import quantize_network
    from refquant.scales.linear import dequantize, max_scale, quantize
    from refquant.scales.metrics import cosine, sqnr_db

__version__ = "0.1.0"

__all__ = [
    "IntFormat",
    "Multiplier",
    "Network",
    "QuantizedNetwork",
    "calibration_images",
    "cosine",
    "dequantize",
    "load_digits",
    "load_quantized",
    "max_scale",
    "quantize",
    "quantize_network",
    "requantize",
    "run_float",
    "sqnr_db",
]

# A name is imported from its module when it is first asked for. So the command line starts, and can be
# interrupted, before NumPy and SciPy are loaded.
_MODULES = {
    "digits.weights": ("calibration_images", "load_digits"),
    "integers.formats": ("IntFormat",),
    "scales.linear": ("dequantize", "max_scale", "quantize"),
    "network.float_forward": ("run_float",),
    "network.graph": ("Network",),
    "network.proof": ("QuantizedNetwork",),
    "network.storage": ("load_quantized",),
    "recipes.quantize": ("quantize_network",),
    "integers.multiplier": ("Multiplier",),
    "integers.requantization": ("requantize",),
    "scales.metrics": ("cosine", "sqnr_db"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"refquant.{module}"), name)
            return value
    raise AttributeError(f"module 'refquant' has no attribute {name!r}")
