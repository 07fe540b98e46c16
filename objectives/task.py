"""Tasks: where items come from, how to ask them, how to score them, and which serve what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from objectives.benchmarks import published_test_set
from objectives.engines.base import ChatSettings, GenerationSettings, Message
from objectives.errors import ScorerError, TaskError
from objectives.item import Item, content_digest
from objectives.item_fields import FieldMap, check_fields, mapped
from objectives.item_file import Line, parse
from objectives.item_source import DatasetItems, ItemsConfig, LmEvalItems, read_rows
from objectives.scorers import make_scorer
from objectives.scorers.base import Combination, Measure, Scorer
from objectives.splits import SPLITS, Split, SplitConfig, divide, shuffled
from objectives.tables import did_you_mean

__all__ = ["JOINT", "SPLITS", "FewShot", "Item", "Split", "SplitConfig", "Task", "TaskConfig"]

JOINT = "joint"
"""Right *and* in the language: added to every task that can tell both."""


ScorerRef = str | dict[str, dict[str, Any] | None]


class FewShot(BaseModel):
    """Solved examples that stand before every item, as turns of the chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(gt=0, le=64, description="how many")
    items: ItemsConfig | None = Field(
        None,
        description="where from; default: the task's own items, of split fewshot or any that then"
        " serves nothing else",
    )
    seed: int = Field(0, description="of the choice among items without a split column")


