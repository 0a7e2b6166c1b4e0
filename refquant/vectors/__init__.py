"""Golden vectors for hardware, and a checker for a device's answers.

Read in this order: ``descriptions`` (the dialects that can be identified, which of them cannot differ, and what they
answer), ``probes`` (inputs on which they differ), ``identify`` (which one a device's answers fit).

Golden vectors: ``cases`` (a case and its files), ``operations`` (what cases compute), ``faults`` (what devices with a
bug answer; in ``code_faults``, ``layer_faults``, ``winograd_faults``), ``suites``, ``layer_suites``,
``winograd_suites``, ``network_cases`` and ``runtime_cases`` (which cases there are), ``build`` (suites written, with
their kill tables), ``reading``, ``diagnosis`` and ``check`` (a device's answers compared). ``streams`` draws numbers
that stay the same.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from refquant.vectors.descriptions import Rows, canonical, classes, descriptions
from refquant.vectors.identify import Identification, identify, identify_rows
from refquant.vectors.probes import near_ties, next_probes, smallest_difference

if TYPE_CHECKING:
    from refquant.vectors.build import SUITES, build_suite, kills, write_suite
    from refquant.vectors.check import check_answers

__all__ = [
    "SUITES",
    "Identification",
    "Rows",
    "build_suite",
    "canonical",
    "check_answers",
    "classes",
    "descriptions",
    "identify",
    "identify_rows",
    "kills",
    "near_ties",
    "next_probes",
    "smallest_difference",
    "write_suite",
]

# Imported when first asked for: they load whole networks and SciPy, which ``identify`` does not need.
_LATER = {"SUITES": "build", "build_suite": "build", "kills": "build", "write_suite": "build",
          "check_answers": "check"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"refquant.vectors.{_LATER[name]}"), name)
    raise AttributeError(f"module 'refquant.vectors' has no attribute {name!r}")
