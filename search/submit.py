"""A search as a job of a Ray cluster: sent, followed, stopped, by Ray's Jobs API.

The job is `mergefront run FILE` on the cluster's head. Its folder of runs lies on storage that the
cluster keeps, so that the same submission again goes on where the run stopped.
"""

from __future__ import annotations

import asyncio
import fnmatch
import logging
import os
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.references import split_reference
from search.config import Search
from search.errors import ConfigError, WorkerError
from search.secrets import held, redacted, without_password

PASSED = ("HF_ENDPOINT", "HF_HUB_OFFLINE", "MLFLOW_TRACKING_URI")
"""Variables that go with a job by themselves: no secrets, and no paths of this machine."""

LEFT_BEHIND = (
    *("runs", ".git", ".venv", "venv", "__pycache__", "mlruns", "node_modules"),
    *("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", ".env*"),
)
"""What is never sent: results, environments, weights, files of secrets."""

MOST_BYTES = 100 * 2**20
"""Of what is sent: Ray keeps it in the head's memory."""

STOP_S = 600
"""How long a job that is stopped may take to finish its running trials."""

AGENT_S = 120.0
"""How long a head may take from its start until it can take jobs."""

_INSTEAD = (
    "write ${NAME} in its place, and give the variable NAME to the cluster's own environment, or "
    "send it by --env NAME"
)
_RUN = "mergefront.run"  # the key of a job's metadata that names its run folder
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Submission:
    """What is sent.

    Attributes:
        entrypoint: the command on the head.
        folder: sent as its working directory; None: it changes to one that the cluster sees.
        run: the run's folder, which names the submission.
        env: variables of the job and its workers.
    """

    entrypoint: str
    folder: Path | None
    run: Path
    env: Mapping[str, str]


