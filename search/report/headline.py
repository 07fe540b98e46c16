"""The report's first lines: what was found, in a few true sentences, whatever became of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from objectives import Estimate
from search import confirm as confirming
from search.amounts import many
from search.budget import until
from search.comparison import signed
from search.export import spelled
from search.report.verdict import Against, ahead_of
from search.status import State, Status
from search.view import RunView

STATES = {
    "running": ("still running", "busy"),
    "silent": ("no sign of its driver", "warn"),
    "finished": ("finished", "good"),
    "stopped": ("stopped", "warn"),
    "failed": ("ended with an error", "bad"),
    "dead": ("its driver was killed", "bad"),
    "not begun": ("not begun", "warn"),
}
"""By `Status.state`: in words, and what colour it has."""


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
        title, lines = "Nothing is scored yet", []
    return Headline(state, tone, title, lines, cautions)


def _chosen(view: RunView, found: list[Against]) -> tuple[str, list[str]]:
    assert view.chosen is not None
    who = view.chosen.label
    named = who[:1].upper() + who[1:]
    better = [_by(one) for one in found if one.standing == "better"]
    worse = [_by(one) for one in found if one.standing == "worse"]
    even = [_by(one) for one in found if one.standing == "not told apart"]
    ahead = ahead_of(view, view.chosen)
    if all(one.baseline is None for one in found):
        scores = _and(f"{one.objective.name} {spelled(one.ours)}" for one in found)
        return f"{named} is the balanced merge: {scores}; there is no baseline", []
    if ahead:
        title = f"No gain: baseline {_and(ahead)} is at least as good as {who} in everything"
    elif better:
        title = f"{named} beats every baseline in {_and(better)}"
        title += f"; not told from the best in {_and(even)}" if even else ""
        title += f"; it gives up {_and(worse)}" if worse else ""
    elif worse:
        title = f"{named} beats no baseline for certain; it is behind in {_and(worse)}"
        title += f", not told from the best in {_and(even)}" if even else ""
    else:
        title = f"{named} is not told apart from the best baselines: {_and(even)}"
    return title, _notes(view)


def _by(one: Against) -> str:
    if one.difference is None:
        return one.objective.name
    interval = signed(one.difference).replace(", ", ",\u00a0")  # no line breaks in it
    return f"{one.objective.name} ({interval})"


def _notes(view: RunView) -> list[str]:
    """Beside the objectives: both at once, and what was asked once."""
    assert view.chosen is not None
    lines = []
    others = [m for m in view.members if m.trial is None and m.joint is not None]
    if view.chosen.joint is not None:
        line = (
            f"Right and in the language at once: {spelled(view.chosen.joint)} of held-out answers"
        )
        if others:
            best = max(others, key=lambda m: m.joint.value if m.joint else 0.0)
            assert best.joint is not None
            line += f"; the best baseline, {best.label}, has {spelled(best.joint)}"
        lines.append(f"{line}.")
    if view.test is not None:
        told = _and(f"{o.name} {spelled(view.test.estimate(o))}" for o in view.search.objectives)
        n = view.test.estimate(view.search.objectives[0]).n
        lines.append(f"On {n:,} test items, asked once and of it alone: {told}.")
    if view.search.constraints:
        bounds = _and(map(str, view.search.constraints))
        held = "holds" if view.chosen.feasible else "DOES NOT HOLD"
        lines.append(f"It {held} {bounds} with 95% confidence on held-out items.")
    return lines


def _claimed(view: RunView) -> tuple[str, list[str]]:
    title = f"{many(len(view.front), 'trial')} on the front, by scores that are not confirmed"
    lines = []
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
                ((label, b.values[index]) for label, b in view.baselines.items()),
                key=lambda pair: objective.sign * pair[1],
            )
            line += f"; best baseline {label} {best:.3f}"
        lines.append(f"{line}.")
    return title, lines


def _of_state(view: RunView, standing: Standing) -> list[str]:
    done = many(view.account.trials, "trial")
    if standing.state == "running":
        phase = f", {standing.phase}" if standing.phase else ""
        asked = until(view.search.file.budget)
        return [f"The search goes on{phase}: {done} so far, until {asked}. This is how it stood."]
    if standing.state == "stopped":
        return [f"The search was stopped after {done}; the same `run` command goes on with it."]
    if standing.state in ("failed", "dead", "silent"):
        why = standing.why or "see run.log"
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
