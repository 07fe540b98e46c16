"""A search from file to exported recipe: what `mergefront run` and `mergefront confirm` do."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import optuna

from merge_core import MergePlan, Recipe, Sources
from merge_core.errors import MergeError
from merge_core.yaml_io import Where
from objectives import Task
from objectives.errors import ObjectiveError, ScorerError, TaskError
from objectives.splits import SPLITS, Split, check_disjoint
from search import confirm as confirming
from search import figures, report
from search import study as studies
from search.account import Account
from search.baselines import baselines
from search.budget import Budget, Shares
from search.budget import notes as budget_notes
from search.care import Care
from search.config import Search
from search.confirm import Member
from search.confirmed import write_report
from search.console import shown
from search.disk import guarded
from search.driver import Driver, Listener
from search.errors import ExportError, RunError, WorkerError
from search.export import save_recipe
from search.file_texts import seconds
from search.filters import unused_filters
from search.held_out import note, score_baselines, score_what_can
from search.idle import idle
from search.ledger import Ledger
from search.placement import Resources, clustered, nodes
from search.pool import Pool, connected
from search.prompts import check_prompts
from search.racing import Race, unfit
from search.results import Result
from search.run import Run, check, locked, logging_to
from search.samplers import notes as sampling_notes
from search.secrets import said
from search.tracking import Tracker
from search.view import RunView
from search.warm import check as warm_starts
from search.worker import Setup

log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Prepared:
    """A search whose every file has been opened and checked, with nothing written yet.

    Attributes:
        search: the file.
        tasks: with their items.
        plan: of one recipe of the space: all its recipes share shapes and names.
        baselines: recipes by label.
        notes: what may surprise but stops nothing.
    """

    search: Search
    tasks: dict[str, Task]
    plan: MergePlan
    baselines: dict[str, Recipe]
    notes: tuple[str, ...] = ()

    @property
    def references(self) -> list[str]:
        """Every model that a recipe of this search names."""
        found: list[str] = []
        for recipe in (self.plan.recipe, *self.baselines.values()):
            found += [recipe.base_model] if recipe.base_model is not None else []
            found += [expert.model for expert in recipe.models]
        return list(dict.fromkeys(found))

    @property
    def roles(self) -> dict[str, str]:
        """Base and experts by name: the models whose contents a run keeps for its life."""
        recipe = self.plan.recipe
        named = {expert.name: expert.model for expert in recipe.models}
        return named if recipe.base_model is None else {"base": recipe.base_model, **named}

    def answers(self, split: Split) -> int:
        """How many answers one merge gives on a split."""
        return sum(task.answers(split) for task in self.tasks.values())

    def items(self, split: Split) -> int:
        """How many items of all tasks one merge is asked on a split."""
        asked = (task for task in self.tasks.values() if task.asked(split))
        return sum(len(task.items(split)) for task in asked)

    def setup(self, run: Run | None = None) -> Setup:
        """What a worker needs; those of a `run` share facts of the sources."""
        return Setup(
            engine=self.search.engine,
            start=self.plan.recipe,
            tasks=self.tasks,
            prepared=None if run is None else run.prepared,
            # Those of this session: a run that was moved knows old places, too.
            digests={} if run is None else {name: run.digests[name] for name in self.references},
            tally=self.search.file.tracking.retained,
        )


@dataclass(frozen=True)
class Found:
    """How a session ended.

    Attributes:
        run: the run folder.
        finished: trials of all sessions.
        account: what they and all else took.
        front: trial numbers on the claimed front.
        members: confirmed members; empty if the user stopped before.
        chosen: the exported one, or None.
        test: the exported recipe on the test items.
        problem: why nothing was exported, or None.
        tracking_problem: what MLflow could not take, or None.
        link: where the run's saved view in MLflow is, or None if MLflow never answered.
        stopped: the user interrupted the search.
        exhausted: the space had no recipe left that was not tried.
        ended: the limit that ended the search, in words, or None.
    """

    run: Run
    finished: int
    account: Account
    front: list[int]
    members: list[Member]
    chosen: Member | None
    test: Result | None
    problem: str | None
    tracking_problem: str | None
    link: str | None
    stopped: bool
    exhausted: bool = False
    ended: str | None = None


def prepare(search: Search, folder: Path | None = None) -> Prepared:
    """Open and check everything a search names: headers of checkpoints, tokenizers, items.

    Every prompt of every split is encoded: see `search.prompts`. Warm starts that the run in
    `folder` has behind it are not opened again.

    Raises:
        MergeError, ObjectiveError, ConfigError: one line on what is wrong and where.
    """
    tasks = load_tasks(search)
    try:
        check_disjoint({name: _contents(task) for name, task in tasks.items()})
    except TaskError as error:
        raise search.fault(("tasks",), error) from None
    for name, task in tasks.items():
        for index, scorer in enumerate(task.scorers):
            try:
                scorer.check()
            except ScorerError as error:
                raise search.fault(("tasks", name, "scorers", index), error) from None
    recipe = search.example()
    plan = MergePlan(recipe, Sources.open(recipe))
    others = baselines(search)
    for label, other in others.items():
        place = _place(search, label)
        try:
            opened = MergePlan(other, Sources.open(other))
        except MergeError as error:
            raise search.fault(place, f"baseline {label}: {error}") from None
        # One live model takes them all, so they must have the same tensors.
        if opened.specs() != plan.specs():
            raise search.fault(
                place,
                f"baseline {label}: its tensors (names, shapes or dtype) are not this search's",
            )
        if opened.sources.vocabulary != plan.sources.vocabulary:
            raise search.fault(
                place,
                f"baseline {label}: its vocabulary is not this search's: give it this search's "
                "base_model and tokenizer_source, or leave it out",
            )
    merged = filter(plan.sources.mergeable, plan.specs())
    notes = (
        *unused_filters(search, merged, tied=plan.tied),
        *idle(search, plan.sources.template.layers),
        *check_prompts(search, plan, tasks),
    )
    if search.file.racing.enabled and (why := unfit(search)) is not None:
        notes = (*notes, f"no trial is stopped early: {why}")
    notes = (*notes, *sampling_notes(search), *budget_notes(search, tasks))
    notes = (*notes, *warm_starts(search, folder))
    return Prepared(search, tasks, plan, others, notes)


def load_tasks(search: Search) -> dict[str, Task]:
    """The tasks of a search with their items.

    Raises:
        ConfigError: a scorer or an item is wrong; begins with the task's place in the file.
    """
    tasks = {}
    for name, config in search.file.tasks.items():
        try:
            tasks[name] = Task.load(name, config, search.root, search.file.splits)
        except ObjectiveError as error:
            said = str(error).removeprefix(f"task {name}: ")
            raise search.fault(("tasks", name), f"task {name}: {said}") from None
    return tasks


def _place(search: Search, label: str) -> Where:
    """Where the file names a baseline."""
    entries = search.file.baselines
    entry = label if label in entries else "experts"  # which stands for several
    return ("baselines", entries.index(entry)) if entry in entries else ("baselines",)


def _contents(task: Task) -> dict[Split, list[str]]:
    return {s: [item.digest for item in task.items(s)] if task.asked(s) else [] for s in SPLITS}


def check_run(search: Search, folder: Path) -> None:
    """Raise what lets `search` neither start nor go on in `folder`, as far as can be told at once.

    Raises:
        RunError: another search's run is there, or its study is lost.
        StorageError: its study cannot be read, or the storage it will be in cannot be opened.
    """
    check(search, folder)
    if (folder / "run.json").is_file():
        studies.check_study(replace(Run.open(folder), search=search))
    else:
        studies.check_storage(Run(folder.resolve(), search))


def run(prepared: Prepared, folder: Path, listener: Listener) -> Found:
    """Search, confirm, export: start the run in `folder`, or continue it."""
    began = time.monotonic()
    with _session(prepared, folder, listener) as (opened, pool, tracker, ledger):
        race = Race.of(prepared.search, prepared.items("dev"))
        others = prepared.baselines
        places = [opened.held_out("confirm", opened.fingerprint(r)) for r in others.values()]
        shares = Shares.of(prepared, baselines=sum(not place.is_file() for place in places))
        budget = Budget(prepared.search, shares, ledger, began)
        driver = Driver(opened, pool, tracker, others, budget, listener, race)
        driver.search_all()
        held = pool, tracker, ledger, listener
        if driver.stopping:
            return _end(opened, driver.study, *held, [], None, None, None, stopped=True)
        try:
            found = _confirm(opened, driver.study, *held)
        except RunError as error:  # no front: the search is done all the same
            found = _end(opened, driver.study, *held, [], None, None, str(error))
        return replace(found, exhausted=driver.exhausted, ended=budget.line())


def confirm(opened: Run, listener: Listener, more: Sequence[str] = ()) -> Found:
    """Confirm the front of a run that was stopped, beside `more` baselines, and export its knee.

    The run keeps the added baselines until its search file, which does not name them, is run again.

    Raises:
        ConfigError: one of them is none, or not of this search's kind.
    """
    prepared = _prepare_with(opened, more)
    # Before any worker starts; they are chosen again once the baselines are scored.
    confirming.candidates(opened, studies.open_study(opened, create=False))
    with _session(prepared, opened.folder, listener) as (opened, pool, tracker, ledger):
        study = studies.open_study(opened)
        listener.phase(opened, "scoring baselines")
        scored = score_baselines(opened, study, pool, prepared.baselines)
        for label, result in scored.items():
            tracker.baseline(label, result)
        return _confirm(opened, study, pool, tracker, ledger, listener)


def _prepare_with(opened: Run, more: Sequence[str]) -> Prepared:
    """The run's search prepared, with more baselines than its file names."""
    search = opened.search
    added = [entry for entry in more if entry not in search.file.baselines]
    if not added:
        return prepare(search, opened.folder)
    typed = f"--baseline {', '.join(added)}"
    entries = [*search.file.baselines, *added]
    return prepare(search.with_value("baselines", entries, typed), opened.folder)


