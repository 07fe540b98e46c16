"""What a recipe's parts have to hold together, beyond each parameter's own domain.

Checked when a recipe is read, for any tensor name and depth: a recipe that passes cannot turn out
illegal for one tensor of a large model hours later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

from merge_core.arithmetic import della_allows
from merge_core.errors import RecipeError
from merge_core.values import Filtered, Groups, Scalar, Value
from merge_core.yaml_io import Where, at, inside

if TYPE_CHECKING:
    from merge_core.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Raise RecipeError, with its place attached, unless `recipe` is legal as a whole."""
    _check_required(recipe)
    _check_scope(recipe)
    _check_pair(recipe)
    _check_keep_probabilities(recipe)


def stepped(density: float, step: float) -> float:
    """`density` rounded to a multiple of `step`; step 0 (or below 1e-9) leaves it as it is."""
    if step < 1e-9:
        return density
    # The second rounding takes 0.57 for 57 * 0.01 = 0.5700000000000001.
    return min(1.0, round(round(density / step) * step, 12))


def below_one(step: float) -> float:
    """The largest density below 1 that `stepped` gives."""
    if step < 1e-9:
        return math.nextafter(1.0, 0.0)
    return stepped((math.ceil(1.0 / step - 1e-9) - 1) * step, step)


def _check_required(recipe: Recipe) -> None:
    for index, expert in enumerate(recipe.models):
        for parameter in recipe.method.parameters:
            if parameter.scope == "model":
                with inside("models", index):
                    recipe.setting(parameter, expert)
    for parameter in recipe.method.parameters:
        if parameter.scope == "global":
            with inside("parameters"):
                recipe.setting(parameter)


def _check_scope(recipe: Recipe) -> None:
    if "scope" not in recipe.method.by_name or recipe.flag("scope") == "tensor":
        return
    for index, expert in enumerate(recipe.models):
        for name in ("density", "gamma", "slack"):
            parameter = recipe.method.by_name.get(name)
            if parameter and not isinstance(recipe.setting(parameter, expert), Scalar):
                raise at(
                    RecipeError(
                        f"scope: model ranks the whole model at once: {name} is one number"
                    ),
                    ("models", index, "parameters", name),
                )


def _check_pair(recipe: Recipe) -> None:
    if not recipe.method.interpolates:
        return
    count = [expert.model for expert in recipe.models].count(str(recipe.base_model))
    if count != 1:
        what = "none of the models is" if count == 0 else "both models are"
        raise at(
            RecipeError(
                f"{recipe.merge_method} merges base_model and one other model: {what} "
                f"{recipe.base_model}"
            ),
            ("models",),
        )


def _check_keep_probabilities(recipe: Recipe) -> None:
    """DELLA: wherever a density and an epsilon may meet, probabilities lie between 0 and 1."""
    if recipe.method.sparsify != "rank_drop":
        return
    step = float(recipe.flag("density_step"))
    for index, expert in enumerate(recipe.models):
        density = recipe.setting(recipe.method.parameter("density"), expert)
        epsilon = recipe.setting(recipe.method.parameter("epsilon"), expert)
        assert isinstance(density, Value)
        assert isinstance(epsilon, Value)
        for low, high, most in _meetings(density, epsilon):
            lowest, highest = stepped(low, step), stepped(high, step)
            if lowest == 1.0:
                continue
            # What runs up to 1 has some density just below it in some model.
            for number in (lowest, highest if highest < 1.0 else below_one(step)):
                if not della_allows(number, most):
                    where: Where = ("parameters", "density")
                    for name in ("epsilon", "density"):
                        if name in expert.parameters:
                            where = ("models", index, "parameters", name)
                    raise at(
                        RecipeError(
                            f"density {number:g} with epsilon {most:g} keeps entries with "
                            f"probability {number - most:g} to {number + most:g}: it has to lie "
                            "between 0 and 1, or density is 1; lower epsilon or change density"
                        ),
                        where,
                    )


def _meetings(density: Value, epsilon: Value) -> Iterator[tuple[float, float, float]]:
    """(lowest, highest density, largest epsilon) wherever one tensor may have both.

    Of values with filters, pairs of entries are left out of which no tensor's name matches both
    first: with the same filters in both, each entry meets its own.
    """
    ours, theirs = _entries(density), _entries(epsilon)
    for (i, (ours_filter, d)), (j, (theirs_filter, e)) in product(
        enumerate(ours), enumerate(theirs)
    ):
        earlier = [f for f, _ in ours[:i]] + [f for f, _ in theirs[:j]]
        names = [f for f in (ours_filter, theirs_filter) if f is not None]
        if not any(before in name for before in earlier if before for name in names):
            most = max(e.numbers())
            if isinstance(d, Groups):  # between two of which nothing lies
                yield from ((number, number, most) for number in d.numbers())
            else:
                yield min(d.numbers()), max(d.numbers()), most


def _entries(value: Value) -> list[tuple[str | None, Value]]:
    return list(value.entries) if isinstance(value, Filtered) else [(None, value)]
