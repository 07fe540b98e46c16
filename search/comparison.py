"""Two recipes of a run item by item, and how many items it takes to tell recipes apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import median

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from objectives import Estimate, ItemScore, aggregate
from objectives.comparing import Comparison, paired
from objectives.power import Components, Noise, items_to_tell, paired_components
from objectives.scorers.base import Measure
from objectives.splits import Split
from objectives.statistics import mean_of
from search import study as studies
from search.config import Part, Search, measures_of
from search.console import print_json, say
from search.errors import ConfigError
from search.item_changes import as_data, changed, print_changes
from search.item_pages import deciding
from search.pairs import Pair, called, pair_of
from search.results import Result, common
from search.run import Run

_WIDE = 104  # columns from which a row of `compare` stands in one line
DELTAS = (0.02, 0.05, 0.1)
"""True differences, as shares of a score's range, that `noise` gives the items for."""


@dataclass(frozen=True)
class Row:
    """One score of two recipes on the same items.

    Attributes:
        score: an objective's name, or task/measure.
        objective: whether it is one.
        a, b: the two means with their intervals.
        difference: a - b with a 95% interval; None where the score has no bounds to tell it by.
        p_value: two-sided; of an objective corrected for the number of objectives (Holm 1979);
            None where tasks of several sizes are averaged.
        better, worse, same: items where a is so, whichever way the score is to go.
    """

    score: str
    objective: bool
    a: Estimate
    b: Estimate
    difference: Estimate | None
    p_value: float | None
    better: int
    worse: int
    same: int


def compare(run: Run, a: str, b: str, split: Split | None = None) -> tuple[Split, list[Row], str]:
    """Two trials or baselines of a run, paired by item; arguments as `pair_of`.

    Returns:
        The split, a row for each score, and what to know of stopped trials ("" if none is).

    Raises:
        ConfigError: one of them is unknown, failed, or was not asked these items.
    """
    pair = pair_of(run, a, b, split)
    return pair.split, rows_of(pair, run.search), pair.note


def rows_of(pair: Pair, search: Search) -> list[Row]:
    """A row for each score that both have, the objectives first.

    Raises:
        ConfigError: the two share no item that has an objective's score.
    """
    one, other = pair.a, pair.b
    measures = {
        (task, key): measure
        for task, config in search.file.tasks.items()
        for key, measure in measures_of(config).items()
        if measure.always and _has(one, task, key) and _has(other, task, key)
    }
    rows = [
        _row(objective.name, [*objective.measured.items()], one, other)
        for objective in search.objectives
    ]
    known = {o.parts for o in search.objectives}
    return _holm(rows) + [
        _row(f"{task}/{key}", [((task, key), measure)], one, other, objective=False)
        for (task, key), measure in measures.items()
        if ((task, key),) not in known
    ]


Measured = tuple[Part, Measure]


def _row(
    name: str, parts: Sequence[Measured], one: Result, other: Result, *, objective: bool = True
) -> Row:
    pairs = [_paired_scores(one, other, task, key) for (task, key), _ in parts]
    bounded = all(math.isfinite(m.range[1] - m.range[0]) for _, m in parts)
    difference, p_value, counts = None, None, (0, 0, 0)
    if bounded:
        found = [
            paired(a, b, measure.binary, bounds=measure.range)
            for (a, b), (_, measure) in zip(pairs, parts, strict=True)
        ]
        difference = mean_of([Estimate(c.value, c.low, c.high, c.n) for c in found])
        more, less = sum(c.wins for c in found), sum(c.losses for c in found)
        if parts[0][1].direction == "minimize":
            more, less = less, more
        counts = (more, less, sum(c.ties for c in found))
        p_value = _p_value(found, pairs, [measure for _, measure in parts])
    a, b = ([_estimate(result, part) for part in parts] for result in (one, other))
    return Row(name, objective, mean_of(a), mean_of(b), difference, p_value, *counts)


def _p_value(
    found: Sequence[Comparison],
    pairs: Sequence[tuple[list[float], list[float]]],
    measures: Sequence[Measure],
) -> float | None:
    """Of one task its own; of several with equally many items that of all their items together."""
    if len(found) == 1:
        return found[0].p_value
    if len({c.n for c in found}) > 1 or len({measure.range for measure in measures}) > 1:
        return None
    a = [score for scores, _ in pairs for score in scores]
    b = [score for _, scores in pairs for score in scores]
    binary = all(measure.binary for measure in measures)
    return paired(a, b, binary, bounds=measures[0].range).p_value


