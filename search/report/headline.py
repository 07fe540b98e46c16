"""The report's first lines: what was found, in a few true sentences, whatever became of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from objectives import Estimate
from search import confirm as confirming
from search.amounts import many
from search.budget import until
from search.comparison import signed
from search.confirmed import broken
from search.export import spelled, test_items
from search.report.verdict import Against, ahead_of, baselines
from search.status import State, Status
from search.view import RunView, TrialView

STATES = {
    "running": ("still running", "busy"),
    "silent": ("no sign of its driver", "warn"),
    "finished": ("finished", "good"),
    "stopped": ("stopped", "warn"),
    "failed": ("ended with an error", "bad"),
    "dead": ("its driver was killed", "bad"),
}
"""By `Status.state`: in words, and what colour it has."""


_LONGEST = 160
"""Characters of an error in the title."""
_LOG = "see run.log"


@dataclass(frozen=True)
class Standing:
    """Whether somebody works on a run.

    Attributes:
        state: in a word.
        at: when that was so, in seconds since the epoch.
        phase: what its driver is at; "" if it is at nothing.
        why: it ended with an error, or is silent.
    """

    state: State
    at: float
    phase: str = ""
    why: str = ""

    @classmethod
    def of(cls, status: Status) -> Standing:
        """As `search.status.look` found it."""
        return cls(status.state, status.at, status.phase, status.why)


@dataclass(frozen=True)
class Headline:
    """What is said before everything else.

    Attributes:
        state: of the run, in words.
        tone: "good", "warn", "bad" or "busy": the state's colour.
        title: what was found, in one sentence.
        lines: what goes with it: numbers, and what to mind.
        cautions: what is not so yet: not confirmed, still running, nothing to export.
    """

    state: str
    tone: str
    title: str
    lines: list[str]
    cautions: list[str]


def headline(view: RunView, standing: Standing, found: list[Against]) -> Headline:
    """The headline of a run as it stands."""
    state, tone = STATES[standing.state]
    cautions = [*_of_state(view, standing), *_of_confirmation(view)]
    if view.chosen is not None:
        title, lines = _chosen(view, found)
    elif view.members:
        title = "Nothing to export: no confirmed merge qualifies"
        lines = [f"{view.problem[:1].upper()}{view.problem[1:]}."]
    elif view.front:
        title, lines = _claimed(view)
    elif view.scored:
        bounds = ", ".join(map(str, view.search.constraints))
        title = "Nothing found yet: no trial with full scores holds the constraints"
        lines = [f"{many(len(view.scored), 'trial')} scored; the search asks for {bounds}."]
        if not bounds:
            title = "Nothing found yet: no trial has full scores"
            lines = [f"{many(len(view.scored), 'trial')} stopped early, none asked all dev items."]
    else:
        title, lines = _unscored(view, standing)
    return Headline(state, tone, title, lines, cautions)


def _chosen(view: RunView, found: list[Against]) -> tuple[str, list[str]]:
    """The title: both at once where that is told, else objective by objective."""
    assert view.chosen is not None
    named = f"{view.chosen.label[:1].upper()}{view.chosen.label[1:]}"
    scores = _and(f"{one.objective.name} {_unbroken(spelled(one.ours))}" for one in found)
    ahead = ahead_of(view, view.chosen)
    joint, others = view.chosen.joint, [m for m in baselines(view) if m.feasible and m.joint]
    best = max(others, key=lambda m: m.joint.value if m.joint else 0.0, default=None)
    if all(one.baseline is None for one in found):
        title = f"{named} is the balanced merge: {scores}; there is no baseline"
    elif ahead:
        who = view.chosen.label
        title = f"No gain: {_and(ahead)} is at least as good as {who} in everything"
    elif joint and best and best.joint and joint.low > best.joint.high:
        title = (
            f"{named} is right and in the language in {_unbroken(spelled(joint))} of held\u2011out"
            f" answers; the best baseline, {best.label}, in {_unbroken(spelled(best.joint))}"
        )
    else:
        every = "every baseline"
        if len({member.feasible for member in baselines(view)}) == 2:
            every += " that qualifies"
        title = f"{named}{_by_objective(found, every)}"
    return title, _notes(view, found)


def _by_objective(found: list[Against], every: str) -> str:
    """What comes of comparing each objective with its best baseline, none of which is ahead."""
    better = [_by(one) for one in found if one.standing == "better"]
    worse = [_by(one) for one in found if one.standing == "worse"]
    even = [_by(one) for one in found if one.standing == "not told apart"]
    if not (better or worse or even):
        scores = _and(f"{one.objective.name} {_unbroken(spelled(one.ours))}" for one in found)
        return f" is the balanced merge: {scores}; it could be compared with no baseline"
    if better:
        told = f" beats {every} in {_and(better)}"
        told += f"; not told from the best in {_and(even)}" if even else ""
        return told + (f"; it gives up {_and(worse)}" if worse else "")
    if len(found) == 1:
        return (
            f" is not told from the best baseline: {_and(even)}"
            if even
            else (f" is behind the best baseline: {_and(worse)}")
        )
    told = " is a balance that no baseline has; against the best baseline of each objective: "
    return told + _and([*even, *worse])


def _by(one: Against) -> str:
    if one.difference is None:
        return one.objective.name
    return f"{one.objective.name} ({_unbroken(signed(one.difference))})"


def _unbroken(text: str) -> str:
    """An interval that no line breaks in."""
    return text.replace(", ", ",\u00a0").replace(" [", "\u00a0[")


def _notes(view: RunView, found: list[Against]) -> list[str]:
    """What goes with the title: differences, what was asked once, constraints."""
    assert view.chosen is not None
    lines = []
    told = [one for one in found if one.difference is not None and one.baseline is not None]
    if told:
        words = {"better": "better than", "worse": "worse than", "not told apart": "not told from"}
        parts = [f"{_by(one)}, {words[one.standing]} {one.baseline}" for one in told]
        lines.append(f"Against the best baseline of each objective: {'; '.join(parts)}.")
    lines += [
        f"{one.objective.name}: not compared with {one.baseline}: {one.why}."
        for one in found
        if one.why
    ]
    if view.test is not None:
        scores = _and(
            f"{o.name} {_unbroken(spelled(view.test.estimate(o)))}" for o in view.search.objectives
        )
        items = test_items({o.name: view.test.estimate(o) for o in view.search.objectives})
        lines.append(f"On {items}, asked once and of it alone: {scores}.")
    if view.search.constraints:
        bounds = _and(map(str, view.search.constraints))
        held = "holds" if view.chosen.feasible else "DOES NOT HOLD"
        lines.append(f"It {held} {bounds} with 95% confidence on held-out items.")
    off = [member for member in baselines(view) if not member.feasible]
    failed = [member.label for member in off if broken(member)]
    loose = [member.label for member in off if member.label not in failed]
    if loose:
        do = "does" if len(loose) == 1 else "do"
        lines.append(f"Of the baselines, {_and(loose)} {do} not hold the constraints.")
    named = {one.baseline for one in found}
    lines += [
        f"Baseline {label} could not be scored: its merge is broken."
        for label in failed
        if label not in named
    ]
    return lines


def _claimed(view: RunView) -> tuple[str, list[str]]:
    title = f"{many(len(view.front), 'trial')} on the front, by scores that are not confirmed"
    lines = []
    allowed = {k: b for k, b in view.baselines.items() if b.feasible} or view.baselines
    for index, objective in enumerate(view.search.objectives):
        number = max(view.front, key=lambda n: objective.sign * view.trials[n].values[index])
        trial = view.trials[number]
        told = f"{trial.values[index]:.3f}"
        if objective.name in trial.intervals:
            low, high, n = trial.intervals[objective.name]
            told = f"{spelled(Estimate(trial.values[index], low, high, n))} on {n} dev items"
        line = f"{objective.name}: best claimed {told} (trial {number})"
        if view.baselines:
            label, best = max(
                ((label, b.values[index]) for label, b in allowed.items()),
                key=lambda pair: objective.sign * pair[1],
            )
            line += f"; best baseline {label} {best:.3f}"
        lines.append(f"{line}.")
    return title, lines


def _unscored(view: RunView, standing: Standing) -> tuple[str, list[str]]:
    """What became of a search that has no scored trial, and of what it tried."""
    ends = {
        "running": "Nothing is scored yet",
        "silent": "Nothing is scored, and there is no sign of the search's driver",
        "finished": "The search ended, and no trial is scored",
        "stopped": "The search was stopped before any trial was scored",
        "failed": f"The search ended with an error: {_begun(standing.why or _LOG)}",
        "dead": "The search's driver was killed before any trial was scored",
    }
    kinds = [_kind(trial) for trial in view.trials.values()]
    counts = [f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(kinds)]
    lines = [f"Of {many(len(kinds), 'trial')} none is scored: {_and(counts)}."] if counts else []
    whys = [trial.why for trial in view.trials.values() if trial.why]
    if whys:
        lines.append(f"The last of them: {whys[-1].rstrip('.')}.")
    if not kinds:
        lines.append("No trial had begun.")
    if view.baselines:
        lines.append(f"Of the baselines these are scored: {_and(view.baselines)}.")
    elif view.search.file.baselines:
        lines.append("No baseline is scored.")
    return ends[standing.state], lines


def _kind(trial: TrialView) -> str:
    """What became of a trial that has no scores of its own."""
    told = {
        "failed": "could not be done by any worker",
        "never begun": "never begun",
        "fault": "came out broken",
        "running": "had begun",
    }
    return told.get(trial.state, "seen before")


def _begun(why: str) -> str:
    """The beginning of an error, for the title."""
    if len(why) <= _LONGEST:
        return why
    return f"{why[:_LONGEST].rpartition(' ')[0] or why[:_LONGEST]} …"


def _of_state(view: RunView, standing: Standing) -> list[str]:
    done = many(view.account.trials, "trial")
    why = (standing.why or _LOG).rstrip(".")
    told = f"ended with an error after {done}: {why}"
    match standing.state:
        case "running":
            phase = f", {standing.phase}" if standing.phase else ""
            asked = until(view.search.file.budget)
            on = f"The search goes on{phase}: {done} so far, until {asked}."
            return [f"{on} This is how it stood."]
        case "stopped":
            return [f"The search was stopped after {done}; the same `run` command goes on with it."]
        case "failed" if not view.scored and len(why) <= _LONGEST:
            return []  # the title has it
        case "failed":
            return [f"The search {told}."]
        case "dead" | "silent":
            return [f"The search did not come to its end, after {done}: {why}."]
    return []


def _of_confirmation(view: RunView) -> list[str]:
    if not view.members:
        if not view.front:
            return []
        return [
            "Not confirmed: these are scores on the dev items that the search chose by, where the"
            f" best of {many(len(view.scored), 'trial')} looks better than it is. Run"
            " `mergefront confirm` before trusting them."
        ]
    cautions = []
    after = confirming.load(view.run)[1]
    since = len(view.scored) + sum(t.state == "fault" for t in view.trials.values()) - after
    if since > 0:
        cautions.append(
            f"Confirmed after {many(after, 'trial')}; {since:,} more have finished since and are"
            " not among the confirmed. Run `mergefront confirm` again."
        )
    return cautions


def _and(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    held = list(names)
    return f"{', '.join(held[:-1])} and {held[-1]}" if len(held) > 1 else "".join(held)
