"""Where the examples of the pages are run: folders as their readers have them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
_CALLERS = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "COLUMNS", "NO_COLOR", "FORCE_COLOR")


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader does: in `folder`, with the environment's commands found."""
    environment = {k: v for k, v in os.environ.items() if k not in _CALLERS}
    environment |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Path:
    """The demo's folder after the search of the quick start."""
    folder = tmp_path_factory.mktemp("searched")
    done = shell("mergefront demo --trials 12", folder)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture
def place(request, searched, tmp_path) -> Path:
    """The folder in which a page says that it starts."""
    where = request.param
    if where == "an empty folder":
        return tmp_path
    folder = tmp_path / "here"
    shutil.copytree(searched, folder)
    return folder
