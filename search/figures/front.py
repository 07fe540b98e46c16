"""The front: every trial by its scores, claimed beside confirmed, with baselines and bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from objectives import Estimate
from search.amounts import many
from search.config import Constraint, Objective
from search.confirm import Member
from search.confirmed import broken
from search.figures.chart import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    Axis,
    Chart,
    Line,
    Panel,
    Placed,
    Points,
    Region,
    Series,
    spanned,
)
from search.figures.figure import Figure, told
from search.view import RunView, TrialView

_MOST_PANELS = 6  # pairs of four objectives
_NAMED = 8  # a front of so many has its numbers written beside it
Place = tuple[float, float]


def front(view: RunView) -> Figure | None:
    """Every pair of objectives; of a single one, its values in the order of the trials."""
    if not view.scored and not view.baselines:
        return None
    pairs = list(combinations(range(len(view.search.objectives)), 2))
    panels = [_Panel(view, x, y).panel() for x, y in pairs[:_MOST_PANELS]]
    if not pairs:
        panels = [_Panel(view, None, 0).panel()]
    columns = 1 if len(panels) == 1 else 2
    chart = Chart(panels, columns, 500 if columns == 1 else 380)
    title = f"{view.name}: {'the front' if pairs else 'scores'}"
    return Figure("front", title, _caption(view, len(pairs)), chart)


def _caption(view: RunView, pairs: int) -> str:
    scored = view.scored.values()
    partial = sum(trial.state == "partial" and trial.feasible for trial in scored)
    faults = sum(trial.state == "fault" for trial in view.trials.values())
    unfit = sum(not trial.feasible for trial in scored)
    lines = [
        f"{many(len(view.scored), 'trial')}; {len(view.front)} "
        f"{'on the front' if pairs else 'the best'} by the items that the search saw."
    ]
    if partial:
        lines.append(f"Open circles ({partial:,}) were stopped early: their places are estimates.")
    if unfit:
        lines.append(f"Open triangles ({unfit:,}) miss a constraint.")
    if faults:
        lines.append(f"{many(faults, 'merge')} with infinite weights cannot be drawn.")
    if lost := [label for label in view.baselines if label not in view.able]:
        lines.append(f"Not drawn, because its merge is broken: baseline {', '.join(lost)}.")
    if off := [label for label, held in view.able.items() if not held.feasible]:
        lines.append(f"Of the baselines, {', '.join(off)} {_miss(len(off))} a constraint.")
    for bound in view.search.constraints:
        if not any(_same(o, bound.key, bound.parts) for o in view.search.objectives):
            count = view.missed[str(bound)]
            told = f"{many(count, 'trial')} {_miss(count)} it" if count else "no trial misses it"
            lines.append(f"{bound} is a constraint without an axis here: {told}.")
    if pairs > _MOST_PANELS:
        lines.append(f"{_MOST_PANELS} of {pairs} pairs of objectives are drawn.")
    if view.members:
        lines.append(
            "Crosses are the same merges on held-out items; thin lines lead there from what was "
            "claimed. Where bars overlap, do not conclude that one merge is better: all bars hold "
            "at once with 95%, and a comparison item by item can tell more."
        )
    else:
        lines.append(
            "Nothing is confirmed yet: the best of many looks better than it is, so do not take "
            "the distance to the baselines at its word."
        )
    return " ".join(lines)


class _Panel:
    """One pair of objectives; `x` None is the order of the trials."""

    def __init__(self, view: RunView, x: int | None, y: int) -> None:
        self.view = view
        self._x, self._y = x, y
        objectives = view.search.objectives
        self._pair = [objectives[i] for i in (x, y) if i is not None]
        able = [member for member in view.members if not broken(member)]
        finite = [m for m in able if all(map(math.isfinite, self._of(m)))]
        self._members = finite

    def panel(self) -> Panel:
        """What is drawn, back to front."""
        drawn = [self._unfit(), self._partial(), self._full()]
        series: list[Series] = [one for one in drawn if one is not None]
        if self._x is not None and len(self.view.search.objectives) == 2:
            series.append(self._staircase())
        series += self._moves()
        series += [
            one
            for one in (
                self._front(),
                self._baselines(),
                self._confirmed(trials=True),
                self._confirmed(trials=False),
                self._exported(),
            )
            if one is not None
        ]
        points = [one for one in series if isinstance(one, Points)]
        x = replace(self._axis(self._x), span=self._span(points, self._x, upright=False))
        y = replace(self._axis(self._y), span=self._span(points, self._y, upright=True))
        if self._x is None:
            levels = [self._level(label, v[self._y], x) for label, v in self._levels()]
            series = [*levels, *series]
        assert x.span is not None
        assert y.span is not None
        placed = Placed(x, y)
        self._name(placed)
        return Panel(x, y, series, "", self._regions(x.span, y.span), placed.labels)

    # ---- series

    def _full(self) -> Points | None:
        return self._trials("trials", lambda t: t.feasible and t.state != "partial")

    def _partial(self) -> Points | None:
        drawn = self._trials("stopped early", lambda t: t.feasible and t.state == "partial")
        return drawn and replace(drawn, symbol="circle-open")

    def _unfit(self) -> Points | None:
        drawn = self._trials("misses a constraint", lambda t: not t.feasible)
        return drawn and replace(drawn, symbol="triangle-open")

    def _trials(self, name: str, wanted: object) -> Points | None:
        assert callable(wanted)
        trials = [t for t in self.view.scored.values() if not t.on_front and wanted(t)]
        if not trials:
            return None
        crowd = len(trials) > 300
        return self._points(name, trials, size=5 if crowd else 7, opacity=0.45 if crowd else 0.7)

    def _front(self) -> Points | None:
        trials = [self.view.trials[number] for number in self.view.front]
        name = "front, claimed" if self._x is not None else "best, claimed"
        return self._points(name, trials, color=BLUE, size=9) if trials else None

    def _points(self, name: str, trials: Sequence[TrialView], **look: object) -> Points:
        places = [self._at(trial.number, trial.values) for trial in trials]
        texts = [told(self.view, trial) for trial in trials]
        return Points(
            name,
            [place[0] for place in places],
            [place[1] for place in places],
            texts,
            **look,  # type: ignore[arg-type]
        )

    def _staircase(self) -> Line:
        """The edge of what the front dominates."""
        corners: list[Place] = []
        for number in self.view.front:  # best first objective first
            place = self._at(number, self.view.trials[number].values)
            corners += [(place[0], corners[-1][1])] if corners else []
            corners.append(place)
        return Line("", [c[0] for c in corners], [c[1] for c in corners], BLUE, "dot", 1.5)

    def _baselines(self) -> Points | None:
        held = list(self.view.able.values())
        if self._x is None or not held:
            return None
        places = [self._at(0, baseline.values) for baseline in held]
        return Points(
            "baselines, claimed",
            [place[0] for place in places],
            [place[1] for place in places],
            [told(self.view, baseline) for baseline in held],
            color=ORANGE,
            symbol="diamond",
            size=10,
        )

    def _levels(self) -> list[tuple[str, tuple[float, ...]]]:
        return [(label, baseline.values) for label, baseline in self.view.able.items()]

    def _level(self, label: str, value: float, x: Axis) -> Line:
        """A baseline where there is one objective only."""
        assert x.span is not None
        return Line("baselines, claimed", x.span, (value, value), ORANGE, "dash", 1.2, text=label)

    def _moves(self) -> list[Line]:
        """From what was claimed of each member to what was confirmed."""
        lines = []
        for trials, color in ((True, GREEN), (False, ORANGE)):
            xs: list[float] = []
            ys: list[float] = []
            for member in self._shown(trials=trials):
                begin, end = self._place(member, member.claimed), self._place(member)
                xs += [begin[0], end[0], math.nan]
                ys += [begin[1], end[1], math.nan]
            if xs:
                lines.append(Line("", xs, ys, color, width=1.0, opacity=0.55))
        return lines

    def _shown(self, *, trials: bool) -> list[Member]:
        """Confirmed members that have a place here."""
        return [
            member
            for member in self._members
            if (member.trial is not None) == trials and (trials or self._x is not None)
        ]

    def _confirmed(self, *, trials: bool) -> Points | None:
        shown = self._shown(trials=trials)
        if not shown:
            return None
        places = [self._place(member) for member in shown]
        bars = [
            [(member.confirmed[o.name].low, member.confirmed[o.name].high) for member in shown]
            for o in self._pair
        ]
        return Points(
            "confirmed, 95% at once" if trials else "baselines, confirmed",
            [place[0] for place in places],
            [place[1] for place in places],
            [self._said(member) for member in shown],
            color=GREEN if trials else ORANGE,
            symbol="x",
            size=9 if trials else 7,
            x_bars=bars[0] if self._x is not None else (),
            y_bars=bars[-1],
        )

    def _exported(self) -> Points | None:
        chosen = self.view.chosen
        if chosen is None or chosen not in self._members:
            return None
        x, y = self._place(chosen)
        text = f"exported\n{self._said(chosen)}"
        return Points("exported", [x], [y], [text], color=PURPLE, symbol="star", size=16)

    # ---- places

    def _at(self, number: int, values: Sequence[float]) -> Place:
        return (float(number) if self._x is None else values[self._x], values[self._y])

    def _place(self, member: Member, estimates: dict[str, Estimate] | None = None) -> Place:
        shown = member.confirmed if estimates is None else estimates
        values = [shown[o.name].value for o in self.view.search.objectives]
        return self._at(member.trial or 0, values)

    def _of(self, member: Member) -> list[float]:
        found = [member.confirmed[o.name] for o in self._pair]
        return [end for e in found for end in (e.value, e.low, e.high)]

    def _said(self, member: Member) -> str:
        lines = [f"{member.label}, held-out items"]
        for objective in self.view.search.objectives:
            e, claimed = member.confirmed[objective.name], member.claimed[objective.name]
            lines.append(
                f"{objective.name} {e.value:.3f} [{e.low:.3f}, {e.high:.3f}], {e.n} items; "
                f"claimed {claimed.value:.3f}"
            )
        return "\n".join(lines)

    def _axis(self, index: int | None) -> Axis:
        if index is None:
            return Axis("trial")
        objective = self.view.search.objectives[index]
        better = "more is better" if objective.sign > 0 else "less is better"
        return Axis(f"{objective.name} ({better})")

    def _regions(self, x: Place, y: Place) -> list[Region]:
        """Where a constraint on one of these objectives is missed."""
        found = []
        for upright, index, span in ((True, self._x, x), (False, self._y, y)):
            for bound in self._bounds(index):
                end = span[0] if bound.at_least else span[1]
                if span[0] < bound.bound < span[1]:
                    found.append(Region(f"misses {bound}", bound.bound, end, upright))
        return found

    def _bounds(self, index: int | None) -> list[Constraint]:
        """The constraints on the objective of an axis."""
        if index is None:
            return []
        objective = self.view.search.objectives[index]
        constraints = self.view.search.constraints
        return [bound for bound in constraints if _same(objective, bound.key, bound.parts)]

    def _span(self, points: Sequence[Points], index: int | None, *, upright: bool) -> Place:
        """What an axis spans: all that is drawn, and the bounds that some trial misses."""
        values = [bound.bound for bound in self._bounds(index) if self.view.missed[str(bound)]]
        if self._x is None and upright:
            values += [level[self._y] for _, level in self._levels()]
        for one in points:
            values += one.y if upright else one.x
            values += [end for bar in (one.y_bars if upright else one.x_bars) for end in bar]
        return spanned(values)

    def _name(self, placed: Placed) -> None:
        """Names of the exported one, of the baselines, and of the front's members if few."""
        view = self.view
        front = [(number, self._at(number, view.trials[number].values)) for number in view.front]
        baselines = [(label, self._at(0, values)) for label, values in self._levels()]
        for _, place in front:
            placed.keep_free(*place)
        if self._x is None:
            assert placed.x.span is not None
            baselines = [(label, (placed.x.span[0], place[1])) for label, place in baselines]
        else:
            for _, place in baselines:
                placed.keep_free(*place)
        for member in self._members:
            x, y = self._place(member)
            placed.keep_free(x, y)
            along = member.confirmed[self._pair[-1].name]
            placed.keep_clear((x, along.low), (x, along.high))
            if self._x is not None:
                across = member.confirmed[self._pair[0].name]
                placed.keep_clear((across.low, y), (across.high, y))
        if view.chosen is not None and view.chosen in self._members:
            place = self._place(view.chosen)
            placed.add(f"exported: {view.chosen.label}", *place, PURPLE, must=True)
        for label, place in baselines:
            text = label if len(label) <= 28 else f"{label[:27]}…"
            placed.add(text, *place, ORANGE, must=True)
        if len(front) <= _NAMED:
            for number, place in front:
                placed.add(f"trial {number}", *place, BLUE)


def _miss(count: int) -> str:
    return "misses" if count == 1 else "miss"


def _same(objective: Objective, key: str, parts: tuple[tuple[str, str], ...]) -> bool:
    return key == objective.name or parts == objective.parts
