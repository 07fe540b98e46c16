"""Merges scored after the search: on held-out items, and baselines that were added later.

What cannot be scored is left out, and said: one merge whose workers die must not cost the others
their results, nor the run its export.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from merge_core import Recipe
from merge_core.yaml_io import one_line
from objectives.task import Split
from search import study as studies
from search.results import Result, is_result_of
from search.run import Run
from search.worker import Job

if TYPE_CHECKING:
    from search.pool import Pool

log = logging.getLogger("mergefront")


def score_what_can(
    run: Run,
    study: optuna.Study,
    pool: Pool,
    recipes: dict[str, Recipe],
    split: Split,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[dict[str, Result], dict[str, str]]:
    """Score recipes on a held-out split, each fingerprint once for ever.

    Returns:
        Results, and why there is none, each by label.

    Raises:
        RunError: another driver has taken over the study.
    """
    fingerprints = {label: run.fingerprint(recipe) for label, recipe in recipes.items()}
    places = {label: run.held_out(split, f) for label, f in fingerprints.items()}
    labels = {fingerprint: label for label, fingerprint in reversed(fingerprints.items())}
    jobs = {
        places[label]: Job(label, recipes[label], fingerprint, split)
        for fingerprint, label in labels.items()
        if not places[label].is_file()
    }
    errors = _done(run, study, pool, jobs, progress)
    results = {label: Result.load(p) for label, p in places.items() if p not in errors}
    return results, {label: errors[p] for label, p in places.items() if p in errors}


def score_baselines(
    run: Run, study: optuna.Study, pool: Pool, recipes: dict[str, Recipe]
) -> dict[str, Result]:
    """Score on the dev items those baselines that are not yet; their results by label.

    One that could not be scored is left out with a note, as in the search.

    Raises:
        RunError: another driver has taken over the study.
    """
    fingerprints = {label: run.fingerprint(recipe) for label, recipe in recipes.items()}
    jobs = {
        run.baseline(label): Job(label, recipe, fingerprints[label], "dev")
        for label, recipe in recipes.items()
        if not is_result_of(run.baseline(label), fingerprints[label])
    }
    errors = _done(run, study, pool, jobs)
    note({jobs[place].key: error for place, error in errors.items()})
    return {job.key: Result.load(place) for place, job in jobs.items() if place not in errors}


def _done(
    run: Run,
    study: optuna.Study,
    pool: Pool,
    jobs: dict[Path, Job],
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[Path, str]:
    """Do the jobs, and keep each result where it belongs; why the others have none, in a line."""
    places = {job.key: place for place, job in jobs.items()}
    for job in jobs.values():
        pool.submit(job)
    done, errors = 0, dict[Path, str]()
    if progress is not None and jobs:
        progress("", 0, len(jobs))
    while pool.busy:
        outcomes = pool.wait(timeout=1.0)
        studies.still_ours(study)  # a result file is no transaction
        for outcome in outcomes:
            if outcome.result is None:
                errors[places[outcome.job.key]] = one_line(outcome.error or "it has no result")
            else:
                outcome.result.save(places[outcome.job.key])
                run.blocks.forget(outcome.job)
                done += 1
            if progress is not None:
                what = "" if outcome.result is None else outcome.job.key
                progress(what, done, len(jobs) - len(errors))
    return errors


def note(failed: Mapping[str, str], split: Split = "confirm") -> None:
    """Say in the log and on the terminal which merges could not be scored, and why."""
    for label, error in failed.items():
        trial = label.startswith("trial ")
        what = f"{label} could not be confirmed" if trial else f"baseline {label} has no scores"
        said = f"{what} and is left out: {error}"
        if split == "test":
            said = f"{label} is exported without scores on the test items: {error}"
        log.warning(said)
        sys.stderr.write(f"note: {said}; `mergefront confirm` tries it again\n")
