"""Search files: a recipe with ranges, plus tasks, objectives and a budget.

`search.file` says what may stand in one, `search.space` reads its recipe part; here both come
together. `load` turns any fault into one line that begins with file:line:column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from merge_core.errors import MergeError
from merge_core.recipe import RECIPE_KEYS, Recipe
from merge_core.yaml_io import Document, Where, dump_yaml, load_yaml, unknown
from objectives import EngineConfig, TaskConfig, make_scorer
from objectives.engines import ScriptedConfig
from objectives.scorers.base import Measure
from objectives.task import measures_of as task_measures
from search import samplers
from search.errors import ConfigError
from search.faults import Source
from search.file import FROZEN, ObjectiveEntry, SearchFile, WorkersEntry
from search.file_texts import bound, seconds
from search.secrets import portable
from search.space import Space

__all__ = [
    "FROZEN",
    "Constraint",
    "Objective",
    "Search",
    "SearchFile",
    "WorkersEntry",
    "fixed_line",
    "load",
    "parse",
    "seconds",
    "with_frozen",
]


Part = tuple[str, str]
"""A task and one of its measures."""


@dataclass(frozen=True)
class Objective:
    """One axis of the front: the mean of some tasks' scores, with equal task weights.

    Attributes:
        name: column and axis title.
        parts: (task, measure) pairs.
        direction: "maximize" or "minimize".
        reference: worst value of interest, the corner of the hypervolume.
        measures: what is known of each part.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    direction: Literal["maximize", "minimize"]
    reference: float
    measures: tuple[Measure, ...]

    @property
    def measured(self) -> dict[Part, Measure]:
        """What is known of each part, by the part."""
        return dict(zip(self.parts, self.measures, strict=True))

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
        measures: what is known of each part.
    """

    key: str
    parts: tuple[tuple[str, str], ...]
    at_least: bool
    bound: float
    worst: float
    measures: tuple[Measure, ...]

    @property
    def measured(self) -> dict[Part, Measure]:
        """What is known of each part, by the part."""
        return dict(zip(self.parts, self.measures, strict=True))

    def violation(self, value: float) -> float:
        """At most 0 where `value` holds the constraint, as Optuna wants it."""
        return self.bound - value if self.at_least else value - self.bound

    def __str__(self) -> str:
        return f"{self.key} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True)
class Search:
    """A search file, read and checked.

    Attributes:
        path: where it was read, or stood before a run took a copy.
        file: its parts.
        space: the recipe with its ranges.
        objectives: in file order.
        constraints: in file order.
        text: the file's text with `--set` applied, as the run folder keeps it: without passwords.
        source: where its parts stand.
    """

    path: Path
    file: SearchFile
    space: Space
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    text: str
    source: Source

    @property
    def root(self) -> Path:
        """The folder that relative paths in the file are relative to."""
        return self.path.resolve().parent

    @property
    def engine(self) -> EngineConfig:
        """The engine's configuration with absolute paths: workers run elsewhere."""
        return _resolved(self.file.engine, self.root)

    def example(self) -> Recipe:
        """One recipe of the space, with absolute paths: for what all its recipes share."""
        return self.space.example().resolved(self.root)

    def with_value(self, key: str, value: object, typed: str) -> Search:
        """The search with another value of a top-level key; errors of it begin with `typed`.

        Raises:
            ConfigError: the value does not fit.
        """
        source = deepcopy(self.source)  # with what was set before
        source.replace(key, value, typed)
        return _checked(_parse(source, self.path))

    def fault(self, where: Where, what: object) -> ConfigError:
        """An error that begins with the file:line:column of a place in the file."""
        return self.source.fault(where, what)


def load(path: Path, overrides: Iterable[str] | None = None) -> Search:
    """Read a search file.

    Args:
        path: the file.
        overrides: `a.b=value` settings that go before the file's, values in YAML.

    Raises:
        ConfigError: one line that begins with file:line:column.
    """
    try:
        source = _source(load_yaml(path))
    except MergeError as error:
        raise ConfigError(str(error)) from None
    for override in overrides or ():
        source.override(override)
    return _checked(_parse(source))


