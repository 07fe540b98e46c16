"""What a search begins with: recipes that are tried first, and results of an earlier run.

| in `sampler.warm_starts` | does |
|---|---|
| `published` | the published schedules, where they lie inside the space, are tried first |
| `recipe:FILE` | that recipe is tried first; one outside the space is an error |
| `run:FOLDER` | results of that run that hold here are taken over, else its front is tried first |

Results hold here where items, prompts, scorers, splits, engine and the contents of the models are
the same: the run folders know all of it. Scores are stored per item, so objectives and constraints
may be others: their values are computed anew. Taken-over results cost no budget and are nowhere
paid for again.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from merge_core import Recipe
from merge_core.errors import MergeError
from merge_core.yaml_io import Where
from search import published
from search import study as studies
from search.baselines import baselines
from search.config import Search
from search.errors import ConfigError, RunError, StorageError
from search.recipes import load_recipe
from search.results import Result, is_result_of, values_of, violations_of
from search.run import Run, freeze, item_digests

BEGUN = "mergefront.warm_starts"
"""Attribute of the study: the entries that are done."""
log = logging.getLogger("mergefront")


@dataclass(frozen=True)
class Taken:
    """What became of an earlier run's trials.

    Attributes:
        results: taken over, estimates of stopped trials included.
        outside: left out, because the space has no such recipe any more.
        estimates: left out, because they are estimates of other objectives.
        tried: recipes of its front that are tried first, because its results do not hold here.
        differs: what does not let its results hold here, or None.
    """

    results: int = 0
    outside: int = 0
    estimates: int = 0
    tried: int = 0
    differs: str | None = None

    def line(self, name: str) -> str:
        """For the log."""
        outside = f"; {self.outside} lie outside the space" if self.outside else ""
        if self.differs is not None:
            return (
                f"run {name}: its results do not hold here ({self.differs}), "
                f"so {self.tried} recipes of its front are tried first{outside}"
            )
        other = f"; {self.estimates} are estimates of other objectives" if self.estimates else ""
        return f"run {name}: {self.results} results are taken over{outside}{other}"


def check(search: Search, folder: Path | None = None) -> list[str]:
    """Open what the file's warm starts name; what they will do, one line each.

    Those that the run in `folder` has done already are left out: what they name may be gone.

    Raises:
        ConfigError: a recipe or a run cannot be read, a recipe lies outside the space, or a run
            is to begin with itself; begins with its place in the file.
    """
    lines = []
    entries = search.file.sampler.warm_starts
    done = _done(folder) if folder is not None and any(":" in entry for entry in entries) else ()
    for index, entry in enumerate(entries):
        kind, _, place = entry.partition(":")
        path = search.root / Path(place).expanduser()
        try:
            if kind == "run" and folder is not None and path.resolve() == folder.resolve():
                raise RunError(
                    "is the run itself, which goes on from its own results anyway; leave it out, "
                    "or start another run with --new"
                )
            if entry in done:
                continue
            if kind == "recipe":
                params_of_file(search, place)
            elif kind == "run":
                old = open_run(search, place)
                why = _differs(search, old)
                _check_readable(search, old, results=why is None)
                lines.append(
                    f"run {old.name}: its results are taken over where its models are the same"
                    if why is None
                    else f"run {old.name}: its results do not hold here ({why}); its front is "
                    "tried first"
                )
        except (ConfigError, MergeError, RunError, StorageError) as error:
            where: Where = ("sampler", "warm_starts", index)
            said = str(error).removeprefix(f"{path}: ").removeprefix(f"{path.resolve()}: ")
            # What was typed as --from is the first, and is named by that.
            typed = (search.source.typed(where) or "").startswith("--from ") and index == 0
            raise search.fault(where, said if typed else f"warm start {entry}: {said}") from None
    return lines


def _done(folder: Path) -> Sequence[str]:
    """The entries that the run in `folder` has done; none if it has not begun."""
    try:
        study = studies.open_study(Run.open(folder), create=False)
        return list(study.user_attrs.get(BEGUN, ()))
    except (ConfigError, RunError, StorageError):  # told by whoever goes on with that run
        return ()


def from_run(search: Search, folder: Path) -> Search:
    """`search` with an earlier run as its first warm start, as `--from` gives it."""
    entry = f"run:{os.path.relpath(folder.expanduser(), search.root)}"
    sampler = search.file.sampler
    others = [other for other in sampler.warm_starts if other != entry]
    data = sampler.model_dump(exclude_unset=True) | {"warm_starts": [entry, *others]}
    return search.with_value("sampler", data, f"--from {folder}")


def begin(study: optuna.Study, run: Run) -> list[str]:
    """Do each warm start once in a run's life, before anything is asked of the sampler.

    Safe to repeat after a crash in the middle.

    Returns:
        What was done with earlier runs, one line each.
    """
    done = list(study.user_attrs.get(BEGUN, ()))
    lines = []
    _forget_half_taken(study, run)
    for entry in run.search.file.sampler.warm_starts:
        if entry in done:
            continue
        kind, _, place = entry.partition(":")
        if kind == "published":
            enqueue_published(study, run.search)
        elif kind == "recipe":
            study.enqueue_trial(params_of_file(run.search, place), skip_if_exists=True)
        else:
            old = open_run(run.search, place)
            lines.append(take_over(study, run, old).line(old.name))
            log.info(lines[-1])
        done.append(entry)
        study.set_user_attr(BEGUN, done)
    return lines


# ---- recipes


def params_of_file(search: Search, place: str) -> dict[str, Any]:
    """The trial parameters of a recipe file.

    Raises:
        ConfigError: it cannot be read, or lies outside the space.
    """
    recipe, _ = load_recipe(search.root / Path(place).expanduser())
    example = search.example()
    sources = [example.base_model, *(expert.model for expert in example.models)]
    if [recipe.base_model, *(expert.model for expert in recipe.models)] != sources:
        raise ConfigError("its base_model and models are not this search's, in this order")

    def numbers(other: Recipe) -> str:
        return _same_models(other, recipe.dtype or example.dtype)

    params = search.space.params_of(recipe, numbers)
    if params is None:
        raise ConfigError("lies outside the space: widen the ranges, or make it a baseline")
    return params


def _same_models(recipe: Recipe, dtype: str | None) -> str:
    """The fingerprint of a recipe's numbers, whatever its models are called."""
    named = Recipe(**{**recipe.__dict__, "dtype": dtype})
    count = len(recipe.models) + (recipe.base_model is not None)
    return named.fingerprint([str(index) for index in range(count)])


