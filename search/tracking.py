"""MLflow, as a projection of the study.

The study is the truth; MLflow shows it. Writes are upserts keyed on the trial's tag, made in a
thread of their own, so that a slow or absent server never holds up the search; what could not be
written is filled in by the next `sync`. Times are the trials' own, not those of the writing.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from merge_core.yaml_io import one_line
from search import study as studies
from search.config import Search, measures_of
from search.front import front as front_of
from search.front import hypervolume
from search.mlflow_store import BASELINE, TRIAL, Store, import_mlflow, milliseconds
from search.mlflow_view import ALL, FRONT, view_key, view_link, view_tags
from search.names import to_mlflow
from search.plots import BASELINE_COLOR, FRONT_COLOR, TRIAL_COLOR
from search.results import Result, joint
from search.run import Run

log = logging.getLogger("mergefront")

NOTE = "mlflow.note.content"
COLOR = "mlflow.runColor"

_REST_S = 120.0  # after a failure, before MLflow is tried again
_FAILURES = 3  # in a row, when catching up: MLflow is not there


class Tracker:
    """Writes one run's trials to MLflow.

    Args:
        run: the run folder.
        study: its study, which may be the driver's own.

    Attributes:
        problem: the first thing that could not be written, or None.
    """

    def __init__(self, run: Run, study: optuna.Study) -> None:
        self.run = run
        self.study = study
        self.problem: str | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._store: Store | None = None
        self._rests_until = 0.0
        self._missed: list[Callable[[], None]] = []
        import_mlflow()  # in the thread, others would meet a half-imported pandas
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._queue.put(self._sync)
        self._queue.put(self._describe)

    # ---- called by the driver; returns at once

    def trial(
        self, frozen: optuna.trial.FrozenTrial, front: Sequence[int], volume: float, finished: int
    ) -> None:
        """A trial was told; front, hypervolume and finished trials are as of now."""
        self._queue.put(lambda: self._new_trial(frozen))
        self._queue.put(lambda: self._progress(list(front), volume, finished))

    def baseline(self, label: str, result: Result) -> None:
        """A baseline was scored on the dev items."""
        self._queue.put(lambda: self._new_baseline(label, result))

    def report(
        self, files: Iterable[Path], metrics: dict[str, float], tags: dict[str, str]
    ) -> None:
        """Attach files, metrics and tags to the search's own run."""
        paths = list(files)
        self._queue.put(lambda: self._report(paths, metrics, tags))

    def confirmed(self, trials: dict[int, dict[str, float]]) -> None:
        """Confirmed scores by trial number."""
        self._queue.put(lambda: self._confirmed(trials))

    def close(self) -> None:
        """Fill in whatever is missing and wait until all is written; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._queue.put(self._last)
        self._queue.put(None)
        self._thread.join()

    # ---- in the thread

    def _work(self) -> None:
        while (action := self._queue.get()) is not None:
            if action == self._last:
                action()
            elif time.monotonic() < self._rests_until or not self._try(action):
                self._missed.append(action)
            elif self._missed:
                self._catch_up()

    def _try(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (an outage must never stop the search)
            self._rests_until = time.monotonic() + _REST_S
            if self.problem is None:
                self.problem = one_line(error)[:200]
                log.warning("MLflow: %s; the study has everything", self.problem)
            return False
        return True

    def _catch_up(self) -> None:
        """Write what was missed, each thing once; after a few failures in a row, later again."""
        waiting, self._missed = self._missed, []
        in_row = 0
        for index, action in enumerate(waiting := [self._sync, *waiting]):
            if self._try(action):
                in_row = 0
                continue
            self._missed.append(action)
            in_row += 1
            if in_row == _FAILURES:
                self._missed += waiting[index + 1 :]
                return

    def _last(self) -> None:
        self._catch_up()
        self._try(self._finish)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store(self.run)
        return self._store

    def _sync(self) -> None:
        """Write finished trials that have no finished run in MLflow."""
        store = self._opened()
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state.is_finished() and frozen.number not in store.written:
                self._trial(frozen)
        labels = {self.run.baseline(label).stem: label for label in self._labels()}
        folder = self.run.folder / "baselines"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if path.stem not in store.baselines:
                self._baseline(labels.get(path.stem, path.stem), Result.load(path))
        self._fill_progress()
        self._tag_front(studies.current_front(self.study, self.run.search))

    def _labels(self) -> list[str]:
        """Every label that a baseline of the file may have."""
        file = self.run.search.file
        experts = [f"expert:{name}" for name in self.run.search.space.names]
        return [*file.baselines, *experts]

    def _describe(self) -> None:
        """Saved views of the experiment and the search's own description, where there are none."""
        store, search = self._opened(), self.run.search
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

    def _new_trial(self, frozen: optuna.trial.FrozenTrial) -> None:
        if frozen.number not in self._opened().written:
            self._trial(frozen)

    def _trial(self, frozen: optuna.trial.FrozenTrial) -> None:
        store = self._opened()
        search = self.run.search
        path = self.run.trial(frozen.number)
        metrics: dict[str, float] = {"trial": float(frozen.number)}
        tags = {
            TRIAL: str(frozen.number),
            "front": "false",
            "state": frozen.state.name.lower(),
            COLOR: TRIAL_COLOR,
        }
        if frozen.state == TrialState.COMPLETE:
            metrics |= _scores(frozen, search)
            metrics["tokens"] = float(frozen.user_attrs["tokens"])
            for stage, spent in frozen.user_attrs["seconds"].items():
                metrics[f"seconds_{stage}"] = float(spent)
            for reason, share in frozen.user_attrs.get(studies.ENDED, {}).items():
                metrics[f"ended_{reason}"] = float(share)
            metrics |= _retained(frozen.user_attrs.get(studies.RETAINED, {}))
            for key in ("fault", studies.DUPLICATE_OF, studies.FINGERPRINT):
                if key in frozen.user_attrs:
                    tags[key] = str(frozen.user_attrs[key])
            if (stopped := frozen.user_attrs.get(studies.PARTIAL)) is not None:
                tags[studies.PARTIAL] = stopped["reason"]
                metrics["items"] = float(stopped["items"])
        params = {to_mlflow(name): str(value) for name, value in frozen.params.items()}
        if (
            "merge_method" not in params
            and (recipe := studies.recipe_of(frozen, search)) is not None
        ):
            params["merge_method"] = recipe.merge_method
        store.child(
            key=(TRIAL, str(frozen.number)),
            name=f"trial {frozen.number}",
            params=params,
            metrics=metrics,
            tags=tags,
            result=Result.load(path) if path.is_file() else None,
            failed=frozen.state == TrialState.FAIL,
            times=(milliseconds(frozen.datetime_start), milliseconds(frozen.datetime_complete)),
        )
        store.written.add(frozen.number)
        store.tagged.discard(frozen.number)

    def _new_baseline(self, label: str, result: Result) -> None:
        if self.run.baseline(label).stem not in self._opened().baselines:
            self._baseline(label, result)

    def _baseline(self, label: str, result: Result) -> None:
        search = self.run.search
        metrics = {}
        for objective in search.objectives:
            estimate = result.estimate(objective)
            metrics[objective.name] = estimate.value
            metrics[f"{objective.name}_low"] = estimate.low
            metrics[f"{objective.name}_high"] = estimate.high
            metrics[f"{objective.name}_n"] = estimate.n
        metrics["tokens"] = float(result.tokens)
        for stage, spent in result.seconds.items():
            metrics[f"seconds_{stage}"] = float(spent)
        if (both := joint(result)) is not None:
            metrics["joint"] = both.value
        for reason in studies.CUT_SHORT:
            metrics[f"ended_{reason}"] = result.ended(reason)
        metrics |= _retained(result.retained)
        store = self._opened()
        file = self.run.baseline(label)
        place = file.stem
        end = int((file.stat().st_mtime if file.is_file() else time.time()) * 1000)
        start = end - int(sum(result.seconds.values()) * 1000)
        store.child(
            key=(BASELINE, place),
            name=label,
            params={"merge_method": "baseline"},
            metrics=metrics,
            tags={BASELINE: place, "front": "false", COLOR: BASELINE_COLOR},
            result=result,
            failed=False,
            times=(start, end),
        )
        store.baselines.add(place)

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

    def _fill_progress(self) -> None:
        """The steps of the search's own curves that an outage left out."""
        store, search = self._opened(), self.run.search
        trials = studies.scored(self.study)
        paid = studies.paid(trials)
        taken = {n: trial for n, trial in trials.items() if n not in paid}  # not paid for here
        order = sorted(paid, key=lambda number: milliseconds(trials[number].datetime_complete))
        for finished in sorted(set(range(1, len(order) + 1)) - store.steps):
            points = studies.points(taken | {n: trials[n] for n in order[:finished]}, search)
            members = front_of(points)
            metrics = {
                "hypervolume": hypervolume([points[number] for number in members]),
                "front_size": float(len(members)),
                "trials": float(finished),
            }
            at = milliseconds(trials[order[finished - 1]].datetime_complete)
            store.metrics(store.parent, metrics, step=finished, at=at)
            store.steps.add(finished)

    def _tag_front(self, front: list[int]) -> None:
        store = self._opened()
        for number in store.tagged.symmetric_difference(front):
            run_id = store.find((TRIAL, str(number)))
            if run_id is None:
                continue
            on = number in front
            store.client.set_tag(run_id, "front", "true" if on else "false")
            store.client.set_tag(run_id, COLOR, FRONT_COLOR if on else TRIAL_COLOR)
            (store.tagged.add if on else store.tagged.discard)(number)

    def _confirmed(self, trials: dict[int, dict[str, float]]) -> None:
        store = self._opened()
        for number, metrics in trials.items():
            run_id = store.find((TRIAL, str(number)))
            if run_id is not None:
                store.client.set_tag(run_id, "confirmed", "true")
                store.latest(run_id, metrics)

    def _report(self, files: list[Path], metrics: dict[str, float], tags: dict[str, str]) -> None:
        store = self._opened()
        for file in files:
            store.client.log_artifact(store.parent, str(file))
        store.latest(store.parent, metrics)
        for key, value in tags.items():
            store.client.set_tag(store.parent, key, value)

    def _finish(self) -> None:
        store = self._opened()
        store.client.set_terminated(store.parent)


def _scores(frozen: optuna.trial.FrozenTrial, search: Search) -> dict[str, float]:
    """What a finished trial was told, with its intervals and the items that they are of."""
    # The values of a stopped trial are estimates of all items, not means of those it answered: the
    # interval and `joint` of the answered ones are none of theirs.
    partial = studies.PARTIAL in frozen.user_attrs
    metrics: dict[str, float] = {}
    for objective, value in zip(search.objectives, frozen.values, strict=True):
        low, high, n = frozen.user_attrs["intervals"][objective.name]
        metrics |= {objective.name: value, f"{objective.name}_n": float(n)}
        if not partial:
            metrics |= {f"{objective.name}_low": low, f"{objective.name}_high": high}
    if "joint" in frozen.user_attrs and not partial:
        metrics["joint"] = float(frozen.user_attrs["joint"])
    return metrics


def _retained(shares: Mapping[str, float]) -> dict[str, float]:
    return {f"retained/{to_mlflow(name)}": float(share) for name, share in shares.items()}


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
