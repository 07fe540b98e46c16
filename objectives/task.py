"""Tasks: an item file, how to ask it, how to score it, and which items serve which purpose."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from objectives.engines.base import ChatSettings, GenerationSettings
from objectives.errors import ScorerError, TaskError
from objectives.item import Item, content_digest
from objectives.item_file import Line, read_lines
from objectives.scorers import make_scorer
from objectives.scorers.base import Combination, Measure, Scorer
from objectives.tables import did_you_mean

__all__ = ["JOINT", "SPLITS", "Item", "Split", "SplitConfig", "Task", "TaskConfig"]

Split = Literal["dev", "confirm", "test"]
SPLITS: tuple[Split, ...] = ("dev", "confirm", "test")

JOINT = "joint"
"""Right *and* in the language: added to every task that can tell both."""

Count = Annotated[int, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1, strict=True)]
ScorerRef = str | dict[str, dict[str, Any] | None]


class SplitConfig(BaseModel):
    """How many items each purpose gets: numbers, or fractions (1.0 is all).

    A fraction is of the whole file, or of the file's own split where its lines name one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dev: Count | Fraction = Field(128, description="searched on")
    confirm: Count | Fraction = Field(512, description="re-scores the front")
    test: Count | Fraction = Field(512, description="scores the exported recipe, once")
    seed: int = Field(0, description="of the shuffle of files without a split column")


