"""Views of runs that were never run: a study in memory, told what each trial came to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from merge_core.yaml_io import load_yaml
from search import study as studies
from search.config import Search, parse
from search.run import Run
from search.view import RunView
from tests.search.small import GOOD

BEGAN = datetime(2026, 11, 20, 21, 30)


@dataclass(frozen=True)
class Told:
    """What one trial was told; values () is one that failed, None one that runs."""

    values: Sequence[float] | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    worker: str = "w0"
    constraints: dict[str, float] = field(default_factory=dict)


def search_of(folder: Path, **changes: Any) -> Search:
    """The small search with parts of its file changed; a part None is taken out."""
    (folder / "search.yaml").write_text(GOOD)
    document = load_yaml(folder / "search.yaml")
    data = {**document.data, **changes}
    path = folder / "search.yaml"
    path.write_text(json.dumps({key: part for key, part in data.items() if part is not None}))
    return parse(load_yaml(path), path)


def view_of(
    folder: Path, search: Search, told: Sequence[Told], layers: int | None = None
) -> RunView:
    """The view of a run of `search` in `folder`, whose models need not be there any more."""
    source = {"digest": "0", "stamps": {}} | ({"layers": layers} if layers else {})
    run = Run(folder / "runs" / "search", search, {"sources": {"org/model": source}})
    run.folder.mkdir(parents=True, exist_ok=True)
    seconds = 10.0 * (len(told) + 2)
    entry = {"began": BEGAN.astimezone().isoformat(), "seconds": seconds, "workers": 2, "gpus": 0}
    (run.folder / "sessions.json").write_text(json.dumps([entry]))
    return RunView.of(run, study_of(search, told))


def study_of(search: Search, told: Sequence[Told]) -> optuna.Study:
    """A study in memory that holds what was told."""
    study = optuna.create_study(directions=[o.direction for o in search.objectives])
    space = search.space.distributions()
    for number, one in enumerate(told):
        at = BEGAN + timedelta(seconds=10.0 * (number + 1))
        params = {
            name: held.low + (held.high - held.low) * ((7 * number + 3 * place) % 11) / 11
            if hasattr(held, "low")
            else held.choices[number % len(held.choices)]
            for place, (name, held) in enumerate(space.items())
        }
        attributes: dict[str, Any] = {
            studies.FINGERPRINT: f"{number:016x}",
            "tokens": 100,
            "seconds": {"load": 1.0, "generate": 6.0},
            "intervals": {o.name: [0.0, 1.0, 4] for o in search.objectives},
            studies.RETAINED: {"language": 0.1 + 0.01 * (number % 30), "reasoning": 0.3},
            studies.WORKER: one.worker,
            studies.RECIPE: json.dumps(search.space.from_params(params).plain()),
        }
        state = TrialState.COMPLETE
        if not one.values:
            state = TrialState.RUNNING if one.values is None else TrialState.FAIL
            # A running one is not dispatched yet.
            recipe = {studies.RECIPE: attributes[studies.RECIPE]}
            attributes = recipe if state == TrialState.FAIL else {}
        trial = create_trial(
            state=state,
            params=params,
            distributions=space,
            values=list(one.values) if one.values else None,
            user_attrs={**attributes, **one.attributes},
            constraints=one.constraints or None,
        )
        trial.datetime_start = at - timedelta(seconds=8)
        trial.datetime_complete = None if state == TrialState.RUNNING else at
        study.add_trial(trial)
    return study
