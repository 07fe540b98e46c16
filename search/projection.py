"""What MLflow shows of a run, as data: made from the study and the result files alone.

The tracker writes it while the search goes on (`search.tracking`); `mergefront sync` compares it
with what a store holds and mends that (`search.sync`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import confirm as confirming
from search import study as studies
from search.account import Account
from search.config import Search
from search.errors import ExportError
from search.export import tested
from search.front import front as front_of
from search.front import hypervolume
from search.ledger import sessions
from search.names import to_mlflow
from search.plots import BASELINE_COLOR, FRONT_COLOR, TRIAL_COLOR
from search.results import Result, joint, reported
from search.run import Run

TRIAL = "mergefront.trial"
BASELINE = "mergefront.baseline"
COLOR = "mlflow.runColor"


@dataclass(frozen=True)
class Row:
    """One trial or baseline: a child run.

    Attributes:
        key: the tag that it is known by, and its value.
        name: for people.
        params, metrics, tags: as MLflow takes them.
        result: the file with its recipe and answers; None if there is none.
        failed: no worker could do it.
        times: when it began and ended, in milliseconds since the epoch.
    """

    key: tuple[str, str]
    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    result: Path | None
    failed: bool
    times: tuple[int, int]


@dataclass(frozen=True)
class Report:
    """What is said of the search as a whole, at its end.

    Attributes:
        files: artifacts.
        metrics: of the account, the test and the tasks that are only reported.
        fixed: names of those metrics that no later session changes.
        tags: of the search's own run.
    """

    files: Sequence[Path]
    metrics: Mapping[str, float]
    fixed: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


def rows(run: Run, study: optuna.Study) -> Iterator[Row]:
    """Every finished trial and scored baseline, as they are to be when all is written."""
    front = set(studies.current_front(study, run.search))
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state.is_finished():
            yield of_trial(run, frozen, on_front=frozen.number in front)
    for path in baseline_files(run):
        yield of_baseline(run, path)


def of_trial(run: Run, frozen: FrozenTrial, *, on_front: bool = False) -> Row:
    """A finished trial."""
    search = run.search
    path = run.trial(frozen.number)
    metrics: dict[str, float] = {"trial": float(frozen.number)}
    tags = {
        TRIAL: str(frozen.number),
        "state": frozen.state.name.lower(),
        **front_tags(on_front=on_front),
    }
    if frozen.state == TrialState.COMPLETE:
        metrics |= _scores(frozen, search)
        metrics["tokens"] = float(frozen.user_attrs["tokens"])
        for stage, spent in frozen.user_attrs["seconds"].items():
            metrics[f"seconds_{stage}"] = float(spent)
        for reason, share in frozen.user_attrs.get(studies.ENDED, {}).items():
            metrics[f"ended_{reason}"] = float(share)
        metrics |= _retained(frozen.user_attrs.get(studies.RETAINED, {}))
        for key in ("fault", studies.DUPLICATE_OF, studies.FINGERPRINT):
            if key in frozen.user_attrs:
                tags[key] = str(frozen.user_attrs[key])
        if (stopped := frozen.user_attrs.get(studies.PARTIAL)) is not None:
            tags[studies.PARTIAL] = stopped["reason"]
            metrics["items"] = float(stopped["items"])
    params = {to_mlflow(name): str(value) for name, value in frozen.params.items()}
    if "merge_method" not in params and (recipe := studies.recipe_of(frozen, search)) is not None:
        params["merge_method"] = recipe.merge_method
    return Row(
        key=(TRIAL, str(frozen.number)),
        name=f"trial {frozen.number}",
        params=params,
        metrics=metrics,
        tags=tags,
        result=path if path.is_file() else None,
        failed=frozen.state == TrialState.FAIL,
        times=(milliseconds(frozen.datetime_start), milliseconds(frozen.datetime_complete)),
    )


def front_tags(*, on_front: bool) -> dict[str, str]:
    """How a trial's run says whether it is on the front."""
    return {
        "front": "true" if on_front else "false",
        COLOR: FRONT_COLOR if on_front else TRIAL_COLOR,
    }


