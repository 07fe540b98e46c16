"""MLflow, as a projection of the study.

The study is the truth; MLflow shows it. Writes are upserts keyed on the trial's tag, made in a
thread of their own, so that a slow or absent server never holds up the search; what could not be
written is filled in by the next `sync`. Times are the trials' own, not those of the writing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from merge_core.yaml_io import dump_yaml, one_line
from search import study as studies
from search.config import measures_of
from search.front import front as front_of
from search.front import hypervolume
from search.mlflow_view import ALL, FRONT, view_key, view_link, view_tags
from search.names import to_mlflow
from search.results import Result, joint
from search.run import Run

log = logging.getLogger("mergefront")

TRIAL = "mergefront.trial"
BASELINE = "mergefront.baseline"
RUN = "mergefront.run"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
COLOR = "mlflow.runColor"
# As in the plot of the front: the page's scatter shows what is on it.
TRIAL_COLOR, FRONT_COLOR, BASELINE_COLOR = "#9aa5b1", "#1f6feb", "#d1242f"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Seven, the default, are four minutes for each of the calls that an absent server refuses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
_REST_S = 120.0  # after a failure, before MLflow is tried again
_FAILURES = 3  # in a row, when catching up: MLflow is not there


def tracking_uri(run: Run) -> str:
    """The file's URI, else MLFLOW_TRACKING_URI, else a SQLite store in the run folder."""
    given = run.search.file.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return given or f"sqlite:///{run.folder / 'mlflow.db'}"


