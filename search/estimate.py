"""What a search will take, as far as it can be known before it runs; every assumption is told.

Answers and upper bounds of tokens are known from the file. Seconds are not: they are taken from an
earlier session of the same run, or left to the reader, per minute that a trial takes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from search import study as studies
from search.amounts import amount, many
from search.budget import Shares, most_tokens
from search.config import Search, seconds
from search.dispatch import warning
from search.errors import RunError, StorageError
from search.file import BudgetEntry
from search.ledger import sessions
from search.run import Run, check
from search.samplers import SAMPLERS
from search.session import Prepared

_ENDS = "the search ends after its baselines or its first trials, with little or nothing to confirm"


@dataclass(frozen=True)
class Measured:
    """What trials of an earlier session took.

    Attributes:
        run: its folder.
        trials: how many.
        tokens, seconds: of a trial on average, those that were stopped early included.
        full_tokens, full_seconds: of those with answers to all dev items.
        workers, gpus: of its last session; 0 where that is not known.
    """

    run: Path
    trials: int
    tokens: float
    seconds: float
    full_tokens: float
    full_seconds: float
    workers: int
    gpus: float


def measured(prepared: Prepared, folder: Path) -> Measured | None:
    """What the run in `folder` has shown; None if it is another search's, or has no full trial."""
    if not (folder / "run.json").is_file():
        return None
    try:
        check(prepared.search, folder)
        run = Run.open(folder)
        if not run.begun:
            return None
        trials = studies.paid(studies.scored(studies.open_study(run, create=False))).values()
        before = sessions(run)
    except (RunError, StorageError):
        return None
    told = [t.user_attrs for t in trials if "fault" not in t.user_attrs]
    full = [attributes for attributes in told if studies.PARTIAL not in attributes]
    if not full:
        return None
    return Measured(
        run=folder,
        trials=len(told),
        tokens=statistics.fmean(a["tokens"] for a in told),
        seconds=statistics.fmean(sum(a["seconds"].values()) for a in told),
        full_tokens=statistics.fmean(a["tokens"] for a in full),
        full_seconds=statistics.fmean(sum(a["seconds"].values()) for a in full),
        workers=before[-1].workers if before else 0,
        gpus=before[-1].gpus if before else 0.0,
    )


def estimate(prepared: Prepared, folder: Path) -> list[str]:
    """What the search in `folder` will take and cost, one thing a line."""
    search = prepared.search
    limits, members = search.file.budget, _most_members(search)
    shares = Shares.of(prepared, baselines=len(prepared.baselines))
    seen = measured(prepared, folder)
    workers = search.file.workers.count or (seen.workers if seen else 0) or None
    lines = [f"a trial generates at most {shares.most_tokens:,} tokens{_but(prepared)}"]
    confirming = shares.per_confirm * (members + shares.baselines)
    lines.append(
        f"confirming up to {members} members and {shares.baselines} baselines on {shares.confirm}"
        f" answers each takes as much as {amount(confirming)} full trials, the test as much as"
        f" {amount(shares.per_test)}, baselines on dev items {shares.baselines}"
    )
    beside = confirming + shares.per_test + shares.baselines
    if seen is None:
        bound = most_tokens(prepared, "test") + shares.baselines * shares.most_tokens
        bound += most_tokens(prepared, "confirm") * (members + shares.baselines)
        lines += _unmeasured(limits, shares, beside, bound)
    else:
        lines += _foretold(limits, seen, workers, shares, beside, members)
    fits = None if seen is None else _fitting(limits, seen, workers, shares, beside, members)
    most = [n for n in (limits.trials, fits and fits[0]) if n]
    notes = [_unlearned(search, min(most)) if most else None]
    notes += [warning(search, workers, seen.seconds if seen is not None else None)]
    return [*lines, *filter(None, notes)]


def _unlearned(search: Search, trials: int) -> str | None:
    """A line if the sampler never gets beyond the trials that it draws knowing nothing."""
    entry = search.file.sampler
    start = SAMPLERS[entry.name].start(entry.options)
    if trials > start or any(e.startswith("run:") for e in entry.warm_starts):
        return None
    return (
        f"sampler {entry.name} proposes its first {many(start, 'recipe')} without having learned"
        f" anything: with {many(trials, 'trial')} this search never learns; raise the budget"
    )


def _most_members(search: Search) -> int:
    """How many members may be confirmed."""
    most, trials = search.file.confirm.max, search.file.budget.trials
    # What an earlier run scored is taken over beside the trials of the budget, and may be on top.
    taken = any(entry.startswith("run:") for entry in search.file.sampler.warm_starts)
    return most if trials is None or taken else min(most, trials)


