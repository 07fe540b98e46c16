"""Plans made again in another process: where a model is served, its merges are made.

A plan travels as its recipe and the place of what is known of its sources (`MergePlan.portable`),
not as bytes: the other process opens the same files, which the operating system maps once for all
processes of a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_core.plan import MergePlan
from merge_core.recipe import Recipe
from merge_core.sources import Sources

MOST_OPEN = 8
"""Sets of sources that a process keeps open; a search has one or two, and its baselines'."""


def plan_of(data: Mapping[str, Any], kept: dict[str, Any]) -> MergePlan:
    """The plan that `MergePlan.portable` told of; its sources are opened once and kept.

    Args:
        data: what it told.
        kept: what earlier calls in this process have opened.

    Raises:
        MergeError: as `MergePlan` and `Sources.open`.
    """
    recipe = Recipe.parse(data["recipe"])
    opened: dict[tuple[Any, ...], Sources] = kept.setdefault(__name__, {})
    models = (expert.model for expert in recipe.models)
    key = (recipe.tokenizer_source, recipe.base_model, *recipe.names, *models)
    sources = opened.pop(key, None)
    if sources is None:
        sources = Sources.open(recipe)
        while len(opened) >= MOST_OPEN:
            del opened[next(iter(opened))]  # the one that was asked for longest ago
    opened[key] = sources
    if data.get("facts") is not None:
        folder, pairs = data["facts"]
        sources.facts.keep_as(Path(folder), pairs)
    return MergePlan(recipe, sources)
