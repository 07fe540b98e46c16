"""Each objective against each parameter: what the search tried, when, and what it scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optuna.distributions import CategoricalDistribution

from search.amounts import many
from search.figures.chart import Axis, Chart, Panel, Series, Symbol, number, spanned
from search.figures.figure import Figure, spread
from search.figures.scatter import scatter
from search.ranges import Distribution
from search.view import RunView, TrialView

MOST = 12
"""Parameters that are drawn, the most important first."""
_COLUMNS = 3  # objectives that are drawn
_ACROSS = 4  # panels in a row: whole parameters
_POINTS = 300  # of a panel: more cover each other, and make the page slow


def slices(view: RunView) -> Figure | None:
    """A row for each parameter, a column for each objective."""
    trials = list(view.scored.values())
    known = view.search.space.distributions()
    order = [one.name for one in view.importances] or list(known)
    frozen = view.search.file.sampler.freeze
    varied = [
        name
        for name in order
        if name not in frozen
        and not known[name].single()
        and sum(name in trial.params for trial in trials) > 1
    ]
    if not varied:
        return None
    objectives = view.search.objectives[:_COLUMNS]
    panels = [
        _panel(view, name, known[name], index, trials)
        for name in varied[:MOST]
        for index in range(len(objectives))
    ]
    columns = min(len(panels), _ACROSS // len(objectives) * len(objectives))
    last = max(trial.number for trial in trials)
    chart = Chart(panels, columns, 190, ("trial", 0.0, float(last)))
    return Figure(
        "slices", f"{view.name}: scores by parameter", _caption(view, varied, len(trials)), chart
    )


def _caption(view: RunView, varied: Sequence[str], count: int) -> str:
    lines = [
        "Each point is a trial: orange ones are late, blue ones early, diamonds are on the front, "
        "open circles were stopped early and are estimates."
    ]
    if len(varied) > MOST:
        most = "most important" if view.importances else "first"
        lines.append(f"The {MOST} {most} of {len(varied)} parameters are shown.")
    if len(view.search.objectives) > _COLUMNS:
        lines.append(f"{_COLUMNS} of {len(view.search.objectives)} objectives are shown.")
    if count > _POINTS:
        lines.append(
            f"Of {many(count, 'trial')} about {_POINTS} are drawn, evenly over the search, and all "
            "of the front."
        )
    lines.append(
        "Where late points crowd, the sampler looked closely; that is its choice, so do not read a "
        "trend from where points are many. All other parameters change, too."
    )
    return " ".join(lines)


def _panel(
    view: RunView, name: str, held: Distribution, index: int, trials: Sequence[TrialView]
) -> Panel:
    having = {trial.number: trial for trial in trials if name in trial.params}
    drawn = set(spread(sorted(having), _POINTS))
    x, place = _axis(name, held)
    partial = [t for t in having.values() if t.state == "partial" and t.number in drawn]
    kinds: list[tuple[str, Symbol, float, list[TrialView]]] = [
        ("trials", "circle", 6, [t for t in having.values() if _plain(t) and t.number in drawn]),
        ("stopped early", "circle-open", 6, partial),
        ("front", "diamond", 10, [t for t in having.values() if t.on_front]),
    ]
    series: list[Series] = []
    for what, symbol, size, shown in kinds:
        series += scatter(
            view,
            what,
            symbol,
            shown,
            place,
            lambda trial: f"{name} = {number(trial.params[name])}",
            index,
            size,
        )
    values = [trial.values[index] for trial in trials]
    return Panel(x, Axis(span=spanned(values)), series, view.search.objectives[index].name)


def _plain(trial: TrialView) -> bool:
    return trial.state != "partial" and not trial.on_front


def _axis(name: str, held: Distribution) -> tuple[Axis, Callable[[TrialView], float]]:
    """A parameter's axis, and where a trial lies on it."""
    if isinstance(held, CategoricalDistribution):
        names = tuple(number(choice) for choice in held.choices)

        def among(trial: TrialView) -> float:
            # Beside one another: trials of one choice would hide each other.
            aside = (trial.number * 0.618034) % 1.0 - 0.5
            return held.choices.index(trial.params[name]) + 0.5 * aside

        return Axis(name, names=names), among
    span = (float(held.low), float(held.high))
    log = bool(held.log)
    return Axis(name, span if log else spanned(span, 0.0), log), lambda t: float(t.params[name])
