"""How much of each expert is in the merge, against what the merge scores: is there a plateau?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from search.amounts import many
from search.figures.chart import ORANGE, Axis, Chart, Line, Panel, Series, Symbol, spanned
from search.figures.figure import Figure, spread
from search.figures.scatter import scatter
from search.view import RunView, TrialView

_BINS = 8
_FEWEST = 24  # trials that a line of medians takes: three a bin
_POINTS = 400  # of a panel
_MOST = 4  # experts, and objectives


def retained(view: RunView) -> Figure | None:
    """A row for each expert, a column for each objective."""
    trials = [trial for trial in view.scored.values() if trial.retained]
    experts = list(dict.fromkeys(name for trial in trials for name in trial.retained))
    if not experts:
        return None
    objectives = view.search.objectives[:_MOST]
    panels = [
        _panel(view, expert, index, trials)
        for expert in experts[:_MOST]
        for index in range(len(objectives))
    ]
    caption = (
        "How much of the expert's difference from the base is still in the merge (retained) "
        "against the score; further left, more is discarded. A line that stays level to the left "
        "is a plateau: much can be discarded at no loss (arXiv 2407.03994). "
        "The line joins medians of groups of equally many trials. "
        "Do not read it as an effect of discarding alone: the sampler changed weights and all else "
        "at the same time, and looked longest where scores were good."
    )
    if len(trials) > _POINTS:
        caption += f" Of {many(len(trials), 'trial')} {_POINTS} are drawn; the line is of all."
    if len(experts) > _MOST or len(view.search.objectives) > _MOST:
        caption += f" The first {_MOST} experts and objectives are shown."
    last = max(trial.number for trial in trials)
    chart = Chart(panels, len(objectives), 280, ("trial", 0.0, float(last)))
    return Figure("retained", f"{view.name}: retained shares and scores", caption, chart)


def _panel(view: RunView, expert: str, index: int, trials: Sequence[TrialView]) -> Panel:
    having = {trial.number: trial for trial in trials if expert in trial.retained}
    drawn = [having[number] for number in spread(sorted(having), _POINTS)]
    series: list[Series] = []
    kinds: list[tuple[str, Symbol, bool]] = [
        ("trials", "circle", False),
        ("stopped early", "circle-open", True),
    ]
    for what, symbol, partial in kinds:
        shown = [trial for trial in drawn if (trial.state == "partial") == partial]
        series += scatter(
            view,
            what,
            symbol,
            shown,
            lambda trial: trial.retained[expert],
            lambda trial: f"{expert} retained {trial.retained[expert]:.1%}",
            index,
        )
    if len(having) >= _FEWEST:
        xs, ys = _medians([(t.retained[expert], t.values[index]) for t in having.values()])
        series.append(Line("median of equally many trials", xs, ys, ORANGE, width=3.0))
    x = Axis(f"{expert}: share retained", percent=True)
    values = [trial.values[index] for trial in trials]
    objective = view.search.objectives[index].name
    return Panel(x, Axis(span=spanned(values)), series, objective)


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Medians of both over groups of equally many, from the smallest share on."""
    ordered = sorted(pairs)
    ends = [len(ordered) * place // _BINS for place in range(_BINS + 1)]
    groups = [ordered[begin:end] for begin, end in pairwise(ends)]
    xs, ys = ([median(pair[i] for pair in own) for own in groups] for i in (0, 1))
    return xs, ys
