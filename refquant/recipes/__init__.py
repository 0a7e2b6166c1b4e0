"""From a float network and calibration images to an integer network.

Read in this order: ``settings`` (the recipes by name), ``calibration`` (statistics of every tensor), ``quantize``
(the whole way), ``weights``, ``walk`` (both networks carried forward once), ``network_search`` (EasyQuant on that
walk), ``corrections`` (before and after), ``lowering`` (scales to codes and multipliers).
"""

from refquant.recipes.calibration import calibrate
from refquant.recipes.quantize import quantize_network
from refquant.recipes.settings import RECIPES

__all__ = [
    "RECIPES",
    "calibrate",
    "quantize_network",
]
