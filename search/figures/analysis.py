"""What becomes of each expert's entries in one merge (`mergefront analyze`): bars of shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.analysis import Analysis, By, Counts
from search.figures.interactive import write_page
from search.figures.picture import plain, write_png

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
            write_page(self._html(), path)
        else:
            write_png(self._png(), path)

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
            axes.set(title=plain(name), ylim=(0, 1), ylabel="share of entries")
        every = -(-len(labels) // _LABELS)
        turned = len(labels) > 8 and max(map(len, labels)) > 4
        panels[-1].set_xticks(
            places[::every], labels[::every], rotation=90 if turned else 0, fontsize=7
        )
        figure.suptitle(plain(self.title))
        order = [what for what in (*_PARTS, _CONFLICT) if what in known]
        handles = [known[what] for what in order]
        figure.legend(handles, order, loc="outside lower center", ncols=len(order), fontsize=8)
        return figure
