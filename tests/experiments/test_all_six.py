"""Each experiment with --quick on the demo's world, as a user starts it: `make docs-test`."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from search.demo.series import ensure_series
from search.experiments import EXPERIMENTS
from tests.search.kit import MERGEFRONT

# Whoever asks first trains the models, which on a busy machine takes minutes.
pytestmark = [pytest.mark.experiments, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module", autouse=True)
def world() -> None:
    ensure_series()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_answers_its_question_and_goes_on_where_it_was(name, tmp_path) -> None:
    first = called(name, tmp_path)
    assert first.returncode == 0, first.stderr
    data = json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8"))
    assert data["quick"]
    assert data["findings"]
    assert data["differences"]
    assert all(
        value["estimate"]["low"] <= value["estimate"]["value"] <= value["estimate"]["high"]
        for value in data["values"]
    )
    assert (tmp_path / name / "plot.png").stat().st_size > 10_000
    page = (tmp_path / name / "plot.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    text = (tmp_path / name / "report.md").read_text(encoding="utf-8")
    for finding in data["findings"]:
        assert finding in text
    began = time.time()
    again = called(name, tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8")) == data
    kept = [path for path in (tmp_path / name / "points").iterdir() if path.stat().st_mtime > began]
    assert not kept


def called(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [MERGEFRONT, "experiment", name, "--quick", "--out", name]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
