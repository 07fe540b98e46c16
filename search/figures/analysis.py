"""Plots: the front, and the shares of each expert in a merge. HTML that works offline, and PNG.

Plots of the front show gains as they are scored (not turned): axis titles are the objectives'
names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from merge_core.analysis import Analysis, By, Counts
from merge_core.yaml_io import write_atomic
from objectives import Estimate
from search.config import Search
from search.confirm import Member

TRIAL_COLOR, FRONT_COLOR = "#9aa5b1", "#1f6feb"
BASELINE_COLOR, CONFIRMED_COLOR = "#d1242f", "#1a7f37"
CONFLICT_COLOR = "#24292f"
_PARTS: dict[str, tuple[str, Callable[[Counts], float]]] = {  # stacked: color, share
    "retained": ("#1f6feb", lambda counts: counts.share("retained") - counts.share("restored")),
    "restored by slack": ("#79b8ff", lambda counts: counts.share("restored")),
    "lost": ("#d1242f", lambda counts: counts.share("lost")),
    "trimmed": ("#d0d7de", lambda counts: counts.share("trimmed")),
    "zero": ("#f6f8fa", lambda counts: counts.share("zero")),
}
_CONFLICT = "experts disagree in sign"
_LABELS = 60  # along a picture's axis; of more only some are written


@dataclass(frozen=True)
class FrontPlot:
    """What a plot of the front shows; the first two objectives are its axes.

    Attributes:
        search: for the objectives.
        trials: claimed values of the finished trials by number; of stopped ones, estimates.
        front: numbers on the claimed front.
        stopped: numbers of the trials that a race stopped.
        baselines: claimed values by label.
        members: confirmed members (may be empty).
        title: of the plot.
    """

    search: Search
    trials: Mapping[int, Sequence[float]]
    front: Sequence[int]
    stopped: Collection[int]
    baselines: Mapping[str, Sequence[float]]
    members: Sequence[Member]
    title: str

    def write(self, folder: Path) -> list[Path]:
        """Write front.html and front.png into `folder`; nothing for a single objective."""
        if len(self.search.objectives) < 2:
            return []
        html, png = folder / "front.html", folder / "front.png"
        _write_html(self._html(), html)
        _write_png(self._png(), png)
        return [html, png]

    def _others(self) -> list[tuple[str, bool, list[int]]]:
        """(what, whether estimates, numbers) of the trials that are not on the front."""
        series = [
            ("trials (dev)", False, [n for n in self.trials if n not in self.stopped]),
            ("stopped early (estimate)", True, [n for n in self.trials if n in self.stopped]),
        ]
        return [
            (what, estimates, off)
            for what, estimates, numbers in series
            if (off := [n for n in numbers if n not in self.front])
        ]

    def _confirmed(self) -> list[tuple[str, Estimate, Estimate]]:
        x, y = self.search.objectives[:2]
        return [(m.label, m.confirmed[x.name], m.confirmed[y.name]) for m in self.members]

    def _html(self) -> Any:
        import plotly.graph_objects as go

        x, y = self.search.objectives[:2]
        figure = go.Figure()
        for what, estimates, others in self._others():
            figure.add_scatter(
                x=[self.trials[n][0] for n in others],
                y=[self.trials[n][1] for n in others],
                text=[f"trial {n}" for n in others],
                mode="markers",
                name=what,
                marker={
                    "color": TRIAL_COLOR,
                    "size": 6,
                    "opacity": 0.6,
                    "symbol": "circle-open" if estimates else "circle",
                },
            )
        figure.add_scatter(
            x=[self.trials[n][0] for n in self.front],
            y=[self.trials[n][1] for n in self.front],
            text=[f"trial {n}" for n in self.front],
            mode="lines+markers",
            name="front, claimed (dev)",
            line={"color": FRONT_COLOR, "shape": "hv", "dash": "dot"},
            marker={"color": FRONT_COLOR, "size": 9},
        )
        figure.add_scatter(
            x=[values[0] for values in self.baselines.values()],
            y=[values[1] for values in self.baselines.values()],
            text=list(self.baselines),
            mode="markers+text",
            # Neighbours on either side, so that close ones can both be read.
            textposition=[
                ("top center", "bottom center")[i % 2] for i in range(len(self.baselines))
            ],
            cliponaxis=False,
            name="baselines (dev)",
            marker={"color": BASELINE_COLOR, "size": 10, "symbol": "diamond"},
        )
        rows = self._confirmed()
        if rows:
            figure.add_scatter(
                x=[a.value for _, a, _ in rows],
                y=[b.value for _, _, b in rows],
                text=[label for label, _, _ in rows],
                mode="markers",
                name="confirmed (held out, simultaneous 95%)",
                marker={"color": CONFIRMED_COLOR, "size": 9, "symbol": "x"},
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
            title=self.title,
            xaxis_title=x.name,
            yaxis_title=y.name,
            template="plotly_white",
            legend={"orientation": "h", "y": -0.2},
        )
        return figure

    def _png(self) -> Any:
        from matplotlib.figure import Figure

        x, y = self.search.objectives[:2]
        figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        for what, estimates, others in self._others():
            axes.scatter(
                [self.trials[n][0] for n in others],
                [self.trials[n][1] for n in others],
                s=14,
                facecolors="none" if estimates else TRIAL_COLOR,
                edgecolors=TRIAL_COLOR,
                alpha=0.6,
                label=what,
            )
        axes.plot(
            [self.trials[n][0] for n in self.front],
            [self.trials[n][1] for n in self.front],
            "o:",
            c=FRONT_COLOR,
            label="front, claimed (dev)",
        )
        axes.scatter(
            [v[0] for v in self.baselines.values()],
            [v[1] for v in self.baselines.values()],
            marker="D",
            c=BASELINE_COLOR,
            label="baselines (dev)",
            zorder=3,
        )
        middle = sum(axes.get_xlim()) / 2
        for index, (label, values) in enumerate(self.baselines.items()):
            left = values[0] < middle  # labels point into the plot
            axes.annotate(
                label,
                (values[0], values[1]),
                xytext=(-4 if left else 4, 8 if index % 2 == 0 else -16),
                textcoords="offset points",
                ha="left" if left else "right",
            )
        rows = self._confirmed()
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
                c=CONFIRMED_COLOR,
                elinewidth=0.8,
                label="confirmed (held out, simultaneous 95%)",
            )
        axes.set(xlabel=x.name, ylabel=y.name, title=self.title)
        axes.legend(loc="best", fontsize=8)
        axes.grid(alpha=0.3)
        return figure


@dataclass(frozen=True)
class SharePlot:
    """What became of each expert's entries, as bars that add up to 1; a panel an expert.

    Attributes:
        analysis: what is shown.
        by: what has a bar.
        title: of the plot.
    """

    analysis: Analysis
    by: By
    title: str

    def write(self, path: Path) -> None:
        """Write the plot: an HTML page that works offline, or a PNG, by the name's ending."""
        if path.suffix == ".html":
            _write_html(self._html(), path)
        else:
            _write_png(self._png(), path)

    def _bars(self, expert: int) -> list[tuple[str, str, list[float]]]:
        """(what, color, height of each bar) of one panel."""
        own: list[Counts] = [row.experts[expert] for row in self.analysis.rows(self.by)]
        return [
            (what, color, heights)
            for what, (color, share) in _PARTS.items()
            if any(heights := [share(counts) for counts in own])
        ]

    def _labels(self) -> list[str]:
        return [row.name for row in self.analysis.rows(self.by)]

    def _conflicts(self) -> list[float]:
        shares = (row.conflict_share for row in self.analysis.rows(self.by))
        return [share for share in shares if share is not None]

    def _html(self) -> Any:
        from plotly.subplots import make_subplots

        names, labels, conflicts = self.analysis.names, self._labels(), self._conflicts()
        figure = make_subplots(
            rows=len(names), cols=1, shared_xaxes=True, subplot_titles=names, vertical_spacing=0.08
        )
        shown: set[str] = set()
        for place in range(len(names)):
            for what, color, heights in self._bars(place):
                figure.add_bar(
                    x=labels,
                    y=heights,
                    name=what,
                    legendgroup=what,
                    showlegend=what not in shown,
                    marker={"color": color, "line": {"color": "#57606a", "width": 0.5}},
                    row=place + 1,
                    col=1,
                )
                shown.add(what)
            if conflicts:
                figure.add_scatter(
                    x=labels,
                    y=conflicts,
                    mode="lines+markers",
                    name=_CONFLICT,
                    legendgroup="conflict",
                    showlegend=place == 0,
                    line={"color": CONFLICT_COLOR, "dash": "dot"},
                    row=place + 1,
                    col=1,
                )
        # A layer's name looks like a number; categories keep the order of the rows.
        figure.update_xaxes(type="category")
        figure.update_yaxes(range=[0, 1], tickformat=".0%")
        figure.update_layout(
            title=self.title,
            barmode="stack",
            bargap=0.1,
            template="plotly_white",
            height=180 + 260 * len(names),
        )
        return figure

    def _png(self) -> Any:
        from matplotlib.figure import Figure

        names, labels, conflicts = self.analysis.names, self._labels(), self._conflicts()
        width = min(24.0, max(8.0, 3.0 + 0.25 * len(labels)))
        figure = Figure(figsize=(width, 1.5 + 2.5 * len(names)), dpi=120, layout="constrained")
        panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        places = range(len(labels))
        known: dict[str, Any] = {}
        for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
            below = [0.0] * len(labels)
            for what, color, heights in self._bars(index):
                known[what] = axes.bar(
                    places, heights, 0.9, below, color=color, edgecolor="#57606a", linewidth=0.3
                )
                below = [low + height for low, height in zip(below, heights, strict=True)]
            if conflicts:
                (line,) = axes.plot(places, conflicts, "o:", c=CONFLICT_COLOR, markersize=3)
                known[_CONFLICT] = line
            axes.set(title=name, ylim=(0, 1), ylabel="share of entries")
        every = -(-len(labels) // _LABELS)
        turned = len(labels) > 8 and max(map(len, labels)) > 4
        panels[-1].set_xticks(
            places[::every], labels[::every], rotation=90 if turned else 0, fontsize=7
        )
        figure.suptitle(self.title)
        order = [what for what in (*_PARTS, _CONFLICT) if what in known]
        handles = [known[what] for what in order]
        figure.legend(handles, order, loc="outside lower center", ncols=len(order), fontsize=8)
        return figure


def _write_html(figure: Any, path: Path) -> None:
    # plotly inside the file: a page from a cluster is read where there is no network.
    # Names come from files of others: plotly would read `<a href=...>` in them as markup.
    shown = type(figure)(_escaped(figure.to_plotly_json()))
    write_atomic(path, shown.to_html(include_plotlyjs=True, full_html=True))


def _escaped(node: Any) -> Any:
    if isinstance(node, str):
        return escape(node, quote=False)
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    return [*map(_escaped, node)] if isinstance(node, (list, tuple)) else node


def _write_png(figure: Any, path: Path) -> None:
    # The object interface: pyplot keeps global state and wants a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    temporary = path.with_name(f".{path.name}")
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(temporary, format="png")
    temporary.replace(path)
