"""MLflow compared with the study and the result files, and made equal to them.

An outage, a driver killed between two writes, an answer of the server that was lost and asked for
again: all that can leave runs missing, half written, or there twice. What the study and the result
files say is right, whatever MLflow holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from search import projection
from search import study as studies
from search.mlflow_note import NOTE, above
from search.mlflow_store import (
    LONGEST,
    PARENT,
    Store,
    answering,
    artifacts_of,
    key_of,
    outdated,
    own_params,
    tags_of,
)
from search.projection import COST, FAILURES, Row
from search.run import Run

Key = tuple[str, str]


@dataclass
class Synced:
    """What `sync` did.

    Attributes:
        added, replaced, mended, removed: runs, by what they are.
        search: what of the search's own run was written anew.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What was done, one line a kind; none if nothing was."""
        told = vars(self).items()
        return [f"{what}: {_some(names)}" for what, names in told if names]


def differences(run: Run, uri: str | None = None) -> list[str]:
    """What MLflow says that the study does not, or the other way round; writes nothing.

    Compared are, of every finished trial and every baseline: that there is one run, its state,
    parameters, metrics and tags, and that its files are there; of the search's own run: its
    parameters, its curves, what it reports of the test, and that its files are there.

    Args:
        run: with its study and result files; no driver works on it.
        uri: of the store; default the run's own.

    Raises:
        StorageError: the store does not answer, or the study cannot be read.
    """
    with answering(run, uri):
        state = _State(run, uri, create=False)
        return [*state.of_search(), *state.of_children()]


def sync(run: Run, uri: str | None = None) -> Synced:
    """Make MLflow equal to the study: afterwards `differences` finds none.

    A run whose parameters or metrics are wrong is deleted and written anew, as MLflow changes
    neither.

    Args:
        run: whose lease the caller holds.
        uri: of the store; default the run's own.

    Raises:
        StorageError: the store does not answer, or the study cannot be read.
    """
    with answering(run, uri):
        state = _State(run, uri, create=True)
        done = Synced()
        if state.is_beyond():
            # Neither parameters nor steps of a run can be taken back.
            for child in state.store.children():
                state.store.client.delete_run(child.info.run_id)
            for other in (state.store.parent, *state.store.others):
                state.store.client.delete_run(other)
            done.removed.append("the search's own run, with all of its trials")
            state = _State(run, uri, create=True)
        for other in state.store.others:
            state.store.client.delete_run(other)
            done.removed.append("another run of the search's own")
        state.mend_children(done)
        state.mend_search(done)
        return done


