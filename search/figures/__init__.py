"""Figures of a run: the front, how it came about, and what to make of it.

Each family has a file that says what is shown (`search.figures.chart`); two renderers draw it, as
plotly figures that work offline and as matplotlib pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from merge_core.yaml_io import write_atomic
from search.figures.figure import Figure
from search.figures.front import front
from search.figures.importance import importance
from search.figures.interactive import page, section
from search.figures.picture import write_png
from search.figures.progress import progress
from search.figures.retained import retained
from search.figures.schedules import schedules
from search.figures.slices import slices
from search.figures.workers import workers
from search.incidents import Kind
from search.view import RunView

__all__ = ["FAMILIES", "Figure", "draw", "figures", "write"]

FAMILIES: tuple[Callable[[RunView], Figure | None], ...] = (
    *(front, progress, importance, slices, schedules, retained, workers),
)
"""In the order of a page; None is what has nothing to show."""


def figures(view: RunView, failed: Callable[[str, Exception], None] | None = None) -> list[Figure]:
    """The figures that a run has data for; `failed` as of `write`."""
    found: list[Figure] = []
    for family in FAMILIES:
        with _guarded(family.__name__, failed):
            figure = family(view)
            found += [] if figure is None else [figure]
    return found


def draw(view: RunView) -> None:
    """`write` into the run's folder, at the end of a search.

    What cannot be drawn is an incident, figure by figure: it must not cost the night's result.
    """
    write(view, view.run.folder, incident(view))


def incident(view: RunView) -> Callable[[str, Exception], None]:
    """What is told what could not be drawn and why, and records it."""

    def failed(what: str, error: Exception) -> None:
        told = f"{type(error).__name__}: {error}"
        view.run.incidents.record(Kind.NOT_DRAWN, f"figure {what}", told)

    return failed


def write(
    view: RunView, folder: Path, failed: Callable[[str, Exception], None] | None = None
) -> list[Path]:
    """Write front.html, front.png, plots.html (all of them) and plots/NAME.png into `folder`.

    Pages work offline: plotly.js is in them.

    Args:
        view: of the run.
        folder: there already.
        failed: told what could not be drawn and why, and the rest is; None: it is raised.

    Raises:
        OSError: a file cannot be written.
        RunError: a result is damaged.
    """
    written: list[Path] = []
    parts: list[str] = []
    for family in FAMILIES:
        with _guarded(family.__name__, failed):
            figure = family(view)
            if figure is not None:
                part = section(figure.title, figure.caption, figure.chart)
                written += _one(figure, part, folder)
                parts.append(part)
    if parts:
        with _guarded("page", failed):
            write_atomic(folder / "plots.html", page(f"{view.name}: figures", parts))
            written.append(folder / "plots.html")
    return written


def _one(figure: Figure, part: str, folder: Path) -> list[Path]:
    """Write the files of one figure."""
    (folder / "plots").mkdir(exist_ok=True)
    picture, written = figure.png(), [folder / "plots" / f"{figure.name}.png"]
    if figure.name == "front":
        write_atomic(folder / "front.html", page(figure.title, [part]))
        written += [folder / "front.png"]
    for path in written:
        write_png(picture, path)
    return [*written, folder / "front.html"] if figure.name == "front" else written


@contextmanager
def _guarded(what: str, failed: Callable[[str, Exception], None] | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if failed is None:
            raise
        failed(what, error)
