"""Search files: a recipe with ranges, plus tasks, objectives and a budget.

The recipe part is checked by `search.space`; everything else by the models below. `load` turns
any fault into one line that begins with file:line:column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from merge_core.errors import MergeError
from merge_core.recipe import RECIPE_KEYS, Recipe
from merge_core.yaml_io import Document, dump_yaml, load_yaml, one_line, unknown
from objectives import EngineConfig, SplitConfig, TaskConfig, make_scorer
from objectives.engines import TransformersConfig
from objectives.scorers.base import Measure
from search.errors import ConfigError
from search.space import Space

NAME = r"^[A-Za-z0-9_-]+$"
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CONSTRAINT = re.compile(r"\s*(>=|<=)\s*([-+0-9.eE]+)\s*")


class Strict(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(Strict):
    """One expert; `parameters` may hold ranges."""

    model: str = Field(description="hub id, id@revision, or a path relative to this file")
    name: str | None = Field(None, pattern=NAME, description="used in parameter names and plots")
    parameters: dict[str, Any] | None = Field(None, description="values or ranges")


class ObjectiveEntry(Strict):
    """An objective in long form."""

    score: str | list[str] = Field(description="task/scorer; a list is the mean over its parts")
    direction: Literal["maximize", "minimize"] = "maximize"
    reference: float | None = Field(
        None, description="worst value of interest; needed for minimized or unbounded scores"
    )


class ConfirmEntry(Strict):
    """How much of the front is scored again on held-out items."""

    max: int = Field(8, ge=1, description="members of the front at most")


class BudgetEntry(Strict):
    """When the search ends: at whichever comes first."""

    trials: int | None = Field(None, ge=1, description="evaluated recipes")
    timeout: str | None = Field(None, description="wall time, confirmation included: 8h, 1h30m")

    @field_validator("timeout")
    @classmethod
    def _duration(cls, text: str | None) -> str | None:
        if text is not None:
            seconds(text)
        return text


class WorkersEntry(Strict):
    """Ray workers, each with a live engine of its own."""

    count: int | None = Field(None, ge=1, description="default: one per GPU, else one per 2 cores")
    gpus: float | None = Field(None, ge=0, description="per worker; fractions share a GPU")
    cpus: float | None = Field(None, gt=0, description="per worker")


class SamplerEntry(Strict):
    """Who proposes recipes."""

    name: str = Field("auto", description="auto, random, gp, tpe or nsga2")
    seed: int = Field(0, ge=0, description="of the proposals; drop masks have the recipe's seed")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise ValueError(unknown("sampler", name, SAMPLERS))
        return name


SAMPLERS = ("auto", "random", "gp", "tpe", "nsga2")


class TrackingEntry(Strict):
    """Where MLflow writes; a store in the run folder by default."""

    uri: str | None = Field(None, description="default: MLFLOW_TRACKING_URI, else the run folder")
    experiment: str | None = Field(None, description="default: the run's name")


class ChoiceEntry(Strict):
    """A choice among names."""

    choices: list[str] = Field(min_length=1)


class SearchFile(Strict):
    """A search file."""

    merge_method: str | ChoiceEntry = Field(description="a method, or choices among methods")
    base_model: str | None = Field(None, description="what the experts are fine-tuned from")
    models: list[ModelEntry] = Field(min_length=1, description="the experts")
    parameters: dict[str, Any] | None = Field(None, description="for all experts and the merge")
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    tokenizer_source: str = "base"
    seed: int = Field(0, ge=0, description="of the random drop masks")

    tasks: dict[str, TaskConfig] = Field(min_length=1)
    objectives: dict[str, str | list[str] | ObjectiveEntry] = Field(min_length=1)
    constraints: dict[str, str] = Field(default_factory=dict)
    splits: SplitConfig = SplitConfig()
    confirm: ConfirmEntry = ConfirmEntry()
    baselines: list[str] = Field(default_factory=lambda: ["base", "experts", "uniform"])
    engine: EngineConfig = TransformersConfig()
    budget: BudgetEntry = BudgetEntry(trials=120)
    workers: WorkersEntry = WorkersEntry()
    sampler: SamplerEntry = SamplerEntry()
    tracking: TrackingEntry = TrackingEntry()
    storage: str | None = Field(None, description="Optuna storage URL; default SQLite in the run")

    @field_validator("sampler", mode="before")
    @classmethod
    def _short_sampler(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


FROZEN = (
    *RECIPE_KEYS,
    *("tasks", "objectives", "constraints", "splits", "engine.kind", "engine.dtype"),
    "sampler.seed",
)
"""What a run keeps for its life; the rest may change between one `run` and the next."""


@dataclass(frozen=True)
class Objective:
    """One axis of the front: the mean of some tasks' scores, with equal task weights.

    Attributes:
        name: column and axis title.
        parts: (task, measure) pairs.
        direction: "maximize" or "minimize".
        reference: worst value of interest, the corner of the hypervolume.
        bounds: smallest and largest possible value.
        binary: every part is 0 or 1 per item.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    direction: Literal["maximize", "minimize"]
    reference: float
    bounds: tuple[float, float]
    binary: bool

    @property
    def sign(self) -> float:
        """1 where larger is better, -1 where smaller is."""
        return 1.0 if self.direction == "maximize" else -1.0


