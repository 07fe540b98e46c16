"""The search space: a recipe in whose place of numbers ranges may stand.

| in the file | samples | named |
|---|---|---|
| `{low: .3, high: 1.2}` (`step`, `log`) | one number | `reasoning.weight` |
| `{choices: [...]}` | one of them | `merge_method`, `scope` |
| `{low: 0, high: 1, anchors: 4}` | a gradient with free anchors | `reasoning.weight[2]` |
| `{plateau: ..., end: ..., knee: ...}` of ranges | a schedule | `reasoning.weight.knee` |
| a list with ranges in it | gradient or filters | `reasoning.weight[1]`, `...[self_attn]` |

Define-by-run, as Optuna's spaces are: only the parameters of the chosen method are asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from merge_core.errors import RecipeError
from merge_core.legal import below_one, stepped
from merge_core.methods import Method, get_method
from merge_core.methods.base import DENSITY_STEP
from merge_core.recipe import Recipe, expert_name
from merge_core.values import parse_number
from merge_core.yaml_io import Where, at, inside, unknown

Suggest = Callable[[str, BaseDistribution], Any]
"""Gives a value for a named parameter, as `trial._suggest` does."""

_RANGE_KEYS = {"low", "high", "step", "log", "anchors"}
_DIGITS = 6  # significant ones of sampled numbers: readable, and float32 tells them apart
_MOST_STEPS = 10**6
_DRAWN = re.compile(r"(?:[\w-]+\.)?(density|epsilon)(?!\w)")  # after the name of its expert
_ANCHOR = re.compile(r"\[\d+\]|\.(plateau|end)$")


@dataclass(frozen=True)
class Space:
    """A recipe template.

    Attributes:
        template: YAML data of a recipe in which ranges may stand.

    Raises:
        RecipeError: on construction, with the place in the template attached.
    """

    template: Mapping[str, Any]

    def __post_init__(self) -> None:
        shared = self.template.get("parameters")
        if isinstance(shared, Mapping) and isinstance(shared.get("density_step"), Mapping):
            error = RecipeError("density_step is one number: densities are proposed in its steps")
            raise at(error, ("parameters", "density_step"))
        for method in self.methods:
            asked = self._asked(method)
            for extreme in (_lowest, _highest):
                self._fill(method, extreme, exact=True).fingerprint()
            self._fill(method, _lowest)  # with densities in steps
            for name, distribution in asked.items():
                # The extremes of ranges bound what lies between; choices have to be tried.
                if isinstance(distribution, CategoricalDistribution):
                    for choice in distribution.choices[1:-1]:
                        self._fill(method, _choosing(name, choice), exact=True)
            if "epsilon" in method.by_name:
                self._check_epsilons(method)
        self._check_used()

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that a recipe of this space may have."""
        choice = self.template.get("merge_method")
        with inside("merge_method"):
            if choice is None:
                raise RecipeError("merge_method is missing")
            if not isinstance(choice, Mapping):
                return (get_method(choice),)
            return tuple(get_method(name) for name in _choices(choice).choices)

    @property
    def names(self) -> tuple[str, ...]:
        """The experts' names, in order."""
        taken: list[str] = []
        for index, model in enumerate(self.template.get("models") or []):
            with inside("models", index, "name"):
                taken.append(expert_name(model.get("name"), model["model"], taken))
        return tuple(taken)

    @property
    def conditional(self) -> bool:
        """Whether which parameters are asked for depends on another parameter."""
        return len(self.methods) > 1

    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter that may be asked for, by name."""
        found: dict[str, BaseDistribution] = {}
        if self.conditional:
            names = [method.name for method in self.methods]
            found["merge_method"] = CategoricalDistribution(names)
        for method in self.methods:
            found |= self._asked(method)
        return found

    def _asked(self, method: Method) -> dict[str, BaseDistribution]:
        """The parameters that are asked for under `method`, by name."""
        found: dict[str, BaseDistribution] = {}

        def collect(name: str, distribution: BaseDistribution) -> Any:
            if name in found:
                raise RecipeError(f"two ranges would be named {name}: a filter stands once")
            found[name] = distribution
            return _lowest(name, distribution)

        self._fill(method, collect, exact=True)
        return found

    def sample(self, trial: optuna.Trial) -> Recipe:
        """The recipe of `trial`, asking it for each parameter once."""

        def suggest(name: str, distribution: BaseDistribution) -> Any:
            if isinstance(distribution, CategoricalDistribution):
                return trial.suggest_categorical(name, distribution.choices)
            assert isinstance(distribution, FloatDistribution)
            return trial.suggest_float(
                name,
                distribution.low,
                distribution.high,
                step=distribution.step,
                log=distribution.log,
            )

        return self.recipe(suggest)

    def example(self) -> Recipe:
        """The recipe at the low end of every range."""
        return self._fill(self.methods[0], _lowest)

    def from_params(self, params: Mapping[str, Any]) -> Recipe:
        """The recipe that trial parameters stand for."""
        return self.recipe(lambda name, _: params[name])

    def recipe(self, suggest: Suggest) -> Recipe:
        """Fill the template with what `suggest` gives."""
        method = self.methods[0]
        if self.conditional:
            names = [m.name for m in self.methods]
            method = get_method(suggest("merge_method", CategoricalDistribution(names)))
        return self._fill(method, suggest)

    def _fill(self, method: Method, suggest: Suggest, *, exact: bool = False) -> Recipe:
        """The recipe of `method` with what `suggest` gives; `exact` keeps all of its digits."""
        names = self.names
        # Densities are evaluated in steps, so they are proposed in them.
        step = None if exact else self._density_step
        data = {**self.template, "merge_method": method.name}
        data["models"] = [
            {
                **model,
                "name": names[index],
                "parameters": self._parameters(
                    model.get("parameters"), method, names[index], suggest, step, ("models", index)
                ),
            }
            for index, model in enumerate(self.template.get("models") or [])
        ]
        data["parameters"] = self._parameters(
            self.template.get("parameters"), method, "", suggest, step, ()
        )
        return Recipe.parse(data)

    def _parameters(
        self,
        raw: Any,
        method: Method,
        owner: str,
        suggest: Suggest,
        step: float | None,
        where: Where,
    ) -> dict[str, Any]:
        filled = {}
        with inside(*where, "parameters"):
            if raw is not None and not isinstance(raw, Mapping):
                raise RecipeError("parameters is a mapping from names to values")
            for key, value in (raw or {}).items():
                if self.conditional and key not in method.by_name:
                    continue  # another of the methods has it; _check_used knows
                name = f"{owner}.{key}" if owner else key
                with inside(key):
                    own = step if key == "density" or step is None else 0.0
                    filled[key] = _fill_value(value, name, suggest, own)
        return filled

    @property
    def _density_step(self) -> float:
        shared = self.template.get("parameters") or {}
        assert DENSITY_STEP.default is not None
        step = float(shared.get("density_step", DENSITY_STEP.default))
        return step if step >= 1e-9 else 0.0

    def _check_epsilons(self, method: Method) -> None:
        """What is legal for DELLA depends on two parameters at once: let their extremes meet.

        A density of 1 is legal whatever epsilon is, but those just below it may not be.
        """
        for largest in (False, True):
            self._fill(method, _meeting(self._density_step, largest=largest), exact=True)

    def _check_used(self) -> None:
        """Under a choice of methods, every parameter belongs to at least one of them."""
        known = {name for method in self.methods for name in method.by_name}
        scopes = [((), self.template.get("parameters") or {})]
        for index, model in enumerate(self.template.get("models") or []):
            scopes.append((("models", index), model.get("parameters") or {}))  # type: ignore[arg-type]
        for where, parameters in scopes:
            for key in parameters:
                if key not in known:
                    error = RecipeError(unknown("parameter", key, known))
                    raise at(error, (*where, "parameters", key))


def _fill_value(value: Any, name: str, suggest: Suggest, step: float | None) -> Any:
    """`value` with numbers in place of ranges: multiples of `step`, or readable if it is 0."""
    if isinstance(value, list):
        return [_fill_entry(item, name, index, suggest, step) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    keys = set(value)
    if "choices" in keys:
        return suggest(name, _choices(value))
    if keys & {"plateau", "end", "knee"}:
        filled = {}
        for key, inner in value.items():
            with inside(key):
                own = 0.0 if key == "knee" and step is not None else step
                filled[key] = _fill_value(inner, f"{name}.{key}", suggest, own)
        return filled
    distribution = _range(value)
    if step:
        _check_steps(distribution, step)
    anchors = value.get("anchors")
    if anchors is None:
        return _number(suggest(name, distribution), distribution, step)
    return [
        _number(suggest(f"{name}[{i}]", distribution), distribution, step) for i in range(anchors)
    ]


def _fill_entry(item: Any, name: str, index: int, suggest: Suggest, step: float | None) -> Any:
    """One element of a list: an anchor of a gradient, or a filter entry."""
    with inside(index):
        if not (isinstance(item, Mapping) and "value" in item):
            return _fill_value(item, f"{name}[{index}]", suggest, step)
        label = item.get("filter") or "rest"
        with inside("value"):
            filled = _fill_value(item["value"], f"{name}[{label}]", suggest, step)
        return {**item, "value": filled}


def _range(value: Mapping[str, Any]) -> FloatDistribution:
    for key in value:
        if key not in _RANGE_KEYS:
            raise at(RecipeError(unknown("key of a range", key, _RANGE_KEYS)), (key,))
    for key in ("low", "high"):
        if key not in value:
            raise RecipeError(f"a range has low and high; {key} is missing")
    with inside("low"):
        low = parse_number(value["low"])
    with inside("high"):
        high = parse_number(value["high"])
    if low > high:
        raise at(RecipeError(f"low {low:g} is above high {high:g}"), ("low",))
    step, log = value.get("step"), value.get("log", False)
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float))):
        raise at(RecipeError(f"step {step!r} is not a number"), ("step",))
    # .009 - .008 is a little less than .001: a range of one step has to hold its step.
    if step is not None and not (
        step > 0 and (low == high or step * (1 - 1e-9) <= high - low <= step * _MOST_STEPS)
    ):
        raise at(RecipeError(f"step {step:g} does not fit between {low:g} and {high:g}"), ("step",))
    if not isinstance(log, bool):
        raise at(RecipeError(f"log is true or false, not {log!r}"), ("log",))
    if log and low <= 0:
        raise at(RecipeError(f"a log range starts above 0, not at {low:g}"), ("low",))
    if log and step is not None:
        raise at(RecipeError("a range has step or log, not both"), ("step",))
    anchors = value.get("anchors")
    if anchors is not None and (
        isinstance(anchors, bool) or not isinstance(anchors, int) or not 1 <= anchors <= 64
    ):
        raise at(RecipeError(f"anchors {anchors!r} is not a number from 1 to 64"), ("anchors",))
    if step is not None:
        high = _last_value(low, high, step)
    return FloatDistribution(low, high, log=log, step=step)


def _last_value(low: float, high: float, step: float) -> float:
    """The end of a range that is a whole number of steps, by Optuna's own decimal arithmetic."""
    first, width = Decimal(str(low)), Decimal(str(step))
    last = float(first + (Decimal(str(high)) - first) // width * width)
    if (Decimal(str(last)) - first) % width:
        # Optuna would end the range a step earlier each time that it reads it.
        raise at(
            RecipeError(f"low {low} and step {step} have too many digits: round them"), ("step",)
        )
    return last


def _choices(value: Mapping[str, Any]) -> CategoricalDistribution:
    choices = value["choices"]
    if set(value) != {"choices"} or not isinstance(choices, list) or not choices:
        raise RecipeError("choices is a list of at least one value and stands alone")
    for index, choice in enumerate(choices):
        if not isinstance(choice, (bool, int, float, str)):
            raise at(RecipeError(f"{choice!r} is no single value"), ("choices", index))
        if choice in choices[:index]:
            raise at(RecipeError(f"{choice!r} is listed twice"), ("choices", index))
    return CategoricalDistribution(choices)


def _check_steps(distribution: FloatDistribution, step: float) -> None:
    low, high = distribution.low, distribution.high
    if low < high and _first_step(low, step) > _last_step(high, step):
        raise RecipeError(
            f"no multiple of density_step {step:g} lies between {low:g} and {high:g}; "
            "widen the range or lower density_step"
        )


def _number(value: float, distribution: FloatDistribution, step: float | None) -> float:
    """`value` as recipes write it; never outside the range. Without step, as it is."""
    low, high = distribution.low, distribution.high
    if step is None or low == high:
        return float(value)
    if step:
        count = round(value / step)
        return stepped(min(max(count, _first_step(low, step)), _last_step(high, step)) * step, step)
    return min(max(float(f"{value:.{_DIGITS}g}"), low), high)


def _first_step(low: float, step: float) -> int:
    return math.ceil(low / step - 1e-9)


def _last_step(high: float, step: float) -> int:
    return math.floor(high / step + 1e-9)


def _choosing(name: str, choice: Any) -> Suggest:
    return lambda asked, distribution: choice if asked == name else _lowest(asked, distribution)


def _meeting(step: float, *, largest: bool) -> Suggest:
    """Suggests the largest epsilons with the least densities, or with the largest below 1."""

    def suggest(name: str, distribution: BaseDistribution) -> Any:
        found = _DRAWN.match(name)
        if found is None:
            return _lowest(name, distribution)
        numbers = _numbers(distribution)
        if found[1] == "epsilon" or not largest:
            return max(numbers) if found[1] == "epsilon" else min(numbers)
        if max(numbers) < 1.0:
            return max(numbers)
        if not _ANCHOR.search(name) and _coarse(distribution):
            return max((n for n in numbers if n < 1.0), default=1.0)
        return max(min(numbers), below_one(step))  # a gradient to 1 takes what lies on the way

    return suggest


def _numbers(distribution: BaseDistribution) -> list[float]:
    """The ends of a range, its last step before the end, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return [parse_number(choice) for choice in distribution.choices]
    assert isinstance(distribution, FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    return [low, high] if step is None else [low, max(low, high - step), high]


def _coarse(distribution: BaseDistribution) -> bool:
    """Whether its values are listed, by choices or steps."""
    return not (isinstance(distribution, FloatDistribution) and distribution.step is None)


def _lowest(_: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution)
    return distribution.low


def _highest(_: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[-1]
    assert isinstance(distribution, FloatDistribution)
    return distribution.high
