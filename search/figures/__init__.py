"""Figures of a run: the front, how it came about, and what to make of it.

Each family has a file that says what is shown (`search.figures.chart`); two renderers draw it, as
plotly figures that work offline and as matplotlib pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from merge_core.yaml_io import write_atomic
from search.figures.figure import Figure
from search.figures.front import front
from search.figures.importance import importance
from search.figures.interactive import page
from search.figures.picture import write_png
from search.figures.progress import progress
from search.figures.retained import retained
from search.figures.schedules import schedules
from search.figures.slices import slices
from search.figures.workers import workers
from search.view import RunView

__all__ = ["FAMILIES", "Figure", "figures", "write"]

FAMILIES: tuple[Callable[[RunView], Figure | None], ...] = (
    *(front, progress, importance, slices, schedules, retained, workers),
)
"""In the order of a page; None is what has nothing to show."""


def figures(view: RunView) -> list[Figure]:
    """The figures that a run has data for."""
    return [figure for family in FAMILIES if (figure := family(view)) is not None]


def write(view: RunView, folder: Path) -> list[Path]:
    """Write front.html, front.png, plots.html (all of them) and plots/NAME.png into `folder`.

    Pages work offline: plotly.js is in them.

    Raises:
        OSError: a file cannot be written.
        RunError: a result is damaged.
    """
    drawn = figures(view)
    if not drawn:
        return []
    (folder / "plots").mkdir(exist_ok=True)
    written = []
    for figure in drawn:
        png = figure.png()
        if figure.name == "front":
            path = folder / "front.html"
            write_atomic(path, page(figure.title, [("", figure.caption, figure.chart)]))
            write_png(png, folder / "front.png")
            written += [path, folder / "front.png"]
        path = folder / "plots" / f"{figure.name}.png"
        write_png(png, path)
        written.append(path)
    path = folder / "plots.html"
    parts = [(figure.title, figure.caption, figure.chart) for figure in drawn]
    write_atomic(path, page(f"{view.name}: figures", parts))
    return [*written, path]
