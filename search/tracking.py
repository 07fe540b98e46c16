"""MLflow, as a projection of the study.

The study is the truth; MLflow shows it. Writes are upserts keyed on the trial's tag, made in a
thread of their own, so that a slow or absent server never holds up the search; what could not be
written is filled in when it answers again, or by `mergefront sync`. Times are the trials' own, not
those of the writing.
"""

from __future__ import annotations

import logging
import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import optuna

from search import projection
from search import study as studies
from search.confirm import Member
from search.console import shown
from search.errors import SearchError, StorageError
from search.incidents import Kind
from search.mlflow_link import link_for
from search.mlflow_note import note_of
from search.mlflow_store import Store, import_mlflow
from search.projection import End, front_tags, of_baseline, of_trial
from search.registry import register
from search.results import Result
from search.run import Run
from search.secrets import redacted, said
from search.view import RunView, baseline_files

log = logging.getLogger("mergefront")

MOST_WAITING = 512
"""Things that wait to be written; more are left to a filling in."""

_NOTE_S = 60.0  # between two writings of the description while the search goes on
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
        link: where the run's saved view is, once it is: `search.mlflow_view.link_for`.
    """

    def __init__(self, run: Run, study: optuna.Study) -> None:
        self.run = run
        self.study = study
        self.problem: str | None = None
        self.link: str | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MOST_WAITING)
        self._store: Store | None = None
        self._behind = True  # until the first filling in
        self._ours = True
        self._lost = False  # MLflow is away, and that is recorded
        self._rest = _REST_S
        self._rests_until = 0.0
        self._ending = False
        self._end: End | None = None
        self._chosen: Member | None = None
        self._near: projection.Nearby | None = None
        self._noted = 0.0
        import_mlflow()  # in the thread, others would meet a half-imported pandas
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._put(_nothing)

    # ---- called by the driver; returns at once

    def trial(self, frozen: optuna.trial.FrozenTrial, front: Sequence[int]) -> None:
        """A trial was told; the front is as of now."""
        members = list(front)

        def write() -> None:
            if frozen.number not in self._opened().written:
                self._opened().child(of_trial(self.run, frozen, self._nearby()))
            self._progress(members)

        self._put(write)

    def baseline(self, label: str, result: Result) -> None:
        """A baseline was scored on the dev items; its result is in the run folder."""
        path = self.run.baseline(label)

        def write() -> None:
            self._near = None
            if path.stem not in self._opened().baselines:
                self._opened().child(of_baseline(self.run, path))

        self._put(write)

    def report(self, end: End | None = None) -> None:
        """The session ends: what it exports is registered where the search file asks for it.

        Args:
            end: how it ends; default what the folder says of it.
        """
        self._ending, self._end = True, end  # `close` does it, after all that waits

    def confirmed(self) -> None:
        """Members are confirmed; their scores are in the run folder."""
        self._put(self._tell_confirmed)

    def close(self) -> None:
        """Fill in whatever is missing and wait until all is written; a second call does nothing.

        The search's own run gets what its folder holds by now, and how the session ended.
        """
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
            self._register()

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
            # Ours says all that there is to do; others' go on for pages.
            told = said(error) if isinstance(error, SearchError) else said(error)[:200]
            mend = "" if "`mergefront sync`" in told else "; `mergefront sync` fills it in"
            self.problem = told + mend

    def _catch_up(self) -> None:
        """Fill in all that is missing."""
        self._behind = False  # before: what is dropped meanwhile is missing again
        self._sync()
        self._describe()
        self._tell_confirmed()
        self._rest = _REST_S
        self.problem = None
        if self._lost:
            log.warning("MLflow answers again: what it missed is filled in")
            self._lost = False

    def _last(self) -> None:
        self._catch_up()
        store = self._opened()
        report = projection.report(self.run, self.study, store.experiment, self._end)
        store.report(report)
        self._chosen = report.chosen
        store.client.set_terminated(store.parent, report.status)

    def _register(self) -> None:
        """Register what is exported, where the search file asks for it: once, as the last thing."""
        wanted = self.run.search.file.tracking
        exported = self._chosen is not None or (self.run.folder / "recipe.yaml").is_file()
        if wanted.register_as is None or not (self._ending and self._ours and exported):
            return
        words = ["mergefront", "register", str(shown(self.run.folder))]
        words += [wanted.register_as, *(["--alias", wanted.alias] if wanted.alias else [])]
        later = f"`{shlex.join(words)}`"
        if self.problem is not None:
            self.problem += f", then {later} registers the recipe"
            return
        if self._chosen is None:  # the recipe there is of an earlier session
            return
        try:
            register(self._opened(), self._chosen, wanted.register_as, wanted.alias)
        except Exception as error:  # noqa: BLE001 (the search is done and shown all the same)
            why = said(error)[:200].rstrip(".")
            self.problem = f"{wanted.register_as!r} is not registered: {why}; {later} does it"
            log.warning(self.problem)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store(self.run)
        return self._store

    def _sync(self) -> None:
        """Write finished trials and baselines that have no finished run in MLflow."""
        store = self._opened()
        self._near = None
        near = self._nearby()
        rows = (
            of_trial(self.run, frozen, near)
            for frozen in self.study.get_trials(deepcopy=False)
            if frozen.state.is_finished()
        )
        children: list[Callable[[], None]] = [
            lambda row=row: store.child(row)  # type: ignore[misc]
            for row in rows
            if store.lacks_trial(row)
        ]
        children += [
            lambda path=path: store.child(of_baseline(self.run, path))  # type: ignore[misc]
            for path in baseline_files(self.run).values()
            if path.stem not in store.baselines
        ]
        _all_but_a_few(children)
        self._progress(studies.current_front(self.study, self.run.search))

    def _describe(self) -> None:
        """Saved views of the experiment and the search's own description."""
        store = self._opened()
        store.complete()
        if not self._ending:  # else the report brings it
            self._note()
        self.link = link_for(self.run)

    def _note(self) -> None:
        self._opened().describe(
            note_of(RunView.of(self.run, self.study), self._opened().experiment, "running")
        )
        self._noted = time.monotonic()

    def _nearby(self) -> projection.Nearby:
        if self._near is None:
            self._near = projection.nearby(self.run)
        return self._near

    def _progress(self, front: list[int]) -> None:
        store = self._opened()
        for step, metrics, at in projection.steps(self.run, self.study, store.steps):
            store.metrics(store.parent, metrics, step=step, at=at)
            store.steps.add(step)
        changed = store.tagged.symmetric_difference(front)
        for number in changed:
            store.tag_front(number, front_tags(on_front=number in front))
        if changed and not self._ending and time.monotonic() - self._noted > _NOTE_S:
            self._note()

    def _tell_confirmed(self) -> None:
        store, told = self._opened(), projection.confirmed(self.run)
        if gone := store.confirmed - told.keys():  # members of an earlier confirmation alone
            for row in projection.rows(self.run, self.study):
                if row.key in gone:
                    store.anew(row)
        for key, metrics in told.items():
            store.confirm(key, metrics)


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
