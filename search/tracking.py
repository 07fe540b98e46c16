"""MLflow, as a projection of the study.

The study is the truth; MLflow shows it. Writes are upserts keyed on the trial's tag, made in a
thread of their own, so that a slow or absent server never holds up the search; what could not be
written is filled in when it answers again, or by `mergefront sync`. Times are the trials' own, not
those of the writing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import optuna

from search import study as studies
from search.config import measures_of
from search.errors import SearchError, StorageError
from search.incidents import Kind
from search.mlflow_store import Store, import_mlflow
from search.mlflow_view import ALL, FRONT, view_key, view_link, view_tags
from search.names import to_mlflow
from search.projection import baseline_files, front_tags, of_baseline, of_trial, steps
from search.results import Result
from search.run import Run
from search.secrets import redacted, said

log = logging.getLogger("mergefront")

NOTE = "mlflow.note.content"
MOST_WAITING = 512
"""Things that wait to be written; more are left to a filling in."""

_REST_S, _LONGEST_REST_S = 5.0, 120.0  # before MLflow is tried again: each time twice as long


class Tracker:
    """Writes one run's trials to MLflow.

    What is asked for is kept in a queue of limited length. What does not fit into it, or comes
    while MLflow does not answer, is dropped: the study and the result files have it, and it is
    filled in from them when MLflow answers again.

    Args:
        run: the run folder.
        study: its study, which may be the driver's own.

    Attributes:
        problem: what could not be written and is still missing, or None.
    """

    def __init__(self, run: Run, study: optuna.Study) -> None:
        self.run = run
        self.study = study
        self.problem: str | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._store: Store | None = None
        self._behind = True  # until the first filling in
        self._ours = True
        self._lost = False  # MLflow is away, and that is recorded
        self._rest = _REST_S
        self._rests_until = 0.0
        self._members: dict[int, dict[str, float]] = {}
        self._reported: Callable[[Store], None] | None = None
        import_mlflow()  # in the thread, others would meet a half-imported pandas
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._put(_nothing)

    # ---- called by the driver; returns at once

    def trial(
        self, frozen: optuna.trial.FrozenTrial, front: Sequence[int], volume: float, finished: int
    ) -> None:
        """A trial was told; front, hypervolume and finished trials are as of now."""
        members = list(front)

        def write() -> None:
            if frozen.number not in self._opened().written:
                self._opened().child(of_trial(self.run, frozen))
            self._progress(members, volume, finished)

        self._put(write)

    def baseline(self, label: str, result: Result) -> None:
        """A baseline was scored on the dev items; its result is in the run folder."""
        path = self.run.baseline(label)

        def write() -> None:
            if path.stem not in self._opened().baselines:
                self._opened().child(of_baseline(self.run, path))

        self._put(write)

    def report(
        self, files: Iterable[Path], metrics: dict[str, float], tags: dict[str, str]
    ) -> None:
        """Attach files, metrics and tags to the search's own run."""
        paths = list(files)
        self._reported = lambda store: store.report(paths, metrics, tags)
        self._put(self._tell_of_search)

    def confirmed(self, trials: dict[int, dict[str, float]]) -> None:
        """Confirmed scores by trial number."""
        self._members = trials
        self._put(self._tell_confirmed)

    def close(self) -> None:
        """Fill in whatever is missing and wait until all is written; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._queue.put(None)
        self._thread.join()

    def _put(self, action: Callable[[], None]) -> None:
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._behind = True

    # ---- in the thread

    def _work(self) -> None:
        while True:
            try:
                action = self._queue.get(timeout=self._rest if self._behind else None)
            except queue.Empty:
                action = _nothing
            if action is None:
                break
            if not self._ours:
                continue
            if time.monotonic() < self._rests_until:
                self._behind = True
            elif self._behind:
                self._try(self._catch_up)  # which does what the action would
            else:
                self._try(action)
        if self._ours:
            self._behind = True  # look once more, whatever the rest
            self._try(self._last)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            # Whoever ends the search in an outage of the study's database waits for this thread.
            studies.still_ours(self.study, patient=False)
        except StorageError as error:
            self._put_off(error)  # the driver, who waits for the database, records it
            return
        except SearchError as error:
            self._ours = False  # another driver shows what it does
            self.problem = said(error)
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 (an outage must never stop the search)
            if not self._lost:
                self._lost = True
                self.run.incidents.record(
                    Kind.TRACKER_LOST, redacted(self.run.tracking), said(error)
                )
            self._put_off(error)

    def _put_off(self, error: Exception) -> None:
        """What is asked for is filled in later."""
        self._behind = True
        self._store = None  # what it held may have changed until then
        self._rests_until = time.monotonic() + self._rest
        self._rest = min(2 * self._rest, _LONGEST_REST_S)
        if self.problem is None:
            self.problem = f"{said(error)[:200]}; `mergefront sync` fills it in"

    def _catch_up(self) -> None:
        """Fill in all that is missing."""
        self._behind = False  # before: what is dropped meanwhile is missing again
        self._sync()
        self._describe()
        self._tell_confirmed()
        self._tell_of_search()
        self._rest = _REST_S
        self.problem = None
        if self._lost:
            log.warning("MLflow answers again: what it missed is filled in")
            self._lost = False

    def _last(self) -> None:
        self._catch_up()
        self._opened().client.set_terminated(self._opened().parent)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store(self.run)
        return self._store

    def _sync(self) -> None:
        """Write finished trials and baselines that have no finished run in MLflow."""
        store = self._opened()
        children: list[Callable[[], None]] = [
            lambda frozen=frozen: store.child(of_trial(self.run, frozen))  # type: ignore[misc]
            for frozen in self.study.get_trials(deepcopy=False)
            if frozen.state.is_finished() and frozen.number not in store.written
        ]
        children += [
            lambda path=path: store.child(of_baseline(self.run, path))  # type: ignore[misc]
            for path in baseline_files(self.run)
            if path.stem not in store.baselines
        ]
        _all_but_a_few(children)
        for step, metrics, at in steps(self.run, self.study, store.steps):
            store.metrics(store.parent, metrics, step=step, at=at)
            store.steps.add(step)
        self._tag_front(studies.current_front(self.study, self.run.search))

    def _describe(self) -> None:
        """Saved views of the experiment and the search's own description, where there are none."""
        store, search = self._opened(), self.run.search
        store.complete(self.run)
        shared = self.run.id if search.file.tracking.experiment else None
        joint_known = any("joint" in measures_of(task) for task in search.file.tasks.values())
        views = view_tags(
            [objective.name for objective in search.objectives],
            [to_mlflow(name) for name in search.space.distributions()],
            metrics=["joint", "tokens"] if joint_known else ["tokens"],
            ascending=search.objectives[0].direction == "minimize",
            run=shared,
        )
        there = store.client.get_experiment(store.experiment).tags
        for key, value in views.items():
            if key not in there:
                store.client.set_experiment_tag(store.experiment, key, value)
        if NOTE not in store.client.get_run(store.parent).data.tags:
            links = {
                key: view_link("", store.experiment, view_key(key, shared)) for key in (ALL, FRONT)
            }
            note = _note(self.run, links, joint_known=joint_known)
            store.client.set_tag(store.parent, NOTE, note)

    def _progress(self, front: list[int], volume: float, finished: int) -> None:
        store = self._opened()
        if finished not in store.steps:
            metrics = {
                "hypervolume": volume,
                "front_size": float(len(front)),
                "trials": float(finished),
            }
            store.metrics(store.parent, metrics, step=finished)
            store.steps.add(finished)
        self._tag_front(front)

    def _tag_front(self, front: list[int]) -> None:
        store = self._opened()
        for number in store.tagged.symmetric_difference(front):
            store.tag_front(number, front_tags(on_front=number in front))

    def _tell_confirmed(self) -> None:
        for number, metrics in self._members.items():
            self._opened().confirm(number, metrics)

    def _tell_of_search(self) -> None:
        if self._reported is not None:
            self._reported(self._opened())


