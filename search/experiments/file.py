"""Files of experiments: tasks, objectives, splits and engine of a search file, and models.

An experiment adds keys of its own to `ExperimentFile`. Faults are told as a search file's are: a
line that begins with file:line:column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from merge_core import MergePlan, Recipe
from merge_core.errors import MergeError
from merge_core.methods import get_method
from merge_core.yaml_io import Document, Where, load_yaml, unknown
from objectives import Task
from objectives.splits import Split
from search.config import Objective, Search, parse
from search.errors import ConfigError
from search.faults import Source
from search.file import Strict, Whole
from search.session import load_tasks

FileT = TypeVar("FileT", bound="ExperimentFile")

_SEARCHED = ("dtype", "tokenizer_source", "tasks", "objectives", "splits", "engine")
"""Keys that mean what they mean in a search file, and are read as its are."""

QUICK: Mapping[Split, int] = {"dev": 8, "confirm": 24}
"""Items of each task in a first look, at most: the first of those that the file asks for."""


def label(number: float) -> str:
    """A number of the file's as results are told by it."""
    return f"{number:.15g}"


class Setting(Strict):
    """A way to merge: a method, what each expert has by its role, and what all have."""

    merge_method: str
    experts: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="parameters by role, as a recipe's models have them"
    )
    parameters: dict[str, Any] = Field(default_factory=dict, description="a recipe's own")

    @field_validator("merge_method")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            get_method(name)
        except MergeError as error:
            raise ValueError(str(error)) from None
        return name

    def recipe(self, file: ExperimentFile, models: Mapping[str, str]) -> dict[str, Any]:
        """A recipe's YAML data for models by role, in their order.

        Raises:
            ConfigError: it has parameters for a role that is not among them.
        """
        for role in self.experts:
            if role not in models:
                raise ConfigError(
                    f"experts names '{role}', but what is merged is {', '.join(models)}"
                )
        return {
            **file.shared(),
            "merge_method": self.merge_method,
            "models": [
                {"model": model, "name": role, "parameters": dict(self.experts.get(role, {}))}
                for role, model in models.items()
            ],
            "parameters": dict(self.parameters),
        }

    def __str__(self) -> str:
        experts = [
            f"{role} " + " ".join(f"{key} {value}" for key, value in parameters.items())
            for role, parameters in self.experts.items()
        ]
        own = " ".join(f"{key} {value}" for key, value in self.parameters.items())
        return ", ".join([self.merge_method, *experts, *([own] if own else [])])


class ExperimentFile(Strict):
    """What every experiment's file has."""

    experiment: str = Field(description="which experiment the file is for")
    base_model: str = Field(description="what all models were trained from")
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    tokenizer_source: str = "base"
    tasks: dict[str, Any]
    objectives: dict[str, Any]
    splits: Any = None
    engine: Any = None
    seed: Whole = Field(0, ge=0, description="of random drops and of what is restored at random")
    threads: Whole = Field(1, ge=1, description="of the engine on a CPU")

    def shared(self) -> dict[str, Any]:
        """What all recipes of the experiment have."""
        shared: dict[str, Any] = {"base_model": self.base_model, "seed": self.seed}
        if self.dtype is not None:
            shared["dtype"] = self.dtype
        return {**shared, "tokenizer_source": self.tokenizer_source}

    def alone(self, model: str) -> dict[str, Any]:
        """A recipe's YAML data that is one model, as it is."""
        expert = {"model": model, "name": "model", "parameters": {"weight": 1.0}}
        return {**self.shared(), "merge_method": "linear", "models": [expert]}

    def models(self) -> dict[Where, str]:
        """Every model that is named, by its place in the file."""
        return {("base_model",): self.base_model}

    def names(self) -> Iterator[tuple[Where, str]]:
        """What results are told by, by its place in the file: no two alike."""
        yield from ()

    def judges(self) -> dict[Where, str]:
        """Every objective that is named, by its place in the file."""
        return {}

    def recipes(self) -> Iterator[tuple[Where, Callable[[], dict[str, Any]]]]:
        """Every kind of merge that is made, by its place in the file: what makes its YAML data."""
        yield from ()

    def quick(self) -> dict[str, Any]:
        """Keys with less in them, for a first look; replaces the file's own."""
        return {}


