"""The bundled images, the network that is trained on them, and the training, by hand.

Read in this order: ``data``, ``architecture``, ``gradients`` (one backward function per layer), ``training``,
``weights`` (the trained network), ``disparity`` (the same with a few channels of huge weights), ``qat`` (training
with the quantizers in the forward pass).
"""

from refquant.digits.weights import calibration_images, load_digits

__all__ = [
    "calibration_images",
    "load_digits",
]
