"""What shells complete: run folders, trials and baselines of a run, scores to pick by.

Only folders are listed and small JSON files read: a key must not wait for a database or for torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST = 200  # of trials that are offered


def run_folders(incomplete: str) -> list[str]:
    """Folders that hold runs: those under runs/, and those below what was typed."""
    found = [str(path.parent) for path in Path("runs").glob("*/run.json")]
    home = incomplete.partition("/")[0] if incomplete.startswith("~") else ""
    try:
        typed, root = Path(incomplete or ".").expanduser(), str(Path(home).expanduser())
    except RuntimeError:  # ~nobody
        return []
    above = typed if incomplete.endswith("/") else typed.parent
    for place in _folders(above):
        if (place / "run.json").is_file() or any(_folders(place)):
            name = str(place) + ("" if (place / "run.json").is_file() else "/")
            # As it was typed: shells offer nothing that begins otherwise.
            found.append(home + name.removeprefix(root) if home else name)
    return sorted({name for name in found if name.startswith(incomplete)})


def labels(ctx: Any, incomplete: str) -> list[str]:
    """Trials and baselines of the run that stands before, best known ones first."""
    run = ctx.params.get("run")
    if run is None:
        return []
    try:
        folder = Path(run).expanduser()
    except RuntimeError:
        return []
    front = [name.removeprefix("trial ") for name in _members(folder)]
    numbers = sorted((path.stem for path in (folder / "trials").glob("*.json")), reverse=True)
    trials = [str(int(name)) for name in numbers if name.isdigit()]
    offered = dict.fromkeys([*front, *_baselines(folder), *trials[:_MOST]])
    return [name for name in offered if name.startswith(incomplete)]


def _members(folder: Path) -> list[str]:
    """Labels of what was confirmed."""
    try:
        data = json.loads((folder / "confirmed.json").read_text(encoding="utf-8"))
        return [str(member["label"]) for member in data["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _baselines(folder: Path) -> list[str]:
    """Baselines whose file name is their label; others have a hash in it."""
    plain = (path.stem for path in (folder / "baselines").glob("*.json"))
    return [name for name in plain if "-" not in name]


def _folders(place: Path) -> Iterator[Path]:
    try:
        for path in place.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                yield path
    except OSError:
        return