def submission(
    search: Search,
    run: Path,
    arguments: Sequence[str],
    names: Sequence[str] = (),
    *,
    in_place: bool = False,
) -> Submission:
    """What `mergefront submit` sends for a search file.

    Args:
        search: of the file.
        run: absolute: where its run lies, as the cluster sees it.
        arguments: for `mergefront run`, beside file, name and folder of runs.
        names: environment variables that go with it, beside `PASSED`.
        in_place: the cluster sees the file's folder under the same path: nothing is sent.

    Raises:
        ConfigError: a model would not be found there, a variable is not set, too much is sent, or a
            password.
    """
    env = {name: os.environ[name] for name in PASSED if name in os.environ}
    for name, value in env.items():
        # Ray keeps a job's variables with its description, for all who have the cluster's token.
        if name not in names and without_password(value) != value:
            raise ConfigError(
                f"{name} holds a password, which whoever sees the cluster's jobs could read: give "
                f"it to the cluster's own environment and unset it here, or send it by --env {name}"
            )
    for word in arguments:
        if redacted(word) != word:
            raise ConfigError(
                f"--set {word.partition('=')[0]}: holds a password, which whoever sees the "
                f"cluster's jobs could read: {_INSTEAD}"
            )
    for name in names:
        if name not in os.environ:
            raise ConfigError(f"--env {name}: is not set here")
        env[name] = os.environ[name]
    # Else a job that is stopped is killed after three seconds, in the middle of its trials.
    env["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_S)
    file = search.path.resolve()
    command = [
        *("mergefront", "run", str(file) if in_place else file.name, *arguments),
        *("--runs", str(run.parent), "--name", run.name),
    ]
    entrypoint = shlex.join(command)
    if in_place:
        return Submission(f"cd {shlex.quote(str(file.parent))} && {entrypoint}", None, run, env)
    _check_sent(search, file.parent)
    return Submission(entrypoint, file.parent, run, env)


def _check_sent(search: Search, folder: Path) -> None:
    """Raise ConfigError if what is sent is too much, holds a password, or lacks a model that is
    named relatively.
    """
    if held(search.source.document.data):
        raise ConfigError(
            f"{search.path}: a password stands in it (storage, tracking.uri), and the file is sent "
            f"as it is: {_INSTEAD}"
        )
    recipe = search.file
    models = [entry.model for entry in recipe.models]
    if recipe.base_model is not None:
        models.append(recipe.base_model)
    for reference in models:
        for part in split_reference(reference, folder) or (reference,):
            if not Path(part).is_absolute() and (folder / part).is_dir():
                raise ConfigError(
                    f"{search.path}: model {part} lies beside the file, and weights are not sent: "
                    "give its absolute path on storage that the cluster sees, or --in-place if it "
                    "sees this whole folder"
                )
    size = 0
    for path in _sent(folder):
        size += path.stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(
                f"{folder}: holds more than {MOST_BYTES / 2**20:.0f} MB to be sent to the cluster; "
                "give the search file a folder of its own, or --in-place if the cluster sees it"
            )


def _sent(folder: Path) -> Iterator[Path]:
    """The files of a folder that are sent."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _left_behind(name)]
        for name in names:
            path = Path(root, name)
            if not _left_behind(name) and path.is_file():
                yield path


def _left_behind(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_BEHIND)


class Jobs:
    """The jobs of a cluster.

    Args:
        address: of its dashboard, http://HOST:8265; by default RAY_API_SERVER_ADDRESS, else the
            cluster that this machine is a node of.

    Raises:
        WorkerError: it cannot be reached, or wants a token.
    """

    def __init__(self, address: str | None = None) -> None:
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        given = address or os.environ.get("RAY_API_SERVER_ADDRESS")
        self.where = given or "this machine's cluster"
        # RAY_ADDRESS goes before the argument in Ray's client, and names another port.
        held = os.environ.pop("RAY_ADDRESS", None) if given else None
        try:
            with _told(self.where):
                self._client: Any = JobSubmissionClient(given)
        finally:
            if held is not None:
                os.environ["RAY_ADDRESS"] = held

    def submit(self, sent: Submission) -> tuple[str, bool]:
        """Send a job; its id, and whether it is new: a run that a job is at is not begun twice."""
        with _told(self.where):
            for job in self.all():
                same = (job.metadata or {}).get(_RUN) == str(sent.run)
                if same and job.status not in _ENDED:
                    return str(job.submission_id), False
            environment: dict[str, Any] = {"env_vars": dict(sent.env)}
            if sent.folder is not None:
                environment |= {"working_dir": str(sent.folder), "excludes": list(LEFT_BEHIND)}
            return self._sent(sent, environment), True

    def _sent(self, sent: Submission, environment: dict[str, Any]) -> str:
        """Send a job, again while a head that has just started has no one to take it."""
        end = time.monotonic() + AGENT_S
        while True:
            try:
                with _all_files():
                    return str(
                        self._client.submit_job(
                            entrypoint=sent.entrypoint,
                            runtime_env=environment,
                            metadata={_RUN: str(sent.run)},
                            submission_id=f"mergefront-{sent.run.name}-{uuid.uuid4().hex[:6]}",
                        )
                    )
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(2.0)

    def all(self) -> list[Any]:
        """Every job of ours that the cluster remembers, oldest first."""
        with _told(self.where):
            ours = [job for job in self._client.list_jobs() if _RUN in (job.metadata or {})]
        return sorted(ours, key=lambda job: job.start_time or 0)

    def info(self, job: str) -> Any:
        """What Ray knows of a job."""
        with _told(self.where):
            return self._client.get_job_info(job)

    def logs(self, job: str) -> str:
        """All that it has printed."""
        with _told(self.where):
            return str(self._client.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Have it finish its running trials and end; whether it was running."""
        with _told(self.where):
            return bool(self._client.stop_job(job))

    def follow(self, job: str, show: Callable[[str], None]) -> Any:
        """Show what a job prints until it ends, through lost connections; what Ray knows then.

        Raises:
            WorkerError: the cluster has been out of reach for minutes.
        """
        shown, failures = 0, 0
        while True:
            try:
                shown = asyncio.run(self._tail(job, shown, show))
                info = self.info(job)
                failures = 0
            except WorkerError:
                failures += 1
                if failures > 20:
                    raise
                time.sleep(min(30.0, 2.0**failures))
                continue
            if str(info.status) in _ENDED:
                show(self.logs(job)[shown:])
                return info
            time.sleep(1.0)

    async def _tail(self, job: str, shown: int, show: Callable[[str], None]) -> int:
        """Show what follows the first `shown` characters; how many there are then."""
        import aiohttp

        seen = 0
        try:
            async for part in self._client.tail_job_logs(job):
                show(part[max(0, shown - seen) :])
                seen += len(part)
        except (RuntimeError, OSError, aiohttp.ClientError):
            pass  # the connection was lost; the caller looks how the job is
        return max(shown, seen)


@contextmanager
def _all_files() -> Iterator[None]:
    """Have Ray send what .gitignore names, too, as items often are: `LEFT_BEHIND` says what stays.

    Its client reads that from this process's environment.
    """
    name = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Say what is wrong with a cluster in one line."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise WorkerError(
            f"{where}: wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file "
            "that holds the cluster's (`ray get-auth-token` on its head prints it)"
        ) from None
    except (ConnectionError, requests.RequestException, RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:300]
        raise WorkerError(f"{where}: {said or type(error).__name__}") from error