def _all_but_a_few(actions: Iterable[Callable[[], None]]) -> None:
    """Do each; one that fails is skipped, and raised at the end; after two in a row it is MLflow
    that fails, not they.
    """
    failed: Exception | None = None
    row = 0
    for action in actions:
        try:
            action()
            row = 0
        except Exception as error:  # noqa: BLE001 (raised below)
            failed, row = error, row + 1
            if row > 1:
                break
    if failed is not None:
        raise failed


def _nothing() -> None:
    """What is done when nothing is asked for."""


def _note(run: Run, links: dict[str, str], *, joint_known: bool) -> str:
    """What was searched, how to read its columns and charts, and what to do next, as Markdown."""
    search, file = run.search, run.search.file
    models = ", ".join(entry.model for entry in file.models)
    on = f" onto {file.base_model}" if file.base_model else ""
    lines = [
        f"A search over merges of {models}{on}: {len(search.space.distributions())} parameters, "
        f"{len(search.objectives)} objectives. "
        f"See [all trials]({links[ALL]}) or [the front]({links[FRONT]}).",
        "",
        "Blue is the front, grey the other trials, red the baselines. The list icon above the "
        "charts shows the columns, the table icon compares answers item by item.",
        "",
        "| objective | is the mean of | better |",
        "|---|---|---|",
        *(
            f"| {o.name} | {', '.join('/'.join(part) for part in o.parts)} | "
            f"{'higher' if o.direction == 'maximize' else 'lower'} |"
            for o in search.objectives
        ),
        "",
        "- An objective's column is its score on the search's own items; `_low` and `_high` are "
        "its 95% interval, `_n` the number of items. A trial that was stopped early has an "
        "estimate, and no interval.",
        *(["- `joint` is the share of answers right and in the language."] if joint_known else []),
        *(
            ["- `retained/NAME` is the share of an expert's differences that is in the merge."]
            if file.tracking.retained
            else []
        ),
        "- `ended_length` is the share of answers cut at `max_tokens`, `ended_loop` of those ended "
        "because they only repeated themselves.",
        "- The best of many scores is optimistic: `confirmed_` columns are of items held out from "
        "the search, `test_` of items that only the exported recipe has seen.",
        "- Here, `hypervolume` over the steps is the search's progress; `front.html` draws the "
        "front with its intervals, `confirmed.json` has the numbers.",
        "",
        f"`mergefront export {run.folder.parent.name}/{run.name}` writes the balanced recipe of "
        "the front (`--pick trial:NUMBER` another), `mergefront merge recipe.yaml OUT` its "
        "checkpoint.",
    ]
    return "\n".join(lines)
