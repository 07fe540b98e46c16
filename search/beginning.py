"""`mergefront init`: a commented search file that `mergefront check` accepts as it stands.

Without models at hand it is of the demo's tiny trio and its Thai problems, put beside the file;
with models it is of those; from a merge recipe (mergekit's YAML, or ours) it is that recipe with
ranges around its weights and densities, and the recipe itself is a baseline and the first trial.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from merge_core import Recipe
from merge_core.recipe import Expert
from merge_core.references import split_reference
from merge_core.yaml_io import write_atomic
from search.console import say, shown, writing
from search.demo.show import training_bars
from search.demo.trio import ensure_trio
from search.demo.vocabularies import write_expert
from search.demo.world import write_items
from search.errors import ConfigError
from search.recipes import load_recipe

TINY = "tiny"
"""Folder of the tiny trio, beside the search file."""

_VARIED = ("weight", "density", "t")
_MOST_ANCHORS = 8  # of a list whose numbers become ranges: each is a parameter of the search
_EXAMPLES = 250
_SIZES = {"dev": 96, "confirm": 128, "test": 96}
_TASKS = "\ntasks:\n"
_BASELINES = "baselines: [base, experts, uniform, task_arithmetic]"
_SAMPLER = "{name: auto, seed: 0}"
_SPLITS = "splits: {dev: 0.3, confirm: 0.4, test: 0.3, seed: 0}   # fractions or numbers of items"
_AS_SAID = "splits: {dev: 1.0, confirm: 1.0, test: 1.0}   # all of what the lines name; or numbers"


@dataclass(frozen=True)
class Models:
    """What is merged: references as the search file names them."""

    base: str
    language: str
    reasoning: str


def write_search(
    console: Console, file: Path, models: Models | None, items: str | None, expect: str
) -> None:
    """Write a search file for `models`, or for the tiny trio where there are none.

    Args:
        console: draws the bars of what is trained.
        file: to write; must not exist.
        models: None for the tiny trio.
        items: the item file as the search file names it; None for examples, written beside it.
        expect: code of the language that answers have to be in.

    Raises:
        ConfigError: the file is there already, or cannot be written.
        SearchError: the tiny trio cannot be trained.
    """
    _refuse(file)
    values: dict[str, str | int] = {"TOKENS": 2048, "EXPECT": expect}
    if models is None:
        values["TOKENS"] = 40
        models = _tiny(console, file.parent)
        items = items or f"{TINY}/items.jsonl"
        about = "It runs as it is, on the tiny models of the demo: put yours in their place."
    else:
        about = "The models are yours; look through tasks and objectives below."
        items = items or _examples(file.parent)
    values |= {"BASE": models.base, "LANGUAGE": models.language, "REASONING": models.reasoning}
    text = _filled(_divided(_template(), file.parent / items), {**values, "ITEMS": items})
    text = text.replace("@ABOUT@", about)
    _write(file, text)


def write_from_recipe(file: Path, recipe: Path, items: str | None, expect: str) -> None:
    """Write a search file around a merge recipe.

    Args:
        file: to write; must not exist.
        recipe: mergekit's YAML, or ours; beside `file` it is kept in our form, as a baseline.
        items: as for `write_search`.
        expect: as for `write_search`.

    Raises:
        ConfigError: a file is there already, or cannot be written.
        RecipeError: the recipe has a key that we do not have, or is wrong.
    """
    own = file.with_name(f"{file.stem}-start.yaml")
    _refuse(file)
    _refuse(own)
    loaded, notes = load_recipe(recipe)
    for note in notes:
        say(f"note: {note}")
    moved = _seen_from(loaded, file.resolve().parent)
    head, varied = _head(moved, recipe)
    tail = _TASKS + _template().partition(_TASKS)[2]
    base = ["base"] if moved.base_model is not None else []
    others = ", ".join([*base, "experts", "uniform", json.dumps(f"recipe:{own.name}")])
    assert _BASELINES in tail
    tail = tail.replace(_BASELINES, f"baselines: [{others}]")
    first = f'warm_starts: [published, "recipe:{own.name}"]'
    assert _SAMPLER in tail
    tail = tail.replace(_SAMPLER, f"{{name: auto, seed: 0, {first}}}")
    items = items or _examples(file.parent)
    values: dict[str, str | int] = {"TOKENS": 2048, "EXPECT": expect, "ITEMS": items}
    original = recipe.read_text(encoding="utf-8")
    kept = "\n".join(f"# {line}".rstrip() for line in original.splitlines())
    end = f"\n# What this was made from, {recipe.name}, whole:\n#\n{kept}\n"
    with writing(own):
        moved.save(own, header=f"# {recipe.name}, as mergefront reads it.\n")
    say(f"{varied} numbers of {shown(recipe)} became ranges; as it stands it is {shown(own)}")
    _write(file, head + _filled(_divided(tail, file.parent / items), values) + end)


def _refuse(file: Path) -> None:
    if file.exists():
        raise ConfigError(f"{file}: exists already; name another file")


def _write(file: Path, text: str) -> None:
    with writing(file):
        write_atomic(file, text)
    say(f"wrote {shown(file)}; next: mergefront check {shown(file)}")


def _divided(text: str, items: Path) -> str:
    """`text` with the splits of a file whose lines name theirs; else with fractions of it all."""
    try:
        with items.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline())
    except (OSError, ValueError):
        return text  # no file, or none of lines: `check` tells
    assert _SPLITS in text
    said = isinstance(first, dict) and "split" in first
    return text.replace(_SPLITS, _AS_SAID) if said else text


def _template() -> str:
    return files("configs").joinpath("template.yaml").read_text(encoding="utf-8")


def _filled(text: str, values: Mapping[str, str | int]) -> str:
    for key, value in values.items():
        text = text.replace(f"@{key}@", json.dumps(value, ensure_ascii=False))
    return text


def _tiny(console: Console, folder: Path) -> Models:
    """The demo's trio and items in `folder`/tiny; what is there already stays."""
    place = folder / TINY
    with training_bars(console) as progress:
        trio = ensure_trio(progress=progress)
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for name in ("base", "language", "reasoning"):
            if not (place / name).exists():
                write_expert(trio.root / name, place / name, "plain")
        if not (place / "items.jsonl").exists():
            write_items(place / "items.jsonl", **_SIZES)
    say(f"tiny models and items: {shown(place)}")
    return Models(*(f"{TINY}/{name}" for name in ("base", "language", "reasoning")))


