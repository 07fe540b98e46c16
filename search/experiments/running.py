"""One experiment from its file to its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from merge_core import MergePlan
from search.demo.process import Progress
from search.experiments.base import Experiment
from search.experiments.file import read
from search.experiments.lab import Told, opened
from search.experiments.outcome import Outcome, uncompared
from search.experiments.world import write_world
from search.experiments.writing import How, write
from search.prompts import check_prompts
from search.run import locked


def folder_of(
    name: str, config: Path | None, out: Path | None, *, quick: bool, seed: int | None
) -> Path:
    """Where an experiment's files go: what is given, or a folder of its own for each way to run."""
    if out is not None:
        return out
    parts = [name, *([config.stem] if config is not None and config.stem != name else [])]
    parts += [f"seed{seed}"] if seed else []
    return Path("experiments") / "-".join([*parts, *(["quick"] if quick else [])])


def run(
    experiment: Experiment[Any],
    folder: Path,
    *,
    config: Path | None = None,
    quick: bool = False,
    seed: int | None = None,
    command: str = "",
    told: Told = lambda line: None,
    progress: Progress | None = None,
) -> tuple[Outcome, list[Path]]:
    """Run an experiment, or go on with it; what it found and the files it wrote.

    Args:
        experiment: which.
        folder: of its results; holds models and items of the demo's world where no file is given.
        config: its file, with models of the user's own.
        quick: few items, few points.
        seed: of the demo's models (0 unless given) and of everything random (the file's).
        command: what repeats it.
        told: hears what is scored.
        progress: told of training, as `ensure_wide` tells it.

    Raises:
        ConfigError: the file is wrong; one line that begins with file:line:column.
        RunError: another process is at this folder.
        MergeError, ObjectiveError, SearchError: models or items cannot be used.
    """
    if config is not None:  # all of it is checked before anything is written
        _, asked = read(config, experiment.kind, experiment.name, quick=quick)
        plan = MergePlan(asked.search.example())
        for note in check_prompts(asked.search, plan, asked.tasks, ("dev", "confirm")):
            told(note)
    own = config is not None
    with locked(folder.resolve()):
        if config is None:
            continued = experiment.continued
            config = write_world(
                experiment.name, folder, continued=continued, seed=seed or 0, progress=progress
            )
        file, asked = read(config, experiment.kind, experiment.name, quick=quick, seed=seed)
        with opened(asked, folder, told) as lab:
            outcome = experiment.run(lab, file)
            findings = [*outcome.findings, *uncompared(asked.search.objectives)]
            outcome = replace(outcome, findings=findings)
            paths = write(experiment, outcome, lab, How(command, quick, file.seed, own))
    return outcome, paths