def with_frozen(search: Search, given: Sequence[str]) -> Search:
    """The search with parameters frozen as `--freeze NAME=VALUE` gives them.

    Raises:
        ConfigError: a name is given twice, or a parameter or a value does not fit.
    """
    names = [text.rpartition("=")[0] for text in given]
    for name in names:
        if name and names.count(name) > 1:
            raise ConfigError(f"--freeze {name}: is given {names.count(name)} times; give it once")
    return samplers.freeze(search, given)


def parse(document: Document, path: Path | None = None) -> Search:
    """As `load`, from a document already read, such as a run's: what it began with is not judged
    anew by what samplers are held to today.

    Args:
        document: what was read; errors name its own file.
        path: where it stood before it was copied, if it was: its paths are relative to there.
    """
    return _parse(_source(document), path)


def fixed_line(name: str, fixed: Mapping[str, Any]) -> str:
    """Why a parameter of `Space.fixed` cannot be frozen."""
    return f"{name} is fixed at {fixed[name]} in the file already: only ranges can be frozen"


def _checked(search: Search) -> Search:
    fixed = search.space.fixed()
    for name in search.file.sampler.freeze:
        if name in fixed:
            raise search.fault(("sampler", "freeze", name), fixed_line(name, fixed))
    samplers.check(search)
    return search


def _source(document: Document) -> Source:
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.path}:1:1: is no search file, which is a mapping; "
            "`mergefront init FILE` writes one to start from"
        )
    return Source(document)


def _parse(source: Source, path: Path | None = None) -> Search:
    data, path = source.document.data, path or source.document.path
    try:
        file = SearchFile.model_validate(data)
    except ValidationError as error:
        raise source.explain(error, SearchFile) from None
    try:
        space = Space({key: data[key] for key in RECIPE_KEYS if key in data})
    except MergeError as error:
        raise source.fault(error.where, error) from None
    _check_engine(file.engine, path, source)
    return Search(
        path=path,
        file=file,
        space=space,
        objectives=_objectives(file, source),
        constraints=_constraints(file, source),
        text=dump_yaml(portable(data)),
        source=source,
    )


def measures_of(task: TaskConfig) -> dict[str, Measure]:
    """Every score that a task gives, known without reading its items."""
    scorers = [make_scorer(reference) for reference in task.scorers]
    return task_measures(scorers, task.samples)


def _resolved(engine: EngineConfig, root: Path) -> EngineConfig:
    if isinstance(engine, ScriptedConfig) and engine.responses is not None:
        responses = root / engine.responses.expanduser()
        return engine.model_copy(update={"responses": responses})
    return engine


def _check_engine(engine: EngineConfig, path: Path, source: Source) -> None:
    """What an engine without a model needs can be known before any worker starts."""
    if not isinstance(engine, ScriptedConfig):
        return
    if engine.responses is None and engine.default is None:
        raise source.fault(
            ("engine",), "the scripted engine has nothing to answer; give `responses` or `default`"
        )
    resolved = _resolved(engine, path.resolve().parent)
    assert isinstance(resolved, ScriptedConfig)
    if resolved.responses is not None and not resolved.responses.is_file():
        raise source.fault(("engine", "responses"), f"{resolved.responses}: no such file")


OWN_COLUMNS = (
    *("label", "trial", "trials", "state", "standing", "on_front", "exported", "feasible"),
    *("worker", "tokens", "items", "hypervolume", "front_size", "failures", "cost"),
)
"""What tables and MLflow call things of ours: no objective is called so."""