@dataclass(frozen=True)
class Asked:
    """A file of an experiment, read and checked.

    Attributes:
        file: its keys.
        search: tasks, objectives, splits and engine as a search has them.
        tasks: with their items.
        quick: whether these are only the first few (`QUICK`).
    """

    file: ExperimentFile
    search: Search
    tasks: Mapping[str, Task]
    quick: bool = False

    def objective(self, name: str) -> Objective:
        """One objective by name."""
        return next(o for o in self.search.objectives if o.name == name)

    def recipe(self, data: Mapping[str, Any], where: Where = ()) -> Recipe:
        """A recipe of YAML data, its places resolved from the file's folder.

        Raises:
            ConfigError: it is none; begins with the place in the file.
        """
        try:
            return Recipe.parse(data).resolved(self.search.root)
        except MergeError as error:
            raise self.search.fault(where, error) from None


def read(
    path: Path, kind: type[FileT], name: str, *, quick: bool = False, seed: int | None = None
) -> tuple[FileT, Asked]:
    """Read a file of the experiment `name`, whose keys are `kind`'s.

    Args:
        path: of the file.
        kind: what may stand in it.
        name: of the experiment.
        quick: few items, and what `kind.quick` leaves.
        seed: instead of the file's.

    Raises:
        ConfigError: one line that begins with file:line:column.
        TaskError: items cannot be read.
    """
    try:
        source = Source(load_yaml(path))
    except MergeError as error:
        raise ConfigError(str(error)) from None
    data = source.document.data
    if not isinstance(data, dict):
        raise source.fault((), "is no experiment's file, which is a mapping")
    if data.get("experiment", name) != name:
        raise source.fault(
            ("experiment",), f"is a file of the experiment {data['experiment']}, not of {name}"
        )
    if seed is not None:
        data["seed"] = seed
    try:
        file = kind.model_validate(data)
        _check_names(source, file)
        if quick:
            data.update(file.quick())
            file = kind.model_validate(data)
    except ValidationError as error:
        raise source.explain(error, kind) from None
    asked = Asked(file, _search(source.document, file), {}, quick)
    names = [objective.name for objective in asked.search.objectives]
    for where, judge in file.judges().items():
        if judge not in names:
            raise source.fault(where, unknown("objective", judge, names))
    for where, make in file.recipes():
        try:
            data = make()
        except ConfigError as error:
            raise source.fault(where, error) from None
        asked.recipe(data, where)
    _check_models(asked)
    tasks = load_tasks(asked.search)
    if quick:
        tasks = {name: _first(task) for name, task in tasks.items()}
    return file, replace(asked, tasks=tasks)


def _first(task: Task) -> Task:
    """The task with few of its items."""
    few = {split: task.items(split)[:most] for split, most in QUICK.items()}
    return replace(task, splits={**task.splits, **few})


def _check_names(source: Source, file: ExperimentFile) -> None:
    """Raise ConfigError where two results would be told by one name."""
    known: set[str] = set()
    for where, name in file.names():
        if name in known:
            raise source.fault(where, f"{name!r} would be the name of two results; change one")
        known.add(name)


def _check_models(asked: Asked) -> None:
    """Raise ConfigError unless every model has the tensors of the base: one engine takes all."""
    specs = None
    for where, model in asked.file.models().items():
        try:
            found = MergePlan(asked.recipe(asked.file.alone(model), where)).specs()
        except MergeError as error:
            raise asked.search.fault(where, error) from None
        specs = specs or found
        if found != specs:
            what = "its tensors (names, shapes or dtype) are not the base's"
            raise asked.search.fault(where, f"{model}: {what}")


def _search(document: Document, file: ExperimentFile) -> Search:
    """The file as a search of its base alone: tasks, objectives and engine are read as there."""
    base = file.alone(file.base_model)
    document.data = {
        **{key: document.data[key] for key in _SEARCHED if key in document.data},
        **base,
        "racing": False,
    }
    return parse(document)