class TaskConfig(BaseModel):
    """A task as a search file writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: ItemsConfig = Field(
        description="path of a JSONL file, relative to the file; {dataset, subset, split} of the"
        " hub; {lm_eval, include}"
    )
    fields: FieldMap = Field(
        default_factory=dict,
        description="item keys from other columns: names, or templates such as '{{question}}'",
    )
    fewshot: FewShot | None = None
    chat: ChatSettings = ChatSettings()
    generate: GenerationSettings = GenerationSettings()
    samples: int = Field(1, ge=1, le=256, description="answers per item; scores are their means")
    scorers: tuple[ScorerRef, ...] = Field(min_length=1)
    splits: SplitConfig | None = None
    role: Literal["search", "report"] = "search"
    allow_test_split: bool = Field(False, description="search on a published test set all the same")
    system: str | None = Field(None, description="a system message put before every item")
    system_role: Literal["system", "user"] = Field(
        "system", description="user: for models without one, it begins the first user message"
    )

    @field_validator("scorers")
    @classmethod
    def _scorers_exist(cls, refs: tuple[ScorerRef, ...]) -> tuple[ScorerRef, ...]:
        # pydantic turns ValueError into an error that knows its place in the file.
        try:
            measures_of([make_scorer(ref) for ref in refs], samples=1)
        except ScorerError as error:
            raise ValueError(str(error)) from None
        return refs

    @field_validator("fields")
    @classmethod
    def _fields_readable(cls, fields: FieldMap) -> FieldMap:
        check_fields(fields)
        return fields

    @model_validator(mode="after")
    def _honest(self) -> Self:
        published = published_test_set(self.items)
        if published is not None and self.role == "search" and not self.allow_test_split:
            raise ValueError(
                f"{published} is a published test set: searching on it makes its scores worthless;"
                " give `role: report`, other items, or `allow_test_split: true`"
            )
        return self

    @model_validator(mode="after")
    def _the_harness_asks(self) -> Self:
        if isinstance(self.items, LmEvalItems):
            own = {"chat", "fewshot", "fields", "generate", "samples", "system", "system_role"}
            given = sorted(own & self.model_fields_set)
            if given:
                raise ValueError(
                    f"{given[0]!r} does not count for a task of lm-evaluation-harness, which asks"
                    " in its own way; scorer lm_eval has `chat` and `fewshot`"
                )
        return self

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
        """Read the items (paths are relative to `root`) and divide them.

        The task's own `splits` win over `default_splits`. A task with `role: report` and no
        splits of its own is scored whole: all its items are "test".

        Raises:
            TaskError: the items cannot be read, one is malformed, or there are too few.
            ScorerError: a scorer is unknown or has wrong parameters.
        """
        folder = Path(root)
        scorers = tuple(make_scorer(ref).bound(config.items, folder) for ref in config.scorers)
        sizes = config.splits or default_splits or SplitConfig()
        if config.role == "search" and sizes.dev == 0:
            raise TaskError(f"task {name}: splits.dev is 0; a searched task needs dev items")
        source = _told(config.items, folder)
        lines = _unique(_read(config.items, config.fields, folder))
        if not lines:
            raise TaskError(f"task {name}: {source} has no items; give it some")
        shots, lines = _exemplars(name, config.fewshot, config, lines, folder)
        if config.role == "report" and config.splits is None:
            divided: dict[Split, list[Line]] = {
                "dev": [],
                "confirm": [],
                "test": [line for _, line in lines],
            }
        else:
            divided = divide(name, source, lines, sizes)
        turns = tuple(turn for shot in shots for turn in _solved(shot))
        splits = {
            split: tuple(_item(line, config, turns, scorers) for line in divided[split])
            for split in SPLITS
        }
        return cls(name, config, scorers, measures_of(scorers, config.samples), splits)

    @property
    def generates(self) -> bool:
        """Whether any scorer reads a generated answer."""
        return any(scorer.reads == "generation" for scorer in self.scorers)

    def items(self, split: Split) -> tuple[Item, ...]:
        """The items of one split, in their fixed order."""
        return self.splits[split]

    def asked(self, split: Split) -> bool:
        """Whether a merge is asked these items: report tasks only when the last word is spoken."""
        return bool(self.splits[split]) and (self.config.role == "search" or split == "test")

    def answers(self, split: Split) -> int:
        """How many answers one merge gives to these items, or items it is scored on without any."""
        count = self.config.samples if self.generates else 1
        return count * len(self.splits[split]) if self.asked(split) else 0


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


def _read(source: ItemsConfig, fields: FieldMap, root: Path) -> Iterable[Line]:
    for where, row in read_rows(source, root):
        yield parse(mapped(row, fields, where) if fields else row, where)


def _told(source: ItemsConfig, root: Path) -> str:
    if isinstance(source, DatasetItems):
        return f"data set {source.dataset}"
    if isinstance(source, LmEvalItems):
        return f"lm_eval task {source.lm_eval}"
    return str(root / Path(source).expanduser())


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
        digest = content_digest(line.messages, line.answer, line.choices)
        if digest in by_digest:
            raise TaskError(
                f"{line.where}: same content as {by_digest[digest]}, which would leak between"
                " splits; remove one"
            )
        by_id[line.id] = by_digest[digest] = line.where
        unique.append((digest, line))
    return unique


Lines = list[tuple[str, Line]]


def _exemplars(
    name: str, fewshot: FewShot | None, config: TaskConfig, lines: Lines, root: Path
) -> tuple[list[Line], Lines]:
    """The solved examples, and the lines that are left to be asked."""
    kept = [pair for pair in lines if pair[1].split != "fewshot"]
    if fewshot is None:
        return [], kept
    if fewshot.items is not None:
        pool = _unique(_read(fewshot.items, config.fields, root))
        asked = dict(kept)
        leaked = next((digest for digest, _ in pool if digest in asked), None)
        if leaked is not None:
            raise TaskError(
                f"{asked[leaked].where}: is among the few-shot examples too; remove it from one"
            )
        chosen = shuffled(pool, fewshot.seed, "fewshot")[: fewshot.count]
    elif len(kept) < len(lines):
        meant = [pair for pair in lines if pair[1].split == "fewshot"]
        chosen = shuffled(meant, fewshot.seed, "fewshot")[: fewshot.count]
    else:
        free = [pair for pair in kept if pair[1].split is None]
        chosen = shuffled(free, fewshot.seed, "fewshot")[: fewshot.count]
        taken = {line.id for line in chosen}
        kept = [pair for pair in kept if pair[1].id not in taken]
    if len(chosen) < fewshot.count:
        raise TaskError(
            f"task {name}: fewshot asks for {fewshot.count} examples, there are {len(chosen)};"
            " lower count, or add items (of split fewshot where lines name splits)"
        )
    return chosen, kept


def _solved(line: Line) -> tuple[Message, ...]:
    """An example with its worked solution, if it has one, else its answer."""
    solution = line.fields.get("solution", line.answer)
    if not isinstance(solution, str) or not solution.strip():
        raise TaskError(f'{line.where}: a few-shot example needs "solution" or "answer"; add it')
    return (*line.messages, {"role": "assistant", "content": solution})


def _item(
    line: Line, config: TaskConfig, shots: tuple[Message, ...], scorers: Sequence[Scorer]
) -> Item:
    messages = line.messages
    if not messages and (shots or config.system is not None):
        raise TaskError(
            f'{line.where}: "text" is scored as a whole, without a system message or examples;'
            ' give it a "prompt", or the task neither'
        )
    own = messages[:1] if messages and messages[0]["role"] == "system" else ()
    if config.system is not None:
        if own:
            raise TaskError(
                f"{line.where}: has its own system message, and the task sets `system`; drop one"
            )
        messages = ({"role": "system", "content": config.system}, *shots, *messages)
        if config.system_role == "user":
            messages = _begun(messages)
    elif shots:
        messages = (*own, *shots, *messages[len(own) :])
    digest = content_digest(line.messages, line.answer, line.choices)
    item = Item(line.id, messages, line.answer, line.tags, digest, line.fields)
    for scorer in scorers:
        if scorer.reads == "generation" and not messages:
            raise TaskError(f'{line.where}: scorer {scorer.name} needs a "prompt" or "messages"')
        try:
            scorer.check_item(item)
        except ScorerError as error:
            raise TaskError(f"{line.where}: {error}") from None
    return item


def _begun(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The system message put before the text of the first message after it."""
    system, first, *rest = messages
    content = f"{system['content']}\n\n{first['content']}"
    return ({"role": first["role"], "content": content}, *rest)
