"""Which items serve which purpose: searched on, confirmed on, or the last word.

The division depends on the items' contents and a seed alone: neither on the file's order nor on
ids, so that two tasks over one file agree, and a longer file keeps most of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from objectives.errors import TaskError
from objectives.item_file import Line
from objectives.tables import did_you_mean

Split = Literal["dev", "confirm", "test"]
SPLITS: tuple[Split, ...] = ("dev", "confirm", "test")

Count = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1, strict=True)]


class SplitConfig(BaseModel):
    """How many items each purpose gets: numbers, or fractions (1.0 is all).

    A fraction is of the whole file, or of the file's own split where its lines name one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dev: Count | Fraction = Field(128, description="searched on")
    confirm: Count | Fraction = Field(512, description="re-scores the front")
    test: Count | Fraction = Field(512, description="scores the exported recipe, once")
    seed: int = Field(0, description="of the shuffle of files without a split column")
    stratify: str | None = Field(
        None, description="a tag that every split has in the file's proportions"
    )


def divide(
    task: str, source: str, lines: Sequence[tuple[str, Line]], sizes: SplitConfig
) -> dict[Split, list[Line]]:
    """The lines of each split, from (content digest, line) pairs: as the lines say, or shuffled.

    `task` and `source` name them in errors.

    Raises:
        TaskError: too few items, a line without the split or the tag that others have.
    """
    without = next((line for _, line in lines if line.split is None), None)
    if without is None:
        pools = {s: [line for _, line in lines if line.split == s] for s in SPLITS}
        return {s: pools[s][: _count(task, source, s, sizes, len(pools[s]))] for s in SPLITS}
    with_split = next((line for _, line in lines if line.split is not None), None)
    if with_split is not None:
        raise TaskError(
            f'{without.where}: no "split", but {with_split.where} has one; give every line a split,'
            " or none"
        )
    ordered = _spread(lines, sizes) if sizes.stratify else shuffled(lines, sizes.seed)
    divided: dict[Split, list[Line]] = {}
    start = 0
    for split in SPLITS:
        count = _count(task, source, split, sizes, len(lines), taken=start)
        divided[split] = ordered[start : start + count]
        start += count
    return divided


def shuffled(lines: Sequence[tuple[str, Line]], seed: int, use: str = "") -> list[Line]:
    """The lines in an order that content, seed and use decide."""
    key = f"{use}{seed}:".encode("ascii")
    ranked = sorted(lines, key=lambda pair: hashlib.sha256(key + pair[0].encode("ascii")).digest())
    return [line for _, line in ranked]


def _spread(lines: Sequence[tuple[str, Line]], sizes: SplitConfig) -> list[Line]:
    """The shuffled lines, each value of the tag spread evenly: every stretch has its share of all.

    The i-th of n lines with one value stands at (i + 1/2) / n of the way.
    """
    tag = str(sizes.stratify)
    strata: dict[str, list[Line]] = {}
    for line in shuffled(lines, sizes.seed):
        if tag not in line.tags:
            hint = did_you_mean(tag, line.tags) if line.tags else "it has no tags"
            raise TaskError(f"{line.where}: no tag {tag!r} to stratify by; {hint}")
        strata.setdefault(_spelled(line.tags[tag]), []).append(line)
    placed = [
        ((2 * i + 1) / (2 * len(stratum)), value, line)
        for value, stratum in strata.items()
        for i, line in enumerate(stratum)
    ]
    return [line for _, _, line in sorted(placed, key=lambda entry: entry[:2])]


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _count(
    task: str, source: str, split: Split, sizes: SplitConfig, total: int, taken: int = 0
) -> int:
    """How many items the split gets of `total`, of which other splits have `taken`."""
    asked = getattr(sizes, split)
    # 1e-9: 0.29 * 100 is 28.999999999999996 in binary, and means 29.
    count = asked if isinstance(asked, int) else int(asked * total + 1e-9)
    left = total - taken
    if count > left or (count == 0 and asked != 0):
        raise TaskError(
            f"task {task}: split {split} asks for {asked} items, {source} has {left} left of"
            f" {total}; add items or lower splits"
        )
    return int(count)


def check_disjoint(uses: Mapping[str, Mapping[Split, Sequence[str]]]) -> None:
    """Refuse an item that serves two purposes in two tasks; `uses` are content digests.

    Within one task the splits are disjoint by construction; but a confirming item that another
    task searches on would confirm nothing.

    Raises:
        TaskError: the first such item's tasks and splits.
    """
    seen: dict[str, tuple[str, Split]] = {}
    for task, splits in uses.items():
        for split in SPLITS:
            for digest in splits[split]:
                other, purpose = seen.setdefault(digest, (task, split))
                if purpose != split:
                    raise TaskError(
                        f"tasks {other} and {task} share an item that is {purpose} in one and"
                        f" {split} in the other; give both the same splits, or other items"
                    )
