"""The weights of the front's members over the layers, a panel an expert."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from merge_core import Recipe
from merge_core.values import Filtered, Value
from search.amounts import many
from search.figures.chart import BLUE, GREEN, GREY, ORANGE, PURPLE, Axis, Chart, Dash, Line, Panel
from search.figures.figure import Figure
from search.front import gains, representatives
from search.view import RunView

MOST = 6
"""Members that are drawn: colours and dashes of more cannot be told apart."""
_PANELS = 12
_PLACES = 101  # along the depth, where the number of layers is not known
_SOLID: Dash = "solid"
_LOOKS: tuple[tuple[str, Dash], ...] = (
    (BLUE, "solid"),
    (GREEN, "dash"),
    (ORANGE, "dot"),
    (GREY, "solid"),
    (BLUE, "dot"),
    (GREEN, "dot"),
)


def schedules(view: RunView) -> Figure | None:
    """Each layer's weight as the merge has it, whatever form the recipe gives it in."""
    chosen = None if view.chosen is None else view.chosen.trial
    members = _members(view, chosen)
    recipes = {n: Recipe.parse(view.trials[n].recipe) for n in members}
    curves = {n: dict(_weights(recipe)) for n, recipe in recipes.items()}
    titles = list(dict.fromkeys(title for own in curves.values() for title in own))
    if not titles:
        return None
    depths, axis = _depths(view.layers)
    panels = []
    for title in titles[:_PANELS]:
        lines = []
        others = iter(_LOOKS)
        for n in members:
            color, dash, width = PURPLE, _SOLID, 3.5
            if n != chosen:
                (color, dash), width = next(others), 2.0
            if title not in curves[n]:
                continue
            name = f"trial {n}, exported" if n == chosen else f"trial {n}"
            values = [curves[n][title].at("", depth) for depth in depths]
            xs = range(len(depths)) if view.layers else depths
            ys = [value for value in values if value is not None]
            lines.append(Line(name, list(xs), ys, color, dash, width, text=f"{name}: {title}"))
        most = max(max(line.y) for line in lines)
        least = min(min(line.y) for line in lines)
        span = (min(0.0, 1.1 * least), max(1.1 * most, 0.1))
        panels.append(Panel(axis, Axis("weight", span), lines, title))
    caption = (
        "The weight of each expert from the first layer to the last, in "
        f"{many(len(members), 'merge')} of the {len(view.front)} on the front (those that stand "
        "for it best). Where the lines agree, the search settled; where they differ, other weights "
        "do as well, or trade one objective for another. "
        "Do not compare heights between experts: densities and the methods' scale act on them, too."
    )
    if len(titles) > _PANELS:
        caption += f" {_PANELS} of {len(titles)} panels are shown."
    columns = min(2, len(panels))
    chart = Chart(panels, columns, 300)
    return Figure("schedules", f"{view.name}: weights over the layers", caption, chart)


def _members(view: RunView, chosen: int | None) -> list[int]:
    """Members of the front that stand for it, with the exported one."""
    points = {
        number: gains(view.trials[number].values, view.search.objectives)
        for number in view.front
        if view.trials[number].recipe is not None
    }
    found = representatives(points, MOST - (chosen is not None))
    if chosen is not None and chosen not in found and view.trials[chosen].recipe is not None:
        found = [chosen, *found]
    return found[:MOST]


def _weights(recipe: Recipe) -> Iterator[tuple[str, Value]]:
    """What a panel shows: title and value, one for each filter of an expert's weight."""
    method = recipe.method
    if "weight" in method.by_name:
        for expert in recipe.models:
            yield from _parts(expert.name, recipe.setting(method.parameter("weight"), expert))
    elif "t" in method.by_name:
        yield from _parts("t", recipe.setting(method.parameter("t")))


def _parts(name: str, value: object) -> Iterator[tuple[str, Value]]:
    assert isinstance(value, Value)
    if not isinstance(value, Filtered):
        yield name, value
        return
    alone = len(value.entries) == 1
    for substring, own in value.entries:
        rest = name if alone else f"{name}, all other tensors"
        yield (rest if substring is None else f"{name}, tensors with {substring!r}"), own


def _depths(layers: int | None) -> tuple[Sequence[float], Axis]:
    if layers is None:
        return [place / (_PLACES - 1) for place in range(_PLACES)], Axis("depth, 0 first, 1 last")
    ends = (-0.3, layers - 0.7)
    depths = [layer / (layers - 1) for layer in range(layers)] if layers > 1 else [1.0]
    return depths, Axis("layer", ends)
