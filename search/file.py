"""What a search file may hold: its keys, their types, and what each means.

The recipe part is checked by `search.space`; names that have to exist elsewhere in the file
(tasks, scores, experts) by `search.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict

from merge_core.recipe import RECIPE_KEYS
from objectives import EngineConfig, SplitConfig, TaskConfig
from objectives.engines import TransformersConfig
from objectives.wording import shown
from search.file_texts import Bound, Duration, StorageUrl, WarmStart
from search.names import model_name, version_alias
from search.samplers import SAMPLERS, named

NAME = r"^[A-Za-z0-9_-]+$"

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
        min_length=1,
        description="hub id, id@revision, or a path relative to this file; of a LoRA expert"
        " `base+adapter`",
    )
    name: Name | None = Field(
        None,
        description="used in parameter names, tables and plots: letters, digits, `-` and `_`;"
        " unset: the last part of `model`",
    )
    parameters: dict[str, Any] | None = Field(
        None, description="values or ranges of the method's parameters, for this expert alone"
    )


class ObjectiveEntry(Strict):
    """An objective in long form."""

    score: str | list[str] = Field(description="`task/scorer`; a list is the mean over its parts")
    direction: Literal["maximize", "minimize"] = Field("maximize", description="what is better")
    reference: Number | None = Field(
        None, description="worst value of interest; needed for minimized or unbounded scores"
    )


class ConfirmEntry(Strict):
    """How much of the front is scored again on held-out items."""

    max: Whole = Field(8, ge=1, description="trials at most: the front, then those just behind it")


class BudgetEntry(Strict):
    """When the search ends: at whichever comes first. Confirmation and test are included.

    With an empty one it goes on until it is told to end.
    """

    trials: Whole | None = Field(None, ge=1, description="evaluated recipes, without confirmation")
    timeout: Duration | None = Field(None, description="wall time of one session")
    tokens: Whole | None = Field(None, ge=1, description="generated tokens of the whole run")
    gpu_hours: Number | None = Field(
        None,
        gt=0,
        description="hours of the whole run x workers x GPUs of each; of workers that claim no"
        " GPU, hours x workers",
    )
    gpu_hour_price: Number | None = Field(None, gt=0, description="price of one such hour")
    cost: Number | None = Field(None, gt=0, description="in the currency of `gpu_hour_price`")
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
        description="so many are kept; unset: as many as there is room for, also when nodes join"
        " or leave: one per GPU (or as many as the engine needs), else one per 2 cores",
    )
    gpus: Number | None = Field(
        None,
        ge=0,
        description="per worker, on one node; fractions share a GPU; unset: what the engine needs",
    )
    cpus: Number | None = Field(
        None, gt=0, description="per worker; unset: an equal share of its node's"
    )
    resources: dict[str, Annotated[Number, Field(gt=0)]] = Field(
        default_factory=dict,
        description='Ray\'s other resources per worker, such as `{"accelerator_type:A100": 0.001}`',
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
        (), description="several kinds of workers instead, each with the keys above"
    )
    wait: Duration = Field("2h", description="how long to wait for nodes while no worker is alive")
    block_timeout: Duration | None = Field(
        None,
        description="a merge or a block of items that takes longer is taken to hang; unset:"
        " several times the slowest so far, and at least 15m",
    )
    start_timeout: Duration = Field(
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

    enabled: bool = Field(True, description="whether trials are raced at all")
    first: Whole | None = Field(
        None,
        ge=1,
        description="items before the first look; unset: a sixteenth of the dev items, at least 8;"
        " each next look doubles",
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

    name: str = Field(
        "auto", description=f"one of `{'`, `'.join(SAMPLERS)}`, or a class of Optuna's"
    )
    seed: Whole = Field(
        0, ge=0, lt=2**31, description="of the proposals; drop masks have the recipe's `seed`"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="for the sampler's constructor, such as `{n_startup_trials: 20}`",
    )
    freeze: dict[str, Any] = Field(
        default_factory=dict, description="values of parameters that are not to be varied any more"
    )
    warm_starts: list[WarmStart] = Field(
        default_factory=lambda: ["published"],
        description="what is tried first: `published`, `recipe:FILE`, `run:FOLDER`",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return named(name)


class TrackingEntry(Strict):
    """Where MLflow writes; a store in the run folder by default."""

    uri: str | None = Field(
        None,
        description="MLflow's server or store; unset: `MLFLOW_TRACKING_URI`, else the run folder;"
        " `${NAME}` is a variable of the environment",
    )
    experiment: str | None = Field(None, description="MLflow's experiment; unset: the run's name")
    retained: bool = Field(
        True, description="count how much of each expert a trial's merge retains"
    )
    register_as: Annotated[str, AfterValidator(model_name)] | None = Field(
        None, description="register the exported recipe as a version of this model in MLflow"
    )
    alias: Annotated[str, AfterValidator(version_alias)] | None = Field(
        None, description="of that version, for example `champion`"
    )


class ChoiceEntry(Strict):
    """A choice among names."""

    choices: list[str] = Field(min_length=1, description="the names, one of which a trial takes")


class SearchFile(Strict):
    """A search file."""

    merge_method: str | ChoiceEntry = Field(
        description="a method, or `{choices: [ties, dare_ties]}`"
    )
    base_model: str | None = Field(
        None, description="what the experts are fine-tuned from; methods without a base need none"
    )
    models: list[ModelEntry] = Field(min_length=1, description="the experts")
    parameters: dict[str, Any] | None = Field(
        None, description="of the method, for all experts and the merge: values or ranges"
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="of the merged weights; unset: the base's"
    )
    tokenizer_source: str = Field(
        "base",
        description="whose vocabulary the merge has where experts differ: `base`, `union`, or"
        " `model:NAME` of an expert",
    )
    seed: Whole = Field(0, ge=0, description="of the random drop masks")

    tasks: dict[Name, TaskConfig] = Field(
        min_length=1,
        json_schema_extra=_CLOSED,
        description="items and how they are asked and scored, by name",
    )
    objectives: dict[Name, str | list[str] | ObjectiveEntry] = Field(
        min_length=1,
        json_schema_extra=_CLOSED,
        description="what is searched for, by name: a score, a list of scores, or the long form",
    )
    constraints: dict[str, Bound] = Field(
        default_factory=dict,
        description="bounds of objectives or scores, such as `{math_th/think: '>= 0.9'}`",
    )
    splits: SplitConfig = Field(
        SplitConfig(), description="how items are divided, where a task has no splits of its own"
    )
    confirm: ConfirmEntry = Field(
        ConfirmEntry(), description="how much is scored again on held-out items"
    )
    baselines: list[str] = Field(
        default_factory=lambda: ["base", "experts", "uniform", "task_arithmetic"],
        description="what a merge has to beat",
    )
    engine: EngineConfig = Field(TransformersConfig(), description="what answers the items")
    budget: BudgetEntry = Field(BudgetEntry(trials=120), description="when the search ends")
    workers: WorkersEntry = Field(
        WorkersEntry(), description="how many engines there are, and on what"
    )
    sampler: SamplerEntry = Field(SamplerEntry(), description="who proposes recipes")
    racing: RacingEntry = Field(RacingEntry(), description="when a trial is stopped early")
    tracking: TrackingEntry = Field(TrackingEntry(), description="what MLflow is told, and where")
    storage: StorageUrl | None = Field(
        None,
        description="URL of the study's database; unset: SQLite in the run folder; `${NAME}` is a"
        " variable of the environment",
    )
    storage_timeout: Duration = Field(
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