@contextmanager
def _session(
    prepared: Prepared, folder: Path, listener: Listener
) -> Iterator[tuple[Run, Pool, Tracker, Ledger]]:
    """Everything a session holds, taken in an order that fails before anything is written."""
    check_run(prepared.search, folder)
    with ExitStack() as held:
        held.enter_context(locked(folder))
        held.enter_context(connected())
        workers, on = prepared.search.file.workers, nodes()
        resources = Resources.of(workers, prepared.search.engine, on)
        lack = resources.lack(on)
        if lack is not None and not clustered(on):
            raise WorkerError(lack)
        opened = Run.start(
            prepared.search, folder, prepared.references, prepared.roles, listener.reading
        )
        listener.phase(opened, "starting")
        held.enter_context(guarded(opened))
        held.enter_context(logging_to(opened))
        studies.hold(opened)  # before any worker starts
        held.callback(studies.release, opened)
        log.info("session of %s", opened.folder)
        for note in prepared.notes:
            log.info(note)
        if lack is not None:
            log.warning("%s; the search waits for nodes", lack)
        pool = Pool(prepared.setup(opened), resources, Care.of(opened), seconds(workers.wait))
        held.callback(pool.close)
        ledger = held.enter_context(Ledger(opened, *pool.crew.wanted, pool.crew.held))
        # The workers start while MLflow is imported.
        tracker = Tracker(opened, studies.open_study(opened))
        held.callback(tracker.close)
        # Before it: nobody needs to wait for MLflow with a GPU in hand.
        held.callback(ledger.close)
        held.callback(pool.close)
        try:
            with guarded(opened):  # here, too: what is told of an error is what the user is told
                yield opened, pool, tracker, ledger
        except (Exception, KeyboardInterrupt) as error:
            _broken_off(opened, pool, tracker, ledger, listener, error)
            raise


