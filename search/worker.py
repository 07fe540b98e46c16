"""What one worker does: keep an engine alive, merge recipes into it, score them.

Nothing here knows of Ray or Optuna; `search.pool` runs an `Evaluator` in each actor, and
`mergefront score` runs one in its own process.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from merge_core import MergePlan, NonFiniteError, Recipe, Sources
from merge_core.analysis import tallied
from merge_core.opened import OpenSources
from merge_core.writing import write_skeleton
from objectives import EngineConfig, ItemScore, Task, make_engine, score_task
from objectives.engines.base import Engine
from objectives.errors import EngineError
from objectives.task import Split
from objectives.weights import short
from search.amounts import many
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
class Scored:
    """Items of a job that are scored, and how long their answers took.

    Attributes:
        items: by task, then by index in the split's items.
        seconds: of generating and scoring.
    """

    items: Mapping[str, Mapping[int, ItemScore]] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """What a worker tells while it is at a job: what it begins now, and what it has just done.

    Attributes:
        at: it starts its engine, loads the merge, asks a block of items, or has asked all: its
            result comes next.
        task: of the block.
        items: ids of the block's items.
        done: the block before, which a later try need not ask again.
    """

    at: Literal["start", "load", "block", "end"]
    task: str = ""
    items: tuple[str, ...] = ()
    done: Scored = field(default_factory=Scored)

    @property
    def brief(self) -> str:
        """What it is at, without the items' names."""
        if self.at == "block":
            return f"{many(len(self.items), 'item')} of {self.task}"
        names = {"start": "starting the engine", "load": "merging", "end": "after the last item"}
        return names[self.at]

    def __str__(self) -> str:
        if self.at != "block":
            return self.brief
        if len(self.items) == 1:
            return f"item {self.items[0]!r} of task {self.task}"
        first, last = self.items[0], self.items[-1]
        return f"{len(self.items)} items of task {self.task}, {first!r} to {last!r}"


@dataclass(frozen=True)
class Job:
    """One merge to be scored on one split of every task that has items there.

    With a `race`, which is for dev items, it may stop before all are answered.

    Attributes:
        key: what it is for: "trial 7", "baseline uniform".
        recipe: with its places resolved.
        fingerprint: of the recipe.
        split: whose items are asked.
        race: or None.
        had: what earlier tries, of this session or one before, have scored already.
        by_item: ask item by item, so that one which kills the engine is known by name.
    """

    key: str
    recipe: Recipe
    fingerprint: str
    split: Split
    race: Race | None = None
    had: Scored = field(default_factory=Scored)
    by_item: bool = False


