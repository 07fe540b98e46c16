"""Sources that a process keeps open: opening and checking them costs as much as a small merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from merge_core.recipe import Recipe
from merge_core.sources import Sources

MOST_OPEN = 8
"""Sets of sources that a process keeps open; a search has one or two, and its baselines'."""


class OpenSources:
    """The sources of the recipes seen last, each set opened once.

    Args:
        most: sets to keep open; the one that was asked for longest ago is let go first.
    """

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._opened: dict[tuple[Any, ...], Sources] = {}

    def of(self, recipe: Recipe, then: Callable[[Sources], None] | None = None) -> Sources:
        """The sources of `recipe`; `then` is called with those that it had to open.

        Raises:
            CheckpointError, VocabularyError: as `Sources.open`.
        """
        models = (expert.model for expert in recipe.models)
        key = (recipe.tokenizer_source, recipe.base_model, *recipe.names, *models)
        sources = self._opened.pop(key, None)
        if sources is None:
            sources = Sources.open(recipe)
            if then is not None:
                then(sources)
            while len(self._opened) >= self._most:
                del self._opened[next(iter(self._opened))]
        self._opened[key] = sources
        return sources

    def __iter__(self) -> Iterator[Sources]:
        return iter(self._opened.values())
