"""All of a run that pages show, read once: figures, the report and MLflow draw from it.

It is made from the study's attributes and the few results of baselines and held-out items, not from
a thousand result files. It needs neither workers nor MLflow nor the driver's lock, and a search may
go on meanwhile: it is then what stood when it was read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from merge_core import Checkpoint
from merge_core.errors import MergeError
from search import confirm as confirming
from search import study as studies
from search.account import HELD_OUT, Account
from search.config import Search
from search.confirm import Member
from search.errors import ExportError, RunError
from search.export import tested
from search.front import front as front_of
from search.front import hypervolume
from search.importance import FEWEST, Importance, of_trials
from search.ledger import Session, sessions
from search.progress import Progress
from search.results import Result, joint
from search.run import Run

State = Literal[
    "full", "partial", "fault", "failed", "never begun", "duplicate", "taken", "running"
]
"""Scored on all dev items; stopped by a race; its merge is broken; no worker could do it; killed
with its driver before it began; a recipe that was there before; told with scores from elsewhere;
not done yet."""

Interval = tuple[float, float, int]
"""Low, high, and the number of items."""

_ASKED = 500  # newest incidents that are looked through
_LATE = 2.0  # seconds: sessions begin in whole ones, and what ended is told a little later


@dataclass(frozen=True)
class TrialView:
    """One trial.

    Attributes:
        number: the study's.
        state: what became of it.
        values: of the objectives, in their order; () where it has none. Of a partial trial
            estimates, of a fault the reference point.
        intervals: 95% intervals of `values` by objective, each on its own; none for estimates.
        params: the study's parameters.
        recipe: its YAML data, with places as the file names them; None if none was dispatched.
        fingerprint: of the recipe; "" if it is not known.
        began: when its worker began, as far as its seconds tell; else when it was asked for.
        ended: when it was told; None while it runs. Both in seconds since the epoch.
        worker: who did it; "" if that is not known, or nobody had to.
        tokens: generated.
        seconds: of its worker, by stage: "load" (merging) and "generate".
        retained: share of each expert's differences that is in the merge; {} if not counted.
        joint: share of answers that are right and in the language; None if not told.
        why: the fault, why it was stopped or failed, whose duplicate or scores it is; "" else.
        items: dev items that were asked, of all; None where that is not told (all, or none).
        violations: by constraint, at most 0 where it holds.
        feasible: it holds all constraints by its point estimates, and is no fault.
        on_front: of the search, by its claimed scores.
    """

    number: int
    state: State
    values: tuple[float, ...]
    intervals: Mapping[str, Interval]
    params: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    fingerprint: str
    began: float
    ended: float | None
    worker: str
    tokens: int
    seconds: Mapping[str, float]
    retained: Mapping[str, float]
    joint: float | None
    why: str
    items: tuple[int, int] | None
    violations: Mapping[str, float]
    feasible: bool
    on_front: bool

    @property
    def scored(self) -> bool:
        """Whether it has scores of its own, be they estimates; neither faults nor duplicates do."""
        return self.state in ("full", "partial", "taken")


@dataclass(frozen=True)
class BaselineView:
    """One baseline on the dev items; its attributes are those of a trial.

    Of a broken one `values` are the reference point: it has no scores.
    """

    label: str
    values: tuple[float, ...]
    intervals: Mapping[str, Interval]
    recipe: Mapping[str, Any]
    fingerprint: str
    began: float
    ended: float
    worker: str
    tokens: int
    seconds: Mapping[str, float]
    retained: Mapping[str, float]
    joint: float | None
    why: str
    feasible: bool

    @property
    def broken(self) -> bool:
        """Whether its merge could not be scored."""
        return any(n == 0 for _, _, n in self.intervals.values())


@dataclass(frozen=True)
class Step:
    """The search after one more finished trial.

    Attributes:
        finished: trials that count against the budget.
        at: when the last of them was told, in seconds since the epoch.
        volume: hypervolume of the front, in gains over the objectives' references.
        size: members of the front.
    """

    finished: int
    at: float
    volume: float
    size: int


@dataclass(frozen=True)
class Work:
    """What one worker did with one merge.

    Attributes:
        what: "trial 7", "baseline uniform", "trial 7 on confirm items".
        worker: who did it.
        began, merged, ended: when, in seconds since the epoch; what comes after the merge is
            generating and scoring.
    """

    what: str
    worker: str
    began: float
    merged: float
    ended: float

    @classmethod
    def of(cls, what: str, worker: str, ended: float, seconds: Mapping[str, float]) -> Work:
        """What took so many `seconds`, by stage, until `ended`."""
        began = ended - sum(seconds.values())
        return cls(what, worker, began, began + seconds.get("load", 0.0), ended)


@dataclass(frozen=True)
class RunView:
    """A run as it stood when it was read.

    Attributes:
        run: the folder.
        search: its search.
        trials: by number; those that were only queued are not among them.
        baselines: on the dev items, by label, in the file's order.
        front: trial numbers on the front by claimed scores, best first objective first.
        members: confirmed trials and baselines; [] before the confirmation.
        chosen: the member that is exported; None if nothing is.
        problem: why nothing is exported though members are confirmed; "" else.
        test: what the exported one scored on the test items.
        account: what the run spent.
        sessions: when workers were held.
        incidents: the newest faults, oldest first: at, kind, where, message.
    """

    run: Run
    search: Search
    trials: Mapping[int, TrialView]
    baselines: Mapping[str, BaselineView]
    front: list[int]
    members: list[Member]
    chosen: Member | None
    problem: str
    test: Result | None
    account: Account
    sessions: list[Session]
    incidents: list[dict[str, str]] = field(default_factory=list)
    _frozen: Mapping[int, FrozenTrial] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run, study: optuna.Study, held: Sequence[Session] | None = None) -> RunView:
        """The run as its folder and study stand now.

        Args:
            run: the folder.
            study: opened to look at (`open_study(run, create=False)`), or the driver's own.
            held: its sessions, by who knows them better than their file.

        Raises:
            RunError: a result, the confirmed front or the sessions are damaged.
            StorageError: the study cannot be read.
        """
        search = run.search
        frozen = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
        scored = studies.scored_of(frozen)
        front = front_of(studies.points(scored, search))
        incidents = run.incidents.recent(_ASKED)
        members = confirming.load(run)[0] if run.confirmed.is_file() else []
        chosen, problem = None, ""
        if members:
            try:
                chosen = confirming.choose(search, members)
            except ExportError as error:
                problem = str(error)
        held = sessions(run) if held is None else held
        trials = {}
        for told in frozen:
            try:
                trials[told.number] = _trial(told, search, front, incidents)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                where = f"{run.folder}: trial {told.number} of the study is damaged"
                raise RunError(
                    f"{where} ({type(error).__name__}); put it back from a copy"
                ) from error
        lost = [m.label for m in members if m.trial is not None and m.trial not in trials]
        if lost:
            raise RunError(
                f"{run.confirmed}: {lost[0]} is not in the study; put it back from a copy"
            )
        return cls(
            run=run,
            search=search,
            trials=trials,
            baselines={
                label: _baseline(search, label, path) for label, path in baseline_files(run).items()
            },
            front=front,
            members=members,
            chosen=chosen,
            problem=problem,
            test=None if chosen is None else tested(run, chosen),
            account=Account.of(run, study, held),
            sessions=list(held),
            incidents=incidents,
            _frozen=scored,
        )

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def scored(self) -> dict[int, TrialView]:
        """The trials with scores of their own, by number."""
        return {number: trial for number, trial in self.trials.items() if trial.scored}

    @property
    def missed(self) -> dict[str, int]:
        """How many trials with scores miss each constraint, by the constraint in words."""
        return {
            str(bound): sum(t.violations.get(bound.key, 0.0) > 0.0 for t in self.scored.values())
            for bound in self.search.constraints
        }

    @property
    def able(self) -> dict[str, BaselineView]:
        """The baselines with scores of their own, by label: those that are not broken."""
        return {label: held for label, held in self.baselines.items() if not held.broken}

    @cached_property
    def volume(self) -> float:
        """Hypervolume of the front, in gains over the objectives' references."""
        told = studies.points(self._frozen, self.search)
        return hypervolume([told[number] for number in self.front])

    @cached_property
    def steps(self) -> list[Step]:
        """How the search went, a step a finished trial.

        With four objectives and more, each volume of a large front takes a while.
        """
        return _steps(self._frozen.values(), self.search)

    @cached_property
    def importances(self) -> list[Importance]:
        """Of the parameters, most important for the front first; [] of too few trials."""
        return of_trials(self._frozen, self.search) if len(self._frozen) >= FEWEST else []

    @cached_property
    def layers(self) -> int | None:
        """Layers of the models; None if the run does not tell (older ones do not), and none of the
        models is in a folder of this disk any more.
        """
        if (told := self.run.layers) is not None:
            return told
        for reference in self.run.digests:
            if Path(reference).is_dir():
                try:
                    return Checkpoint.open(reference).layers
                except MergeError:
                    continue  # an adapter, or damaged since
        return None

    @cached_property
    def work(self) -> list[Work]:
        """All that workers did, as far as it is known who did it.

        Raises:
            RunError: a result on held-out items is damaged.
        """
        done = [
            Work.of(f"trial {trial.number}", trial.worker, trial.ended, trial.seconds)
            for trial in self.trials.values()
            if trial.ended is not None and trial.seconds
        ]
        done += [
            Work.of(f"baseline {baseline.label}", baseline.worker, baseline.ended, baseline.seconds)
            for baseline in self.baselines.values()
        ]
        labels = {member.fingerprint: member.label for member in self.members}
        for split in HELD_OUT:
            for path in sorted((self.run.folder / split).glob("*.json")):
                result = Result.load(path)
                what = f"{labels.get(result.fingerprint, 'a merge')} on {split} items"
                done.append(Work.of(what, result.worker, path.stat().st_mtime, result.seconds))
        return [work for work in done if work.worker]

    @cached_property
    def clock(self) -> Clock:
        """Tells times of this run in hours that workers were held."""
        return Clock.of(self.sessions)


