"""Train in child processes: thread counts and the flushing of denormal numbers are settings of a
whole process, and the caller's merges must stay exact to the bit.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with stage, steps done and steps in all."""


class DemoError(Exception):
    """The demo's models could not be made; the message is one line for the user."""


@dataclass(frozen=True)
class Report:
    """One line from the training process: how far it is and, at its end, how well it did."""

    stage: str
    done: int
    total: int
    score: float | None = None


class Training:
    """A child process that trains stages of a world, one after another.

    It starts at once, and its reports come by iterating; leaving the `with` block ends it.
    Importing transformers costs a process as much as training an expert. A child whose parent was
    killed ends at its next report, on the closed pipe.
    """

    def __init__(self, world: str, stages: Sequence[str], folder: Path, seed: int) -> None:
        source = Path(__file__).resolve().parents[2]
        environment = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{source}{os.pathsep}{inherited}" if inherited else str(source)
        command = [sys.executable, "-m", "search.demo.training", ",".join(stages)]
        self._stage = stages[0]
        self._log = folder / f"training-{stages[0]}.log"
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                [*command, str(folder), str(seed), world],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                encoding="utf-8",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave no child behind, whatever ended the parent's loop."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()

    def __iter__(self) -> Iterator[Report]:
        """The reports, as they come.

        Raises:
            DemoError: the process ended with an error.
        """
        assert self._child.stdout is not None
        for line in self._child.stdout:
            report = Report(**json.loads(line))
            self._stage = report.stage
            yield report
        if self._child.wait() != 0:
            lines = self._log.read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no message")
            raise DemoError(f"training the demo's {self._stage} model failed: {last}")


def follow(trainings: Sequence[Training], progress: Progress | None) -> float | None:
    """Wait for processes that train side by side; the reasoning expert's score, if one told it.

    Raises:
        DemoError: one of them failed.
    """
    score = None
    # In turn: a pipe holds far more reports than a process writes, so none waits for another.
    for reports in itertools.zip_longest(*trainings):
        for report in reports:
            if report is None:
                continue
            if progress is not None:
                progress(report.stage, report.done, report.total)
            if report.score is not None:
                score = report.score
    return score