def _broken_off(
    opened: Run,
    pool: Pool,
    tracker: Tracker,
    ledger: Ledger,
    listener: Listener,
    error: BaseException,
) -> None:
    """Draw and report what there is of a session that ends before its time; raises nothing."""
    stopped = isinstance(error, KeyboardInterrupt)
    # In the words of `live.json`, which `sync` reads.
    tracker.report(("stopped", "") if stopped else ("failed", said(error)))
    try:
        # A database that is away, and who has lost the run to another driver, writes nothing here.
        studies.still_ours(tracker.study, patient=False)
        listener.phase(opened, "reporting")
        pool.close()
        ledger.close()
        view = RunView.of(opened, tracker.study, ledger.sessions)
        _draw(view, stopped=stopped, why="" if stopped else _named(error))
    except (Exception, KeyboardInterrupt) as fault:  # noqa: BLE001 (the first one is what counts)
        log.warning("no report of what there is: %s", _named(fault))
        return
    if (path := opened.folder / report.NAME).is_file():
        log.info("what there is: %s", path)
        sys.stderr.write(f"what there is until now: {shown(path)}\n")


def _named(error: BaseException) -> str:
    """What an error says, or what it is if it says nothing."""
    return said(error) or type(error).__name__


def _draw(view: RunView, *, stopped: bool = False, why: str = "") -> None:
    """The figures and the report, as far as they can be drawn."""
    # An earlier session's page must not look like this one's.
    (view.run.folder / report.NAME).unlink(missing_ok=True)
    figures.draw(view)
    report.draw(view, stopped=stopped, why=why)