@dataclass(frozen=True)
class Clock:
    """Wall time without the gaps between sessions.

    Attributes:
        spans: of each session: when it began and ended, in seconds since the epoch.
        before: hours of the sessions before each.
    """

    spans: Sequence[tuple[float, float]]
    before: Sequence[float]

    @classmethod
    def of(cls, held: Sequence[Session]) -> Clock:
        """That of some sessions, oldest first."""
        begins = [datetime.fromisoformat(session.began).timestamp() for session in held]
        # A session's beginning is kept in whole seconds, its end is not kept.
        spans = [(at, at + session.seconds) for at, session in zip(begins, held, strict=True)]
        lengths = [session.seconds / 3600.0 for session in held]
        return cls(spans, list(accumulate(lengths, initial=0.0))[:-1])

    def hours(self, at: float) -> float | None:
        """Hours of sessions until `at`; None in no session."""
        for (began, ended), before in zip(self.spans, self.before, strict=True):
            if began - _LATE <= at <= ended + _LATE:
                return before + min(max(0.0, at - began), ended - began) / 3600.0
        return None


def baseline_labels(run: Run) -> dict[str, str]:
    """Every label that a baseline of the file may have, by the stem of its result file."""
    experts = [f"expert:{name}" for name in run.search.space.names]
    labels = [*run.search.file.baselines, *experts]
    return {run.baseline(label).stem: label for label in labels}


