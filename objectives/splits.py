"""Which items serve which purpose: searched on, confirmed on, or the last word.

The division depends on what the file says and a seed alone: neither on its order nor on ids, nor
on how a task asks, so that two tasks over one file agree, and a longer file keeps most of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from objectives.copies import Entry, hash_of
from objectives.errors import TaskError
from objectives.item_file import Line
from objectives.tables import did_you_mean

Split = Literal["dev", "confirm", "test"]
SPLITS: tuple[Split, ...] = ("dev", "confirm", "test")

Count = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1, strict=True)]


class SplitConfig(BaseModel):
    """How many items each purpose gets: numbers, or fractions (1.0 is all).

    A fraction is of the whole file (with `by`, of its problems), or of the file's own split where
    its lines name one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dev: Count | Fraction = Field(128, description="searched on")
    confirm: Count | Fraction = Field(512, description="re-scores the front")
    test: Count | Fraction = Field(512, description="scores the exported recipe, once")
    seed: int = Field(0, description="of the shuffle, of files without a `split` column")
    stratify: str | None = Field(
        None, min_length=1, description="a tag that every split has in the file's proportions"
    )
    by: str | None = Field(
        None,
        min_length=1,
        description="a column or tag that names the problem, such as `id`: rows of one problem"
        " serve one purpose, in all tasks that say so (translations)",
    )


def divide(
    task: str, source: str, lines: Sequence[Entry], sizes: SplitConfig
) -> dict[Split, list[Entry]]:
    """The lines of each split: as they say, or shuffled.

    `task` and `source` name them in errors.

    Raises:
        TaskError: too few items, a line without the split, tag or problem that others have, or a
            problem in two splits.
    """
    without = next((entry.line for entry in lines if entry.line.split is None), None)
    if without is None:
        return _as_said(task, source, lines, sizes)
    with_split = next((entry.line for entry in lines if entry.line.split is not None), None)
    if with_split is not None:
        raise TaskError(
            f'{without.where}: no "split", but {with_split.where} has one; give every line a split,'
            " or none"
        )
    groups = _spread(lines, sizes) if sizes.stratify else _ordered(lines, sizes.seed, sizes.by)
    divided: dict[Split, list[Entry]] = {}
    at = 0
    for split in SPLITS:
        chosen: list[Entry] = []
        if sizes.by is not None and isinstance(getattr(sizes, split), float):
            free = len(groups) - at
            count = _count(task, source, split, sizes, len(groups), free, "problems")
            for group in groups[at : at + count]:
                chosen += group
            at += count
        else:
            free = sum(map(len, groups[at:]))
            count = _count(task, source, split, sizes, len(lines), free)
            while len(chosen) < count:
                chosen += groups[at]
                at += 1
            # What is over of the last problem serves nothing: its problem is used.
            del chosen[count:]
        divided[split] = chosen
    return divided


def unused(
    lines: Sequence[Entry], divided: Mapping[Split, Sequence[Entry]], sizes: SplitConfig
) -> list[Entry]:
    """The lines that serve no split, and of which no other row of the problem does."""
    served = [entry for split in SPLITS for entry in divided[split]]
    used = {_name(entry, sizes.by) for entry in served}
    return [entry for entry in lines if _name(entry, sizes.by) not in used]


def shuffled(lines: Sequence[Entry], seed: int, use: str = "") -> list[Entry]:
    """The lines in an order that content, seed and use decide."""
    return [entry for group in _ordered(lines, seed, None, use) for entry in group]


def problem(line: Line, by: str) -> str:
    """What `splits.by` says of a line: the value of its item key, column or tag.

    Raises:
        TaskError: it has none.
    """
    places: list[Mapping[str, Any]] = [{"id": line.id}, line.row, line.tags, line.fields]
    value = next((place[by] for place in places if place.get(by) not in (None, "")), None)
    if value is None:
        hint = did_you_mean(by, {str(key) for place in places for key in place})
        raise TaskError(f"{line.where}: no column or tag {by!r} to divide by; {hint}")
    return _spelled(value) if isinstance(value, dict | list) else str(value)


def copies_key(line: Line, by: str) -> str:
    """The hash by which a line's problem is known to other tasks."""
    return hash_of("problem", problem(line, by))


def _name(entry: Entry, by: str | None) -> str:
    return entry.rank[1] if by is None else problem(entry.line, by)


