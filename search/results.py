"""What a worker gives back for one recipe on one split, and what follows from its items.

Scores are stored per item: paired comparisons, confirmation and audits need them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from merge_core.yaml_io import write_atomic
from objectives import Estimate, ItemScore, SampleScore, aggregate
from objectives.engines.base import FinishReason
from objectives.scorers.base import Measure
from objectives.statistics import Side, mean_of
from objectives.task import JOINT, Split
from search.config import Constraint, Objective, Search, measures_of
from search.errors import RunError


@dataclass(frozen=True)
class Stopped:
    """Why a race stopped a trial, and what the trial is told with (`search.racing`).

    Attributes:
        reason: what it is behind, or misses.
        objectives, constraints: estimates of the full scores by name.
        asked: dev items that were answered by then.
        of: all dev items.
        audited: whether it went on unseen: all items are there, and the estimates are told.
        expected: by the same names, mean and standard deviation of what the full scores would be.
            The estimates are the means, or lower where no sampler shall take one for a part of
            the front.
    """

    reason: str
    objectives: Mapping[str, float]
    constraints: Mapping[str, float]
    asked: int = 0
    of: int = 0
    audited: bool = False
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One merge, scored.

    Attributes:
        recipe: its YAML data.
        fingerprint: of the recipe's numbers and its sources' contents.
        split: which items were asked.
        items: per task, in item order; empty for a fault.
        seconds: wall time by stage: "load" (merge into the live model) and "generate".
        fault: why the merge cannot be scored (its own fault), or None.
        worker: which worker did it.
        retained: share of each expert's differences that is in the merge, by name; {} if it was
            not counted.
        notes: what went wrong on the worker and stops nothing, for the log.
        stopped: by a race; `items` are then those that were answered. None: all were asked.
        origin: whose scores these are, taken over instead of paid for again: "baseline uniform",
            "trial 7 of run thai"; "" if they were scored for this.
    """

    recipe: Mapping[str, Any]
    fingerprint: str
    split: Split
    items: Mapping[str, Sequence[ItemScore]]
    seconds: Mapping[str, float] = field(default_factory=dict)
    fault: str | None = None
    worker: str = ""
    retained: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    stopped: Stopped | None = None
    origin: str = ""

    @property
    def tokens(self) -> int:
        """Generated tokens; 0 if the scores were taken over."""
        if self.origin:
            return 0
        return sum(item.tokens for items in self.items.values() for item in items)

    def ended(self, reason: FinishReason) -> float:
        """Share of all answers that ended so, in [0, 1]: cut at the limit, or for a loop.

        Items that are scored without an answer have no tokens, and do not count.
        """
        answers = [
            answer.finish_reason
            for items in self.items.values()
            for item in items
            for answer in item.answers
            if answer.tokens
        ]
        return sum(given == reason for given in answers) / len(answers) if answers else 0.0

    def taken_over(self, origin: str, recipe: Mapping[str, Any] | None = None) -> Result:
        """The same scores for another use: no time and no tokens were spent on them.

        Args:
            origin: whose they are.
            recipe: how the same merge is spelled there.
        """
        spelled = self.recipe if recipe is None else recipe
        return replace(self, recipe=spelled, origin=self.origin or origin, seconds={}, notes=())

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_atomic(path, json.dumps(asdict(self), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` wrote.

        Raises:
            RunError: it is missing, or damaged.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            items = {task: [item_of(row) for row in rows] for task, rows in data["items"].items()}
            stopped = _stopped(data["stopped"]) if data.get("stopped") else None
            notes = tuple(data.get("notes", ()))
            return cls(**{**data, "items": items, "notes": notes, "stopped": stopped})
        except FileNotFoundError:
            raise RunError(f"{path}: is missing; put it back from a copy") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path}: is damaged ({type(error).__name__}); put it back from a copy"
            ) from error

    def estimate(
        self, target: Objective | Constraint, level: float = 0.95, *, exact: bool = False
    ) -> Estimate:
        """Mean and two-sided interval of an objective or a constraint's score.

        A fault scores as bad as possible, without uncertainty. The mean over several tasks has
        equal task weights; its interval combines the tasks' own by MOVER (Zou & Donner 2008).
        """
        if self.fault is not None:
            worst = target.reference if isinstance(target, Objective) else target.worst
            return Estimate(worst, worst, worst, 0)
        return mean_of(self._parts(target, level, "both", exact=exact))

    def holds(self, constraint: Constraint, *, confirmed: bool) -> bool:
        """Whether the constraint holds: by its point estimate, or by a one-sided 95% bound."""
        if self.fault is not None:
            return False
        if not confirmed:
            return constraint.violation(self.estimate(constraint).value) <= 0
        side: Side = "lower" if constraint.at_least else "upper"
        bounded = mean_of(self._parts(constraint, 0.95, side, exact=True))
        return constraint.violation(bounded.low if constraint.at_least else bounded.high) <= 0

    def _parts(
        self, target: Objective | Constraint, level: float, side: Side, *, exact: bool
    ) -> list[Estimate]:
        return [
            aggregate(self.items[task], key, measure, level, side, exact=exact)
            for (task, key), measure in target.measured.items()
        ]


def finite(data: Any) -> Any:
    """JSON data with null for what JSON has no number for: bounds of unbounded scores."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_estimate(data: Mapping[str, Any]) -> Estimate:
    """An estimate that was written with `finite`."""
    low, high = data["low"], data["high"]
    return Estimate(
        float(data["value"]),
        -math.inf if low is None else low,
        math.inf if high is None else high,
        data["n"],
    )


def is_result_of(path: Path, fingerprint: str) -> bool:
    """Whether `path` holds the result of the merge with this fingerprint."""
    return path.is_file() and Result.load(path).fingerprint == fingerprint


def common(
    items: Sequence[ItemScore], others: Sequence[ItemScore]
) -> list[tuple[ItemScore, ItemScore]]:
    """The items of a task that two results both have, in the first one's order."""
    theirs = {other.id: other for other in others}
    return [(item, theirs[item.id]) for item in items if item.id in theirs]


def reported(search: Search, test: Result) -> dict[str, dict[str, Estimate]]:
    """What the exported recipe scored on the tasks that are reported only, by task and score."""
    return {
        name: {
            key: aggregate(items, key, measure)
            for key, measure in measures_of(task).items()
            if any(key in item.scores for item in items)
        }
        for name, task in search.file.tasks.items()
        if task.role == "report" and (items := test.items.get(name))
    }


def values_of(result: Result, search: Search) -> list[float]:
    """What Optuna is told: one value an objective, the reference point for a fault."""
    if result.stopped is not None:
        return [result.stopped.objectives[objective.name] for objective in search.objectives]
    return [result.estimate(objective).value for objective in search.objectives]


def violations_of(result: Result, search: Search) -> dict[str, float]:
    """What Optuna is told of each constraint: at most 0 where it holds."""
    if result.stopped is not None:
        told = result.stopped.constraints
        return {c.key: c.violation(told[c.key]) for c in search.constraints}
    return {c.key: c.violation(result.estimate(c).value) for c in search.constraints}


def joint(result: Result, level: float = 0.95, *, exact: bool = False) -> Estimate | None:
    """Right *and* in the language, over all items that tell both; None if none do."""
    told = [i for items in result.items.values() for i in items if JOINT in i.scores]
    graded = any(item.samples for item in told)
    if not told:
        return None
    return aggregate(told, JOINT, Measure(binary=not graded), level, exact=exact)


def _stopped(data: dict[str, Any]) -> Stopped:
    expected = {name: (mean, sd) for name, (mean, sd) in data.pop("expected", {}).items()}
    return Stopped(**data, expected=expected)


def item_of(row: dict[str, Any]) -> ItemScore:
    """An item's scores as they were written."""
    samples = tuple(SampleScore(**sample) for sample in row.get("samples", ()))
    return ItemScore(**{**row, "samples": samples})