class TaskConfig(BaseModel):
    """A task as a search file writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: str = Field(min_length=1, description="path of a JSONL file, relative to the file")
    chat: ChatSettings = ChatSettings()
    generate: GenerationSettings = GenerationSettings()
    samples: int = Field(1, ge=1, le=256, description="answers per item; scores are their means")
    scorers: tuple[ScorerRef, ...] = Field(min_length=1)
    splits: SplitConfig | None = None
    role: Literal["search", "report"] = "search"
    system: str | None = Field(None, description="a system message put before every item")

    @field_validator("scorers")
    @classmethod
    def _scorers_exist(cls, refs: tuple[ScorerRef, ...]) -> tuple[ScorerRef, ...]:
        # pydantic turns ValueError into an error that knows its place in the file.
        try:
            measures_of([make_scorer(ref) for ref in refs], samples=1)
        except ScorerError as error:
            raise ValueError(str(error)) from None
        return refs

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.generate.temperature == 0.0:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are all the same;"
                " set generate.temperature"
            )
        return self


@dataclass(frozen=True)
class Task:
    """A task with its items read and divided; picklable, so that workers can be sent one."""

    name: str
    config: TaskConfig
    scorers: tuple[Scorer, ...]
    measures: Mapping[str, Measure]
    splits: Mapping[Split, tuple[Item, ...]]

    @classmethod
    def load(
        cls,
        name: str,
        config: TaskConfig,
        root: str | Path,
        default_splits: SplitConfig | None = None,
    ) -> Self:
        """Read the item file (relative to `root`) and divide it.

        The task's own `splits` win over `default_splits`. A task with `role: report` and no
        splits of its own is scored whole: all its items are "test".

        Raises:
            TaskError: the file is missing or malformed, or has too few items.
            ScorerError: a scorer is unknown or has wrong parameters.
        """
        path = Path(root) / Path(config.items).expanduser()
        scorers = tuple(make_scorer(ref) for ref in config.scorers)
        sizes = config.splits or default_splits or SplitConfig()
        whole = config.role == "report" and config.splits is None
        if config.role == "search" and sizes.dev == 0:
            raise TaskError(f"task {name}: splits.dev is 0; a searched task needs dev items")
        lines = _unique(read_lines(path))
        if not lines:
            raise TaskError(f"task {name}: {path} has no items; add one object per line")
        divided = _divide(name, path, lines, sizes, whole=whole)
        splits = {
            split: tuple(_item(line, config.system) for line in divided[split]) for split in SPLITS
        }
        return cls(name, config, scorers, measures_of(scorers, config.samples), splits)

    @property
    def generates(self) -> bool:
        """Whether any scorer reads a generated answer."""
        return any(scorer.reads == "generation" for scorer in self.scorers)

    def items(self, split: Split) -> tuple[Item, ...]:
        """The items of one split, in their fixed order."""
        return self.splits[split]

    def digest(self, split: Split) -> str:
        """32 hex digits that change with any item of the split or with their order."""
        joined = "\n".join(item.digest for item in self.splits[split])
        return hashlib.sha256(joined.encode("ascii")).hexdigest()[:32]


def measures_of(scorers: Sequence[Scorer], samples: int) -> dict[str, Measure]:
    """Every score that these scorers give together, the joint one included.

    Raises:
        ScorerError: two scorers have one name, a combination names what is not there before it or
            cannot be combined, or a scorer that must stand alone does not.
    """
    found: dict[str, Measure] = {}
    for scorer in scorers:
        if scorer.name in found:
            raise ScorerError(
                f"scorer {scorer.name!r} is listed twice; list it once, or give one a `name`"
            )
        if scorer.reads == "engine" and len(scorers) > 1:
            raise ScorerError(f"scorer {scorer.name!r} must be the only one of its task")
        if isinstance(scorer, Combination):
            _check_parts(scorer, found)
        # A mean over several answers is graded, whatever each of them is.
        graded = samples > 1 and scorer.reads in ("generation", "scores")
        for key, measure in scorer.measures().items():
            found[key] = replace(measure, binary=False) if graded else measure
    told = [scorer for scorer in scorers if scorer.correctness]
    spoken = [scorer for scorer in scorers if scorer.speech]
    # With two languages expected nobody can say which of them is meant: `all` can.
    if told and len(spoken) == 1 and JOINT not in found:
        found[JOINT] = Measure(binary=samples == 1)
    return found


def _check_parts(scorer: Combination, found: Mapping[str, Measure]) -> None:
    for key in scorer.params.of:
        if key not in found:
            hint = did_you_mean(key, found) if found else "list it first"
            raise ScorerError(
                f"scorer {scorer.name}: no score {key!r} of a scorer before it; {hint}"
            )
        measure = found[key]
        if measure.range != (0.0, 1.0) or measure.direction != "maximize" or not measure.always:
            raise ScorerError(
                f"scorer {scorer.name}: {key!r} cannot be combined: it must run from 0 to 1, be"
                " better when larger, and be known for every item"
            )


def _unique(lines: Iterable[Line]) -> list[tuple[str, Line]]:
    """Lines with their content digests; the same id or content twice is an error.

    Content must be unique over the whole file: a copy of a searched item among the confirming ones
    would make the confirmation worthless.
    """
    by_id: dict[str, str] = {}
    by_digest: dict[str, str] = {}
    unique = []
    for line in lines:
        if line.id in by_id:
            raise TaskError(
                f"{line.where}: id {line.id!r} was used in {by_id[line.id]}; make ids unique"
            )
        digest = content_digest(line.messages, line.answer)
        if digest in by_digest:
            raise TaskError(
                f"{line.where}: same content as {by_digest[digest]}, which would leak between"
                " splits; remove one"
            )
        by_id[line.id] = by_digest[digest] = line.where
        unique.append((digest, line))
    return unique


def _divide(
    name: str, path: Path, lines: list[tuple[str, Line]], sizes: SplitConfig, whole: bool
) -> dict[Split, list[Line]]:
    """The lines of each split: as the file says, or by a seeded shuffle of content digests."""
    without = next((line for _, line in lines if line.split is None), None)
    if without is None and not whole:
        pools = {s: [line for _, line in lines if line.split == s] for s in SPLITS}
        return {s: pools[s][: _count(name, path, s, sizes, len(pools[s]))] for s in SPLITS}
    with_split = next((line for _, line in lines if line.split is not None), None)
    if without is not None and with_split is not None:
        raise TaskError(
            f'{without.where}: no "split", but {with_split.where} has one; give every line a split,'
            " or none"
        )
    if whole:
        return {"dev": [], "confirm": [], "test": [line for _, line in lines]}
    # The order depends on content and seed alone: neither on the file's order nor on ids.
    key = f"{sizes.seed}:".encode("ascii")
    shuffled = sorted(
        lines, key=lambda pair: hashlib.sha256(key + pair[0].encode("ascii")).digest()
    )
    divided: dict[Split, list[Line]] = {}
    start = 0
    for split in SPLITS:
        count = _count(name, path, split, sizes, len(lines), taken=start)
        divided[split] = [line for _, line in shuffled[start : start + count]]
        start += count
    return divided


def _count(
    name: str, path: Path, split: Split, sizes: SplitConfig, total: int, taken: int = 0
) -> int:
    """How many items the split gets of `total`, of which other splits have `taken`."""
    asked = getattr(sizes, split)
    # 1e-9: 0.29 * 100 is 28.999999999999996 in binary, and means 29.
    count = asked if isinstance(asked, int) else int(asked * total + 1e-9)
    left = total - taken
    if count > left or (count == 0 and asked != 0):
        raise TaskError(
            f"task {name}: split {split} asks for {asked} items, {path} has {left} left of {total}"
            "; add items or lower splits"
        )
    return int(count)


def _item(line: Line, system: str | None) -> Item:
    messages = line.messages
    if system is not None:
        if messages[0]["role"] == "system":
            raise TaskError(
                f"{line.where}: has its own system message, and the task sets `system`; drop one"
            )
        messages = ({"role": "system", "content": system}, *messages)
    return Item(line.id, messages, line.answer, line.tags, content_digest(messages, line.answer))