@dataclass(frozen=True)
class Constraint:
    """A bound that a trial's score must hold.

    Attributes:
        key: an objective's name or task/measure, as the file names it.
        parts: (task, measure) pairs whose mean it bounds.
        at_least: whether the bound is a lower one.
        bound: its value.
        worst: the worst possible score, told for merges that cannot be scored.
        binary: every part is 0 or 1 per item.
        bounds: smallest and largest possible score.
    """

    key: str
    parts: tuple[tuple[str, str], ...]
    at_least: bool
    bound: float
    worst: float
    binary: bool
    bounds: tuple[float, float]

    def violation(self, value: float) -> float:
        """At most 0 where `value` holds the constraint, as Optuna wants it."""
        return self.bound - value if self.at_least else value - self.bound

    def __str__(self) -> str:
        return f"{self.key} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Search:
    """A search file, read and checked.

    Attributes:
        path: where it was read.
        file: its parts.
        space: the recipe with its ranges.
        objectives: in file order.
        constraints: in file order.
        text: the file's text with `--set` applied, as the run folder keeps it.
    """

    path: Path
    file: SearchFile
    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    text: str = ""

    @property
    def root(self) -> Path:
        """The folder that relative paths in the file are relative to."""
        return self.path.resolve().parent

    def example(self) -> Recipe:
        """One recipe of the space, with absolute paths: for what all its recipes share."""
        return self.space.example().resolved(self.root)


def load(path: Path, overrides: list[str] | None = None) -> Search:
    """Read a search file.

    Args:
        path: the file.
        overrides: `a.b=value` settings that go before the file's, values in YAML.

    Raises:
        ConfigError: one line that begins with file:line:column.
    """
    try:
        document = load_yaml(path)
        for override in overrides or []:
            _override(document, override)
    except MergeError as error:
        raise ConfigError(str(error)) from None
    return parse(document)


def parse(document: Document) -> Search:
    """As `load`, from a document already read."""
    if not isinstance(document.data, dict):
        raise ConfigError(f"{document.path}:1:1: a search file is a mapping; see `mergefront init`")
    try:
        file = SearchFile.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(_explain(error, document)) from None
    try:
        space = Space({key: document.data[key] for key in RECIPE_KEYS if key in document.data})
    except MergeError as error:
        raise ConfigError(document.locate(error)) from None
    return Search(
        path=document.path,
        file=file,
        space=space,
        objectives=_objectives(file, document),
        constraints=_constraints(file, document),
        text=dump_yaml(document.data),
    )


