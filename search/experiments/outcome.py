"""What an experiment found: values with intervals, differences item by item, sentences from them.

Sentences are computed: what is ahead is what its interval says, whatever a paper found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from merge_core import card
from objectives import Estimate, ItemScore
from objectives.comparing import paired
from objectives.statistics import estimate, mean_of, simultaneous
from search.comparison import signed
from search.config import Objective
from search.export import short, spelled
from search.figures.chart import Chart
from search.results import Result

LEVEL = 0.95
Sign = Literal["ahead", "behind", "not told apart"]


@dataclass(frozen=True)
class Value:
    """One number.

    Attributes:
        series: what it is of: a line of a plot.
        at: where on the horizontal axis, in words.
        score: an objective's name, or what was counted.
        estimate: mean and 95% interval; a count of everything has no width.
        how: the setting it came from.
    """

    series: str
    at: str
    score: str
    estimate: Estimate
    how: str = ""


@dataclass(frozen=True)
class Difference:
    """`a` less `b` on the same items, turned so that more is better.

    Attributes:
        a, b: what is compared.
        at: where.
        score: an objective's name.
        estimate: mean difference; all intervals of one family hold together with 95%.
    """

    a: str
    b: str
    at: str
    score: str
    estimate: Estimate

    @property
    def sign(self) -> Sign:
        """What the interval tells."""
        if self.estimate.low > 0.0:
            return "ahead"
        return "behind" if self.estimate.high < 0.0 else "not told apart"


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        findings: sentences, computed.
        values: all numbers.
        differences: all comparisons, family by family.
        chart: the plot.
        notes: what else to know of this run.
    """

    findings: Sequence[str]
    values: Sequence[Value]
    differences: Sequence[Difference]
    chart: Chart
    notes: Sequence[str] = field(default_factory=tuple)


def counted(share: float, entries: int) -> Estimate:
    """A share that was counted, not sampled."""
    return Estimate(share, share, share, entries)


def bounded(objective: Objective) -> bool:
    """Whether its differences have an interval: scores without bounds have none."""
    return all(math.isfinite(end) for m in objective.measures for end in m.range)


def uncompared(objectives: Sequence[Objective]) -> list[str]:
    """A sentence for each objective by which nothing is compared."""
    return [
        f"By {o.name}, nothing is compared: a score without bounds has no interval of a difference."
        for o in objectives
        if not bounded(o)
    ]


def mean(results: Sequence[Result], objective: Objective) -> Estimate:
    """An objective's mean over items; of several results, such as random draws, over them too."""
    if len(results) == 1:
        return results[0].estimate(objective)
    parts = []
    for (task, key), measure in objective.measured.items():
        asked = [result.items[task] for result in results]
        geometric = measure.aggregation == "geometric"
        scores = _averaged(asked, key, geometric=geometric)
        weights = None
        if measure.weights is not None:
            held = _averaged(asked, measure.weights)
            weights = [held[name] for name in scores]
        parts.append(
            estimate(
                list(scores.values()),
                False,
                LEVEL,
                measure.range,
                weights=weights,
                geometric=geometric,
            )
        )
    return mean_of(parts)


def difference(
    objective: Objective, a: Sequence[Result], b: Sequence[Result], family: int = 1
) -> Estimate:
    """How much better `a` is than `b`, paired by item.

    Args:
        objective: by which; its scores have bounds.
        a: one result, or several that are averaged item by item.
        b: likewise.
        family: how many such intervals are to hold together.
    """
    level = simultaneous(LEVEL, family)
    parts = []
    for (task, key), measure in objective.measured.items():
        one, other = (_averaged([r.items[task] for r in results], key) for results in (a, b))
        both = [name for name in one if name in other]
        found = paired(
            [one[name] for name in both],
            [other[name] for name in both],
            False,
            level,
            measure.range,
        )
        parts.append(Estimate(found.value, found.low, found.high, found.n))
    return _turned(mean_of(parts), objective)


