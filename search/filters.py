"""Filters of a search file that decide nothing: a mistyped name is a range that changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from merge_core.yaml_io import Where
from search.config import Search


def unused_filters(search: Search, tensors: Iterable[str], *, tied: bool) -> tuple[str, ...]:
    """A note for each filter that no tensor is read by, with its place in the file.

    Args:
        search: whose recipe part is looked at.
        tensors: the names of those that are merged.
        tied: whether the head is the embeddings, so that no tensor is named after it.
    """
    names = list(tensors)
    notes: list[str] = []
    template = search.space.template
    scopes: list[tuple[Where, Any]] = [(("parameters",), template.get("parameters"))]
    for index, model in enumerate(template.get("models") or []):
        scopes.append((("models", index, "parameters"), model.get("parameters")))
    for place, parameters in scopes:
        for key, value in (parameters or {}).items():
            for where, entries in _filtered(value, (*place, key)):
                notes += _unused(search, where, entries, names, tied=tied)
    return tuple(notes)


def _filtered(value: Any, where: Where) -> Iterator[tuple[Where, list[Mapping[str, Any]]]]:
    if isinstance(value, Mapping) and "ratio" in value:
        yield from _filtered(value["ratio"], (*where, "ratio"))
    if isinstance(value, list) and all(isinstance(v, Mapping) and "value" in v for v in value):
        yield where, value


def _unused(
    search: Search,
    where: Where,
    entries: list[Mapping[str, Any]],
    names: list[str],
    *,
    tied: bool,
) -> Iterator[str]:
    left = names
    for index, entry in enumerate(entries):
        text = entry.get("filter")
        if text in (None, "*"):
            return
        if not any(text in name for name in left):
            why = "matches no tensor of the models"
            if any(text in name for name in names):
                why = "comes after filters that match all of its tensors"
            elif tied and "head" in text:
                why = "matches no tensor: the head is tied to the embeddings (embed_tokens)"
            place = (*where, index, "filter")
            yield str(search.fault(place, f"filter '{text}' {why}, so it changes nothing"))
        left = [name for name in left if text not in name]
