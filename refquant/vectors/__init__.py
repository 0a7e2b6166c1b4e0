"""What hardware teams compare their devices with.

Read in this order: ``descriptions`` (the dialects that can be identified, which of them cannot differ, and what they
answer), ``probes`` (inputs on which they differ), ``identify`` (which one a device's answers fit).
"""

from refquant.vectors.descriptions import Rows, canonical, classes, descriptions
from refquant.vectors.identify import Identification, identify, identify_rows
from refquant.vectors.probes import near_ties, next_probes, smallest_difference

__all__ = [
    "Identification",
    "Rows",
    "canonical",
    "classes",
    "descriptions",
    "identify",
    "identify_rows",
    "near_ties",
    "next_probes",
    "smallest_difference",
]
