"""Where people see a run in MLflow: the address of its saved view."""

from __future__ import annotations

from pathlib import Path

from search.errors import ConfigError, StorageError
from search.mlflow_place import refuse_absent
from search.mlflow_store import answering, experiment_name, import_mlflow, is_made
from search.mlflow_view import FRONT, PREFIX, key_for, runs_link, view_link
from search.run import Run
from search.secrets import without_password

HERE = "http://127.0.0.1:5000"
"""Where `mergefront ui` serves unless told otherwise."""


def is_served(uri: str) -> bool:
    """Whether a tracking URI is that of a server, which shows its runs itself."""
    return uri.startswith(("http://", "https://"))


def link_for(run: Run) -> str:
    """What shows a run to people, as one line.

    The address of its saved view on a server; of any other store the command that serves it, and
    the address that this then has. Without the view where MLflow holds none yet, or does not
    answer.
    """
    if is_served(run.tracking):
        base = without_password(run.tracking).rstrip("/")
        try:
            return page_of(run, base)
        except (ConfigError, StorageError):
            return base
    here = Path.cwd()
    folder = run.folder.relative_to(here) if run.folder.is_relative_to(here) else run.folder
    command = f"mergefront ui {folder}"
    try:
        return f"{command}, then {page_of(run, HERE)}"
    except (ConfigError, StorageError):
        return command


def page_of(run: Run, base: str) -> str:
    """The address of a run's saved view; of the runs page where its experiment has no view.

    Args:
        run: whose.
        base: address of the server on the run's store.

    Raises:
        ConfigError: nothing is tracked yet.
        StorageError: the store does not answer, or is damaged.
    """
    uri = run.tracking
    if not is_made(uri):
        raise ConfigError(f"{run.folder}: nothing is tracked yet: start it with `mergefront run`")
    refuse_absent(uri)
    name = experiment_name(run)
    with answering(run, None):
        client = import_mlflow().MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise ConfigError(f"{run.folder}: MLflow has no experiment '{name}' yet")
    key = key_for(run, FRONT)
    if PREFIX + key in experiment.tags:
        return view_link(base, experiment.experiment_id, key)
    return runs_link(base, experiment.experiment_id)
