"""What a search file may hold: its keys, their types, and what each means.

The recipe part is checked by `search.space`; names that have to exist elsewhere in the file
(tasks, scores, experts) by `search.config`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict

from merge_core.recipe import RECIPE_KEYS
from merge_core.yaml_io import unknown
from objectives import EngineConfig, SplitConfig, TaskConfig
from objectives.engines import TransformersConfig
from objectives.wording import shown
from search.names import model_name, version_alias
from search.samplers import SAMPLERS, named
from search.secrets import can_expand, expanded

NAME = r"^[A-Za-z0-9_-]+$"
WARM_STARTS = ("published", "recipe:FILE", "run:FOLDER")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_BOUND = re.compile(r"\s*(>=|<=)\s*(\S+)\s*")


def seconds(text: str) -> float:
    """A duration such as 90s, 45m, 8h or 1d12h in seconds; ValueError if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration; write 90s, 45m, 8h or 1h30m")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def bound(text: Any) -> tuple[bool, float]:
    """A bound such as '>= 0.8' as (is it a lower one, its value); ValueError if it is none."""
    match = _BOUND.fullmatch(text) if isinstance(text, str) else None
    try:
        assert match is not None
        return match[1] == ">=", float(match[2])
    except (AssertionError, ValueError):
        raise ValueError(f"{text!r} is no bound; write '>= 0.8' or '<= 20'") from None


def _checked_bound(text: Any) -> Any:
    bound(text)
    return text


def _checked_duration(text: Any) -> Any:
    if text is not None and seconds(str(text)) == 0.0:
        raise ValueError(f"{text!r} is no time at all; write 90s, 45m, 8h or 1h30m")
    return text


def _checked_storage(url: Any) -> Any:
    """Refuse early what would be refused when the run has begun: the URL, its driver."""
    if isinstance(url, str) and can_expand(url):  # else it is told when the run opens it
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError

        from search.database import connectable

        try:
            parsed = make_url(connectable(expanded(url, "storage")))
            parsed.get_dialect().import_dbapi()
        except SQLAlchemyError:
            # Not the URL itself: it may hold a password.
            raise ValueError(
                "storage is no database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
            ) from None
        except ImportError as error:
            mend = ": pip install 'mergefront[postgresql]'" if error.name == "psycopg" else ""
            raise ValueError(
                f"storage {parsed.drivername} needs a package that is not installed: "
                f"{error.name}{mend}"
            ) from None
    return url


def _checked_warm_start(entry: Any) -> Any:
    if isinstance(entry, str) and entry != "published":
        kind, _, place = entry.partition(":")
        if kind not in ("recipe", "run") or not place:
            raise ValueError(unknown("warm start", entry, WARM_STARTS))
    return entry


Name = Annotated[str, Field(pattern=NAME)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, Field(strict=True)]
_CLOSED: JsonDict = {"additionalProperties": False}  # no other names than those of the pattern