def _steps(scored: Iterable[FrozenTrial], search: Search) -> list[Step]:
    """How the front grew; what was taken over is there from the beginning."""
    progress, steps = Progress(search), []
    told = sorted(scored, key=lambda t: (studies.counts(t), studies.ended(t) or 0.0, t.number))
    for trial in told:
        before = progress.finished
        progress.add(trial)
        if progress.finished > before:
            at = studies.ended(trial) or 0.0
            steps.append(Step(progress.finished, at, progress.volume, len(progress.front)))
    return steps


def _trial(
    frozen: FrozenTrial,
    search: Search,
    front: Sequence[int],
    incidents: Sequence[Mapping[str, str]],
) -> TrialView:
    given = frozen.user_attrs
    state = _state(frozen)
    values = tuple(frozen.values or ()) if frozen.state == TrialState.COMPLETE else ()
    partial = given.get(studies.PARTIAL)
    idle = state in ("duplicate", "taken")  # nobody worked for it
    seconds = {} if idle else {k: float(v) for k, v in given.get("seconds", {}).items()}
    asked, ended = studies.began(frozen) or 0.0, studies.ended(frozen)
    began = asked if ended is None or not seconds else max(asked, ended - sum(seconds.values()))
    recipe = given.get(studies.RECIPE)
    return TrialView(
        number=frozen.number,
        state=state,
        values=values,
        # Those of a stopped trial are of the items that it answered, its values of all items.
        intervals={}
        if partial
        else {name: (row[0], row[1], row[2]) for name, row in given.get("intervals", {}).items()},
        params=frozen.params,
        recipe=None if recipe is None else json.loads(recipe),
        fingerprint=str(given.get(studies.FINGERPRINT, "")),
        began=began,
        ended=ended,
        worker="" if idle else str(given.get(studies.WORKER, "")),
        tokens=int(given.get("tokens", 0)),
        seconds=seconds,
        retained=given.get(studies.RETAINED, {}),
        joint=None if partial else given.get("joint"),
        why=_why(frozen, state, incidents),
        items=None if partial is None else (int(partial["items"]), int(partial["of"])),
        violations=frozen.constraints if values else {},
        feasible=bool(values) and studies.feasible(frozen),
        on_front=frozen.number in front,
    )


