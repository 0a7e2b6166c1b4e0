"""The recipes by name, their defaults, and the settings that follow from the caller's options."""

from __future__ import annotations

from typing import Any, NamedTuple

from refquant.integers.checks import is_integer, one_of
from refquant.integers.devices import name_of
from refquant.integers.dialects import DIALECTS
from refquant.integers.several_sums import takes_several_sums
from refquant.pwlq.breakpoints import METHODS
from refquant.recipes.walk import LAYER_INPUTS
from refquant.scales.thresholds import ESTIMATORS


class Recipe(NamedTuple):
    """A recipe's defaults, and where it comes from."""

    granularity: str
    bits: int
    activations: str
    estimator: str  # of the activations' ranges, one of scales.ESTIMATORS
    searched: bool  # whether EasyQuant goes on from there
    source: str
    coupling: str = "floor"  # of shifts and layer scale, with granularity shift
    correct_output_mean: bool = False
    activation_bits: int | None = None  # where it is not the weights'
    breakpoints: str = "none"  # of piecewise weights, one of BREAKPOINTS
    match_moments: bool = False


_TENSORRT = "activations by KL as NVIDIA's toolkit searches it (Migacz 2017), weights by max per output channel"
_EASYQUANT = "EasyQuant's search of both scales from max, weights per output channel (arXiv 2006.16669)"
RECIPES = {
    "max-int8": Recipe("layer", 8, "unsigned", "max", False,
                       "max-scaling, one weight scale per layer (EasyQuant Eq. 1)"),
    "channelwise-int8": Recipe("channel", 8, "unsigned", "max", False,
                               "max-scaling, one weight scale per output channel"),
    "tensorrt-int8": Recipe("channel", 8, "signed", "kl_nvidia", False, _TENSORRT),
    "tensorrt-int7": Recipe("channel", 7, "signed", "kl_nvidia", False, f"{_TENSORRT}, 7 bits"),
    "wes-int8": Recipe("shift", 8, "unsigned", "max", False,
                       "weight equalizing shifts of 4 bits, one scale per layer (arXiv 2008.05767), output means "
                       "corrected", "search_weight", True),
    "pwlq-w4a8": Recipe("channel", 4, "unsigned", "max", False,
                        "piecewise linear weights, their moments matched (arXiv 2002.00104)", activation_bits=8,
                        breakpoints="one_shot", match_moments=True),
    "pwlq-w4a4": Recipe("channel", 4, "piecewise", "topk_median", False,
                        "piecewise linear weights, their moments matched, and activations (arXiv 2002.00104)",
                        breakpoints="one_shot", match_moments=True),
    "easyquant-int8": Recipe("channel", 8, "signed", "max", True, _EASYQUANT),
    "easyquant-int7": Recipe("channel", 7, "signed", "max", True, f"{_EASYQUANT}, 7 bits"),
}
# How shifts and layer scale are chosen: one of shift_equalizer.SHIFT_RULES and q_max/max|w|; floor, and the scale of
# least squared error; or both searched.
COUPLINGS = ("floor", "nearest", "ceil", "floor_mse", "search_weight", "search_cosine")
GRANULARITIES = ("layer", "channel", "shift")
# Linear codes of activations; beside them there is ``piecewise``.
ACTIVATIONS = ("unsigned", "signed", "affine")
# How the breakpoint of piecewise linear weights is found; none: their codes are linear.
BREAKPOINTS = ("none", *METHODS)
DEFAULTS = {"shift_bits": 4, "cross_layer_equalization": False, "widen": False,
            "layer_inputs": "quantized", "accumulator_bits": 32, "dialect": "single_round"}


class Settings(NamedTuple):
    """A recipe with everything that was asked for, and its defaults for the rest."""

    recipe: str
    weight_bits: int
    activation_bits: int
    granularity: str
    coupling: str
    shift_bits: int
    activations: str
    estimator: str
    cross_layer_equalization: bool
    correct_output_mean: bool
    breakpoints: str
    match_moments: bool
    widen: bool
    layer_inputs: str
    accumulator_bits: int
    dialect: str

    @property
    def label(self) -> str:
        """The recipe's name; where anything is not its default, a name that says so.

        >>> settings("easyquant-int7").label, settings("easyquant-int7", weight_bits=5, activation_bits=5).label
        ('easyquant-int7', 'easyquant-w5a5')
        """
        default = settings(self.recipe)
        changed = {name for name in self._fields if getattr(self, name) != getattr(default, name)}
        method, _, bits = self.recipe.rpartition("-")
        if changed & {"weight_bits", "activation_bits"}:
            bits = f"w{self.weight_bits}a{self.activation_bits}"
        corrected = "mean_corrected" if self.correct_output_mean else "mean_not_corrected"
        words = {"granularity": self.granularity, "coupling": self.coupling,
                 "shift_bits": f"{self.shift_bits}bit_shifts", "activations": self.activations,
                 "estimator": self.estimator,
                 "cross_layer_equalization": "cle", "correct_output_mean": corrected,
                 "breakpoints": "linear" if self.breakpoints == "none" else self.breakpoints,
                 "match_moments": "moments" if self.match_moments else "moments_not_matched",
                 "widen": "widened", "layer_inputs": f"{self.layer_inputs}_inputs",
                 "accumulator_bits": f"acc{self.accumulator_bits}", "dialect": self.dialect}
        label = "-".join([method, bits, *(word for name, word in words.items() if name in changed)])
        return label if label == self.recipe or label not in RECIPES else f"{label}-{self.activations}"