def _as_said(
    task: str, source: str, lines: Sequence[Entry], sizes: SplitConfig
) -> dict[Split, list[Entry]]:
    """The first lines of each split that the file names, or with strata their share of each."""
    first: dict[str, Line] = {}
    for entry in lines if sizes.by is not None else ():
        held = first.setdefault(problem(entry.line, str(sizes.by)), entry.line)
        if held.split != entry.line.split:
            raise TaskError(
                f"{entry.line.where}: the same {sizes.by!r} as {held.where}, but another split;"
                " give both the same"
            )
    divided: dict[Split, list[Entry]] = {}
    for split in SPLITS:
        pool = [entry for entry in lines if entry.line.split == split]
        count = _count(task, source, split, sizes, len(pool), len(pool))
        if sizes.stratify:
            pool = [entry for group in _spread(pool, sizes) for entry in group]
        divided[split] = pool[:count]
    return divided


def _ordered(lines: Sequence[Entry], seed: int, by: str | None, use: str = "") -> list[list[Entry]]:
    """The lines of each problem, in an order that content (or `by`), seed and use decide."""
    key = f"{use}{seed}:".encode("ascii")

    def place(text: str) -> bytes:
        return hashlib.sha256(key + text.encode("ascii")).digest()

    names = {entry.id: _name(entry, by) for entry in lines}
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(lines, key=lambda entry: [place(text) for text in entry.rank]):
        groups.setdefault(names[entry.id], []).append(entry)
    if by is None:
        return list(groups.values())
    return [groups[name] for name in sorted(groups, key=lambda name: place(hash_of(name)))]


def _spread(lines: Sequence[Entry], sizes: SplitConfig) -> list[list[Entry]]:
    """The shuffled lines, each value of the tag spread evenly: every stretch has its share of all.

    The i-th of n problems with one value stands at (i + 1/2) / n of the way.
    """
    tag = str(sizes.stratify)
    held = {entry.id: _stratum(entry.line, tag) for entry in lines}
    strata: dict[str, list[list[Entry]]] = {}
    for group in _ordered(lines, sizes.seed, sizes.by):
        values = sorted({held[entry.id] for entry in group})
        strata.setdefault(values[0] if len(values) == 1 else repr(values), []).append(group)
    placed = [
        ((2 * i + 1) / (2 * len(stratum)), value, group)
        for value, stratum in strata.items()
        for i, group in enumerate(stratum)
    ]
    return [group for _, _, group in sorted(placed, key=lambda one: one[:2])]


def _stratum(line: Line, tag: str) -> str:
    for place in (line.tags, line.fields):
        if tag in place:
            return _spelled(place[tag])
    known = [*line.tags, *line.fields]
    hint = did_you_mean(tag, known) if known else "it has no tags"
    raise TaskError(f"{line.where}: no tag {tag!r} to stratify by; {hint}")


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _count(
    task: str,
    source: str,
    split: Split,
    sizes: SplitConfig,
    total: int,
    left: int,
    unit: str = "items",
) -> int:
    """How many items (or problems) the split gets of `total`, of which `left` are free."""
    asked = getattr(sizes, split)
    # 1e-9: 0.29 * 100 is 28.999999999999996 in binary, and means 29.
    count = asked if isinstance(asked, int) else int(asked * total + 1e-9)
    if count > left or (count == 0 and asked != 0):
        raise TaskError(
            f"task {task}: split {split} asks for {asked} {unit}, {source} has {left} left of"
            f" {total}; add {unit} or lower splits"
        )
    return int(count)


def check_disjoint(uses: Mapping[str, Mapping[Split, Sequence[str]]]) -> None:
    """Refuse an item that serves two purposes in two tasks; `uses` are `Item.digest`s.

    Within one task the splits are disjoint by construction; but a confirming item that another
    task searches on would confirm nothing. Items are the same that share one of their hashes.

    Raises:
        TaskError: the first such item's tasks and splits.
    """
    seen: dict[str, tuple[str, Split]] = {}
    for task, splits in uses.items():
        for split in SPLITS:
            for key in (key for digest in splits[split] for key in digest.split()):
                other, purpose = seen.setdefault(key, (task, split))
                if purpose != split:
                    raise TaskError(
                        f"tasks {other} and {task} share an item that is {purpose} in one and"
                        f" {split} in the other; give both the same splits (and `by`), or other"
                        " items"
                    )
