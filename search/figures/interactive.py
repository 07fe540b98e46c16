"""Charts as plotly figures, and pages of them that work offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from merge_core.yaml_io import write_atomic
from search.figures.chart import GREY, SHADES, Axis, Bars, Chart, Line, Panel, Points

_SYMBOLS = {
    "triangle-open": "triangle-down-open",
    "x": "x",
    "tick": "line-ns-open",
}
_GAP = 72  # pixels between rows of panels: titles and tick labels stand there
_ASIDE = 0.2  # of a panel's width: tick labels and a title stand there
_CLEAR = "rgba(0,0,0,0)"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 76rem;
       padding: 0 1rem; background: Canvas; color: CanvasText; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin: 2.5rem 0 .3rem; }}
p {{ max-width: 52rem; margin: .3rem 0; }}
</style>
{script}</head><body>
<h1>{title}</h1>
{body}
<script>
const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {{
  const ink = dark.matches ? "#d8dee6" : "#24292f", grid = dark.matches ? "#3d444d" : "#e2e6ea";
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {{
    const change = {{ "font.color": ink }};
    for (const key of Object.keys(plot.layout).filter((k) => /^[xy]axis/.test(k)))
      for (const part of ["gridcolor", "linecolor", "zerolinecolor"])
        change[key + "." + part] = grid;
    Plotly.relayout(plot, change);
  }}
}}
dark.addEventListener("change", paint);
paint();
</script>
</body></html>
"""


