"""The front as a plot: an HTML file that works offline, and a PNG.

Plots show gains as they are scored (not turned): axis titles are the objectives' names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_core.yaml_io import write_atomic
from objectives import Estimate
from search.config import Search
from search.confirm import Member

_TRIAL, _FRONT, _BASELINE, _CONFIRMED = "#9aa5b1", "#1f6feb", "#d1242f", "#1a7f37"


def front_plot(
    search: Search,
    trials: Mapping[int, Sequence[float]],
    front: Sequence[int],
    baselines: Mapping[str, Sequence[float]],
    members: Sequence[Member],
    folder: Path,
    title: str,
) -> list[Path]:
    """Write front.html and front.png into `folder`.

    Args:
        search: for the objectives; the first two are the axes.
        trials: claimed values of the finished trials by number.
        front: numbers on the claimed front.
        baselines: claimed values by label.
        members: confirmed members (may be empty).
        folder: where to write.
        title: of the plot.
    """
    if len(search.objectives) < 2:
        return []
    figure = _figure(search, trials, front, baselines, members, title)
    html = folder / "front.html"
    # plotly inside the file: a page from a cluster is read where there is no network.
    write_atomic(html, figure.to_html(include_plotlyjs=True, full_html=True))
    png = folder / "front.png"
    _png(search, trials, front, baselines, members, title, png)
    return [html, png]


def _confirmed(search: Search, members: Sequence[Member]) -> list[tuple[str, Estimate, Estimate]]:
    x, y = search.objectives[:2]
    return [(m.label, m.confirmed[x.name], m.confirmed[y.name]) for m in members]


def _figure(
    search: Search,
    trials: Mapping[int, Sequence[float]],
    front: Sequence[int],
    baselines: Mapping[str, Sequence[float]],
    members: Sequence[Member],
    title: str,
) -> Any:
    import plotly.graph_objects as go

    x, y = search.objectives[:2]
    others = [number for number in trials if number not in front]
    figure = go.Figure()
    figure.add_scatter(
        x=[trials[n][0] for n in others],
        y=[trials[n][1] for n in others],
        text=[f"trial {n}" for n in others],
        mode="markers",
        name="trials (dev)",
        marker={"color": _TRIAL, "size": 6, "opacity": 0.6},
    )
    figure.add_scatter(
        x=[trials[n][0] for n in front],
        y=[trials[n][1] for n in front],
        text=[f"trial {n}" for n in front],
        mode="lines+markers",
        name="front, claimed (dev)",
        line={"color": _FRONT, "shape": "vh", "dash": "dot"},
        marker={"color": _FRONT, "size": 9},
    )
    figure.add_scatter(
        x=[values[0] for values in baselines.values()],
        y=[values[1] for values in baselines.values()],
        text=list(baselines),
        mode="markers+text",
        # Neighbours on either side, so that close ones can both be read.
        textposition=[("top center", "bottom center")[i % 2] for i in range(len(baselines))],
        cliponaxis=False,
        name="baselines (dev)",
        marker={"color": _BASELINE, "size": 10, "symbol": "diamond"},
    )
    rows = _confirmed(search, members)
    if rows:
        figure.add_scatter(
            x=[a.value for _, a, _ in rows],
            y=[b.value for _, _, b in rows],
            text=[label for label, _, _ in rows],
            mode="markers",
            name="confirmed (held out, simultaneous 95%)",
            marker={"color": _CONFIRMED, "size": 9, "symbol": "x"},
            error_x={
                "array": [a.high - a.value for _, a, _ in rows],
                "arrayminus": [a.value - a.low for _, a, _ in rows],
                "thickness": 1,
            },
            error_y={
                "array": [b.high - b.value for _, _, b in rows],
                "arrayminus": [b.value - b.low for _, _, b in rows],
                "thickness": 1,
            },
        )
    figure.update_layout(
        title=title,
        xaxis_title=x.name,
        yaxis_title=y.name,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def _png(
    search: Search,
    trials: Mapping[int, Sequence[float]],
    front: Sequence[int],
    baselines: Mapping[str, Sequence[float]],
    members: Sequence[Member],
    title: str,
    path: Path,
) -> None:
    # The object interface: pyplot keeps global state and wants a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y = search.objectives[:2]
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    others = [number for number in trials if number not in front]
    axes.scatter(
        [trials[n][0] for n in others],
        [trials[n][1] for n in others],
        s=14,
        c=_TRIAL,
        alpha=0.6,
        label="trials (dev)",
    )
    axes.plot(
        [trials[n][0] for n in front],
        [trials[n][1] for n in front],
        "o:",
        c=_FRONT,
        label="front, claimed (dev)",
    )
    axes.scatter(
        [v[0] for v in baselines.values()],
        [v[1] for v in baselines.values()],
        marker="D",
        c=_BASELINE,
        label="baselines (dev)",
        zorder=3,
    )
    for index, (label, values) in enumerate(baselines.items()):
        above = (-4, 8) if index % 2 == 0 else (-4, -16)
        axes.annotate(label, (values[0], values[1]), xytext=above, textcoords="offset points")
    rows = _confirmed(search, members)
    if rows:
        axes.errorbar(
            [a.value for _, a, _ in rows],
            [b.value for _, _, b in rows],
            xerr=[
                [a.value - a.low for _, a, _ in rows],
                [a.high - a.value for _, a, _ in rows],
            ],
            yerr=[
                [b.value - b.low for _, _, b in rows],
                [b.high - b.value for _, _, b in rows],
            ],
            fmt="x",
            c=_CONFIRMED,
            elinewidth=0.8,
            label="confirmed (held out, simultaneous 95%)",
        )
    axes.set(xlabel=x.name, ylabel=y.name, title=title)
    axes.legend(loc="best", fontsize=8)
    axes.grid(alpha=0.3)
    temporary = path.with_name(f".{path.name}")
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(temporary, format="png")
    temporary.replace(path)