def _estimate(result: Result, part: Measured) -> Estimate:
    (task, key), measure = part
    return aggregate(result.items[task], key, measure)


def _holm(rows: list[Row]) -> list[Row]:
    """Objectives' p-values, so that all findings under .05 hold together."""
    order = sorted((row.p_value, at) for at, row in enumerate(rows) if row.p_value is not None)
    corrected, largest = list(rows), 0.0
    for rank, (p, at) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[at] = replace(rows[at], p_value=largest)
    return corrected


def _paired_scores(
    one: Result, other: Result, task: str, key: str
) -> tuple[list[float], list[float]]:
    both = [
        (a.scores[key], b.scores[key])
        for a, b in common(one.items[task], other.items[task])
        if key in a.scores and key in b.scores
    ]
    if not both:
        raise ConfigError(f"{task}/{key}: the two share no item that has this score")
    return [a for a, _ in both], [b for _, b in both]


def _has(result: Result, task: str, key: str) -> bool:
    return any(key in item.scores for item in result.items.get(task, ()))


def print_comparison(
    console: Console, run: Run, a: str, b: str, split: Split | None, as_json: bool
) -> None:
    """Print what `compare` finds."""
    pair = pair_of(run, a, b, split)
    rows, items = rows_of(pair, run.search), changed(pair, run.search)
    if as_json:
        found = {"a": a, "b": b, "split": pair.split, "note": pair.note}
        rows_data = [asdict(row) for row in rows]
        print_json({**found, "rows": rows_data, "items": as_data(items)})
        return
    a, b = called(a), called(b)
    title = escape(f"{run.name}: {a} against {b} on {pair.split} items")
    narrow = console.width < _WIDE
    padding = (0, 0) if narrow else (0, 1)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=padding)
    table.show_edge = False
    table.add_column("", overflow="fold")
    for head in (a, b, "difference [95%]", "p", "better", "worse", "same"):
        table.add_column(escape(head), no_wrap=True, justify="right")
    for row in rows:
        told = "" if row.difference is None else signed(row.difference)
        p = "" if row.p_value is None else f"{row.p_value:.3f}" if row.p_value >= 0.001 else "<.001"
        counts = (row.better, row.worse, row.same) if row.difference is not None else ("",) * 3
        means = (f"{row.a.value:.3f}", f"{row.b.value:.3f}")
        name = row.score.replace("/", "/\n", 1) if narrow else row.score
        cells = (escape(name), *means, told, p, *map(str, counts))
        table.add_row(*cells, style="bold" if row.objective else None)
    console.print(table)
    if pair.note:
        say(pair.note)
    say(
        "objectives are bold, their p corrected for their number (Holm); other rows are for looking"
    )
    if pair.split == "dev":
        say("the search chose by these items: what it found looks better on them than it is")
    print_changes(console, items, a, b)


def signed(difference: Estimate) -> str:
    """A difference as text: +.034 [-.011, +.080]."""

    def short(value: float) -> str:
        return f"{value:+.3f}".replace("+0.", "+.").replace("-0.", "-.")

    return f"{short(difference.value)} [{short(difference.low)}, {short(difference.high)}]"


@dataclass(frozen=True)
class Told:
    """How well one score of a search tells recipes apart.

    Attributes:
        score: task/measure.
        n: dev items.
        pairs: of neighbouring trials it was found from.
        standard_error: of one trial's mean, the median over trials.
        paired_error: of the difference of two trials, the median over pairs.
        discordance: share of items on which two trials differ, likewise.
        smallest: the true difference that n items find in 4 of 5 cases; None if none.
        items: how many items find a difference of so many points in 4 of 5 cases.
        samples: answers per item.
        within: share of the variance of a paired difference that more samples per item would
            lessen; None with one sample.
    """

    score: str
    n: int
    pairs: int
    standard_error: float
    paired_error: float
    discordance: float
    smallest: float | None
    items: Mapping[float, int]
    samples: int
    within: float | None


