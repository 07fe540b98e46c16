"""The MLflow client of one run: what the store already holds of it, and upserts into it."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from merge_core.yaml_io import dump_yaml
from search.database import spoken
from search.errors import StorageError
from search.item_pages import Asked, diff_table, items_table, prompts_of
from search.mlflow_note import NOTE, above
from search.mlflow_place import refuse_absent, refuse_moved
from search.mlflow_view import views_of
from search.projection import (
    BASELINE,
    BESIDE,
    COLOR,
    EXPORTED,
    ROLE,
    SEARCH_COLOR,
    TRIAL,
    Report,
    Row,
)
from search.results import Result
from search.run import Run
from search.secrets import redacted, said

RUN = "mergefront.run"
PARENT = "mlflow.parentRunId"
LONGEST = 6000
"""Characters of a parameter that MLflow keeps."""
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Seven, the default, are four minutes for each of the calls that an absent server refuses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def import_mlflow() -> Any:
    """MLflow, kept quiet; imported at use because that takes three seconds."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    # It prints a traceback of what it raises as well; the tracker tells it in one line.
    for name in ("mlflow", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def _make(uri: str) -> None:
    """A SQLite store with all its tables, if there is none yet.

    Under another name first: a store whose making was killed half-way opens never again.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if is_made(uri):
        return
    file = Path(make_url(uri).database or "").absolute()
    half = file.with_name(f"{file.name}.half")
    half.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{half}", (file.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    half.replace(file)


def is_made(uri: str) -> bool:
    """Whether a store can hold something: a SQLite file that is not there cannot."""
    url = make_url(uri) if uri.startswith("sqlite") else None
    return url is None or not url.database or Path(url.database).exists()


class Store:
    """The MLflow client and what it already holds of this run.

    Args:
        run: whose.
        uri: of the store; default the run's own.
        create: make the experiment and the search's own run where they are missing.

    Raises:
        StorageError: the store is a database that does not answer, or one in a copied run.

    Attributes:
        client: for what is not here.
        run: whose.
        experiment: its id; "" if it is missing.
        parent: id of the search's own run; "" if it is missing.
        others: further runs that say that they are the search's own.
        written, baselines: trials and baselines whose runs are finished.
        confirmed: keys of those whose runs say that they are confirmed.
        tagged: trials whose runs say that they are on the front.
        beside: what written trials are compared with.
        steps: of the search's own curves.
    """

    def __init__(self, run: Run, uri: str | None = None, *, create: bool = True) -> None:
        mlflow = import_mlflow()
        uri = run.tracking if uri is None else uri
        refuse_absent(uri)
        if create:
            _make(uri)
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        self.run = run
        self.experiment = self._experiment(run, uri, create=create)
        self.parent, self.others = self._parent(run, create=create)
        self._ids: dict[tuple[str, str], str] = {}
        self._prompts: dict[tuple[str, str], Asked] | None = None
        self.written: set[int] = set()
        self.baselines: set[str] = set()
        self.confirmed: set[tuple[str, str]] = set()
        self.tagged: set[int] = set()
        self.beside: dict[int, str | None] = {}
        self.steps: set[int] = set()
        if self.parent:
            history = self.client.get_metric_history(self.parent, "trials")
            self.steps = {metric.step for metric in history}
            self._read()

    def _experiment(self, run: Run, uri: str, *, create: bool) -> str:
        name = experiment_name(run)
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            refuse_moved(run, uri, found.artifact_location)
            return str(found.experiment_id)
        if not create:
            return ""
        place = (run.folder / "mlartifacts").as_uri() if uri.startswith("sqlite:") else None
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return str(self.client.create_experiment(name, place, tags=kind))

    def find(self, key: tuple[str, str]) -> str | None:
        """The id of the child run with this tag."""
        return self._ids.get(key)

    def child(self, row: Row) -> None:
        """Create or complete the child run with the row's tag."""
        from mlflow.entities import Metric, Param, RunTag

        run_id = self.find(row.key)
        kind, value = row.key
        if run_id is None:
            created = self.client.create_run(
                self.experiment,
                run_name=row.name,
                start_time=row.times[0],
                # Only now: people may write another.
                tags={PARENT: self.parent, kind: value, RUN: self.run.id, NOTE: row.note},
            )
            run_id = self._ids[row.key] = created.info.run_id
        result = None if row.result is None else Result.load(row.result)
        end = row.times[1]
        # The same values at the same time are the same point: a second writing adds none.
        self.client.log_batch(
            run_id,
            metrics=[Metric(k, v, end, 0) for k, v in row.metrics.items()],
            params=[Param(k, v[:LONGEST]) for k, v in row.params.items()],
            tags=[RunTag(k, v) for k, v in tags_of(row).items()],
        )
        if result is not None:
            self.client.log_text(run_id, dump_yaml(dict(result.recipe)), _RECIPE)
            self.client.log_dict(run_id, items_table(result, self._asked()), _ITEMS)
        if result is not None and row.beside is not None:
            label, path = row.beside
            table = diff_table(result, Result.load(path), label, self.run.search)
            self.client.log_dict(run_id, table, _DIFF)
        self.client.set_terminated(run_id, row.status, end)
        if kind == TRIAL:
            self.written.add(int(value))
            self.beside[int(value)] = row.tags.get(BESIDE)
            (self.tagged.add if row.tags["front"] == "true" else self.tagged.discard)(int(value))
        else:
            self.baselines.add(value)

    def anew(self, row: Row) -> None:
        """Replace a run that says what no longer holds: MLflow takes no metric back."""
        self.client.delete_run(self._ids.pop(row.key))
        self.confirmed.discard(row.key)
        self.child(row)

    def _asked(self) -> dict[tuple[str, str], Asked]:
        """What the run's items ask, read once."""
        if self._prompts is None:
            self._prompts = prompts_of(self.run)
        return self._prompts

    def keep(self, key: tuple[str, str], run_id: str) -> None:
        """Of several runs with this tag, this is the one."""
        self._ids[key] = run_id

    def forget(self, key: tuple[str, str]) -> None:
        """The run with this tag is deleted: the next `child` makes another."""
        self._ids.pop(key, None)

    def tag_front(self, number: int, tags: Mapping[str, str]) -> None:
        """Have a trial's run say whether it is on the front."""
        run_id = self.find((TRIAL, str(number)))
        if run_id is not None:
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)
            (self.tagged.add if tags["front"] == "true" else self.tagged.discard)(number)

    def confirm(self, key: tuple[str, str], metrics: Mapping[str, float]) -> None:
        """Give a trial's or baseline's run its confirmed scores."""
        run_id = self.find(key)
        if run_id is not None:
            if self.client.get_run(run_id).data.tags.get("confirmed") != "true":
                self.client.set_tag(run_id, "confirmed", "true")
            self.confirmed.add(key)
            self.latest(run_id, metrics)

    def report(self, report: Report) -> None:
        """Attach files, metrics, tags and the description to the search's own run.

        What it says of an earlier export that is none any more is taken back.
        """
        tags, metrics = outdated(report, self.client.get_run(self.parent).data)
        if tags and _RECIPE in self.files():
            nothing = "# Nothing is exported any more: see the description of this run.\n"
            self.client.log_text(self.parent, nothing, _RECIPE)
        for key in tags:
            self.client.delete_tag(self.parent, key)
        for file in report.files:
            folder = file.parent.relative_to(self.run.folder)
            self.client.log_artifact(
                self.parent, str(file), None if folder == _HERE else str(folder)
            )
        none = dict.fromkeys(metrics, math.nan)  # MLflow takes none back
        self.latest(self.parent, {**report.metrics, **none}, max(self.steps, default=0))
        for key, value in report.tags.items():
            self.client.set_tag(self.parent, key, value)
        self.describe(report.note)

    def describe(self, note: str) -> None:
        """Give the search's own run its description; what people wrote below it stays."""
        held = self.client.get_run(self.parent).data.tags.get(NOTE, "")
        if (text := above(note, held)) != held:
            self.client.set_tag(self.parent, NOTE, text)

    def lacks_trial(self, row: Row) -> bool:
        """Whether a trial is not there in full, or is compared with what is no longer nearest."""
        number = int(row.key[1])
        return number not in self.written or self.beside.get(number) != row.tags.get(BESIDE)

    def files(self) -> set[str]:
        """The files of the search's own run, as it names them."""
        found: set[str] = set()
        for file in self.client.list_artifacts(self.parent):
            inside = self.client.list_artifacts(self.parent, file.path) if file.is_dir else [file]
            found |= {each.path for each in inside}
        return found

    def metrics(
        self, run_id: str, metrics: Mapping[str, float], step: int = 0, at: int | None = None
    ) -> None:
        """Log several metrics at once."""
        from mlflow.entities import Metric

        at = int(time.time() * 1000) if at is None else at
        self.client.log_batch(run_id, metrics=[Metric(k, v, at, step) for k, v in metrics.items()])

    def latest(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log those of `metrics` that the run does not have yet."""
        there = self.client.get_run(run_id).data.metrics
        if new := {key: value for key, value in metrics.items() if there.get(key) != value}:
            self.metrics(run_id, new, step)

    def _parent(self, run: Run, *, create: bool) -> tuple[str, list[str]]:
        """The search's own run, and others that say they are: of an answer that was lost."""
        mine = f"tags.`{RUN}` = '{run.id}' and tags.{ROLE} = 'search'"
        found = sorted(self._runs(mine), key=lambda r: (r.info.start_time, r.info.run_id))
        ids = [str(each.info.run_id) for each in found]
        if ids and create:
            self.client.update_run(ids[0], status="RUNNING")
        if ids or not create:
            return (ids[0] if ids else ""), ids[1:]
        created = self.client.create_run(
            self.experiment,
            run_name=run.name,
            tags={RUN: run.id, ROLE: "search", COLOR: SEARCH_COLOR},
        )
        return str(created.info.run_id), []

    def lacks(self) -> list[str]:
        """What is not said yet of what is searched, by its own run and by the saved views."""
        params = self.client.get_run(self.parent).data.params
        own = own_params(self.run)
        missing = [_PARAMETER + name for name in sorted(own.keys() - params.keys())]
        files = {file.path for file in self.client.list_artifacts(self.parent)}
        views = views_of(self.run)
        there = self.client.get_experiment(self.experiment).tags
        return [
            *missing,
            *([_SEARCH] if _SEARCH not in files else []),
            *(_VIEW + key for key in views if key not in there),
        ]

    def complete(self) -> None:
        """Write what it lacks; a driver may be killed between any two of these."""
        for name in self.lacks():
            if name == _SEARCH:
                self.client.log_text(self.parent, redacted(self.run.search.text), _SEARCH)
            elif name.startswith(_VIEW):
                key = name.removeprefix(_VIEW)
                self.client.set_experiment_tag(self.experiment, key, views_of(self.run)[key])
            else:
                key = name.removeprefix(_PARAMETER)
                self.client.log_param(self.parent, key, own_params(self.run)[key])

    def children(self) -> list[Any]:
        """MLflow's runs of this search's trials and baselines, oldest first."""
        found = self._runs(f"tags.`{RUN}` = '{self.run.id}'")
        kinds = (TRIAL, BASELINE)
        children = [each for each in found if any(kind in each.data.tags for kind in kinds)]
        return sorted(children, key=lambda each: (each.info.start_time, each.info.run_id))

    def _runs(self, condition: str) -> list[Any]:
        from mlflow.entities import ViewType

        if not self.experiment:
            return []
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                filter_string=condition,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _read(self) -> None:
        """Which trials and baselines are there already, and which of them are finished."""
        for child in self.children():
            tags = child.data.tags
            if tags.get(PARENT) != self.parent:
                continue
            key = key_of(child)
            if key in self._ids:
                continue  # of several, the first
            self._ids[key] = child.info.run_id
            if tags.get("confirmed") == "true":
                self.confirmed.add(key)
            if child.info.status != "RUNNING":
                if TRIAL in tags:
                    self.written.add(int(tags[TRIAL]))
                    self.beside[int(tags[TRIAL])] = tags.get(BESIDE)
                else:
                    self.baselines.add(tags[BASELINE])
            if tags.get("front") == "true" and TRIAL in tags:
                self.tagged.add(int(tags[TRIAL]))


@contextmanager
def answering(run: Run, uri: str | None) -> Iterator[None]:
    """Turn what an absent store raises into one line; StorageError for an empty `uri`, too."""
    if uri is not None and not uri.strip():
        raise StorageError(f"--tracking-uri {uri!r}: name a store or a server, or leave it out")
    mlflow = import_mlflow()
    try:
        yield
    except (mlflow.exceptions.MlflowException, SQLAlchemyError) as error:
        why = said(error) if not isinstance(error, SQLAlchemyError) else spoken(error)
        raise StorageError(f"{redacted(uri or run.tracking)}: {why[:200]}") from error


def experiment_name(run: Run) -> str:
    """The experiment that a run is shown in."""
    return run.search.file.tracking.experiment or run.name


def key_of(child: Any) -> tuple[str, str]:
    """The tag that a trial's or baseline's run is known by, and its value."""
    tags = child.data.tags
    return (TRIAL, tags[TRIAL]) if TRIAL in tags else (BASELINE, tags[BASELINE])


def tags_of(row: Row) -> dict[str, str]:
    """The tags of a row's run."""
    tables = sorted(artifacts_of(row) - {_RECIPE})
    told = json.dumps([{"path": name, "type": "table"} for name in tables])
    return {**row.tags, **({_TABLES_TAG: told} if tables else {})}


def artifacts_of(row: Row) -> set[str]:
    """The files of a row's run."""
    if row.result is None:
        return set()
    return {_RECIPE, _ITEMS} if row.beside is None else {_RECIPE, _ITEMS, _DIFF}


def outdated(report: Report, data: Any) -> tuple[list[str], list[str]]:
    """What the search's own run says of an earlier export that is none any more.

    Args:
        report: what is so now.
        data: of MLflow's run.

    Returns:
        Tags, and metrics that have a number still.
    """
    gone = data.tags.keys() & {EXPORTED} - report.tags.keys()
    told = (name for name in data.metrics if name.startswith(("test_", "report/")))
    return sorted(gone), sorted(
        name for name in told if name not in report.metrics and not math.isnan(data.metrics[name])
    )


def own_params(run: Run) -> dict[str, str]:
    """Parameters of the search's own run."""
    file = run.search.file
    params = {
        "base_model": file.base_model or "",
        "models": ", ".join(entry.model for entry in file.models),
        "objectives": ", ".join(objective.name for objective in run.search.objectives),
    }
    return {key: value[:LONGEST] for key, value in params.items()}


_SEARCH, _RECIPE, _ITEMS, _DIFF = "search.yaml", "recipe.yaml", "items.json", "beside_baseline.json"
_PARAMETER, _VIEW = "parameter ", "view "
_HERE = Path()
_TABLES_TAG = "mlflow.loggedArtifacts"