class Strict(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelEntry(Strict):
    """One expert; `parameters` may hold ranges."""

    model: str = Field(
        min_length=1, description="hub id, id@revision, or a path relative to this file"
    )
    name: Name | None = Field(None, description="used in parameter names and plots")
    parameters: dict[str, Any] | None = Field(None, description="values or ranges")


class ObjectiveEntry(Strict):
    """An objective in long form."""

    score: str | list[str] = Field(description="task/scorer; a list is the mean over its parts")
    direction: Literal["maximize", "minimize"] = "maximize"
    reference: Number | None = Field(
        None, description="worst value of interest; needed for minimized or unbounded scores"
    )


class ConfirmEntry(Strict):
    """How much of the front is scored again on held-out items."""

    max: Whole = Field(8, ge=1, description="trials at most: the front, then those just behind it")


class BudgetEntry(Strict):
    """When the search ends: at whichever comes first. Confirmation and test are included."""

    trials: Whole | None = Field(None, ge=1, description="evaluated recipes, without confirmation")
    timeout: Annotated[str | None, BeforeValidator(_checked_duration)] = Field(
        None, description="wall time of one session: 8h, 1h30m"
    )
    tokens: Whole | None = Field(None, ge=1, description="generated tokens of the whole run")
    gpu_hours: Number | None = Field(
        None,
        gt=0,
        description="hours of the whole run x workers x GPUs of each; of workers that claim no"
        " GPU, hours x workers",
    )
    gpu_hour_price: Number | None = Field(None, gt=0, description="price of one such hour")
    cost: Number | None = Field(None, gt=0, description="in the currency of gpu_hour_price")
    patience: Whole | None = Field(
        None, ge=1, description="end when so many trials in a row hardly improved the front"
    )

    @field_validator("cost")
    @classmethod
    def _priced(cls, cost: float | None, info: ValidationInfo) -> float | None:
        # A price that is wrong itself is missing here, and has been told.
        if cost is not None and info.data.get("gpu_hour_price", 1.0) is None:
            raise ValueError("cost needs gpu_hour_price: what an hour of a GPU costs")
        return cost


class KindEntry(Strict):
    """What each worker of a kind claims, and how many there are."""

    count: Whole | None = Field(
        None,
        ge=1,
        description="so many are kept; default: as many as there is room for, also when nodes join"
        " or leave: one per GPU (or as many as the engine needs), else one per 2 cores",
    )
    gpus: Number | None = Field(
        None,
        ge=0,
        description="per worker, on one node; fractions share a GPU; default what the engine needs",
    )
    cpus: Number | None = Field(
        None, gt=0, description="per worker; default an equal share of its node's"
    )
    resources: dict[str, Annotated[Number, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Ray's other resources per worker: {accelerator_type:A100: 0.001}",
    )
    across_nodes: bool = Field(
        False,
        description="one engine's GPUs may lie on several nodes: needs vllm and whole gpus",
    )

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise ValueError(f"gpus is {gpus:g}: a part of one, or a whole number of them")
        return gpus

    @field_validator("resources")
    @classmethod
    def _other(cls, resources: dict[str, float]) -> dict[str, float]:
        for name in ("CPU", "GPU"):
            if name in resources:
                raise ValueError(f"resources names {name}; write {name.lower()}s beside it")
        return resources

    @field_validator("across_nodes")
    @classmethod
    def _several(cls, across: bool, info: ValidationInfo) -> bool:
        gpus = info.data.get("gpus")
        if across and gpus is not None and gpus < 2:
            raise ValueError(
                "across_nodes needs gpus: 2 or more, or none for what the engine needs"
            )
        return across


class WorkersEntry(KindEntry):
    """Ray workers, each with a live engine of its own."""

    kinds: tuple[KindEntry, ...] = Field(
        (), description="several kinds of workers instead, each with count, gpus, cpus, ..."
    )
    wait: Annotated[str, BeforeValidator(_checked_duration)] = Field(
        "2h", description="how long to wait for nodes while no worker is alive"
    )
    block_timeout: Annotated[str | None, BeforeValidator(_checked_duration)] = Field(
        None,
        description="a merge or a block of items that takes longer is taken to hang: 30m; default"
        " several times the slowest so far, and at least 15m",
    )
    start_timeout: Annotated[str, BeforeValidator(_checked_duration)] = Field(
        "2h", description="an engine whose start takes longer is taken to hang"
    )

    @field_validator("kinds")
    @classmethod
    def _instead(cls, kinds: tuple[KindEntry, ...], info: ValidationInfo) -> tuple[KindEntry, ...]:
        said = [key for key in KindEntry.model_fields if info.data.get(key)]
        if kinds and said:
            raise ValueError(f"kinds and {said[0]} exclude each other; write it for each kind")
        return kinds

    @property
    def each(self) -> tuple[KindEntry, ...]:
        """The kinds of workers; one where the file lists none."""
        return self.kinds or (self,)


class RacingEntry(Strict):
    """When a trial is stopped before it has answered all dev items."""

    enabled: bool = True
    first: Whole | None = Field(
        None,
        ge=1,
        description="items before the first look, a sixteenth by default; each next look doubles",
    )
    scouts: bool = Field(
        True, description="whether trials before auto's model answer no more than those items"
    )
    level: Number = Field(
        0.7, gt=0, lt=1, description="confidence that a stopped trial is behind the front"
    )
    epsilon: Number = Field(
        0.0, ge=0, lt=1, description="a lead this small in one objective is no reason to go on"
    )
    audit: Number = Field(
        0.02, ge=0, le=1, description="share of stopped trials that go on unseen, to count errors"
    )


class SamplerEntry(Strict):
    """Who proposes recipes."""

    name: str = Field("auto", description=f"one of {', '.join(SAMPLERS)}, or a class of Optuna's")
    seed: Whole = Field(
        0, ge=0, lt=2**31, description="of the proposals; drop masks have the recipe's seed"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="for the sampler's constructor: n_startup_trials, ..."
    )
    freeze: dict[str, Any] = Field(
        default_factory=dict, description="values of parameters that are not to be varied any more"
    )
    warm_starts: list[Annotated[str, BeforeValidator(_checked_warm_start)]] = Field(
        default_factory=lambda: ["published"],
        description="what is tried first: published, recipe:FILE, run:FOLDER",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return named(name)


class TrackingEntry(Strict):
    """Where MLflow writes; a store in the run folder by default."""

    uri: str | None = Field(
        None, description="default: MLFLOW_TRACKING_URI, else the run folder; ${NAME} is a variable"
    )
    experiment: str | None = Field(None, description="default: the run's name")
    retained: bool = Field(
        True, description="count how much of each expert a trial's merge retains"
    )
    register_as: Annotated[str, AfterValidator(model_name)] | None = Field(
        None, description="register the exported recipe as a version of this model in MLflow"
    )
    alias: Annotated[str, AfterValidator(version_alias)] | None = Field(
        None, description="of that version, for example champion"
    )


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
    seed: Whole = Field(0, ge=0, description="of the random drop masks")

    tasks: dict[Name, TaskConfig] = Field(min_length=1, json_schema_extra=_CLOSED)
    objectives: dict[Name, str | list[str] | ObjectiveEntry] = Field(
        min_length=1, json_schema_extra=_CLOSED
    )
    constraints: dict[str, Annotated[str, BeforeValidator(_checked_bound)]] = Field(
        default_factory=dict
    )
    splits: SplitConfig = SplitConfig()
    confirm: ConfirmEntry = ConfirmEntry()
    baselines: list[str] = Field(
        default_factory=lambda: ["base", "experts", "uniform", "task_arithmetic"]
    )
    engine: EngineConfig = TransformersConfig()
    budget: BudgetEntry = BudgetEntry(trials=120)
    workers: WorkersEntry = WorkersEntry()
    sampler: SamplerEntry = SamplerEntry()
    racing: RacingEntry = RacingEntry()
    tracking: TrackingEntry = TrackingEntry()
    storage: Annotated[str | None, BeforeValidator(_checked_storage)] = Field(
        None, description="Optuna storage URL; default SQLite in the run; ${NAME} is a variable"
    )
    storage_timeout: Annotated[str, BeforeValidator(_checked_duration)] = Field(
        "1h", description="a storage that does not answer is waited for; then the search ends"
    )

    @field_validator("racing", mode="before", json_schema_input_type=bool | RacingEntry)
    @classmethod
    def _short_racing(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {"enabled": value}
        if isinstance(value, Mapping | RacingEntry):
            return value
        raise ValueError(
            f"racing takes true, false or a mapping of its settings, not {shown(value)}"
        )

    @field_validator(
        "workers", mode="before", json_schema_input_type=WorkersEntry | list[KindEntry]
    )
    @classmethod
    def _short_workers(cls, value: Any) -> Any:
        return {"kinds": value} if isinstance(value, list) else value

    @field_validator("sampler", mode="before", json_schema_input_type=str | SamplerEntry)
    @classmethod
    def _short_sampler(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping | SamplerEntry):
            return value
        raise ValueError(f"sampler takes a name or a mapping of its settings, not {shown(value)}")


FROZEN = (
    *RECIPE_KEYS,
    *("tasks", "objectives", "constraints", "splits", "engine"),
    *("sampler.seed", "storage"),
)
"""What a run keeps for its life; the rest may change between one `run` and the next."""
