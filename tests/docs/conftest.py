"""Where the examples of the pages are run: folders as their readers have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
CALLERS = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "COLUMNS", "NO_COLOR", "FORCE_COLOR")


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader does: in `folder`, with the environment's commands found."""
    environment = {k: v for k, v in os.environ.items() if k not in CALLERS}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


SEARCH = "mergefront demo --trials 12"
"""The quick start's first command; other pages go on from what it leaves."""


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which SEARCH was run, and what it printed."""
    folder = tmp_path_factory.mktemp("searched")
    done = shell(SEARCH, folder)
    assert done.returncode == 0, done.stdout
    return folder, done


@pytest.fixture
def place(searched, tmp_path) -> Path:
    """The same folder, for one page alone."""
    shutil.copytree(searched[0], tmp_path / "here")
    return tmp_path / "here"
