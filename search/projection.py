"""What MLflow shows of a run, as data: made from the study and the run's files alone.

The tracker writes it while the search goes on (`search.tracking`); `mergefront sync` compares it
with what a store holds and mends that (`search.sync`).
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_core.card import md
from objectives import Estimate
from search import confirm as confirming
from search import study as studies
from search.config import Search
from search.figures.chart import BLUE, GREY, ORANGE
from search.item_pages import nearest_baseline
from search.ledger import Session, sessions
from search.mlflow_note import note_of
from search.names import to_mlflow
from search.progress import Progress
from search.results import Result, joint, reported
from search.run import Run
from search.status import State, ended
from search.view import RunView, baseline_files, baseline_labels

TRIAL = "mergefront.trial"
BASELINE = "mergefront.baseline"
COLOR = "mlflow.runColor"
ROLE = "role"
"""Tag of every run: baseline, front, search or trial. In this order the saved views list them."""
BESIDE = "beside"
"""Tag of a trial's run: the baseline that its answers are compared with."""
SEARCH_COLOR = "#57606a"
COST, FAILURES = "cost", "failures"
EXPORTED = "exported"
"""Tag of the search's own run: the member that is exported."""
End = tuple[State, str]
"""How a session ended, as `search.status` says it: in a word, and why."""
_STATUS = {"finished": "FINISHED", "stopped": "KILLED"}
"""MLflow's status of the search's own run by how its last session ended; of the others, FAILED."""
_FILES = (
    *("report.html", "front.html", "front.png", "plots.html", "recipe.yaml"),
    *("confirmed.json", "confirmed.md"),
)
_UNDONE = {
    "FINISHED": "",
    "FAILED": "No worker could do it: see `run.log`.",
    "KILLED": "Never begun, and cost nothing: its driver was killed as it was asked for, or it is "
    "the same merge as one that failed.",
}
"""What is told of a trial without scores, by its status."""
Nearby = Mapping[str, tuple[Sequence[float], Path]]
"""Baselines by label: their values of the objectives, and the files with their answers."""


@dataclass(frozen=True)
class Row:
    """One trial or baseline: a child run.

    Attributes:
        key: the tag that it is known by, and its value.
        name: for people.
        params, metrics, tags: as MLflow takes them.
        result: the file with its recipe and answers; None if there is none.
        beside: label and file of the baseline that its answers are compared with; None without.
        status: MLflow's: FAILED if no worker could do it, KILLED if it was never begun.
        times: when it began and ended, in milliseconds since the epoch.
    """

    key: tuple[str, str]
    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    result: Path | None
    times: tuple[int, int]
    status: str = "FINISHED"
    beside: tuple[str, Path] | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What is said of the search as a whole, at its end.

    Attributes:
        files: artifacts.
        metrics: of the account, the test and the tasks that are only reported.
        status: MLflow's, of the search's own run.
        note: its description, as Markdown.
        fixed: names of those metrics that no later session changes.
        tags: of the search's own run.
        chosen: the member that is exported; None if nothing is.
    """

    files: Sequence[Path]
    metrics: Mapping[str, float]
    status: str
    note: str
    fixed: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)
    chosen: confirming.Member | None = None


def rows(run: Run, study: optuna.Study) -> Iterator[Row]:
    """Every finished trial and scored baseline, as they are to be when all is written."""
    front = set(studies.current_front(study, run.search))
    near = nearby(run)
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state.is_finished():
            yield of_trial(run, frozen, near, on_front=frozen.number in front)
    for path in baseline_files(run).values():
        yield of_baseline(run, path)


def of_trial(run: Run, frozen: FrozenTrial, near: Nearby, *, on_front: bool = False) -> Row:
    """A finished trial.

    Args:
        run: whose.
        frozen: the trial.
        near: the baselines that are scored by now: `nearby`.
        on_front: whether it is on the front.
    """
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
    beside = _beside(frozen, near) if path.is_file() else None
    return Row(
        key=(TRIAL, str(frozen.number)),
        name=f"trial {frozen.number}",
        params=params,
        metrics=metrics,
        tags=tags | ({BESIDE: beside[0]} if beside is not None else {}),
        result=path if path.is_file() else None,
        status=_status(frozen),
        times=(_milliseconds(studies.began(frozen)), _milliseconds(studies.ended(frozen))),
        beside=beside,
        note=_told(search, metrics, tags, beside) or _UNDONE[_status(frozen)],
    )


def _status(trial: FrozenTrial) -> str:
    """MLflow's status of a finished trial's run."""
    if trial.state != TrialState.FAIL:
        return "FINISHED"
    return "FAILED" if studies.failed(trial) else "KILLED"


def _told(
    search: Search,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    beside: tuple[str, Path] | None = None,
) -> str:
    """What a trial or baseline scored, and what became of it, as Markdown."""
    lines = []
    for objective in search.objectives:
        if (value := metrics.get(objective.name)) is not None:
            low, high = (metrics.get(f"{objective.name}_{end}") for end in ("low", "high"))
            sure = "estimated" if low is None else f"[{low:.3f}, {high:.3f}]"
            n = metrics[f"{objective.name}_n"]
            lines.append(f"- {objective.name} **{value:.3f}** {sure} on {n:.0f} items")
    told = {"fault": "broken", studies.PARTIAL: "stopped early", studies.DUPLICATE_OF: "as trial"}
    lines += [f"- {what}: {md(tags[key])}" for key, what in told.items() if key in tags]
    if beside is not None:
        lines.append(f"- `beside_baseline.json`: what changed against {md(beside[0])}")
    return "\n".join(lines)


def nearby(run: Run) -> Nearby:
    """The baselines that are scored by now; none whose merge is broken.

    Raises:
        RunError: a result is damaged.
    """
    found = {}
    for label, path in baseline_files(run).items():
        result = Result.load(path)
        if result.fault is not None:
            continue
        values = [result.estimate(objective).value for objective in run.search.objectives]
        found[label] = (values, path)
    return found


def _beside(frozen: FrozenTrial, near: Nearby) -> tuple[str, Path] | None:
    """The baseline whose answers a trial's are compared with; none for what has no answers."""
    if frozen.state != TrialState.COMPLETE or "fault" in frozen.user_attrs:
        return None
    label = nearest_baseline(frozen.values, {name: values for name, (values, _) in near.items()})
    return None if label is None else (label, near[label][1])


