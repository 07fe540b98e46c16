"""The search space: a recipe in whose place of numbers ranges may stand; see `search.ranges`.

Define-by-run, as Optuna's spaces are: only the parameters of the chosen method are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from merge_core.errors import RecipeError
from merge_core.legal import below_one
from merge_core.methods import Method, get_method
from merge_core.methods.base import DENSITY_STEP
from merge_core.recipe import Recipe, expert_name
from merge_core.values import parse_number
from merge_core.yaml_io import Where, at, inside, unknown
from search.matching import Free, match
from search.ranges import Distribution, Leaf, choices, fill, fixed, number

Suggest = Callable[[str, BaseDistribution], Any]
"""Gives a value for a named parameter, as `trial._suggest` does."""

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
            return tuple(get_method(name) for name in choices(choice).choices)

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

    def distributions(self) -> dict[str, Distribution]:
        """Every parameter that may be asked for, by name."""
        found: dict[str, Distribution] = {}
        if self.conditional:
            names = [method.name for method in self.methods]
            found["merge_method"] = CategoricalDistribution(names)
        for method in self.methods:
            found |= self._asked(method)
        return found

    def _asked(self, method: Method) -> dict[str, Distribution]:
        """The parameters that are asked for under `method`, by name."""
        found: dict[str, Distribution] = {}

        def collect(name: str, distribution: Distribution, _: Any) -> Any:
            if name in found:
                raise RecipeError(f"two ranges would be named {name}: a filter stands once")
            found[name] = distribution
            return _lowest(name, distribution)

        self.with_leaves(method, collect, exact=True)
        return found

    def fixed(self) -> dict[str, Any]:
        """What the file gives as a number or a name, by the name that a range there would have."""
        found: dict[str, Any] = {}
        if not self.conditional:
            found["merge_method"] = self.methods[0].name
        scopes = [("", self.template.get("parameters"))]
        models = self.template.get("models") or []
        scopes += [
            (f"{name}.", model.get("parameters"))
            for name, model in zip(self.names, models, strict=True)
        ]
        for owner, parameters in scopes:
            for key, value in (parameters or {}).items():
                found |= fixed(value, f"{owner}{key}")
        return found

    def places(self) -> dict[str, Where]:
        """Where the range of each parameter stands in the template, by name."""
        found: dict[str, Where] = {}
        if self.conditional:
            found["merge_method"] = ("merge_method",)
        for method in self.methods:
            for wanted in self._asked(method):

                def leaf(
                    name: str, distribution: Distribution, _: Any, wanted: str = wanted
                ) -> Any:
                    if name == wanted:  # an error's place is the place of what it is about
                        raise RecipeError(name)
                    return _lowest(name, distribution)

                try:
                    self.with_leaves(method, leaf, exact=True)
                except RecipeError as error:
                    found[wanted] = error.where
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

    def params_of(
        self, recipe: Recipe, fingerprint: Callable[[Recipe], str] = Recipe.fingerprint
    ) -> dict[str, Any] | None:
        """The trial parameters that `from_params` makes this recipe of; None outside the space.

        Args:
            recipe: with its models spelled as the template spells them, or as `fingerprint` reads.
            fingerprint: names a recipe; two of the same name are the same merge. A run's own tells
                models by their contents.
        """
        method = next((m for m in self.methods if m.name == recipe.merge_method), None)
        if method is None or len(recipe.models) != len(self.names):
            return None
        found = match(self.with_leaves(method, Free), recipe)
        if found is None:
            return None
        params: dict[str, Any] = {}

        def suggest(name: str, distribution: BaseDistribution) -> Any:
            # What is nowhere in effect may be anything.
            params[name] = found.get(name, _lowest(name, distribution))
            return params[name]

        again = self.recipe(lambda n, d: method.name if n == "merge_method" else suggest(n, d))
        if fingerprint(again) != fingerprint(recipe):
            return None
        return {"merge_method": method.name, **params} if self.conditional else params

    def _fill(self, method: Method, suggest: Suggest, *, exact: bool = False) -> Recipe:
        """The recipe of `method` with what `suggest` gives; `exact` keeps all of its digits."""

        def leaf(name: str, distribution: Distribution, step: float | None) -> Any:
            value = suggest(name, distribution)
            if isinstance(distribution, CategoricalDistribution):
                return value
            return number(value, distribution, step)

        return Recipe.parse(self.with_leaves(method, leaf, exact=exact))

    def with_leaves(self, method: Method, leaf: Leaf, *, exact: bool = False) -> dict[str, Any]:
        """The template of `method` with what `leaf` gives in place of each range.

        With `exact`, steps are None: numbers keep all of their digits.
        """
        names = self.names
        # Densities are evaluated in steps, so they are proposed in them.
        step = None if exact else self._density_step
        data = {**self.template, "merge_method": method.name}
        data["models"] = [
            {
                **model,
                "name": names[index],
                "parameters": self._parameters(
                    model.get("parameters"), method, names[index], leaf, step, ("models", index)
                ),
            }
            for index, model in enumerate(self.template.get("models") or [])
        ]
        data["parameters"] = self._parameters(
            self.template.get("parameters"), method, "", leaf, step, ()
        )
        return data

    def _parameters(
        self,
        raw: Any,
        method: Method,
        owner: str,
        leaf: Leaf,
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
                    filled[key] = fill(value, name, leaf, own)
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