def _examples(folder: Path) -> str:
    """`items.jsonl`, with example sums where there is none yet."""
    place = folder / "items.jsonl"
    if place.exists():
        return place.name
    sums = [(7 * n % 90 + 10, 11 * n % 80 + 10) for n in range(_EXAMPLES)]
    rows = [
        {"id": f"sum{n}", "prompt": f"{a} + {b} + {n} = ?", "answer": str(a + b + n)}
        for n, (a, b) in enumerate(sums)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with writing(place):
        write_atomic(place, text)
    say(f"wrote {shown(place)}: {_EXAMPLES} example sums; put your own questions in their place")
    return place.name


def _seen_from(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its local models named from `folder`."""

    def seen(reference: str) -> str:
        parts = split_reference(reference) or (reference,)
        return "+".join(
            os.path.relpath(part, folder) if Path(part).is_dir() else part for part in parts
        )

    models = tuple(Expert(seen(e.model), e.name, e.parameters) for e in recipe.models)
    base = None if recipe.base_model is None else seen(recipe.base_model)
    return replace(recipe, base_model=base, models=models)


# ---- ranges around a recipe's numbers


def around(parameter: str, value: Any, room: tuple[float, float] = (0.0, 1.0)) -> Any:
    """A setting with ranges in place of its numbers, each with the number inside.

    From half of it to twice as much, within what is legal; a schedule's knee anywhere. Lists of
    more than eight numbers stay as they are: each number would be a parameter of the search.

    Args:
        parameter: weight, density or t.
        value: as `Recipe.plain` has it.
        room: legal densities.
    """
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return _range(parameter, float(value), room)
    if isinstance(value, list):
        if not isinstance(value[0], Mapping) and len(value) > _MOST_ANCHORS:
            return value
        return [around(parameter, entry, room) for entry in value]
    return {
        key: {"low": 0.0, "high": 1.0}
        if key == "knee"
        else inner
        if key == "filter"
        else around(parameter, inner, room)
        for key, inner in value.items()
    }


def _range(parameter: str, value: float, room: tuple[float, float]) -> Any:
    if parameter == "t":
        return {"low": 0.0, "high": 1.0}
    ends = (value / 2, value * 2) if value else (0.0, 0.5)
    low, high = (_short(end) for end in sorted(ends))
    if parameter == "density":
        low, high = max(low, room[0], min(value, 0.05)), min(high, room[1])
    low, high = min(low, value), max(high, value)
    return value if low == high else {"low": low, "high": high}


def _short(number: float) -> float:
    """Two significant digits."""
    return float(f"{number:.2g}")


def _room(recipe: Recipe, epsilon: float) -> tuple[float, float]:
    """Densities that are legal: a method that spreads them by epsilon needs room on both sides."""
    if "epsilon" not in recipe.method.by_name:
        return (0.0, 1.0)
    return (_up(epsilon + 0.01), _down(1.0 - epsilon - 0.01))


def _up(number: float) -> float:
    return math.ceil(number * 100 - 1e-9) / 100


def _down(number: float) -> float:
    return math.floor(number * 100 + 1e-9) / 100


def _head(recipe: Recipe, origin: Path) -> tuple[str, int]:
    """The recipe part of the search file, and how many ranges it has."""
    data = recipe.plain()
    shared = data.get("parameters", {})
    count = 0
    lines = [
        f"# A search around {origin.name}: its numbers have become ranges, the rest is as it was.",
        "#   mergefront check FILE     everything that can be known before a GPU is hired",
        "#   mergefront run FILE       search; the same command again goes on where it stopped",
        "# Relative paths are relative to this file. Below, change: items, the language of",
        "# `expect`, max_tokens, budget. docs/spaces.md has all forms of ranges.",
        "",
        f"merge_method: {_flow(recipe.merge_method)}",
    ]
    if recipe.base_model is not None:
        lines.append(f"base_model: {_flow(recipe.base_model)}")
    lines.append("models:")
    for entry in data["models"]:
        lines.append(f"  - model: {_flow(entry['model'])}")
        lines.append(f"    name: {_flow(entry['name'])}   # used in parameter names and plots")
        own = entry.get("parameters", {})
        if own:
            lines.append("    parameters:")
        epsilon = _number(own.get("epsilon", shared.get("epsilon")), 0.1)
        for name, value in own.items():
            line, ranges = _setting(name, value, _room(recipe, epsilon))
            lines.append(f"      {line}")
            count += ranges
    if shared:
        lines.append("parameters:   # for all models, and of the merge")
        epsilon = _number(shared.get("epsilon"), 0.1)
        for name, value in shared.items():
            line, ranges = _setting(name, value, _room(recipe, epsilon))
            lines.append(f"  {line}")
            count += ranges
    for key in ("dtype", "tokenizer_source", "seed"):
        if key in data:
            lines.append(f"{key}: {_flow(data[key])}")
    return "\n".join(lines) + "\n", count


def _setting(name: str, value: Any, room: tuple[float, float]) -> tuple[str, int]:
    """A parameter's line, and how many ranges are in it."""
    if name not in _VARIED:
        return f"{name}: {_flow(value)}", 0
    varied = around(name, value, room)
    text = _flow(varied)
    if varied == value:
        hint = "   # {low: ..., high: ..., anchors: 4} would vary it" if _is_list(value) else ""
        return f"{name}: {text}{hint}", 0
    return f"{name}: {text}   # was {_flow(value)}", text.count("low:")


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _number(value: Any, default: float) -> float:
    return float(value) if isinstance(value, int | float) else default


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and value.replace("_", "").isalnum() and not value[0].isdigit():
        return json.dumps(value) if value.lower() in ("true", "false", "null") else value
    return json.dumps(value, ensure_ascii=False)