def drawn_plotly(chart: Chart) -> Any:
    """A plotly figure with a clear background and no colours of text or grid: a template's."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = chart.rows
    height = rows * chart.height + (rows - 1) * _GAP
    figure = make_subplots(
        rows=rows,
        cols=chart.columns,
        subplot_titles=[panel.title for panel in chart.panels],
        vertical_spacing=_GAP / height if rows > 1 else 0.0,
        horizontal_spacing=_ASIDE / chart.columns if chart.columns > 1 else 0.0,
    )
    shown: set[str] = set()
    for index, panel in enumerate(chart.panels):
        place = {"row": index // chart.columns + 1, "col": index % chart.columns + 1}
        figure.update_xaxes(**_axis(panel.x), **place)
        figure.update_yaxes(**_axis(panel.y, upright=True), **place)
        if chart.named_before(index):
            figure.update_yaxes(showticklabels=False, **place)
        for trace in _traces(panel):
            name = trace["name"]
            trace["legendgroup"] = name
            new = bool(name) and name not in shown
            shaded = "coloraxis" in trace.get("marker", {})
            trace["showlegend"] = new and not shaded
            figure.add_trace(trace, **place)
            if new and shaded:  # an entry would be black, on dark, too
                marker = {**trace["marker"], "color": GREY, "coloraxis": None}
                entry = {**trace, "x": [None], "y": [None], "marker": marker, "showlegend": True}
                figure.add_trace(entry, **place)
            shown.add(name)
        _regions(figure, panel, place, shown)
        for label in panel.labels:
            figure.add_annotation(
                text=label.text,
                x=label.x,
                y=label.y,
                ax=label.right,
                ay=-label.up,
                xanchor="center" if label.right == 0 else "left" if label.right > 0 else "right",
                yanchor="middle",
                showarrow=True,
                arrowhead=0,
                arrowwidth=0.7 if math.hypot(label.right, label.up) > 12 else 0.1,
                arrowcolor=label.color,
                font={"size": 11, "color": label.color},
                borderpad=0,
                **place,
            )
    top = 0 if chart.shades is None else 40
    if chart.shades is not None:
        what, low, high = chart.shades
        figure.update_layout(
            coloraxis={
                "colorscale": [list(step) for step in SHADES],
                "cmin": low,
                "cmax": max(high, low + 1e-9),
                "colorbar": {
                    "title": {"text": what, "side": "top", "font": {"size": 11}},
                    "orientation": "h",
                    "thickness": 10,
                    "len": 0.3,
                    "x": 1.0,
                    "xanchor": "right",
                    "y": 1.0,
                    "yanchor": "bottom",
                    "ypad": 22,
                    "tickfont": {"size": 10},
                },
            }
        )
    figure.update_layout(
        height=height + 130 + top,
        margin={"l": 60, "r": 20, "t": 36 + top, "b": 50},
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        hovermode="closest",
        barmode="overlay",
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0.0,
            "yanchor": "bottom",
            "x": 0.0,
            "itemsizing": "constant",
        },
    )
    figure.update_annotations(font_size=12, selector={"showarrow": False})
    figure.layout.template = None
    return go.Figure(_escaped(figure.to_plotly_json()))


def section(heading: str, caption: str, chart: Chart) -> str:
    """A part of a page: a chart under its heading and caption."""
    html = drawn_plotly(chart).to_html(
        include_plotlyjs=False,
        full_html=False,
        config={"responsive": True, "displayModeBar": False},
    )
    return f"<h2>{escape(heading)}</h2>\n<p>{escape(caption)}</p>\n{html}"


def page(title: str, parts: Sequence[str]) -> str:
    """An HTML page of sections; plotly.js is in it, once."""
    from plotly.offline import get_plotlyjs

    script = f'<script charset="utf-8">{get_plotlyjs()}</script>\n'
    return _PAGE.format(title=escape(title), script=script, body="\n".join(parts))


def write_page(figure: Any, path: Path) -> None:
    """Write one plotly figure as a page that works offline; names in it are text."""
    shown = type(figure)(_escaped(figure.to_plotly_json()))
    write_atomic(path, shown.to_html(include_plotlyjs=True, full_html=True))


def _axis(axis: Axis, *, upright: bool = False) -> dict[str, Any]:
    given: dict[str, Any] = {
        "title": {"text": axis.title, "font": {"size": 12}},
        "automargin": True,
    }
    if axis.log:
        given["type"] = "log"
    if axis.percent:
        given["tickformat"] = ".0%"
    if axis.span is not None:
        given["range"] = [math.log10(end) for end in axis.span] if axis.log else list(axis.span)
    if axis.names:
        count = len(axis.names)
        given |= {"tickvals": list(range(count)), "ticktext": list(axis.names)}
        given["range"] = [count - 0.5, -0.5] if upright else [-0.5, count - 0.5]
    return given


def _traces(panel: Panel) -> list[dict[str, Any]]:
    return [
        _points(series)
        if isinstance(series, Points)
        else _line(series)
        if isinstance(series, Line)
        else _bars(series)
        for series in panel.series
    ]


def _points(series: Points) -> dict[str, Any]:
    marker: dict[str, Any] = {
        "symbol": _SYMBOLS.get(series.symbol, series.symbol),
        "size": series.size,
        "opacity": series.opacity,
        "color": series.color,
    }
    if series.shades:
        marker |= {"color": list(series.shades), "coloraxis": "coloraxis"}
    if series.symbol == "tick":
        marker["line"] = {"width": 2, "color": series.color}
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": series.name,
        "x": _short(series.x),
        "y": _short(series.y),
        "marker": marker,
        **_told(series.texts),
    }
    for key, places, bars in (("x", series.x, series.x_bars), ("y", series.y, series.y_bars)):
        if bars:
            trace[f"error_{key}"] = {
                "array": _short([h - at for at, (_, h) in zip(places, bars, strict=True)]),
                "arrayminus": _short([at - low for at, (low, _) in zip(places, bars, strict=True)]),
                "thickness": 1.2,
                "width": 3,
                "color": series.color,
            }
    return trace


def _line(series: Line) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": series.name,
        "x": _short(series.x),
        "y": _short(series.y),
        "opacity": series.opacity,
        "line": {"color": series.color, "dash": series.dash, "width": series.width},
        **_told([series.text] * len(series.x) if series.text else ()),
    }


def _bars(series: Bars) -> dict[str, Any]:
    pattern = {"pattern": {"shape": "/", "solidity": 0.3, "size": 6}} if series.hatched else {}
    lengths = [end - begin for begin, end in zip(series.begin, series.end, strict=True)]
    return {
        "type": "bar",
        "orientation": "h",
        "name": series.name,
        "y": list(series.y),
        "base": _short(series.begin),
        "x": _short(lengths),
        "width": series.thick,
        "marker": {"color": series.color, "line": {"width": 0}, **pattern},
        **_told(series.texts),
    }


def _regions(figure: Any, panel: Panel, place: dict[str, int], shown: set[str]) -> None:
    for region in panel.regions:
        low, high = sorted((region.bound, region.end))
        look = {"fillcolor": region.color, "opacity": 0.12, "line_width": 0, "layer": "below"}
        line = {"color": region.color, "dash": "dashdot", "width": 1.5}
        rule = {"line": line, "layer": "below"}
        if region.upright:
            figure.add_vrect(x0=low, x1=high, **look, **place)
            figure.add_vline(x=region.bound, **rule, **place)
        else:
            figure.add_hrect(y0=low, y1=high, **look, **place)
            figure.add_hline(y=region.bound, **rule, **place)
        if region.name not in shown:  # shapes have no place in a legend of their own
            shown.add(region.name)
            entry = {"type": "scatter", "mode": "lines", "x": [None], "y": [None], "line": line}
            figure.add_trace({**entry, "name": region.name}, **place)


def _told(texts: Sequence[str]) -> dict[str, Any]:
    return {"hovertext": list(texts), "hoverinfo": "text"} if texts else {"hoverinfo": "skip"}


def _short(values: Sequence[float]) -> list[float | None]:
    """Six digits are enough to draw, and half the page; None is a gap."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _escaped(node: Any) -> Any:
    """Names come from files of others: plotly would read `<a href=...>` in them as markup."""
    if isinstance(node, str):
        return escape(node, quote=False).replace("\n", "<br>")
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    return [*map(_escaped, node)] if isinstance(node, (list, tuple)) else node
