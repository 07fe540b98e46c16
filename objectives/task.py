"""Tasks: where items come from, how to ask them, how to score them, and which serve what."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from objectives.benchmarks import published_test_set
from objectives.copies import Entry, entries
from objectives.engines.base import ChatSettings, GenerationSettings, Message
from objectives.errors import ScorerError, TaskError
from objectives.fewshot import FewShot, check_not_asked, drawn, solved
from objectives.item import Item
from objectives.item_fields import FieldMap, check_fields, mapped
from objectives.item_file import PURPOSES, check_values, parse
from objectives.item_source import DatasetItems, ItemsConfig, LmEvalItems, Row, read_rows
from objectives.scorers import make_scorer
from objectives.scorers.base import Combination, Measure, Scorer
from objectives.scorers.combine import All
from objectives.scorers.lm_eval import LmEval
from objectives.splits import SPLITS, Split, SplitConfig, copies_key, divide, unused
from objectives.tables import did_you_mean

__all__ = ["JOINT", "SPLITS", "FewShot", "Item", "Split", "SplitConfig", "Task", "TaskConfig"]

JOINT = "joint"
"""Right *and* in the language: added to every task that can tell both."""


def _scorer_exists(ref: "ScorerRef") -> "ScorerRef":
    # pydantic turns ValueError into an error that knows its place in the file.
    try:
        make_scorer(ref)
    except ScorerError as error:
        raise ValueError(str(error)) from None
    return ref


ScorerRef = str | dict[str, dict[str, Any] | None]
KnownScorer = Annotated[ScorerRef, AfterValidator(_scorer_exists)]


class TaskConfig(BaseModel):
    """A task: items, how they are asked, and what scores the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: ItemsConfig = Field(
        description="path of a JSONL file, relative to the search file; or a data set of the hub,"
        " or a task of lm-evaluation-harness"
    )
    fields: FieldMap = Field(
        default_factory=dict,
        description="item keys from other columns: names of columns, templates such as"
        " `'{{ question }}'`, or lists or mappings of these",
    )
    fewshot: FewShot | None = Field(
        None, description="solved examples before every item; unset: none"
    )
    chat: ChatSettings = Field(ChatSettings(), description="how messages become a prompt")
    generate: GenerationSettings = Field(
        GenerationSettings(), description="how answers are generated"
    )
    samples: int = Field(1, ge=1, le=256, description="answers per item; scores are their means")
    scorers: tuple[KnownScorer, ...] = Field(
        min_length=1, description="names, such as `math`, or a name with its parameters"
    )
    splits: SplitConfig | None = Field(
        None,
        description="of this task alone; unset: the file's; of a report task all items are test",
    )
    role: Literal["search", "report"] = Field(
        "search",
        description="report: only the exported recipe is asked, on test items, once",
    )
    allow_test_split: bool = Field(False, description="search on a published test set all the same")
    system: str | None = Field(None, description="a system message put before every item")
    system_role: Literal["system", "user"] = Field(
        "system",
        description="whose message it is; user: for models without a system role, it begins the"
        " first user message",
    )

    @field_validator("scorers")
    @classmethod
    def _scorers_agree(cls, refs: tuple[ScorerRef, ...]) -> tuple[ScorerRef, ...]:
        try:
            measures_of([make_scorer(ref) for ref in refs], samples=1)
        except ScorerError as error:
            raise ValueError(str(error)) from None
        return refs

    @field_validator("system")
    @classmethod
    def _system_is_text(cls, system: str | None) -> str | None:
        try:
            (system or "").encode()
        except UnicodeEncodeError:
            raise ValueError("system holds half a character (a lone surrogate)") from None
        return system

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
    def _reported_on_something(self) -> Self:
        if self.role == "report" and self.splits is not None and self.splits.test == 0:
            raise ValueError(
                "a task of role report is scored on its test items, and its splits.test is 0;"
                " give it some, or drop its splits to score it whole"
            )
        return self

    @model_validator(mode="after")
    def _the_harness_asks(self) -> Self:
        if isinstance(self.items, LmEvalItems):
            others = [s for s in map(make_scorer, self.scorers) if not isinstance(s, LmEval)]
            if others:
                raise ValueError(
                    f"scorer {others[0].name!r} cannot score a task of lm-evaluation-harness,"
                    " which asks and scores in its own way; its scorer is lm_eval"
                )
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
    """A task with its items read and divided; picklable, so that workers can be sent one.

    `idle` counts the items that serve no split and are no examples.
    """

    name: str
    config: TaskConfig
    scorers: tuple[Scorer, ...]
    measures: Mapping[str, Measure]
    splits: Mapping[Split, tuple[Item, ...]]
    idle: int = 0

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
        judged = any(scorer.correctness for scorer in scorers)
        entries = _entries(config.items, config.fields, folder, judged)
        if not entries:
            raise TaskError(f"task {name}: {source} has no items; give it some")
        shots, divided, by = _divided(name, source, config, sizes, entries, folder, judged)
        turns = tuple(turn for shot in shots for turn in solved(shot.line))
        splits = {
            split: tuple(_item(entry, by, config, turns, scorers) for entry in divided[split])
            for split in SPLITS
        }
        served = {entry.id for part in (*divided.values(), shots) for entry in part}
        idle = sum(entry.id not in served for entry in entries)
        return cls(name, config, scorers, measures_of(scorers, config.samples), splits, idle)

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
        ScorerError: two scorers have one name, one other than `all` is named joint, a combination
            names what is not there before it or cannot be combined, or a scorer that must stand
            alone does not.
    """
    found: dict[str, Measure] = {}
    for scorer in scorers:
        if scorer.name == JOINT and not isinstance(scorer, All):
            raise ScorerError(
                "'joint' is the name of a score every task may have; choose another name"
            )
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


def _entries(source: ItemsConfig, fields: FieldMap, root: Path, judged: bool) -> list[Entry]:
    """The lines of a source; what a data set says beside the items need not fit."""
    remote = not isinstance(source, str)
    rows: Iterable[Row] = read_rows(source, root)
    if isinstance(source, DatasetItems):
        rows = _without_unfit(list(rows), fields)
    lines = []
    for where, row in rows:
        check_values(row, where)
        lines.append(parse(mapped(row, fields, where) if fields else row, where, row))
    return entries(lines, judged=judged, remote=remote)


def _without_unfit(rows: Sequence[Row], fields: FieldMap) -> list[Row]:
    """The rows without columns `split` and `tags` that are the data set's own, and not ours."""
    splits = [row.get("split") for _, row in rows]
    unfit = set()
    # One name throughout, such as "test", is the data set's word for all that was read.
    if not all(split in PURPOSES for split in splits) or len(set(splits)) < 2:
        unfit.add("split")
    if not all(isinstance(row.get("tags"), dict) for _, row in rows):
        unfit.add("tags")
    unfit -= fields.keys()
    return [(where, {k: v for k, v in row.items() if k not in unfit}) for where, row in rows]


