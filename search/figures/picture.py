"""Charts as matplotlib figures, and how they become PNG files."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

from search.figures.chart import GREY, SHADES, Axis, Bars, Chart, Line, Panel, Points

_SYMBOLS = {
    "circle": "o",
    "circle-open": "o",
    "diamond": "D",
    "square": "s",
    "triangle-open": "v",
    "x": "X",
    "star": "*",
    "tick": "|",
}
_DASHES = {"solid": "-", "dot": ":", "dash": "--"}
_WIDTH, _DPI = 1100, 100


def drawn_matplotlib(chart: Chart, title: str) -> Any:
    """A matplotlib figure. The object interface: pyplot keeps global state and wants a display."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    height = chart.rows * (chart.height + 60) + 90
    figure = Figure(figsize=(_WIDTH / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    axes = figure.subplots(chart.rows, chart.columns, squeeze=False).ravel()
    colors = LinearSegmentedColormap.from_list("shades", list(SHADES))
    what, low, high = chart.shades or ("", 0.0, 1.0)
    norm = Normalize(low, max(high, low + 1e-9))
    known: dict[str, Any] = {}
    for index, panel in enumerate(chart.panels):
        _draw(axes[index], panel, lambda shade: colors(norm(shade)), known)
        if chart.named_before(index):
            axes[index].tick_params(labelleft=False)
    for one in axes[len(chart.panels) :]:
        one.set_visible(False)
    if chart.shades is not None:
        from matplotlib.cm import ScalarMappable

        shown = list(axes[: len(chart.panels)])
        bar = figure.colorbar(
            ScalarMappable(norm, colors),
            ax=shown,
            location="top",
            anchor=(1.0, 0.0),
            shrink=0.3,
            aspect=30,
            fraction=0.02,
        )
        bar.ax.set_title(plain(what), fontsize=8, loc="left", pad=2)
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(plain(_titled(title)), fontsize=13)
    if known:
        columns = max(1, min(len(known), int(130 / (6 + max(map(len, known))))))
        figure.legend(
            list(known.values()),
            list(known),
            loc="outside lower center",
            ncols=columns,
            fontsize=9,
            frameon=False,
        )
    return figure


def write_png(figure: Any, path: Path) -> None:
    """Write a matplotlib figure, atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    temporary = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script it lacks
            figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw(axes: Any, panel: Panel, shade: Any, known: dict[str, Any]) -> None:
    from matplotlib.patheffects import withStroke

    for region in panel.regions:
        span, rule = (
            (axes.axvspan, axes.axvline) if region.upright else (axes.axhspan, axes.axhline)
        )
        span(*sorted((region.bound, region.end)), color=region.color, alpha=0.12, lw=0, zorder=0)
        line = rule(region.bound, color=region.color, ls="-.", lw=1.2, zorder=0.5)
        known.setdefault(plain(region.name), line)
    for order, series in enumerate(panel.series, start=2):
        if isinstance(series, Points):
            drawn = _points(axes, series, shade, order)
        elif isinstance(series, Line):
            drawn = _line(axes, series, order)
        else:
            drawn = _bars(axes, series, order)
        if series.name:
            known.setdefault(plain(series.name), drawn)
    for label in panel.labels:
        far = math.hypot(label.right, label.up) > 12
        axes.annotate(
            plain(label.text),
            (label.x, label.y),
            xytext=(label.right * 72 / _DPI, label.up * 72 / _DPI),
            textcoords="offset points",
            ha="center" if label.right == 0 else "left" if label.right > 0 else "right",
            va="center",
            fontsize=8,
            color=label.color,
            zorder=20,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": label.color} if far else None,
        )
    axes.set_title(plain(panel.title), fontsize=9)
    _axis(axes, panel.x, "x")
    _axis(axes, panel.y, "y")
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _axis(axes: Any, axis: Axis, which: str) -> None:
    from matplotlib.ticker import PercentFormatter

    own = axes.xaxis if which == "x" else axes.yaxis
    own.set_label_text(plain(axis.title), fontsize=9)
    limit = axes.set_xlim if which == "x" else axes.set_ylim
    if axis.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if axis.span is not None:
        limit(*axis.span)
    if axis.percent:
        own.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if axis.names:
        count = len(axis.names)
        own.set_ticks(range(count), [plain(name) for name in axis.names])
        limit(*((count - 0.5, -0.5) if which == "y" else (-0.5, count - 0.5)))


def _points(axes: Any, series: Points, shade: Any, order: int) -> Any:
    open_ = series.symbol in ("circle-open", "triangle-open")
    colors = [shade(value) for value in series.shades] if series.shades else series.color
    # A path's size is an area in square points; a diameter in pixels is what the chart says.
    area = (series.size * 72 / _DPI) ** 2 * (2.0 if series.symbol == "star" else 1.0)
    look = {"facecolors": "none", "edgecolors": colors} if open_ else {"c": colors}
    drawn = axes.scatter(
        series.x,
        series.y,
        s=area,
        marker=_SYMBOLS[series.symbol],
        alpha=series.opacity,
        linewidths=1.6 if series.symbol == "tick" else 0.8 if open_ else 0.0,
        zorder=order,
        **look,
    )
    for places, bars, key in ((series.x, series.x_bars, "x"), (series.y, series.y_bars, "y")):
        if bars:
            ends = [
                [at - low for at, (low, _) in zip(places, bars, strict=True)],
                [high - at for at, (_, high) in zip(places, bars, strict=True)],
            ]
            axes.errorbar(
                series.x,
                series.y,
                **{f"{key}err": ends},
                fmt="none",
                ecolor=series.color,
                elinewidth=0.9,
                capsize=2,
                zorder=order,
            )
    if series.shades:  # its own entry in the legend would have the first one's color
        return axes.scatter(
            [],
            [],
            s=area,
            marker=_SYMBOLS[series.symbol],
            linewidths=0.8,
            **({"facecolors": "none", "edgecolors": GREY} if open_ else {"c": GREY}),
        )
    return drawn


def _line(axes: Any, series: Line, order: int) -> Any:
    (drawn,) = axes.plot(
        series.x,
        series.y,
        _DASHES[series.dash],
        color=series.color,
        lw=series.width * 72 / _DPI,
        alpha=series.opacity,
        zorder=order,
    )
    return drawn


def _bars(axes: Any, series: Bars, order: int) -> Any:
    widths = [end - begin for begin, end in zip(series.begin, series.end, strict=True)]
    return axes.barh(
        series.y,
        widths,
        series.thick,
        series.begin,
        color=series.color if not series.hatched else "none",
        edgecolor=series.color if series.hatched else "none",
        hatch="////" if series.hatched else None,
        lw=0.5 if series.hatched else 0.0,
        zorder=order,
    )


def _titled(title: str) -> str:
    """A title without the name before its colon where the font has no letters for that: a picture
    would show boxes.
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return title if all(ord(c) in known for c in title) else title.rpartition(": ")[2]


def plain(text: str) -> str:
    """Text in which a dollar begins no formula."""
    return text.replace("$", r"\$")