def _state(frozen: FrozenTrial) -> State:
    given = frozen.user_attrs
    if frozen.state == TrialState.RUNNING:
        return "running"
    if frozen.state != TrialState.COMPLETE:
        return "failed" if studies.failed(frozen) else "never begun"
    if studies.DUPLICATE_OF in given:
        return "duplicate"
    if "fault" in given:
        return "fault"
    if studies.PARTIAL in given:
        return "partial"
    return "taken" if studies.ORIGIN in given else "full"


def _why(frozen: FrozenTrial, state: State, incidents: Sequence[Mapping[str, str]]) -> str:
    given = frozen.user_attrs
    if state == "duplicate":
        return f"the same merge as trial {given[studies.DUPLICATE_OF]}"
    if state == "fault":
        return str(given["fault"])
    if state == "partial":
        return str(given[studies.PARTIAL]["reason"])
    if state == "taken":
        return f"scores of {given[studies.ORIGIN]}"
    if state == "failed":
        mine = f"trial {frozen.number} on "
        met = [row["message"] for row in incidents if row.get("where", "").startswith(mine)]
        return met[-1] if met else ""
    return ""


def baseline_files(run: Run) -> dict[str, Path]:
    """Results on the dev items by label: the file's order, then what an earlier one named."""
    labels = baseline_labels(run)
    places = list(labels)
    files = {path.stem: path for path in sorted((run.folder / "baselines").glob("*.json"))}
    stems = sorted(files, key=lambda s: places.index(s) if s in labels else len(places))
    return {labels.get(stem, stem): files[stem] for stem in stems}


def _baseline(search: Search, label: str, path: Path) -> BaselineView:
    result = Result.load(path)
    estimates = {o.name: result.estimate(o) for o in search.objectives}
    both = joint(result)
    ended = path.stat().st_mtime
    return BaselineView(
        label=label,
        values=tuple(estimate.value for estimate in estimates.values()),
        intervals={name: (e.low, e.high, e.n) for name, e in estimates.items()},
        recipe=result.recipe,
        fingerprint=result.fingerprint,
        began=ended - sum(result.seconds.values()),
        ended=ended,
        worker=result.worker,
        tokens=result.tokens,
        seconds=result.seconds,
        retained=result.retained,
        joint=None if both is None else both.value,
        why=result.fault or result.origin,
        feasible=all(result.holds(c, confirmed=False) for c in search.constraints)
        and result.fault is None,
    )
