"""What one worker does: keep an engine alive, merge recipes into it, score them.

Nothing here knows of Ray or Optuna; `search.pool` runs an `Evaluator` in each actor, and
`mergefront score` runs one in its own process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from merge_core import MergePlan, NonFiniteError, Recipe, Sources
from merge_core.writing import write_skeleton
from objectives import EngineConfig, ItemScore, Task, make_engine, score_task
from objectives.engines.base import Engine
from objectives.errors import EngineError
from objectives.task import Split
from search.results import Result


@dataclass(frozen=True)
class Setup:
    """What a worker needs for its whole life; sent to it once.

    Attributes:
        engine: which engine, and how; where it names no dtype, it has the merges'.
        start: a recipe whose merge has the architecture, vocabulary and chat template of all.
        tasks: with their items, by name.
        threads: torch threads; more than the worker's cores slow each other down badly.
    """

    engine: EngineConfig
    start: Recipe
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
        self._sources: dict[tuple[str | None, ...], Sources] = {}
        self._engine = self._start()

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

    def _start(self) -> Engine:
        """The engine, from all of a merge's folder but the weights: every job brings its own."""
        plan = self._plan(self.setup.start)
        config = self.setup.engine
        if getattr(config, "dtype", "") is None:
            largest = max(plan.specs().values(), key=lambda spec: spec.nbytes)
            dtype = str(largest.dtype).removeprefix("torch.")
            config = config.model_copy(update={"dtype": dtype})
        with tempfile.TemporaryDirectory(prefix="mergefront-") as folder:
            write_skeleton(plan, Path(folder))
            try:
                return make_engine(config, folder)
            except EngineError as error:  # the user knows the folder that this one stands for
                said = str(error).replace(folder, str(plan.sources.template.path))
                raise EngineError(said) from error

    def _plan(self, recipe: Recipe) -> MergePlan:
        # Sources are opened and checked once per set of models and vocabulary, not once per trial.
        models = (expert.model for expert in recipe.models)
        key = (recipe.tokenizer_source, *recipe.names, recipe.base_model, *models)
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