class _State:
    """What MLflow holds of a run, beside what it should hold."""

    def __init__(self, run: Run, uri: str | None, *, create: bool) -> None:
        self.run = run
        self.study: optuna.Study = studies.open_study(run, create=False)
        self.store = Store(run, uri, create=create)
        self.rows: dict[Key, Row] = {row.key: row for row in projection.rows(run, self.study)}
        self.confirmed = projection.confirmed(run)
        self.report = projection.report(run, self.study, self.store.experiment)
        self.there: dict[Key, list[Any]] = {}
        for child in self.store.children():
            self.there.setdefault(key_of(child), []).append(child)

    # ---- trials and baselines

    def of_children(self) -> Iterator[str]:
        for key, row in self.rows.items():
            found = self.there.get(key, [])
            if not found:
                yield f"{row.name}: has no run"
            if len(found) > 1:
                yield f"{row.name}: has {len(found)} runs"
            for child in found[:1]:
                for fault in (*self._wrong(row, child), *self._amiss(row, child)):
                    yield f"{row.name}: {fault}"
        for key in self.there:
            if key not in self.rows:
                yield f"{' '.join(key)}: is in MLflow only"

    def mend_children(self, done: Synced) -> None:
        for key, found in self.there.items():
            row = self.rows.get(key)
            right = [c for c in found if row is not None and not [*self._wrong(row, c)]]
            kept = right[:1]
            for child in found:
                if child not in kept:
                    self._delete(child)
            if row is None:
                done.removed.append(" ".join(key))
            elif not kept:
                done.replaced.append(row.name)
            elif len(found) > 1:
                done.removed.append(f"{row.name} ({len(found) - 1} more)")
            if row is not None and kept:
                self.store.keep(key, kept[0].info.run_id)
                if [*self._amiss(row, kept[0])]:
                    self._write(row)
                    done.mended.append(row.name)
        for key, row in self.rows.items():
            if self.store.find(key) is None:
                self._write(row)
                if key not in self.there:
                    done.added.append(row.name)

    def _delete(self, child: Any) -> None:
        self.store.client.delete_run(child.info.run_id)
        if self.store.find(key_of(child)) == child.info.run_id:
            self.store.forget(key_of(child))

    def _write(self, row: Row) -> None:
        self.store.child(row)
        if confirmed := self._confirmed(row):
            self.store.confirm(row.key, confirmed)

    def _wrong(self, row: Row, child: Any) -> Iterator[str]:
        """What can only be mended by another run in its place."""
        data = child.data
        if data.tags.get(PARENT) != self.store.parent:
            yield "belongs to another run"
        yield from _unequal(
            "parameter", {k: v[:LONGEST] for k, v in row.params.items()}, data.params
        )
        extra = {k for k in data.params if k not in row.params}
        metrics = {**row.metrics, **self._confirmed(row)}
        # What is not there yet can be added.
        known = {name: metrics[name] for name in metrics.keys() & data.metrics.keys()}
        yield from _unequal("metric", known, data.metrics)
        extra |= {k for k in data.metrics if k not in metrics}
        for name in sorted(extra):
            yield f"{name} is in MLflow only"

    def _amiss(self, row: Row, child: Any) -> Iterator[str]:
        """What can be written into the run that is there."""
        data = child.data
        if child.info.status != row.status:
            yield f"is {child.info.status.lower()}, not {row.status.lower()}"
        for name in sorted({**row.metrics, **self._confirmed(row)}.keys() - data.metrics.keys()):
            yield f"metric {name} is missing"
        tags = tags_of(row) | ({"confirmed": "true"} if self._confirmed(row) else {})
        yield from _unequal("tag", tags, data.tags)
        files = {file.path for file in self.store.client.list_artifacts(child.info.run_id)}
        for name in sorted(artifacts_of(row) - files):
            yield f"{name} is missing"

    def _confirmed(self, row: Row) -> Mapping[str, float]:
        return self.confirmed.get(row.key, {})

    # ---- the search's own run

    def is_beyond(self) -> bool:
        """Whether the search's own run says what cannot be taken back."""
        return bool(self.store.steps - self._steps()) or bool([*self._wrong_search()])

    def of_search(self) -> Iterator[str]:
        if not self.store.parent:
            yield "the search: has no run"
            return
        for _ in self.store.others:
            yield "the search: has another run"
        for step in sorted(self.store.steps - self._steps()):
            yield f"the search: step {step} is in MLflow only"
        for fault in (*self._wrong_search(), *self._amiss_search()):
            yield f"the search: {fault}"

    def _wrong_search(self) -> Iterator[str]:
        data = self.store.client.get_run(self.store.parent).data
        ours = own_params(self.run)
        # One that is not there yet can be added.
        known = {name: ours[name] for name in ours.keys() & data.params.keys()}
        yield from _unequal("parameter", known, data.params)

    def _amiss_search(self) -> Iterator[str]:
        own = self.store.client.get_run(self.store.parent)
        missing = len(self._steps() - self.store.steps)
        if missing:
            yield f"{missing} steps of its curves are missing"
        for name in self.store.lacks():
            yield f"{name} is missing"
        fixed = {name: self.report.metrics[name] for name in self.report.fixed}
        yield from _unequal("metric", fixed | self._end_of_curves(), own.data.metrics)
        yield from _unequal("tag", self.report.tags, own.data.tags)
        held = own.data.tags.get(NOTE, "")
        if above(self.report.note, held) != held:
            yield "its description is not up to date"
        files = self.store.files()
        for file in self.report.files:
            name = file.relative_to(self.run.folder).as_posix()
            if name not in files:
                yield f"{name} is missing"
        tags, metrics = outdated(self.report, own.data)
        for name in tags:
            yield f"tag {name} is in MLflow only"
        for name in metrics:
            yield f"metric {name} is of an export that is none any more"
        if own.info.status != self.report.status:
            yield f"is {own.info.status.lower()}, not {self.report.status.lower()}"

    def mend_search(self, done: Synced) -> None:
        store = self.store
        done.search.extend(
            fault
            for fault in self._amiss_search()
            if not fault.startswith("is running")  # which it is while it is mended
        )
        store.complete()
        for step, metrics, at in projection.steps(self.run, self.study, store.steps):
            store.metrics(store.parent, metrics, step=step, at=at)
        last = max(self._steps(), default=0)
        held = store.client.get_run(store.parent).data.metrics
        if any(held.get(name) != value for name, value in self._end_of_curves().items()):
            store.metrics(store.parent, self._end_of_curves(), step=last)
        store.report(self.report)
        store.client.set_terminated(store.parent, self.report.status)

    def _steps(self) -> set[int]:
        return set(range(1, len(studies.paid(studies.scored(self.study))) + 1))

    def _end_of_curves(self) -> dict[str, float]:
        last = max(self._steps(), default=0)
        found = projection.steps(self.run, self.study, self._steps() - {last})
        metrics = next((metrics for _, metrics, _ in found), {})
        # Those of the whole session replace them.
        told = {name: value for name, value in metrics.items() if name != COST}
        return told | {FAILURES: self.report.metrics[FAILURES]}


def _unequal(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """Where MLflow has another value, or none."""
    for name, value in ours.items():
        held = theirs.get(name)
        if held != value and not _same_number(held, value):
            yield f"{what} {name} is {held!r} in MLflow, not {value!r}"


def _same_number(held: Any, value: Any) -> bool:
    """Whether two metrics are equal that do not compare so: MLflow has no infinities."""
    if not isinstance(held, float) or not isinstance(value, float):
        return False
    if math.isnan(value):
        return math.isnan(held)
    return math.isinf(value) and abs(held) > 1.79e308 and held * value > 0


def _some(names: list[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
