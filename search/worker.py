"""What one worker does: keep an engine alive, merge recipes into it, score them.

Nothing here knows of Ray or Optuna; `search.pool` runs an `Evaluator` in each actor, and
`mergefront score` runs one in its own process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from merge_core import MergePlan, NonFiniteError, Recipe, Sources
from merge_core.analysis import tallied
from merge_core.writing import write_skeleton
from objectives import EngineConfig, ItemScore, Task, make_engine, score_task
from objectives.engines.base import Engine
from objectives.errors import EngineError
from objectives.task import Split
from search.racing import Race, by_part, order, share
from search.results import Result, Stopped


@dataclass(frozen=True)
class Setup:
    """What a worker needs for its whole life; sent to it once.

    Attributes:
        engine: which engine, and how; where it names no dtype, it has the merges'.
        start: a recipe whose merge has the architecture, vocabulary and chat template of all.
        tasks: with their items, by name.
        threads: torch threads; more than the worker's cores slow each other down badly.
        prepared: folder where facts of the sources are kept for all workers, or None. A node that
            cannot write there goes without, and its results say so.
        digests: content hash of every source by reference, if there is such a folder.
        tally: whether results say how much of each expert was retained.
    """

    engine: EngineConfig
    start: Recipe
    tasks: Mapping[str, Task]
    threads: int = 1
    prepared: Path | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    tally: bool = False


@dataclass(frozen=True)
class Job:
    """One merge to be scored on one split of every task that has items there.

    With a `race`, which is for dev items, it may stop before all are answered.
    """

    key: str
    recipe: Recipe
    fingerprint: str
    split: Split
    race: Race | None = None


class Evaluator:
    """A live engine and the opened sources of the recipes it has seen."""

    def __init__(self, setup: Setup, name: str = "local") -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self.setup = setup
        self.name = name
        self._sources: dict[tuple[str | None, ...], Sources] = {}
        self._told: set[str] = set()
        for task in setup.tasks.values():
            for scorer in task.scorers:
                scorer.check()  # what the driver's machine has, this one may lack
        self._engine = self._start()

    def evaluate(self, job: Job) -> Result:
        """Merge `job.recipe` into the live model and score it.

        Raises:
            ObjectiveError, MergeError: the set-up is wrong; no recipe would do better.
        """
        started = time.monotonic()
        plan = self._plan(job.recipe)
        try:
            self._engine.load(plan)
        except NonFiniteError as error:
            return self._result(job, {}, {"load": time.monotonic() - started}, str(error))
        loaded = time.monotonic()
        tasks = {name: task for name, task in self.setup.tasks.items() if task.asked(job.split)}
        stopped = None
        if job.race is not None and job.race.held:
            items, stopped = self._raced(tasks, job.race, job.fingerprint)
        else:
            items = {
                name: score_task(self._engine, task, task.items(job.split))
                for name, task in tasks.items()
            }
        seconds = {"load": loaded - started, "generate": time.monotonic() - loaded}
        return self._result(job, items, seconds, None, retained_by(plan), stopped)

    def _raced(
        self, tasks: Mapping[str, Task], race: Race, fingerprint: str
    ) -> tuple[dict[str, list[ItemScore]], Stopped | None]:
        """Scores of the dev items, block after block until the race stops it, in item order."""
        orders = {name: order(task) for name, task in tasks.items()}
        total = sum(map(len, orders.values()))
        found: dict[str, dict[int, ItemScore]] = {name: {} for name in tasks}
        stopped = None
        for size in race.sizes:
            for name, task in tasks.items():
                upto = share(len(orders[name]), size, total)
                fresh = orders[name][len(found[name]) : upto]
                items = [task.items("dev")[index] for index in fresh]
                if items:
                    scored = score_task(self._engine, task, items)
                    found[name].update(zip(fresh, scored, strict=True))
            asked = sum(map(len, found.values()))
            if asked == total or stopped is not None:
                continue
            lengths = {name: len(indices) for name, indices in orders.items()}
            verdict = race.judge(by_part(race.parts, found, lengths))
            if verdict is not None:
                audited = race.audited(fingerprint)
                stopped = replace(verdict, asked=asked, of=total, audited=audited)
                if not audited:
                    break
        return {name: [had[i] for i in sorted(had)] for name, had in found.items()}, stopped

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
        with skeleton(plan) as folder:
            return make_engine(config, folder)

    def _plan(self, recipe: Recipe) -> MergePlan:
        # Sources are opened and checked once per set of models and vocabulary, not once per trial.
        models = (expert.model for expert in recipe.models)
        key = (recipe.tokenizer_source, *recipe.names, recipe.base_model, *models)
        if key not in self._sources:
            sources = self._sources[key] = Sources.open(recipe)
            if self.setup.prepared is not None:
                base = [] if recipe.base_model is None else [recipe.base_model]
                references = [*base, *(expert.model for expert in recipe.models)]
                digests = [self.setup.digests[reference] for reference in references]
                sources.facts.keep(self.setup.prepared, digests)
        # Of models that are merged themselves there is no difference to be retained.
        tally = self.setup.tally and recipe.method.on_differences
        return MergePlan(recipe, self._sources[key], tally=tally)

    def _notes(self) -> tuple[str, ...]:
        """What went wrong but stops nothing, each thing once."""
        problems = {s.facts.problem for s in self._sources.values() if s.facts.problem is not None}
        new = problems - self._told
        self._told |= new
        return tuple(sorted(new))

    def _result(
        self,
        job: Job,
        items: dict[str, list[ItemScore]],
        seconds: dict[str, float],
        fault: str | None,
        retained: Mapping[str, float] | None = None,
        stopped: Stopped | None = None,
    ) -> Result:
        return Result(
            recipe=job.recipe.plain(),
            fingerprint=job.fingerprint,
            split=job.split,
            items=items,
            seconds=seconds,
            fault=fault,
            worker=self.name,
            retained=dict(retained or {}),
            notes=self._notes(),
            stopped=stopped,
        )


@contextmanager
def skeleton(plan: MergePlan) -> Iterator[Path]:
    """A folder with all of a merge but its weights, while the block runs.

    Errors of the engine name the model that it stands for, which the user knows.
    """
    with tempfile.TemporaryDirectory(prefix="mergefront-") as folder:
        write_skeleton(plan, Path(folder))
        try:
            yield Path(folder)
        except EngineError as error:
            said = str(error).replace(folder, str(plan.sources.template.path))
            raise EngineError(said) from error


def retained_by(plan: MergePlan) -> dict[str, float]:
    """Share of each expert's differences that is in the merge, by name; {} if not counted.

    An engine that merged nothing, or not in this process, has not counted.
    """
    if not plan.tallies:
        return {}
    model = tallied(plan).model
    return {
        name: counts.share("retained")
        for name, counts in zip(plan.recipe.names, model.experts, strict=True)
    }
