"""What a merge method declares: its parameters, once, and the stages of its arithmetic.

Validation, search spaces, export and docs all read these declarations; there is no second table.

All methods on task vectors share four stages (`merge_core.reference` holds their mathematics):
sparsify each expert's difference from base, weight it, elect a sign per entry, add what is kept.
The others add the models themselves, each times a factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from merge_core.errors import RecipeError
from merge_core.yaml_io import unknown

Number = float | bool | str
Sparsify = Literal["none", "trim", "band", "drop", "rank_drop"]
"""What is done to each difference before it is weighted:

none       nothing
trim       the entries of largest magnitude stay (TIES)
band       as trim, but the very largest go too (Model Breadcrumbs)
drop       a seeded draw with one probability (DARE)
rank_drop  a seeded draw with a probability by the entry's rank within its row (DELLA)
"""
MAX_MODELS = 8  # the coefficient table has 2^N entries


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: where it may stand, its legal domain and its default.

    Attributes:
        name: key in the recipe.
        scope: "model": one number per expert (a global value is every expert's); "global": one.
        kind: "number" may be a gradient or filtered, evaluated per tensor; "constant" is one
            number; "flag" is true or false; "choice" is one of `choices`.
        default: used where the recipe is silent; None means the recipe must give it.
        low: smallest legal number.
        high: largest legal number.
        choices: legal words of a "choice".
        integer: whether a number must be whole.
        mergekit: whether mergekit has it by the same name.
    """

    name: str
    scope: Literal["model", "global"]
    kind: Literal["number", "constant", "flag", "choice"]
    default: Number | None
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    integer: bool = False
    mergekit: bool = True

    def check(self, value: object) -> None:
        """Raise RecipeError unless `value` is one legal value of this parameter."""
        if self.kind == "flag":
            if not isinstance(value, bool):
                raise RecipeError(f"{self.name} is true or false, not {value!r}")
        elif self.kind == "choice":
            if value not in self.choices:
                raise RecipeError(unknown(f"{self.name}", str(value), self.choices))
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise RecipeError(f"{self.name} is a number, not {value!r}")
        elif not self.low <= value <= self.high:
            raise RecipeError(f"{self.name} {value:g} lies outside {self.domain()}")
        elif self.integer and value != int(value):
            raise RecipeError(f"{self.name} is a whole number, not {value!r}")

    def domain(self) -> str:
        """The legal domain in words."""
        if self.kind == "flag":
            return "true or false"
        if self.kind == "choice":
            return " | ".join(self.choices)
        if math.isinf(self.low) and math.isinf(self.high):
            return "any number"
        if math.isinf(self.high):
            return f"{self.low:g} and more"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Method:
    """A merge method.

    Attributes:
        name: as `merge_method` names it.
        parameters: all that a recipe may set, in the order docs show them.
        sparsify: what is done to each difference; see `Sparsify`.
        elects: whether a sign is elected per entry and only what agrees with it is kept.
        on_differences: merges e - b (and adds base); otherwise merges the experts themselves.
        needs_base: whether a recipe of this method must name a base model.
        interpolates: base and one other model, on the arc between them at `t`: their factors come
            from the pair's norms and angle, per tensor, instead of from weights.
        source: where it was published.
        min_models: fewest experts it merges.
        max_models: most experts it merges.
        mergekit: mergekit runs this method with the same numbers and the same result.
    """

    name: str
    parameters: tuple[Parameter, ...]
    source: str
    sparsify: Sparsify = "none"
    elects: bool = False
    on_differences: bool = True
    needs_base: bool = True
    interpolates: bool = False
    min_models: int = 1
    max_models: int = MAX_MODELS
    mergekit: bool = True

    @property
    def random(self) -> bool:
        """Whether the result depends on the recipe's seed."""
        return self.sparsify in ("drop", "rank_drop")

    @property
    def ranked(self) -> bool:
        """Whether an exact count of entries stays, by magnitude within a tensor or the model."""
        return self.sparsify in ("trim", "band")

    def parameter(self, name: str) -> Parameter:
        """The declaration of `name`; RecipeError with the nearest name if there is none."""
        by_name = self.by_name
        if name not in by_name:
            raise RecipeError(unknown(f"parameter of {self.name}", name, by_name))
        return by_name[name]

    @property
    def by_name(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        return {parameter.name: parameter for parameter in self.parameters}


def weight(default: float | None = None) -> Parameter:
    """Each expert's weight. Free: weights that sum to 2 and more are useful (EvoLLM-JP)."""
    return Parameter("weight", "model", "number", default, "how much of this expert is added")


def density(help_: str) -> Parameter:
    """Share of an expert's difference that stays."""
    return Parameter("density", "model", "number", 1.0, help_, low=0.0, high=1.0)


def normalize(default: bool) -> Parameter:
    """Whether the sum is divided by the weights of those that are kept."""
    return Parameter(
        "normalize", "global", "flag", default, "divide by the sum of the kept experts' weights"
    )


GAMMA = Parameter(
    "gamma",
    "model",
    "number",
    0.01,
    "share of the entries, the largest, that is taken out as outliers; density goes before it",
    low=0.0,
    high=1.0,
)
EPSILON = Parameter(
    "epsilon",
    "model",
    "number",
    0.15,
    "how far the keep probability of a row's smallest and largest entry lies from density",
    low=0.0,
    high=0.5,
)
T = Parameter(
    "t",
    "global",
    "number",
    None,
    "place on the arc between the two models: 0 is base, 1 the other",
    low=0.0,
    high=1.0,
)
LAMBDA = Parameter("lambda", "global", "number", 1.0, "factor on the merged difference")
DENSITY_STEP = Parameter(
    "density_step",
    "global",
    "constant",
    0.01,
    "evaluated densities are rounded to multiples of this; 0 takes them as they are",
    low=0.0,
    high=1.0,
    mergekit=False,
)
SCOPE = Parameter(
    "scope",
    "global",
    "choice",
    "tensor",
    "rank magnitudes within each tensor, or over the whole model as the TIES paper does",
    choices=("tensor", "model"),
    mergekit=False,
)
# Legal with every method that elects signs.
SLACK = (
    Parameter(
        "slack",
        "model",
        "number",
        0.0,
        "share of the entries where this expert lost the sign election that it wins back",
        low=0.0,
        high=1.0,
        mergekit=False,
    ),
    Parameter(
        "slack_mode",
        "global",
        "choice",
        "replace",
        "a restored entry stands alone, or beside those that won it",
        choices=("replace", "both"),
        mergekit=False,
    ),
    Parameter(
        "slack_rule",
        "global",
        "constant",
        1,
        "version of our reading of what TIES-SV restores",
        low=1,
        high=1,
        integer=True,
        mergekit=False,
    ),
)