def settings(recipe: str, **options: Any) -> Settings:
    """What ``recipes.quantize_network`` does for these options; ValueError for names and values that do not exist.

    options: fields of ``Settings``; None, or an option left out, stands for the recipe's default.
    """
    one_of(recipe, RECIPES, "recipe")
    default = RECIPES[recipe]
    values = {**DEFAULTS, "weight_bits": default.bits, "activation_bits": default.activation_bits or default.bits,
              "granularity": default.granularity, "activations": default.activations, "estimator": default.estimator,
              "coupling": default.coupling, "correct_output_mean": default.correct_output_mean,
              "breakpoints": default.breakpoints, "match_moments": default.match_moments,
              **{name: value for name, value in options.items() if value is not None}}
    unknown = sorted(values.keys() - set(Settings._fields))
    if unknown:
        raise ValueError(f"options must be among {', '.join(Settings._fields[1:])}, got {', '.join(unknown)}")
    values["dialect"] = name_of(values["dialect"])
    chosen = Settings(recipe, **values)
    for name, choices in (("granularity", GRANULARITIES), ("coupling", COUPLINGS), ("shift_bits", range(6)),
                          ("activations", (*ACTIVATIONS, "piecewise")), ("estimator", ESTIMATORS),
                          ("breakpoints", BREAKPOINTS), ("layer_inputs", LAYER_INPUTS),
                          ("accumulator_bits", (16, 24, 32, 48, 64)),
                          ("weight_bits", range(2, 17)), ("activation_bits", range(2, 17))):
        value = values[name]
        if value not in choices or not (is_integer(value) or isinstance(value, str)):
            wanted = (f"from {choices[0]} to {choices[-1]}" if isinstance(choices, range)
                      else f"one of {', '.join(map(str, choices))}")
            raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if chosen.activations == "affine" and (default.searched or chosen.estimator != "max"):
        raise ValueError(f"activations must be unsigned or signed with recipe {recipe} and estimator "
                         f"{chosen.estimator}, got 'affine'")
    for name, usual in (("coupling", default.coupling), ("shift_bits", DEFAULTS["shift_bits"])):
        if chosen.granularity != "shift" and values[name] != usual:
            raise ValueError(f"{name} must be left out with granularity {chosen.granularity}, which has no shifts, "
                             f"got {values[name]!r}")
    for name in ("cross_layer_equalization", "correct_output_mean", "match_moments", "widen"):
        if not isinstance(values[name], bool):
            raise ValueError(f"{name} must be True or False, got {values[name]!r}")
    _check_piecewise(chosen)
    searches = default.searched or (chosen.granularity == "shift" and chosen.coupling == "search_cosine")
    for name, usual, needed in (("widen", False, default.searched), ("layer_inputs", "quantized", searches)):
        if values[name] != usual and not needed:
            raise ValueError(f"{name} must be {usual} with recipe {recipe}, which searches nothing, got "
                             f"{values[name]!r}")
    return chosen


def _check_piecewise(chosen: Settings) -> None:
    """Piecewise codes and matched moments need several sums, which not every other option takes."""
    if chosen.activations == "piecewise" and chosen.breakpoints == "none":
        raise ValueError("activations must be linear where weights are, got 'piecewise' with breakpoints none")
    if chosen.breakpoints == "none" and not chosen.match_moments:
        return
    what = "matched moments" if chosen.breakpoints == "none" else "piecewise weights"
    if chosen.granularity == "shift":
        raise ValueError(f"granularity must be layer or channel with {what}, got {chosen.granularity!r}")
    if RECIPES[chosen.recipe].searched:
        raise ValueError(f"{what} need a recipe that does not search scales, got {chosen.recipe}")
    if not takes_several_sums(chosen.dialect):
        known = ", ".join(filter(takes_several_sums, DIALECTS))
        raise ValueError(f"dialect must be one of {known} with {what}, got {chosen.dialect!r}")
    if chosen.activations == "piecewise" and chosen.activation_bits > 8:
        raise ValueError("activation_bits must be at most 8 with piecewise activations, got "
                         f"{chosen.activation_bits}")