class Tracker:
    """Writes one run's trials to MLflow.

    Args:
        run: the run folder.
        study: its study.

    Attributes:
        problem: the first thing that could not be written, or None.
    """

    def __init__(self, run: Run, study: optuna.Study) -> None:
        self.run = run
        self.study = study
        self.problem: str | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._store: _Store | None = None
        self._rests_until = 0.0
        self._missed: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()
        self._queue.put(self._sync)
        self._queue.put(self._describe)

    # ---- called by the driver; returns at once

    def trial(self, number: int, front: Sequence[int], volume: float) -> None:
        """A trial was told; `front` and its hypervolume are as of now."""
        trials = {t.number: t for t in self.study.get_trials(deepcopy=False)}
        finished = len(studies.scored(self.study))
        self._queue.put(lambda: self._new_trial(trials[number]))
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

    def _opened(self) -> _Store:
        if self._store is None:
            self._store = _Store(self.run)
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
        shared = self.run.name if search.file.tracking.experiment else None
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
            for objective, value in zip(search.objectives, frozen.values, strict=True):
                metrics[objective.name] = value
                low, high, n = frozen.user_attrs["intervals"][objective.name]
                metrics |= {f"{objective.name}_low": low, f"{objective.name}_high": high}
                metrics[f"{objective.name}_n"] = n
            metrics["tokens"] = float(frozen.user_attrs["tokens"])
            for stage, spent in frozen.user_attrs["seconds"].items():
                metrics[f"seconds_{stage}"] = float(spent)
            if "joint" in frozen.user_attrs:
                metrics["joint"] = float(frozen.user_attrs["joint"])
            for key in ("fault", studies.DUPLICATE_OF, studies.FINGERPRINT):
                if key in frozen.user_attrs:
                    tags[key] = str(frozen.user_attrs[key])
        params = {to_mlflow(name): str(value) for name, value in frozen.params.items()}
        if "merge_method" not in params and (recipe := studies.recipe_of(frozen)) is not None:
            params["merge_method"] = recipe.merge_method
        store.child(
            key=(TRIAL, str(frozen.number)),
            name=f"trial {frozen.number}",
            params=params,
            metrics=metrics,
            tags=tags,
            result=Result.load(path) if path.is_file() else None,
            failed=frozen.state == TrialState.FAIL,
            times=(_milliseconds(frozen.datetime_start), _milliseconds(frozen.datetime_complete)),
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
        order = sorted(trials, key=lambda number: _milliseconds(trials[number].datetime_complete))
        for finished in sorted(set(range(1, len(order) + 1)) - store.steps):
            points = studies.points({n: trials[n] for n in order[:finished]}, search)
            members = front_of(points)
            metrics = {
                "hypervolume": hypervolume([points[number] for number in members]),
                "front_size": float(len(members)),
                "trials": float(finished),
            }
            at = _milliseconds(trials[order[finished - 1]].datetime_complete)
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


class _Store:
    """The MLflow client and what it already holds of this run."""

    def __init__(self, run: Run) -> None:
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        import mlflow  # at use: three seconds to import
        from mlflow.entities import ViewType

        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        uri = tracking_uri(run)
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        name = run.search.file.tracking.experiment or run.name
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            local = uri.startswith("sqlite:")
            place = (run.folder / "mlartifacts").as_uri() if local else None
            self.experiment = self.client.create_experiment(
                name, place, tags={"mlflow.experimentKind": "custom_model_development"}
            )
        else:
            self.experiment = experiment.experiment_id
        self.parent = self._parent(run, ViewType.ACTIVE_ONLY)
        self._ids: dict[tuple[str, str], str] = {}
        self.written: set[int] = set()
        self.baselines: set[str] = set()
        self.tagged: set[int] = set()
        """Trials whose runs say that they are on the front."""
        history = self.client.get_metric_history(self.parent, "trials")
        self.steps = {metric.step for metric in history}
        """Of the search's own curves."""
        self._read(ViewType.ACTIVE_ONLY)

    def find(self, key: tuple[str, str]) -> str | None:
        """The id of the child run with this tag."""
        return self._ids.get(key)

    def child(
        self,
        *,
        key: tuple[str, str],
        name: str,
        params: dict[str, str],
        metrics: dict[str, float],
        tags: dict[str, str],
        result: Result | None,
        failed: bool,
        times: tuple[int, int],
    ) -> None:
        """Create or complete the child run with this tag."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = self.find(key)
        if run_id is None:
            created = self.client.create_run(
                self.experiment,
                run_name=name,
                start_time=times[0],
                tags={PARENT: self.parent, key[0]: key[1], RUN: self._run_name},
            )
            run_id = self._ids[key] = created.info.run_id
        if result is not None:
            tags = {**tags, "mlflow.loggedArtifacts": _TABLES}
        # The same values at the same time are the same point: a second writing adds none.
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, times[1], 0) for k, v in metrics.items()],
            params=[Param(k, v[:6000]) for k, v in params.items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if result is not None:
            self.client.log_text(run_id, dump_yaml(dict(result.recipe)), "recipe.yaml")
            self.client.log_dict(run_id, _table(result), _ITEMS)
        self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED", times[1])

    def metrics(
        self, run_id: str, metrics: dict[str, float], step: int = 0, at: int | None = None
    ) -> None:
        """Log several metrics at once."""
        from mlflow.entities import Metric

        at = int(time.time() * 1000) if at is None else at
        self.client.log_batch(run_id, metrics=[Metric(k, v, at, step) for k, v in metrics.items()])

    def latest(self, run_id: str, metrics: dict[str, float]) -> None:
        """Log those of `metrics` that the run does not have yet."""
        there = self.client.get_run(run_id).data.metrics
        if new := {key: value for key, value in metrics.items() if there.get(key) != value}:
            self.metrics(run_id, new)

    def _parent(self, run: Run, active: Any) -> str:
        self._run_name = run.name
        found = self.client.search_runs(
            [self.experiment],
            filter_string=f"tags.`{RUN}` = '{run.name}' and tags.role = 'search'",
            run_view_type=active,
            max_results=1,
        )
        if found:
            run_id = str(found[0].info.run_id)
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        created = self.client.create_run(
            self.experiment, run_name=run.name, tags={RUN: run.name, "role": "search"}
        )
        run_id = str(created.info.run_id)
        file = run.search.file
        for key, value in {
            "base_model": file.base_model or "",
            "models": ", ".join(entry.model for entry in file.models),
            "objectives": ", ".join(objective.name for objective in run.search.objectives),
        }.items():
            self.client.log_param(run_id, key, value[:6000])
        self.client.log_artifact(run_id, str(run.folder / "search.yaml"))
        return run_id

    def _read(self, active: Any) -> None:
        """Which trials and baselines are there already, and which of them are finished."""
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                filter_string=f"tags.`{PARENT}` = '{self.parent}'",
                run_view_type=active,
                max_results=1000,
                page_token=token,
            )
            for child in page:
                tags = child.data.tags
                for kind in (TRIAL, BASELINE):
                    if kind in tags:
                        self._ids[(kind, tags[kind])] = child.info.run_id
                if child.info.status != "RUNNING":
                    if TRIAL in tags:
                        self.written.add(int(tags[TRIAL]))
                    if BASELINE in tags:
                        self.baselines.add(tags[BASELINE])
                if tags.get("front") == "true" and TRIAL in tags:
                    self.tagged.add(int(tags[TRIAL]))
            token = page.token
            if not token:
                return


_ITEMS = "items.json"
_TABLES = json.dumps([{"path": _ITEMS, "type": "table"}])


def _table(result: Result) -> dict[str, Any]:
    """Per-item outputs in the split form that MLflow shows as a table.

    Its page groups by the first column and compares runs in the second; a column with a dot in
    its name stays blank.
    """
    measures = sorted({m for rows in result.items.values() for row in rows for m in row.scores})
    scores = [measure.replace(".", "/") for measure in measures]
    return {
        "columns": ["item", "text", *scores, "tokens", "finish_reason", "task", "id"],
        "data": [
            [
                f"{task}/{row.id}",
                row.text,
                *(row.scores.get(m) for m in measures),
                row.tokens,
                row.finish_reason,
                task,
                row.id,
            ]
            for task, rows in result.items.items()
            for row in rows
        ],
    }


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
        "its 95% interval, `_n` the number of items.",
        *(["- `joint` is the share of answers right and in the language."] if joint_known else []),
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


def _milliseconds(moment: datetime | None) -> int:
    """Since the epoch; of now for None."""
    return int((time.time() if moment is None else moment.timestamp()) * 1000)