def front_tags(*, on_front: bool) -> dict[str, str]:
    """How a trial's run says whether it is on the front."""
    return {
        "front": "true" if on_front else "false",
        ROLE: "front" if on_front else "trial",
        COLOR: BLUE if on_front else GREY,
    }


def of_baseline(run: Run, path: Path) -> Row:
    """A scored baseline.

    Raises:
        RunError: its result is damaged.
    """
    result = Result.load(path)
    metrics: dict[str, float] = {}
    tags = {BASELINE: path.stem, "front": "false", ROLE: "baseline", COLOR: ORANGE}
    if result.fault is not None:  # its scores are the reference, for the sampler's sake
        tags["fault"] = result.fault
    for objective in run.search.objectives if result.fault is None else ():
        metrics |= _estimated(objective.name, result.estimate(objective))
    metrics["tokens"] = float(result.tokens)
    for stage, spent in result.seconds.items():
        metrics[f"seconds_{stage}"] = float(spent)
    if (both := joint(result)) is not None:
        metrics.setdefault("joint", both.value)  # which an objective may be called, too
    for reason in studies.CUT_SHORT:
        metrics[f"ended_{reason}"] = result.ended(reason)
    metrics |= _retained(result.retained)
    end = int(path.stat().st_mtime * 1000)
    return Row(
        key=(BASELINE, path.stem),
        name=baseline_labels(run).get(path.stem, path.stem),
        params={"merge_method": "baseline"},
        metrics=metrics,
        tags=tags,
        result=path,
        note=_told(run.search, metrics, tags),
        times=(end - int(sum(result.seconds.values()) * 1000), end),
    )