class Evaluator:
    """A live engine and the opened sources of the recipes it has seen."""

    def __init__(self, setup: Setup, name: str = "local") -> None:
        import torch

        torch.set_num_threads(setup.threads)
        self.setup = setup
        self.name = name
        self._sources = OpenSources()
        self._told: set[str] = set()
        self._failed = False
        for task in setup.tasks.values():
            for scorer in task.scorers:
                scorer.check()  # what the driver's machine has, this one may lack
        self._engine = self._start()

    def evaluate(self, job: Job) -> Result:
        """Merge `job.recipe` into the live model and score it.

        Raises:
            ObjectiveError, MergeError: the set-up is wrong; no recipe would do better.
        """
        for step in self.steps(job):
            if isinstance(step, Result):
                return step
        raise AssertionError("a job ends with its result")

    def steps(self, job: Job) -> Iterator[Step | Result]:
        """The same step by step, for whoever watches: the result comes last.

        Raises:
            EngineDiedError, EngineMemoryError: another try may do better.
            ObjectiveError, MergeError: the set-up is wrong; no recipe would do better.
        """
        if self._failed:
            self._free()
        self._failed = True  # unless it comes to its end
        yield Step("load")
        started = time.monotonic()
        plan = self._plan(job.recipe)
        try:
            self._engine.load(plan)
        except NonFiniteError as error:
            self._failed = False
            yield self._result(job, {}, {"load": time.monotonic() - started}, str(error))
            return
        seconds = {"load": time.monotonic() - started, "generate": job.had.seconds}
        items, stopped = yield from self._scored(job, seconds)
        self._failed = False
        yield self._result(job, items, seconds, None, retained_by(plan), stopped)

    def _scored(
        self, job: Job, seconds: dict[str, float]
    ) -> Generator[Step, None, tuple[dict[str, list[ItemScore]], Stopped | None]]:
        """Scores of the job's items in item order, block after block until its race stops it.

        `seconds` is told what the blocks take. A race asks all tasks' items in its own order, in
        ever larger blocks; without one, each task is a block.
        """
        tasks = {name: task for name, task in self.setup.tasks.items() if task.asked(job.split)}
        race = job.race if job.race is not None and job.race.held else None
        lengths = {name: len(task.items(job.split)) for name, task in tasks.items()}
        total = sum(lengths.values())
        orders = {
            name: range(lengths[name]) if race is None else order(task)
            for name, task in tasks.items()
        }
        found = {name: dict(job.had.items.get(name, {})) for name in tasks}
        stopped, done = None, Scored()
        for size in [total] if race is None else race.sizes:
            parts = {name: orders[name][: share(lengths[name], size, total)] for name in tasks}
            for name, task in tasks.items():
                fresh = [index for index in parts[name] if index not in found[name]]
                for block in [[index] for index in fresh] if job.by_item else [fresh]:
                    if not block:
                        continue
                    items = [task.items(job.split)[index] for index in block]
                    yield Step("block", name, tuple(item.id for item in items), done)
                    began = time.monotonic()
                    scores = score_task(self._engine, task, items)
                    scored = dict(zip(block, scores, strict=True))
                    found[name].update(scored)
                    done = Scored({name: scored}, time.monotonic() - began)
                    seconds["generate"] += done.seconds
            asked = sum(map(len, found.values()))
            # An earlier try that was past this look is not judged by it again.
            past = asked > sum(map(len, parts.values()))
            if race is None or stopped is not None or past or asked == total:
                continue
            verdict = race.judge(by_part(race.parts, found, lengths))
            if verdict is not None:
                audited = race.audited(job.fingerprint)
                stopped = replace(verdict, asked=asked, of=total, audited=audited)
                if not audited:
                    break
        if done.items:
            yield Step("end", done=done)  # now nothing that was asked is with the worker alone
        return {name: [had[i] for i in sorted(had)] for name, had in found.items()}, stopped

    def _free(self) -> None:
        """Give back the memory of a job that failed: its traceback held tensors."""
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _start(self) -> Engine:
        """The engine, from all of a merge's folder but the weights: every job brings its own."""
        plan = self._plan(self.setup.start)
        config = self.setup.engine
        if getattr(config, "dtype", "") is None:
            largest = max(plan.specs().values(), key=lambda spec: spec.nbytes)
            config = config.model_copy(update={"dtype": short(largest.dtype)})
        with skeleton(plan) as folder:
            return make_engine(config, folder)

    def _plan(self, recipe: Recipe) -> MergePlan:
        def keep(sources: Sources) -> None:
            if self.setup.prepared is not None:
                base = [] if recipe.base_model is None else [recipe.base_model]
                references = [*base, *(expert.model for expert in recipe.models)]
                digests = [self.setup.digests[reference] for reference in references]
                sources.facts.keep(self.setup.prepared, digests)

        # Of models that are merged themselves there is no difference to be retained.
        tally = self.setup.tally and recipe.method.on_differences
        return MergePlan(recipe, self._sources.of(recipe, keep), tally=tally)

    def _notes(self) -> tuple[str, ...]:
        """What went wrong but stops nothing, each thing once."""
        problems = {s.facts.problem for s in self._sources if s.facts.problem is not None}
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
