"""Which trial parameters stand for a recipe: the way back from a recipe into a space.

A recipe may spell the same merge otherwise than the template would: a number once for all experts
or for each, a default or its absence. So what holds for each parameter is compared, not the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from merge_core.methods import Parameter
from merge_core.ratio import is_ratio
from merge_core.recipe import Recipe
from merge_core.values import Value
from search.ranges import Distribution


@dataclass(frozen=True)
class Free:
    """A range in a template, as `Space.with_leaves` puts it in place; see `search.ranges.Leaf`."""

    name: str
    distribution: Distribution
    step: float | None


class _MismatchError(Exception):
    """The recipe is not one of the template."""


def match(template: Mapping[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """The values of the template's ranges that give this recipe's numbers; None if none do.

    Ranges that are nowhere in effect are not among them. References to models, the data type and
    the like are not compared, nor is the weight of the model that has what a ratio leaves.

    Args:
        template: recipe data of the recipe's method, with `Free` in place of ranges.
        recipe: with as many models as the template.
    """
    bound: dict[str, Any] = {}
    shared = template.get("parameters") or {}
    try:
        for parameter in recipe.method.parameters:
            if parameter.scope == "global":
                _unify(_effective(parameter, [shared]), _plain(recipe, parameter), bound)
                continue
            own = [model.get("parameters") or {} for model in template["models"]]
            ratio = any(is_ratio(one.get(parameter.name)) for one in own)
            for index, one in enumerate(own):
                if ratio and not is_ratio(one.get(parameter.name)):
                    continue
                scopes = [one, shared]
                given = _plain(recipe, parameter, index)
                _unify(_effective(parameter, scopes), given, bound)
    except _MismatchError:
        return None
    return bound


def _plain(recipe: Recipe, parameter: Parameter, expert: int | None = None) -> Any:
    setting = recipe.setting(parameter, None if expert is None else recipe.models[expert])
    return setting.plain() if isinstance(setting, Value) else setting


def _effective(parameter: Parameter, scopes: list[Mapping[str, Any]]) -> Any:
    """What holds of the template, as `Recipe.setting` says it of recipes."""
    given = [scope[parameter.name] for scope in scopes if parameter.name in scope]
    if parameter.default is not None:
        given.append(parameter.default)
    entries: list[Any] = []
    for value in given:
        value = value["ratio"] if is_ratio(value) else value
        if not _filtered(value):
            return [*entries, {"value": value}] if entries else value
        for entry in value:
            if entry.get("filter") in (None, "*"):
                return [*entries, {"value": entry["value"]}]
            entries.append(entry)
    raise _MismatchError


def _filtered(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _unify(written: Any, given: Any, bound: dict[str, Any]) -> None:
    """Bind the ranges in `written` so that it becomes `given`; raises _MismatchError."""
    if isinstance(written, Free):
        value = _inside(written.distribution, given)
        if bound.setdefault(written.name, value) != value:
            raise _MismatchError
    elif isinstance(written, Mapping):
        if not isinstance(given, Mapping) or written.keys() != given.keys():
            raise _MismatchError
        for key in written:
            _unify(written[key], given[key], bound)
    elif isinstance(written, list):
        if not isinstance(given, list) or len(written) != len(given):
            raise _MismatchError
        for one, other in zip(written, given, strict=True):
            _unify(one, other, bound)
    elif written != given:
        raise _MismatchError


def _inside(distribution: Distribution, given: Any) -> Any:
    """`given` as the distribution proposes it; raises _MismatchError if it does not."""
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            # A flag is no number, though Python's False equals 0.
            if choice == given and isinstance(choice, bool) == isinstance(given, bool):
                return choice
        raise _MismatchError
    assert isinstance(distribution, FloatDistribution)
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise _MismatchError
    low, high, step = distribution.low, distribution.high, distribution.step
    if not low <= given <= high:
        raise _MismatchError
    if step is not None and low < high:
        count = round((given - low) / step)
        if abs(low + count * step - given) > 1e-9 * max(1.0, abs(given)):
            raise _MismatchError
    return float(given)
