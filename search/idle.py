"""Parts of a space that vary nothing: groups without layers, ranges narrower than their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from merge_core.yaml_io import Where
from search.amounts import many
from search.config import Search
from search.ranges import Distribution, number


def idle(search: Search, layers: int) -> tuple[str, ...]:
    """A note for each part of the space that changes no merge of models with so many layers."""
    notes = [*_groups(search, layers)]
    places = search.space.places()
    told: set[Where] = set()
    asked = _asked(search)
    still = {name for name, (distribution, _) in asked.items() if distribution.single()}
    for name, (distribution, step) in asked.items():
        if name in still or not isinstance(distribution, FloatDistribution):
            continue
        low, high = distribution.low, distribution.high
        if not step or number(low, distribution, step) != number(high, distribution, step):
            continue
        still.add(name)
        if places[name] not in told:
            told.add(places[name])
            what = (
                f"{name} from {low:g} to {high:g} holds one step of density_step {step:g},"
                " so it never varies; widen it or lower density_step"
            )
            notes.append(str(search.fault(places[name], what)))
    if still >= search.space.distributions().keys():
        notes.append(
            "nothing is varied, so there is one recipe to try: put a range, as in"
            " weight: {low: 0.3, high: 1.2}, in the place of a number"
        )
    return tuple(notes)


def _asked(search: Search) -> dict[str, tuple[Distribution, float | None]]:
    """Every range but the choice of a method, with the steps that its numbers are rounded to."""
    found: dict[str, tuple[Distribution, float | None]] = {}

    def leaf(name: str, distribution: Distribution, step: float | None) -> Any:
        found[name] = distribution, step
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[0]
        return distribution.low

    for method in search.space.methods:
        search.space.with_leaves(method, leaf)
    return found


def _groups(search: Search, layers: int) -> Iterator[str]:
    template = search.space.template
    scopes: list[tuple[Where, Any]] = [(("parameters",), template.get("parameters"))]
    for index, model in enumerate(template.get("models") or []):
        scopes.append((("models", index, "parameters"), model.get("parameters")))
    for place, parameters in scopes:
        for where, count in _counts(parameters, place):
            if count > layers:
                what = (
                    f"{many(count, 'group')} of {many(layers, 'layer')}:"
                    " some are of no layer, and their numbers change nothing"
                )
                yield str(search.fault(where, what))


def _counts(value: Any, where: Where) -> Iterator[tuple[Where, int]]:
    """The places of groups of layers in `value`, with their numbers."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _counts(inner, (*where, index))
    elif isinstance(value, Mapping):
        groups = value.get("groups")
        if groups is not None:
            yield (*where, "groups"), len(groups) if isinstance(groups, list) else groups
        for key, inner in value.items():
            yield from _counts(inner, (*where, key))