def baseline_files(run: Run) -> list[Path]:
    """Results of the baselines on the dev items."""
    folder = run.folder / "baselines"
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def of_baseline(run: Run, path: Path) -> Row:
    """A scored baseline.

    Raises:
        RunError: its result is damaged.
    """
    result = Result.load(path)
    metrics: dict[str, float] = {}
    for objective in run.search.objectives:
        estimate = result.estimate(objective)
        metrics[objective.name] = estimate.value
        metrics[f"{objective.name}_low"] = estimate.low
        metrics[f"{objective.name}_high"] = estimate.high
        metrics[f"{objective.name}_n"] = estimate.n
    metrics["tokens"] = float(result.tokens)
    for stage, spent in result.seconds.items():
        metrics[f"seconds_{stage}"] = float(spent)
    if (both := joint(result)) is not None:
        metrics["joint"] = both.value
    for reason in studies.CUT_SHORT:
        metrics[f"ended_{reason}"] = result.ended(reason)
    metrics |= _retained(result.retained)
    end = int(path.stat().st_mtime * 1000)
    labels = {run.baseline(label).stem: label for label in _labels(run)}
    return Row(
        key=(BASELINE, path.stem),
        name=labels.get(path.stem, path.stem),
        params={"merge_method": "baseline"},
        metrics=metrics,
        tags={BASELINE: path.stem, "front": "false", COLOR: BASELINE_COLOR},
        result=path,
        failed=False,
        times=(end - int(sum(result.seconds.values()) * 1000), end),
    )


def steps(
    run: Run, study: optuna.Study, there: set[int]
) -> Iterator[tuple[int, dict[str, float], int]]:
    """The search's own curves but for the steps `there`: step, metrics, time in milliseconds."""
    search = run.search
    trials = studies.scored(study)
    paid = studies.paid(trials)
    taken = {n: trial for n, trial in trials.items() if n not in paid}  # not paid for here
    order = sorted(paid, key=lambda number: milliseconds(trials[number].datetime_complete))
    for finished in range(1, len(order) + 1):
        if finished in there:
            continue
        points = studies.points(taken | {n: trials[n] for n in order[:finished]}, search)
        members = front_of(points)
        metrics = {
            "hypervolume": hypervolume([points[number] for number in members]),
            "front_size": float(len(members)),
            "trials": float(finished),
        }
        yield finished, metrics, milliseconds(trials[order[finished - 1]].datetime_complete)


def confirmed(run: Run) -> dict[int, dict[str, float]]:
    """Confirmed scores by trial number; none before the confirmation.

    Raises:
        RunError: their file is damaged.
    """
    if not run.confirmed.is_file():
        return {}
    return of_members(confirming.load(run)[0])


def of_members(members: Sequence[confirming.Member]) -> dict[int, dict[str, float]]:
    """Confirmed scores by trial number."""
    return {
        member.trial: {f"confirmed_{name}": e.value for name, e in member.confirmed.items()}
        for member in members
        if member.trial is not None
    }


def report(run: Run, study: optuna.Study) -> Report:
    """What is said of the search as a whole, as its folder stands now.

    Raises:
        RunError: a result is damaged.
    """
    names = ("front.html", "front.png", "recipe.yaml", run.confirmed.name, "confirmed.md")
    files = [run.folder / name for name in names if (run.folder / name).is_file()]
    metrics = Account.of(run, study, sessions(run)).metrics()
    if not run.confirmed.is_file():
        return Report(files, metrics)
    try:
        chosen = confirming.choose(run.search, confirming.load(run)[0])
    except ExportError:
        return Report(files, metrics)
    test = tested(run, chosen)
    if test is None:
        return Report(files, metrics)
    fixed = of_test(run.search, test)
    return Report(files, metrics | fixed, frozenset(fixed), {"exported": chosen.label})


def of_test(search: Search, test: Result) -> dict[str, float]:
    """What the exported recipe scored on the test items."""
    return {f"test_{o.name}": test.estimate(o).value for o in search.objectives} | {
        f"report/{name}/{to_mlflow(key)}": estimate.value
        for name, estimates in reported(search, test).items()
        for key, estimate in estimates.items()
    }


def milliseconds(moment: datetime | None) -> int:
    """Since the epoch; of now for None."""
    return int((time.time() if moment is None else moment.timestamp()) * 1000)


def _labels(run: Run) -> list[str]:
    """Every label that a baseline of the file may have."""
    experts = [f"expert:{name}" for name in run.search.space.names]
    return [*run.search.file.baselines, *experts]


def _scores(frozen: FrozenTrial, search: Search) -> dict[str, float]:
    """What a finished trial was told, with its intervals and the items that they are of."""
    # The values of a stopped trial are estimates of all items, not means of those it answered: the
    # interval and `joint` of the answered ones are none of theirs.
    partial = studies.PARTIAL in frozen.user_attrs
    metrics: dict[str, float] = {}
    for objective, value in zip(search.objectives, frozen.values, strict=True):
        low, high, n = frozen.user_attrs["intervals"][objective.name]
        metrics |= {objective.name: value, f"{objective.name}_n": float(n)}
        if not partial:
            metrics |= {f"{objective.name}_low": low, f"{objective.name}_high": high}
    if "joint" in frozen.user_attrs and not partial:
        metrics["joint"] = float(frozen.user_attrs["joint"])
    return metrics


def _retained(shares: Mapping[str, float]) -> dict[str, float]:
    return {f"retained/{to_mlflow(name)}": float(share) for name, share in shares.items()}