def _but(prepared: Prepared) -> str:
    """What the bound leaves out."""
    own = [
        name
        for name, task in prepared.tasks.items()
        if task.asked("dev") and any(scorer.reads == "engine" for scorer in task.scorers)
    ]
    return f", without {', '.join(own)}, which asks in a way of its own" if own else ""


def _unmeasured(limits: BudgetEntry, shares: Shares, beside: float, bound: int) -> list[str]:
    """What follows from answers alone; `beside` and `bound` are of what is no trial."""
    lines, most = [], shares.most_tokens
    if limits.trials is not None:
        full = limits.trials + beside
        lines.append(f"in all as much as {amount(full)} full trials, less what is stopped early")
        tokens = f"at most {limits.trials * most + bound:,} tokens; " if most else ""
        price = limits.gpu_hour_price
        cost = "" if price is None else f", {full / 60 * price:,.2f} at {price:g} an hour"
        lines.append(
            f"{tokens}for each minute that a full trial takes, {amount(full / 60)} hours of a"
            f" worker{cost}, if none is ever idle"
        )
    if limits.tokens is not None and most:
        sure = max(0, (limits.tokens - bound) // most)
        lines.append(
            f"{limits.tokens:,} tokens are enough for {many(sure, 'trial')}, however long answers"
            if sure
            else f"if answers are as long as they may be, {limits.tokens:,} tokens are not enough"
            f" for one trial, its confirmation and test: {_ENDS}; raise budget.tokens"
        )
    lines.append("how long a trial takes is not known before a first one has run")
    return lines


def _foretold(
    limits: BudgetEntry,
    seen: Measured,
    workers: int | None,
    shares: Shares,
    beside: float,
    members: int,
) -> list[str]:
    """What follows if all goes on as it did."""
    lines = [
        f"measured in {seen.run} ({many(seen.trials, 'trial')}): a trial takes"
        f" {amount(seen.seconds)} s and {seen.tokens:,.0f} tokens, a full one"
        f" {amount(seen.full_seconds)} s and {seen.full_tokens:,.0f} tokens"
    ]
    fits = _fitting(limits, seen, workers, shares, beside, members)
    trials = limits.trials
    if fits is not None and (trials is None or fits[0] < trials):
        trials = fits[0]
        lines.append(
            f"{fits[1]} is reached first, after about {many(trials, 'trial')}"
            if trials
            else f"{fits[1]} is too small for one trial, its confirmation and test: {_ENDS};"
            " raise it"
        )
    if trials is None:
        return lines
    tokens = trials * seen.tokens + beside * seen.full_tokens
    hours = (trials * seen.seconds + beside * seen.full_seconds) / 3600.0
    unit, priced = ("GPU", hours * seen.gpus) if seen.gpus else ("worker", hours)
    price = limits.gpu_hour_price
    cost = "" if price is None else f", {priced * price:,.2f} at {price:g} an hour"
    after = "" if workers is None else f", {amount(hours / workers)} h on all of {workers}"
    lines.append(
        f"the whole run from its start: about {tokens:,.0f} tokens, {amount(priced)} {unit}-hours"
        f"{cost}{after}, if workers are never idle and the rest takes as long"
    )
    return lines


def _fitting(
    limits: BudgetEntry,
    seen: Measured,
    workers: int | None,
    shares: Shares,
    beside: float,
    members: int,
) -> tuple[int, str] | None:
    """About how many trials fit into the tightest limit but that of trials, and which it is."""
    most: dict[str, float] = {}
    if limits.tokens is not None and seen.tokens:
        most["tokens"] = (limits.tokens - beside * seen.full_tokens) / seen.tokens
    if workers is not None and seen.seconds:
        spent = shares.baselines + workers * shares.rounds(members, workers)

        def within(held: float) -> float:
            """Trials in so many seconds of all workers together."""
            return (held - spent * seen.full_seconds) / seen.seconds

        if limits.timeout is not None:
            most["timeout"] = within(seconds(limits.timeout) * workers)
        hours = {"gpu_hours": limits.gpu_hours}
        if limits.cost is not None and limits.gpu_hour_price is not None:
            hours["cost"] = limits.cost / limits.gpu_hour_price
        for name, limit in hours.items():
            if limit is not None:
                most[name] = within(limit * 3600.0 / (seen.gpus or 1.0))
    if not most:
        return None
    name = min(most, key=lambda key: most[key])
    return max(0, int(most[name])), f"budget.{name}"