def _told(source: ItemsConfig, root: Path) -> str:
    if isinstance(source, DatasetItems):
        return f"data set {source.dataset}"
    if isinstance(source, LmEvalItems):
        return f"lm_eval task {source.lm_eval}"
    return str(root / Path(source).expanduser())


def _divided(
    name: str,
    source: str,
    config: TaskConfig,
    sizes: SplitConfig,
    given: Sequence[Entry],
    root: Path,
    judged: bool,
) -> tuple[list[Entry], dict[Split, list[Entry]], str | None]:
    """The solved examples, what each split asks, and by what problems were told apart."""
    fewshot = config.fewshot
    asked = [entry for entry in given if entry.line.split != "fewshot"]
    pool = [entry for entry in given if entry.line.split == "fewshot"]
    short = "there are {}; lower count, or add items (of split fewshot where lines name splits)"
    if fewshot is not None and fewshot.items is not None:
        pool = _entries(fewshot.items, config.fields, root, judged)
        check_not_asked(pool, asked)
    whole = config.role == "report" and config.splits is None
    own = fewshot is not None and fewshot.items is None and len(asked) == len(given)
    if whole:
        if own and fewshot is not None:
            pool = drawn(fewshot, [entry for entry in asked if entry.line.split is None])
            taken = {entry.id for entry in pool}
            asked = [entry for entry in asked if entry.id not in taken]
        divided: dict[Split, list[Entry]] = {"dev": [], "confirm": [], "test": asked}
    else:
        # Before examples are taken out: with them or without, tasks over one file divide it alike.
        divided = divide(name, source, asked, sizes)
        if own:
            free = [entry for entry in asked if entry.line.split is None]
            pool = unused(free, divided, sizes)
            short = "the splits leave {}; lower them in all tasks over these items, or give items"
    shots = drawn(fewshot, pool) if fewshot is not None else []
    if fewshot is not None and len(shots) < fewshot.count:
        raise TaskError(
            f"task {name}: fewshot asks for {fewshot.count} examples, {short.format(len(shots))}"
        )
    return shots, divided, None if whole else sizes.by


def _item(
    entry: Entry,
    by: str | None,
    config: TaskConfig,
    shots: tuple[Message, ...],
    scorers: Sequence[Scorer],
) -> Item:
    line = entry.line
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
    keys = entry.keys if by is None else (*entry.keys, copies_key(line, by))
    item = Item(entry.id, messages, line.answer, line.tags, " ".join(keys), line.fields)
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
