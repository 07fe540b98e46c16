"""Processes, ports and waiting: what tests that start and kill real servers share."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it; none if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def end(processes: list[psutil.Process], seconds: float = 10.0) -> None:
    """Kill them, all at once, as a failing machine does."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=seconds)


def free_port() -> int:
    """A port of the loopback for a server that will be away now and then.

    Not one of those that the kernel gives to whoever asks for any: it would be taken meanwhile.
    """
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as held, contextlib.suppress(OSError):
            held.bind(("127.0.0.1", port))
            return port


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(
    condition: Callable[[], bool], seconds: float = 120.0, what: str = "what was waited for"
) -> None:
    """Poll until `condition` holds.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {seconds:.0f}s")
        time.sleep(0.05)


class Mlflow:
    """A real tracking server over a SQLite file, on the loopback, to be killed and started again.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers some seconds later (`ready`)."""
        with (self._folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                    *("--uvicorn-opts", "--log-level warning"),
                    *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
                    *("--artifacts-destination", str(self._folder / "artifacts")),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> None:
        """Wait until it answers."""
        until(lambda: answers(self.port), 90, "the MLflow server does not answer")

    @property
    def processes(self) -> list[psutil.Process]:
        """The command and the server under it."""
        if self.process is None or self.process.poll() is not None:
            return []
        return tree(self.process.pid)

    def kill(self) -> None:
        """End all of it at once."""
        end(self.processes)
        if self.process is not None:
            self.process.wait()
