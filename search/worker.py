"""What one worker does: keep an engine alive, merge recipes into it, score them.

Nothing here knows of Ray or Optuna; `search.pool` runs an `Evaluator` in each actor, and
`mergefront score` runs one in its own process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from merge_core import MergePlan, NonFiniteError, Recipe, Sources
from objectives import EngineConfig, ItemScore, Task, make_engine, score_task
from objectives.engines.base import Engine
from objectives.task import Split
from search.results import Result


@dataclass(frozen=True)
class Setup:
    """What a worker needs for its whole life; sent to it once.

    Attributes:
        engine: which engine, and how.
        model: folder that gives architecture, tokenizer and chat template.
        tasks: with their items, by name.
        threads: torch threads; more than the worker's cores slow each other down badly.
    """

    engine: EngineConfig
    model: str
    tasks: Mapping[str, Task]
    threads: int = 1


@dataclass(frozen=True)
class Job:
    """One merge to be scored on one split of every task that has items there."""

    key: str
    recipe: Recipe
    fingerprint: str
    split: Split


class Evaluator:
    """A live engine and the opened sources of the recipes it has seen."""

    def __init__(self, setup: Setup, name: str = "local") -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self.setup = setup
        self.name = name
        self._engine: Engine = make_engine(setup.engine, setup.model)
        self._sources: dict[tuple[str | None, ...], Sources] = {}

    def evaluate(self, job: Job) -> Result:
        """Merge `job.recipe` into the live model and score it.

        Raises:
            ObjectiveError, MergeError: the set-up is wrong; no recipe would do better.
        """
        started = time.monotonic()
        try:
            self._engine.load(self._plan(job.recipe))
        except NonFiniteError as error:
            return self._result(job, {}, {"load": time.monotonic() - started}, str(error))
        loaded = time.monotonic()
        items = {
            name: score_task(self._engine, task, task.items(job.split))
            for name, task in self.setup.tasks.items()
            # Report tasks cost tokens once, for the exported recipe.
            if task.items(job.split) and (task.config.role == "search" or job.split == "test")
        }
        seconds = {"load": loaded - started, "generate": time.monotonic() - loaded}
        return self._result(job, items, seconds, None)

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _plan(self, recipe: Recipe) -> MergePlan:
        # Sources are opened and checked once per set of models, not once per trial.
        key = (recipe.base_model, *(expert.model for expert in recipe.models))
        if key not in self._sources:
            self._sources[key] = Sources.open(recipe)
        return MergePlan(recipe, self._sources[key])

    def _result(
        self,
        job: Job,
        items: dict[str, list[ItemScore]],
        seconds: dict[str, float],
        fault: str | None,
    ) -> Result:
        return Result(
            recipe=job.recipe.plain(),
            fingerprint=job.fingerprint,
            split=job.split,
            items=items,
            seconds=seconds,
            fault=fault,
            worker=self.name,
        )