def enqueue_published(study: optuna.Study, search: Search) -> None:
    """Put the published schedule, where it lies inside the space, before the sampler's proposals.

    What the space leaves open besides is the paper's too where that can be: the language expert's
    share of the weight, and densities that drop nothing.
    """
    inside = search.space.distributions()

    def fits(params: Mapping[str, float]) -> bool:
        return all(
            isinstance(d := inside.get(name), FloatDistribution)
            and d.low <= value <= d.high
            and (d.step is None or _whole((value - d.low) / d.step))
            for name, value in params.items()
        )

    ours, theirs = "reasoning.weight", "language.weight"
    shares = published.reasoning_share().plain(), published.language_share(1).plain()
    schedules = [
        tuple(
            {f"{weight}.{key}": value for key, value in share.items()}
            for weight, share in zip((ours, theirs), shares, strict=True)
        )
    ]
    anchors = list(enumerate(published.ANCHORS))
    if f"{ours}[{len(anchors)}]" not in inside:
        schedules.append(
            (
                {f"{ours}[{i}]": share for i, share in anchors},
                {f"{theirs}[{i}]": 1.0 - share for i, share in anchors},
            )
        )
    for own, others in schedules:
        if not fits(own):
            continue
        params = own | (others if fits(others) else {})
        if search.file.merge_method == "dare_linear":
            dropping = {f"{name}.density": 1.0 for name in ("language", "reasoning")}
            params |= {key: value for key, value in dropping.items() if fits({key: value})}
        study.enqueue_trial(params, skip_if_exists=True)


def _whole(number: float) -> bool:
    return math.isclose(number, round(number), abs_tol=1e-9)


# ---- earlier runs


def open_run(search: Search, place: str) -> Run:
    """The run that a warm start names; RunError if there is none."""
    return Run.open(search.root / Path(place).expanduser())


def _check_readable(search: Search, old: Run, *, results: bool) -> None:
    """Read all that `take_over` will: what it raised would leave a run half begun.

    Raises:
        RunError: no trial of it has begun, or a result of it is damaged.
        StorageError: its study cannot be opened.
    """
    trials = studies.scored(studies.open_study(old, create=False))
    if not results:
        return
    confirmed = [
        old.held_out("confirm", t.user_attrs[studies.FINGERPRINT]) for t in trials.values()
    ]
    asked = [*confirmed, *map(old.baseline, baselines(search))]
    for path in [*map(old.trial, trials), *filter(Path.is_file, asked)]:
        Result.load(path)