def change(
    objective: Objective,
    first: tuple[Sequence[Result], Sequence[Result]],
    last: tuple[Sequence[Result], Sequence[Result]],
) -> Estimate:
    """How much larger the gain of one pair's a over its b is than another's, item by item.

    Args:
        objective: by which; its scores have bounds.
        first: the pair (a, b) that is taken away.
        last: the pair that it is taken from.
    """
    parts = []
    for (task, key), measure in objective.measured.items():
        w, x, y, z = (_averaged([r.items[task] for r in side], key) for side in (*last, *first))
        gains = [w[i] - x[i] - y[i] + z[i] for i in w if i in x and i in y and i in z]
        width = 2 * (measure.range[1] - measure.range[0])
        parts.append(estimate(gains, False, LEVEL, (-width, width)))
    return _turned(mean_of(parts), objective)


def _averaged(
    results: Sequence[Sequence[ItemScore]], key: str, *, geometric: bool = False
) -> dict[str, float]:
    """Each item's mean over results that asked the same items."""
    scores: dict[str, list[float]] = {}
    for items in results:
        for item in items:
            if key in item.scores:
                scores.setdefault(item.id, []).append(item.scores[key])
    if geometric:
        logs = {name: [math.log(score) for score in given] for name, given in scores.items()}
        return {name: math.exp(math.fsum(given) / len(given)) for name, given in logs.items()}
    return {name: math.fsum(given) / len(given) for name, given in scores.items()}


def _turned(found: Estimate, objective: Objective) -> Estimate:
    if objective.sign > 0:
        return found
    return Estimate(-found.value, -found.high, -found.low, found.n)


# --- Sentences -----------------------------------------------------------------------------------


def verdict(subject: str, differences: Sequence[Difference], places: str) -> str:
    """Where `subject` is ahead, behind, or neither: `places` names what they are, in the plural."""
    if len(differences) == 1:
        return f"{subject}: {differences[0].sign}, {signed(differences[0].estimate)}."
    largest = max(differences, key=lambda one: abs(one.estimate.value))
    where = f"the largest difference is {signed(largest.estimate)} at {largest.at}"
    return f"{subject}: {spread(differences, places)}; {where}."


def spread(differences: Sequence[Difference], places: str) -> str:
    """At how many places it is ahead, behind, or neither, and at which."""
    by: dict[Sign, list[str]] = {"ahead": [], "behind": [], "not told apart": []}
    for one in differences:
        by[one.sign].append(one.at)
    some = [(sign, at) for sign, at in by.items() if at]
    total = len(differences)
    if len(some) == 1:
        return f"{some[0][0]} at all {total} {places}"
    first, *rest = [f"{sign} at {len(at)} ({', '.join(at)})" for sign, at in some]
    return ", ".join([first.replace(" (", f" of {total} {places} (", 1), *rest])


def trend(what: str, found: Estimate, first: str, last: str) -> str:
    """Whether something shrinks or grows from one place to another, by its interval."""
    if found.high < 0.0:
        said = "shrinks"
    elif found.low > 0.0:
        said = "grows"
    else:
        said = "neither shrinks nor grows so that it could be told"
    return f"{what} {said} from {first} to {last}: {signed(found)}."


def plain(found: Estimate) -> str:
    """A value as text: .934 [.881, .957]; a count without interval is itself alone."""
    return short(found) if found.low == found.high == found.value else spelled(found)


def table(values: Sequence[Value], score: str) -> str:
    """A Markdown table of one score: a row a series, a column a place."""
    own = [value for value in values if value.score == score]
    places = list(dict.fromkeys(value.at for value in own))
    rows = []
    for series in dict.fromkeys(value.series for value in own):
        cells = {value.at: plain(value.estimate) for value in own if value.series == series}
        rows.append([card.md(series), *(cells.get(at, "") for at in places)])
    return card.table([card.md(text) for text in (score, *places)], rows)
