"""What a worker gives back for one recipe on one split, and what follows from its items.

Scores are stored per item: paired comparisons, confirmation and audits need them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from merge_core.yaml_io import write_atomic
from objectives import Estimate, ItemScore, aggregate
from objectives.statistics import one_sided_lower
from objectives.task import Split
from search.config import Constraint, Objective, Search


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

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return sum(item.tokens for items in self.items.values() for item in items)

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_atomic(path, json.dumps(asdict(self), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        items = {task: [ItemScore(**item) for item in rows] for task, rows in data["items"].items()}
        return cls(**{**data, "items": items, "notes": tuple(data.get("notes", ()))})

    def estimate(self, target: Objective | Constraint, level: float = 0.95) -> Estimate:
        """Mean and two-sided interval of an objective or a constraint's score.

        A fault scores as bad as possible, without uncertainty. The mean over several tasks has
        equal task weights; its interval combines the tasks' own by MOVER (Zou & Donner 2008).
        """
        if self.fault is not None:
            worst = target.reference if isinstance(target, Objective) else target.worst
            return Estimate(worst, worst, worst, 0)
        parts = [
            aggregate(self._values(task, measure), target.binary, level, target.bounds)
            for task, measure in target.parts
        ]
        if len(parts) == 1:
            return parts[0]
        value = math.fsum(part.value for part in parts) / len(parts)
        below = math.sqrt(math.fsum((p.value - p.low) ** 2 for p in parts)) / len(parts)
        above = math.sqrt(math.fsum((p.high - p.value) ** 2 for p in parts)) / len(parts)
        return Estimate(value, value - below, value + above, sum(part.n for part in parts))

    def holds(self, constraint: Constraint, *, confirmed: bool) -> bool:
        """Whether the constraint holds: by its point estimate, or by a one-sided 95% bound."""
        if self.fault is not None:
            return False
        if not confirmed:
            return constraint.violation(self.estimate(constraint).value) <= 0
        # One-sided MOVER: each task's own lower bound, combined as `estimate` combines intervals.
        low, high = constraint.bounds
        gaps = []
        for task, measure in constraint.parts:
            values = self._values(task, measure)
            unit = (math.fsum(values) / len(values) - low) / (high - low)
            unit = unit if constraint.at_least else 1.0 - unit
            gaps.append((high - low) * (unit - one_sided_lower(unit, len(values))))
        gap = math.hypot(*gaps) / len(gaps)
        mean = self.estimate(constraint).value
        return constraint.violation(mean - gap if constraint.at_least else mean + gap) <= 0

    def _values(self, task: str, measure: str) -> list[float]:
        return [i.scores[measure] for i in self.items[task] if measure in i.scores]


def values_of(result: Result, search: Search) -> list[float]:
    """What Optuna is told: one value an objective, the reference point for a fault."""
    return [result.estimate(objective).value for objective in search.objectives]


def joint(result: Result, level: float = 0.95) -> Estimate | None:
    """Right *and* in the language, over all items that tell both; None if none do."""
    values = [
        item.scores["joint"]
        for items in result.items.values()
        for item in items
        if "joint" in item.scores
    ]
    return aggregate(values, binary=True, level=level) if values else None