def seconds(text: str) -> float:
    """A duration such as 90s, 45m, 8h or 1d12h in seconds; ValueError if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration; write 90s, 45m, 8h or 1h30m")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def measures_of(task: TaskConfig) -> dict[str, Measure]:
    """Every score that a task gives, known without reading its items."""
    scorers = [make_scorer(reference) for reference in task.scorers]
    measures = {key: measure for scorer in scorers for key, measure in scorer.measures().items()}
    if "language" in measures and any(scorer.correctness for scorer in scorers):
        measures["joint"] = Measure(binary=True)
    return measures


def _objectives(file: SearchFile, document: Document) -> tuple[Objective, ...]:
    objectives = []
    for name, entry in file.objectives.items():
        where = ("objectives", name)
        if not re.fullmatch(NAME, name):
            raise _fault(document, where, f"objective {name!r} may hold letters, digits, - and _")
        long = entry if isinstance(entry, ObjectiveEntry) else ObjectiveEntry(score=entry)
        names = [long.score] if isinstance(long.score, str) else long.score
        parts, measures = _parts(file, document, where, names)
        for (task, measure), declared in zip(parts, measures, strict=True):
            if declared.direction != long.direction:
                raise _fault(
                    document, where, f"{task}/{measure} is one to {declared.direction}: say so"
                )
            if file.tasks[task].role == "report":
                raise _fault(
                    document, where, f"task '{task}' has role report: it is never searched"
                )
        low = min(m.range[0] for m in measures)
        high = max(m.range[1] for m in measures)
        reference = long.reference
        if reference is None:
            if long.direction == "minimize" or low != 0.0:
                raise _fault(document, where, f"{name} needs a reference: its worst value of use")
            reference = 0.0
        objectives.append(
            Objective(
                name=name,
                parts=parts,
                direction=long.direction,
                reference=reference,
                bounds=(low, high),
                binary=all(m.binary for m in measures),
            )
        )
    return tuple(objectives)


def _constraints(file: SearchFile, document: Document) -> tuple[Constraint, ...]:
    constraints = []
    for key, text in file.constraints.items():
        where = ("constraints", key)
        match = _CONSTRAINT.fullmatch(text)
        if not match:
            raise _fault(document, where, f"{text!r} is no bound; write '>= 0.8' or '<= 20'")
        if key in file.objectives:
            entry = file.objectives[key]
            score = entry.score if isinstance(entry, ObjectiveEntry) else entry
            names = [score] if isinstance(score, str) else score
        elif "/" in key:
            names = [key]
        else:
            raise _fault(document, where, unknown("objective", key, file.objectives))
        parts, measures = _parts(file, document, where, names)
        at_least = match[1] == ">="
        low, high = min(m.range[0] for m in measures), max(m.range[1] for m in measures)
        bound = float(match[2])
        if not low <= bound <= high:
            raise _fault(document, where, f"bound {bound:g} lies outside {low:g} to {high:g}")
        constraints.append(
            Constraint(
                key=key,
                parts=parts,
                at_least=at_least,
                bound=bound,
                worst=low if at_least else high,
                binary=all(m.binary for m in measures),
                bounds=(low, high),
            )
        )
    return tuple(constraints)


def _parts(
    file: SearchFile, document: Document, where: tuple[str, ...], names: list[str]
) -> tuple[tuple[tuple[str, str], ...], list[Measure]]:
    parts, measures = [], []
    for name in names:
        task, slash, measure = name.partition("/")
        if not slash:
            raise _fault(document, where, f"{name!r} is no score; write task/scorer")
        if task not in file.tasks:
            raise _fault(document, where, unknown("task", task, file.tasks))
        known = measures_of(file.tasks[task])
        if measure not in known:
            raise _fault(document, where, unknown(f"score of task '{task}'", measure, known))
        parts.append((task, measure))
        measures.append(known[measure])
    return tuple(parts), measures


def _fault(document: Document, where: tuple[str | int, ...], what: str) -> ConfigError:
    line, column = document.position(where)
    return ConfigError(f"{document.path}:{line}:{column}: {what}")


def _explain(error: ValidationError, document: Document) -> str:
    """The first fault of a pydantic error in our words."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
    where = tuple(first["loc"])
    line, column = document.position(where)
    name = ".".join(str(part) for part in where if _exists(document.data, where, part))
    if first["type"] == "extra_forbidden":
        what = unknown("key", where[-1], _keys_beside(where))
    elif first["type"] == "missing":
        what = f"'{where[-1]}' is missing" + (f" in {name}" if name else "")
    elif first["type"] in ("value_error", "assertion_error"):
        what = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    else:
        what = f"{name or where[-1]}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{document.path}:{line}:{column}: {one_line(what)}"


def _exists(data: Any, where: tuple[str | int, ...], part: str | int) -> bool:
    """Whether `part` is a step in the document (pydantic adds steps for unions)."""
    for step in where[: where.index(part) + 1]:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _keys_beside(where: tuple[str | int, ...]) -> list[str]:
    """The legal keys where an unknown one stands."""
    if len(where) == 1:
        return list(SearchFile.model_fields)
    owners: dict[str, type[BaseModel]] = {
        "models": ModelEntry,
        "tasks": TaskConfig,
        "objectives": ObjectiveEntry,
        "splits": SplitConfig,
        "confirm": ConfirmEntry,
        "engine": TransformersConfig,
        "budget": BudgetEntry,
        "workers": WorkersEntry,
        "sampler": SamplerEntry,
        "tracking": TrackingEntry,
    }
    owner = owners.get(str(where[0]))
    names = list(owner.model_fields) if owner else []
    if "generate" in where:
        names = list(TaskConfig.model_fields["generate"].annotation.model_fields)  # type: ignore[union-attr]
    return names


def _override(document: Document, override: str) -> None:
    from merge_core.yaml_io import parse_yaml

    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override!r}: write a.b=value")
    value = parse_yaml(text, Path("--set")).data
    node = document.data
    *parents, last = key.split(".")
    for parent in parents:
        step: Any = int(parent) if isinstance(node, list) and parent.isdigit() else parent
        try:
            node = node.setdefault(step, {}) if isinstance(node, dict) else node[step]
        except (IndexError, TypeError):
            raise ConfigError(f"--set {override!r}: there is no {parent}") from None
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise ConfigError(f"--set {override!r}: there is no {last}")
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override!r}: {'.'.join(parents)} is not a mapping")
