"""Plans made again in another process: where a model is served, its merges are made.

A plan travels as its recipe and the place of what is known of its sources (`MergePlan.portable`),
not as bytes: the other process opens the same files, which the operating system maps once for all
processes of a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merge_core.opened import OpenSources
from merge_core.plan import MergePlan
from merge_core.recipe import Recipe


def plan_of(data: Mapping[str, Any], kept: dict[str, Any]) -> MergePlan:
    """The plan that `MergePlan.portable` told of; its sources are opened once and kept.

    Args:
        data: what it told.
        kept: what earlier calls in this process have opened.

    Raises:
        MergeError: as `MergePlan` and `Sources.open`.
    """
    recipe = Recipe.parse(data["recipe"])
    opened: OpenSources = kept.setdefault(__name__, OpenSources())
    sources = opened.of(recipe)
    if data.get("facts") is not None:
        folder, pairs = data["facts"]
        sources.facts.keep_as(Path(folder), pairs)
    return MergePlan(recipe, sources)
