"""Real searches on the tiny trio, as a user starts them: the `mergefront` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil

from merge_core.yaml_io import dump_yaml
from search.demo import Trio, write_items

MERGEFRONT = str(Path(sys.executable).with_name("mergefront"))


def search_data(trio: Trio, **changes: object) -> dict:
    """A small search over density, weights, layer schedule and slack."""
    return {
        "merge_method": "ties_sv",
        "base_model": str(trio.base),
        "models": [
            {
                "model": str(trio.language),
                "name": "language",
                "parameters": {
                    "weight": {"low": 0.3, "high": 1.2},
                    "density": {"low": 0.08, "high": 0.5},
                },
            },
            {
                "model": str(trio.reasoning),
                "name": "reasoning",
                "parameters": {
                    "weight": {"low": 0.3, "high": 1.2, "anchors": 2},
                    "density": {"low": 0.08, "high": 0.5},
                    "slack": {"low": 0.0, "high": 1.0},
                },
            },
        ],
        "parameters": {"normalize": False},
        "tasks": {
            "math_th": {
                "items": "items.jsonl",
                "generate": {"max_tokens": 40},
                "scorers": ["math", {"language": {"expect": "th"}}, "think"],
            }
        },
        "objectives": {"reasoning": "math_th/math", "language": "math_th/language"},
        "splits": {"dev": 32, "confirm": 64, "test": 64},
        "confirm": {"max": 3},
        "baselines": ["uniform"],
        "engine": {"kind": "transformers", "device": "cpu"},
        "budget": {"trials": 8},
        "workers": {"count": 2},
        "sampler": {"name": "random", "seed": 1},
        **changes,
    }


def write_search(folder: Path, trio: Trio, **changes: object) -> Path:
    """The search file in `folder`, with its items beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.jsonl", dev=32, confirm=64, test=64)
    file = folder / "small.yaml"
    file.write_text(dump_yaml(search_data(trio, **changes)), encoding="utf-8")
    return file


def environment(**extra: str) -> dict[str, str]:
    """A clean environment for a child: no cluster or server of the caller's."""
    drop = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    return {k: v for k, v in os.environ.items() if k not in drop} | extra


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `mergefront ...` in `folder`."""
    return subprocess.Popen(
        [MERGEFRONT, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C reaches the whole process group
    )


def finish(process: subprocess.Popen[str], seconds: float = 240) -> str:
    """Wait for a process; its output. Fails unless it ends well."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def workers_of(pid: int, title: str = "ray::Worker") -> list[psutil.Process]:
    """Ray workers of the driver `pid`; one in mid-job is titled `ray::Worker.evaluate`."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if any(title in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def trial_files(run: Path) -> dict[str, int]:
    """Result files of the trials with the time each was written (ns)."""
    return {path.name: path.stat().st_mtime_ns for path in (run / "trials").glob("*.json")}


def items_of(path: Path) -> dict:
    """Per-item scores and texts of a stored result."""
    return json.loads(path.read_text(encoding="utf-8"))["items"]
