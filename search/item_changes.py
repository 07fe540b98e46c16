"""The items on which two results differ, for the terminal: what each read, one below the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from objectives.item import detail
from search.config import Search
from search.console import say
from search.item_pages import Change, changes, deciding
from search.pairs import Pair

LISTED = 10
"""Items of the list; `--json` has all that changed."""
_SHOWN = 60  # characters of a detail: two stand side by side in 80 columns


def changed(pair: Pair, search: Search) -> list[Change]:
    """Items whose scores of objectives or constraints differ, those that changed most first."""
    measures = deciding(search)
    return [one for one in changes(pair.a, pair.b, measures) if one.better or one.worse]


def as_data(found: Sequence[Change]) -> list[dict[str, Any]]:
    """The same as JSON data: scores of items, and what was read in one answer of each."""
    return [
        {
            "task": one.task,
            "id": one.ours.id,
            "better": one.better,
            "worse": one.worse,
            "answer": one.sample + 1,
            **{
                side: {"scores": item.scores, "details": dict(answer.details)}
                for side, item, answer in zip(
                    "ab", (one.ours, one.theirs), one.answers, strict=True
                )
            },
        }
        for one in found
    ]


def print_changes(console: Console, found: Sequence[Change], a: str, b: str) -> None:
    """Print the first of them: the scores that changed, then what was read otherwise."""
    if not found:
        return
    better = sum(bool(one.better) for one in found)
    worse = sum(bool(one.worse) for one in found)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, title_justify="left")
    both = sum(bool(one.better and one.worse) for one in found)
    said = f"items that changed: {len(found)}, {a} better in {better} and worse in {worse}"
    said += f" ({both} of them in both ways)" if both else ""
    table.title = escape(said)
    table.add_column("item", overflow="fold", max_width=22)
    table.add_column("", overflow="fold", max_width=22)
    for label in (a, b):
        table.add_column(escape(label), overflow="fold")
    for one in found[:LISTED]:
        for at, cells in enumerate(_lines(one)):
            named = f"{one.task}/{one.ours.id}" if at == 0 else ""
            table.add_row(*map(escape, (named, *cells)))
    console.print()
    console.print(table)
    if len(found) > LISTED:
        say(f"the {LISTED} that changed most; --json lists all {len(found)}")


def _lines(one: Change) -> Iterator[tuple[str, str, str]]:
    for how, keys in (("better", one.better), ("worse", one.worse)):
        for key in keys:
            yield f"{key} {how}", _number(one.ours.scores[key]), _number(one.theirs.scores[key])
    ours, theirs = (answer.details for answer in one.answers)
    count = len(one.ours.answers)
    which = f" (answer {one.sample + 1})" if count > 1 else ""
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            told, their_told = (detail(side.get(key, ""), _SHOWN) for side in (ours, theirs))
            yield f"{key}{which}", told, their_told


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