def steps(
    run: Run, study: optuna.Study, there: set[int]
) -> Iterator[tuple[int, dict[str, float], int]]:
    """The search's own curves but for the steps `there`: step, metrics, time in milliseconds.

    A step is a finished trial that counts against the budget. Failures are trials that no worker
    could do, and merges that are broken; the cost is that of the sessions until then.
    """
    trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
    lost = sorted(_milliseconds(studies.ended(t)) for t in trials if _failure(t))
    # What was taken over is there from the beginning.
    trials.sort(key=lambda t: (studies.counts(t), _milliseconds(studies.ended(t)), t.number))
    progress, tokens = Progress(run.search), 0
    price, held = run.search.file.budget.gpu_hour_price, sessions(run)
    for trial in trials:
        before = progress.finished
        progress.add(trial)
        if progress.finished == before:
            continue
        tokens += int(trial.user_attrs["tokens"])
        if progress.finished in there:
            continue
        at = _milliseconds(studies.ended(trial))
        metrics = {
            "hypervolume": progress.volume,
            "front_size": float(len(progress.front)),
            "trials": float(progress.finished),
            "tokens": float(tokens),
            FAILURES: float(bisect_right(lost, at)),
        }
        if price is not None:
            metrics[COST] = price * sum(_hours_until(session, at) for session in held)
        yield progress.finished, metrics, at


def _failure(trial: FrozenTrial) -> bool:
    """Whether no worker could do a trial, or its merge is broken."""
    broken = "fault" in trial.user_attrs and studies.DUPLICATE_OF not in trial.user_attrs
    return broken or studies.failed(trial)


def _hours_until(session: Session, at: int) -> float:
    """What a session had held by `at`, in the hours that are paid for."""
    began = datetime.fromisoformat(session.began).timestamp()
    share = (at / 1000.0 - began) / session.seconds if session.seconds else 1.0
    return session.priced_hours * min(1.0, max(0.0, share))


def confirmed(run: Run) -> dict[tuple[str, str], dict[str, float]]:
    """Confirmed scores of trials and baselines, by the key of their rows; {} before they are.

    Their intervals hold all at once, with 95%.

    Raises:
        RunError: their file is damaged.
    """
    members = confirming.load(run)[0] if run.confirmed.is_file() else []
    found = {}
    for member in members:
        metrics: dict[str, float] = {}
        told = ({"joint": member.joint} if member.joint is not None else {}) | dict(
            member.confirmed
        )
        for name, estimate in told.items():
            metrics |= _estimated(f"confirmed_{name}", estimate)
        trial = member.trial
        key = (BASELINE, run.baseline(member.label).stem) if trial is None else (TRIAL, str(trial))
        found[key] = metrics
    return found


def report(run: Run, study: optuna.Study, experiment: str, end: End | None = None) -> Report:
    """What is said of the search as a whole, as its folder stands now.

    Args:
        run: the folder.
        study: its study.
        experiment: its id in MLflow.
        end: how its last session ended; default what the folder says.

    Raises:
        RunError: a result is damaged.
    """
    view = RunView.of(run, study)
    state, why = end or ended(run)
    # A name that begins with a dot is of a picture that a killed driver left half-written.
    plots = sorted((run.folder / "plots").glob("[!.]*.png"))
    files = [run.folder / name for name in _FILES if (run.folder / name).is_file()] + plots
    metrics = view.account.metrics() | {FAILURES: failures(study)}
    told = Report(
        files, metrics, _STATUS.get(state, "FAILED"), note_of(view, experiment, state, why)
    )
    if view.chosen is None or view.test is None:
        return told
    fixed = of_test(run.search, view.test)
    return replace(
        told,
        metrics=metrics | fixed,
        fixed=frozenset(fixed),
        tags={EXPORTED: view.chosen.label},
        chosen=view.chosen,
    )


def failures(study: optuna.Study) -> float:
    """Trials that no worker could do, and merges that are broken."""
    return float(sum(_failure(t) for t in study.get_trials(deepcopy=False)))


def of_test(search: Search, test: Result) -> dict[str, float]:
    """What the exported recipe scored on the test items."""
    return {f"test_{o.name}": test.estimate(o).value for o in search.objectives} | {
        f"report/{name}/{to_mlflow(key)}": estimate.value
        for name, estimates in reported(search, test).items()
        for key, estimate in estimates.items()
    }


def _milliseconds(moment: float | None) -> int:
    """Since the epoch; of now for None."""
    return int((time.time() if moment is None else moment) * 1000)


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
        metrics.setdefault("joint", float(frozen.user_attrs["joint"]))
    return metrics


def _estimated(name: str, estimate: Estimate) -> dict[str, float]:
    """A score with its interval and the items that it is of."""
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_n": float(estimate.n),
    }


def _retained(shares: Mapping[str, float]) -> dict[str, float]:
    return {f"retained/{to_mlflow(name)}": float(share) for name, share in shares.items()}
