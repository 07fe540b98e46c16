"""What tests of commands share: a good search on tiny checkpoints, and the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.search.small import CommandLine, make_workplace


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; not to be written to."""
    return make_workplace(tmp_path_factory.mktemp("good"))


@pytest.fixture
def workplace(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test stands."""
    folder = tmp_path / "work"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mergefront(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> CommandLine:
    return CommandLine(monkeypatch, capsys)
