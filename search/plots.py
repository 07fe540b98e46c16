"""The front as a plot: an HTML file that works offline, and a PNG.

Plots show gains as they are scored (not turned): axis titles are the objectives' names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.yaml_io import write_atomic
from objectives import Estimate
from search.config import Search
from search.confirm import Member

TRIAL_COLOR, FRONT_COLOR = "#9aa5b1", "#1f6feb"
BASELINE_COLOR, CONFIRMED_COLOR = "#d1242f", "#1a7f37"


@dataclass(frozen=True)
class FrontPlot:
    """What a plot of the front shows; the first two objectives are its axes.

    Attributes:
        search: for the objectives.
        trials: claimed values of the finished trials by number.
        front: numbers on the claimed front.
        baselines: claimed values by label.
        members: confirmed members (may be empty).
        title: of the plot.
    """

    search: Search
    trials: Mapping[int, Sequence[float]]
    front: Sequence[int]
    baselines: Mapping[str, Sequence[float]]
    members: Sequence[Member]
    title: str

    def write(self, folder: Path) -> list[Path]:
        """Write front.html and front.png into `folder`; nothing for a single objective."""
        if len(self.search.objectives) < 2:
            return []
        html, png = folder / "front.html", folder / "front.png"
        # plotly inside the file: a page from a cluster is read where there is no network.
        write_atomic(html, self._html().to_html(include_plotlyjs=True, full_html=True))
        self._png(png)
        return [html, png]

    def _confirmed(self) -> list[tuple[str, Estimate, Estimate]]:
        x, y = self.search.objectives[:2]
        return [(m.label, m.confirmed[x.name], m.confirmed[y.name]) for m in self.members]

    def _html(self) -> Any:
        import plotly.graph_objects as go

        x, y = self.search.objectives[:2]
        others = [number for number in self.trials if number not in self.front]
        figure = go.Figure()
        figure.add_scatter(
            x=[self.trials[n][0] for n in others],
            y=[self.trials[n][1] for n in others],
            text=[f"trial {n}" for n in others],
            mode="markers",
            name="trials (dev)",
            marker={"color": TRIAL_COLOR, "size": 6, "opacity": 0.6},
        )
        figure.add_scatter(
            x=[self.trials[n][0] for n in self.front],
            y=[self.trials[n][1] for n in self.front],
            text=[f"trial {n}" for n in self.front],
            mode="lines+markers",
            name="front, claimed (dev)",
            line={"color": FRONT_COLOR, "shape": "vh", "dash": "dot"},
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

    def _png(self, path: Path) -> None:
        # The object interface: pyplot keeps global state and wants a display.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        x, y = self.search.objectives[:2]
        figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        others = [number for number in self.trials if number not in self.front]
        axes.scatter(
            [self.trials[n][0] for n in others],
            [self.trials[n][1] for n in others],
            s=14,
            c=TRIAL_COLOR,
            alpha=0.6,
            label="trials (dev)",
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
        temporary = path.with_name(f".{path.name}")
        figure.set_canvas(FigureCanvasAgg(figure))
        figure.savefig(temporary, format="png")
        temporary.replace(path)