def _confirm(
    opened: Run,
    study: optuna.Study,
    pool: Pool,
    tracker: Tracker,
    ledger: Ledger,
    listener: Listener,
) -> Found:
    search = opened.search
    held = pool, tracker, ledger, listener
    members = confirming.confirm(opened, study, pool, listener.confirming)
    tracker.confirmed()
    try:
        chosen = confirming.choose(search, members)
    except ExportError as error:
        _set_aside(opened.folder / "recipe.yaml")
        return _end(opened, study, *held, members, None, None, str(error))
    recipe = Recipe.parse(chosen.recipe)
    listener.phase(opened, "testing")
    tests, failed = score_what_can(opened, study, pool, {chosen.label: recipe}, "test")
    note(failed, "test")
    test = tests.get(chosen.label)
    save_recipe(opened, chosen, opened.folder / "recipe.yaml", test=test)
    return _end(opened, study, *held, members, chosen, test, None)


def _set_aside(recipe: Path) -> None:
    """What an earlier confirmation exported is not what the run exports any more."""
    if recipe.is_file():
        recipe.replace(recipe.with_name("recipe-earlier.yaml"))
        log.info("the earlier recipe.yaml is recipe-earlier.yaml now: nothing is exported")


def _end(
    opened: Run,
    study: optuna.Study,
    pool: Pool,
    tracker: Tracker,
    ledger: Ledger,
    listener: Listener,
    members: list[Member],
    chosen: Member | None,
    test: Result | None,
    problem: str | None,
    *,
    stopped: bool = False,
) -> Found:
    """Give the workers back, draw the plots, hand everything to MLflow, and say how it ended."""
    listener.phase(opened, "reporting")
    pool.close()  # nobody needs to wait for MLflow with a GPU in hand
    ledger.close()
    trials = studies.scored(study)
    view = RunView.of(opened, study, ledger.sessions)
    if not stopped:
        opened.blocks.clear()
    if members:  # first, for pages may fill the disk
        write_report(opened, members, view.account)
    _draw(view, stopped=stopped)
    tracker.report(("stopped" if stopped else "finished", ""))  # what the folder holds by now
    tracker.close()
    return Found(
        run=opened,
        finished=len(trials),
        account=view.account,
        front=view.front,
        members=members,
        chosen=chosen,
        test=test,
        problem=problem,
        tracking_problem=tracker.problem,
        link=tracker.link,
        stopped=stopped,
    )
