"""Timing in pairs, tables that appear row by row, and the tests that must be green before both."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EQUALITY_TESTS = ("tests/merge_core/test_methods.py", "-k", "equals_reference")


def say(text: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def refuse_unless_equal() -> None:
    """Run the tests that compare kernels with the reference: speed of wrong bits is no speed.

    Raises:
        SystemExit: they fail, or none was found; with status 1 and one line.
    """
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", *EQUALITY_TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
        raise SystemExit(
            f"not measured: the equality tests are red ({last}); see: pytest "
            + " ".join(EQUALITY_TESTS)
        )


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def paired(repeats: int, *actions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each action, `repeats` times in turn.

    Runs alternate, so that a change of the machine's speed hits all of them alike.
    """
    rounds = [[timed(action) for action in actions] for _ in range(repeats)]
    return [list(seconds) for seconds in zip(*rounds, strict=True)]


class Table:
    """A table of fixed columns, printed row by row as the figures come.

    Args:
        columns: (heading, width); the first is aligned left, the others right.
    """

    def __init__(self, *columns: tuple[str, int]) -> None:
        self._widths = [width for _, width in columns]
        self.row(*(heading for heading, _ in columns))

    def row(self, *cells: str) -> None:
        """Print one row; cells that are left out stay empty."""
        padded = [*cells, *[""] * (len(self._widths) - len(cells))]
        first, *rest = zip(padded, self._widths, strict=True)
        say("  ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in rest)]).rstrip())


def verdict(ratio: float, target: float | None) -> tuple[str, str]:
    """The cells "target" and "met" of a row whose ratio must not exceed `target`."""
    if target is None:
        return "-", "-"
    return f"<= {target:g}", "yes" if ratio <= target else "NO"