def _objectives(file: SearchFile, source: Source) -> tuple[Objective, ...]:
    objectives = []
    for name, entry in file.objectives.items():
        where = ("objectives", name)
        if name in OWN_COLUMNS:
            raise source.fault(
                where,
                f"'{name}' is a column of every table of trials; name the objective otherwise",
            )
        long = entry if isinstance(entry, ObjectiveEntry) else ObjectiveEntry(score=entry)
        parts, measures = _parts(file, source, where, _names(long))
        for (task, measure), declared in zip(parts, measures, strict=True):
            if declared.direction != long.direction:
                needs = ", reference: its worst value of interest"
                raise source.fault(
                    where,
                    f"{task}/{measure} is to be {declared.direction}d: "
                    f"write {{score: {task}/{measure}, direction: {declared.direction}"
                    f"{needs if declared.direction == 'minimize' else ''}}}",
                )
        low, high = _bounds(measures)
        reference = long.reference
        if reference is None:
            if long.direction == "minimize" or low != 0.0:
                raise source.fault(where, f"{name} needs a reference: its worst value of interest")
            reference = 0.0
        if not low <= reference <= high or reference == (
            high if long.direction == "maximize" else low
        ):
            raise source.fault(
                (*where, "reference"),
                f"reference {reference:g} leaves nothing to gain: {name} runs from {low:g} to "
                f"{high:g} and is to be {long.direction}d",
            )
        objectives.append(
            Objective(
                name=name,
                parts=parts,
                direction=long.direction,
                reference=reference,
                measures=tuple(measures),
            )
        )
    return tuple(objectives)


def _constraints(file: SearchFile, source: Source) -> tuple[Constraint, ...]:
    constraints = []
    for key, text in file.constraints.items():
        where = ("constraints", key)
        if key in file.objectives:
            entry = file.objectives[key]
            names = _names(
                entry if isinstance(entry, ObjectiveEntry) else ObjectiveEntry(score=entry)
            )
        elif "/" in key:
            names = [key]
        else:
            raise source.fault(where, unknown("objective", key, file.objectives))
        parts, measures = _parts(file, source, where, names)
        at_least, value = bound(text)
        low, high = _bounds(measures)
        if not low <= value <= high:
            raise source.fault(where, f"bound {value:g} lies outside {low:g} to {high:g}")
        constraints.append(
            Constraint(
                key=key,
                parts=parts,
                at_least=at_least,
                bound=value,
                worst=low if at_least else high,
                measures=tuple(measures),
            )
        )
    return tuple(constraints)


def _names(entry: ObjectiveEntry) -> list[str]:
    return [entry.score] if isinstance(entry.score, str) else entry.score


def _bounds(measures: list[Measure]) -> tuple[float, float]:
    return min(m.range[0] for m in measures), max(m.range[1] for m in measures)


def _parts(
    file: SearchFile, source: Source, where: Where, names: list[str]
) -> tuple[tuple[tuple[str, str], ...], list[Measure]]:
    """The scores that an objective or constraint names, which have to exist and be searched."""
    if not names:
        raise source.fault(where, f"{where[-1]} names no score; write task/scorer")
    parts, measures = [], []
    for name in names:
        task, slash, measure = name.partition("/")
        if not slash:
            raise source.fault(where, f"{name!r} is no score; write task/scorer")
        if task not in file.tasks:
            raise source.fault(where, unknown("task", task, file.tasks))
        config = file.tasks[task]
        known = measures_of(config)
        if measure not in known:
            raise source.fault(where, unknown(f"score of task '{task}'", measure, known))
        if not known[measure].always:
            raise source.fault(where, f"not every item has {name}: it cannot be searched on")
        if (task, measure) in parts:
            raise source.fault(where, f"{name} is listed twice; list it once")
        if config.role == "report":
            raise source.fault(where, f"task '{task}' has role report: it is never searched")
        sizes = file.splits
        place: Where = ("splits",)
        if config.splits is not None:
            sizes, place = config.splits, ("tasks", task, "splits")
        for split in ("dev", "confirm", "test"):
            if not getattr(sizes, split):
                raise source.fault(
                    (*place, split),
                    f"split {split} is 0, but task '{task}' is searched: "
                    "what is searched on dev is confirmed and tested on other items",
                )
        parts.append((task, measure))
        measures.append(known[measure])
    return tuple(parts), measures