def noise(run: Run) -> list[Told]:
    """What the dev items of a run can tell, from its own trials.

    Neighbours on the front are what has to be told apart, so pairs are those; a front of one is
    paired with the next best trials that could be on it.

    Raises:
        ConfigError: fewer than two trials with full scores hold the constraints.
    """
    study = studies.open_study(run, create=False)
    trials = studies.scored(study)
    near = studies.current_front(study, run.search)
    if len(near) < 2:
        first = run.search.objectives[0]
        known = [number for number, trial in trials.items() if studies.known(trial)]
        near = sorted(known, key=lambda n: first.sign * trials[n].values[0])[-8:]
    if len(near) < 2:
        raise ConfigError(
            f"{run.folder}: needs two trials with full scores that hold the constraints, to tell "
            "how noisy they are"
        )
    results = [Result.load(run.trial(number)) for number in near]
    parts = {
        part: measure
        for part, measure in deciding(run.search).items()
        if math.isfinite(measure.range[1] - measure.range[0])
    }
    return [_told(results, task, key, measure) for (task, key), measure in parts.items()]


def _told(results: Sequence[Result], task: str, key: str, measure: Measure) -> Told:
    width = measure.range[1] - measure.range[0]
    found: list[Noise] = []
    for one, other in pairwise(results):
        a, b = _paired_scores(one, other, task, key)
        found.append(items_to_tell(a, b, measure.binary, bounds=measure.range))
    samples = max(1, *(len(item.samples) for item in results[0].items[task]))
    within = None
    if samples > 1:
        shares = [
            _within(one.items[task], other.items[task], key) for one, other in pairwise(results)
        ]
        within = median(shares)
    smallest = [s if (s := pair.smallest()) is not None else math.inf for pair in found]
    typical = median(smallest)
    return Told(
        score=f"{task}/{key}",
        n=found[0].n,
        pairs=len(found),
        standard_error=median(_standard_error(r.items[task], key) for r in results),
        paired_error=median(pair.standard_error for pair in found),
        discordance=median(pair.discordance for pair in found),
        smallest=typical if math.isfinite(typical) else None,
        items={d: round(median(pair.items(d * width) for pair in found)) for d in DELTAS},
        samples=samples,
        within=within,
    )


def _within(one: Sequence[ItemScore], other: Sequence[ItemScore], key: str) -> float:
    """The samples' part of the variance of a difference between means over items."""
    both = common(one, other)
    found: Components = paired_components(
        [[sample.scores[key] for sample in a.samples] for a, _ in both],
        [[sample.scores[key] for sample in b.samples] for _, b in both],
    )
    part = found.within / found.samples
    whole = found.between + part
    return part / whole if whole > 0.0 else 0.0


def _standard_error(items: Sequence[ItemScore], key: str) -> float:
    values = [item.scores[key] for item in items if key in item.scores]
    mean = math.fsum(values) / len(values)
    spread = math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return math.sqrt(spread / len(values))


def print_noise(console: Console, run: Run, as_json: bool) -> None:
    """Print what `noise` finds."""
    found = noise(run)
    if as_json:
        print_json([asdict(told) for told in found])
        return
    table = Table(
        title=escape(f"{run.name}: what the dev items can tell apart (neighbours on the front)"),
        title_justify="left",
    )
    heads = ["score", "items", "error of one", "error of a\ndifference", "items that\ndiffer"]
    heads += ["tells apart\n(4 of 5)", *(f"items for\n{delta:g}" for delta in DELTAS)]
    for title in heads:
        table.add_column(title, justify="left" if title == "score" else "right", no_wrap=True)
    for told in found:
        smallest = "nothing" if told.smallest is None else f"{told.smallest:.3f}"
        table.add_row(
            escape(told.score),
            str(told.n),
            f"{told.standard_error:.3f}",
            f"{told.paired_error:.3f}",
            f"{told.discordance:.0%}",
            smallest,
            *(f"{told.items[delta]:,}" for delta in DELTAS),
        )
    console.print(table)
    say("two-sided 95%, paired by item, found with 80%; medians over neighbouring pairs")
    say("items are for differences in shares of a score's range, which is 1 where none is given")
    for told in found:
        if told.within is not None:
            say(
                f"{told.score}: {told.within:.0%} of a difference's variance is from sampling with"
                f" {told.samples} answers an item; more answers lessen that part, items lessen all"
            )