def take_over(study: optuna.Study, run: Run, old: Run) -> Taken:
    """Tell the study what an earlier run scored, as far as it holds here.

    Raises:
        RunError: a result of it is damaged.
        StorageError: its study cannot be opened.
    """
    earlier = studies.open_study(old, create=False)
    differs = _differs(run.search, old)
    if differs is None and list(old.manifest["roles"].values()) != list(
        run.manifest["roles"].values()
    ):
        differs = "its models are others"
    if differs is not None:
        return _try_front(study, run.search, earlier, old, differs)
    told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    known = {str(trial.user_attrs[studies.FINGERPRINT]) for trial in told}
    same_targets = _targets(run.search) == _targets(old.search)
    results = outside = estimates = 0
    for number, trial in studies.scored(earlier).items():
        fingerprint = trial.user_attrs[studies.FINGERPRINT]
        if fingerprint in known:
            continue
        recipe = studies.recipe_of(trial, old.search)
        params = None if recipe is None else _params_of(run, recipe, fingerprint)
        if params is None:
            outside += 1
            continue
        result = Result.load(old.trial(number))
        if result.stopped is not None and not same_targets:
            estimates += 1
            continue
        known.add(fingerprint)
        results += 1
        _add(study, run, result, params, f"trial {number} of run {old.name}")
    for label, recipe in baselines(run.search).items():
        fingerprint = run.fingerprint(recipe)
        known.add(fingerprint)
        if is_result_of(old.baseline(label), fingerprint):
            _copy(old.baseline(label), run.baseline(label), old.name)
    for fingerprint in known:
        _copy(old.held_out("confirm", fingerprint), run.held_out("confirm", fingerprint), old.name)
    return Taken(results, outside, estimates)


def _differs(search: Search, old: Run) -> str | None:
    """Why dev scores of `old` are none of this search's, as far as the files tell; or None."""
    ours, theirs = freeze(search), freeze(old.search)
    for key in ("splits", "engine"):
        if ours[key] != theirs[key]:
            return f"{key} is another"
    digests = item_digests(search)
    for name, task in search.file.tasks.items():
        if task.role == "report":
            continue
        if name not in theirs["tasks"]:
            return f"it has no task '{name}'"
        if ours["tasks"][name] != theirs["tasks"][name]:
            return f"its task '{name}' is another"
        own = {key: value for key, value in digests.items() if key.partition(".")[0] == name}
        held = old.manifest["items"]
        if own != {key: value for key, value in held.items() if key.partition(".")[0] == name}:
            return f"its task '{name}' has other items or scorers"
    return None


def _targets(search: Search) -> list[Any]:
    """What estimates are of: objectives and the scores that constraints bound."""
    found: list[Any] = [(o.name, o.parts, o.direction) for o in search.objectives]
    return [*found, *((c.key, c.parts) for c in search.constraints)]


def _params_of(run: Run, recipe: Recipe, fingerprint: str) -> dict[str, Any] | None:
    """The trial parameters of an earlier run's recipe: those that give the same merge here."""

    def name(other: Recipe) -> str:
        if other is recipe:
            return fingerprint
        return run.fingerprint(other.resolved(run.search.root))

    return run.search.space.params_of(recipe, name)


def _add(
    study: optuna.Study, run: Run, result: Result, params: Mapping[str, Any], origin: str
) -> None:
    """Add a trial with scores from elsewhere: its result file first, as for every trial."""
    search = run.search
    recipe = search.space.from_params(params)
    ours = result.taken_over(origin, recipe.resolved(search.root).plain())
    ours.save(run.trial(len(study.get_trials(deepcopy=False))))
    inside = search.space.distributions()
    text = json.dumps(recipe.plain(), ensure_ascii=False)
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.COMPLETE,
            values=values_of(ours, search),
            params=dict(params),
            distributions={name: inside[name] for name in params},
            user_attrs={
                studies.RECIPE: text,
                studies.ZONE: studies.zone(),
                **studies.attributes_of(ours, search),
            },
            constraints=violations_of(ours, search),
        )
    )


def _copy(source: Path, target: Path, run: str) -> None:
    """Take over the result of a baseline or a confirmation, where there is none yet."""
    if source.is_file() and not target.exists():
        Result.load(source).taken_over(f"run {run}").save(target)


def _forget_half_taken(study: optuna.Study, run: Run) -> None:
    """Remove the result of a trial that was to be added when the driver was killed."""
    number = len(study.get_trials(deepcopy=False))
    run.trial(number).unlink(missing_ok=True)


def _try_front(
    study: optuna.Study, search: Search, earlier: optuna.Study, old: Run, differs: str
) -> Taken:
    """Enqueue an earlier run's front: its recipes are good, though its scores are none of ours."""
    trials = studies.scored(earlier)
    tried = outside = 0
    for number in studies.current_front(earlier, old.search):
        params = _numbers_of(search, trials[number], old.search)
        if params is None:
            outside += 1
            continue
        study.enqueue_trial(params, skip_if_exists=True)
        tried += 1
    return Taken(outside=outside, tried=tried, differs=differs)


def _numbers_of(search: Search, trial: FrozenTrial, old: Search) -> dict[str, Any] | None:
    recipe = studies.recipe_of(trial, old)
    if recipe is None:
        return None
    dtype = search.example().dtype
    return search.space.params_of(recipe, lambda other: _same_models(other, dtype))
