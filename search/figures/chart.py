"""What a figure shows, as data: panels of series. Drawn by `drawn_plotly` and `drawn_matplotlib`.

A figure family fills in a `Chart` and draws nothing itself, so that page and picture agree. Colours
are readable on white and on near-black and to the colour-blind (after Okabe & Ito 2008); what a
series is can be told by its symbol or its dashes, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

GREY, BLUE, ORANGE, GREEN, PURPLE = "#8b949e", "#2f7fd1", "#d55e00", "#009e73", "#b5539c"
AMBER = "#a67c00"
SHADES = ((0.0, "#2f7fd1"), (0.5, "#9b8f7a"), (1.0, "#e07b00"))
"""Ends and middle of the colours that a number is shown by."""

Symbol = Literal["circle", "circle-open", "diamond", "square", "triangle-open", "x", "star", "tick"]
Dash = Literal["solid", "dot", "dash"]


@dataclass(frozen=True)
class Axis:
    """One axis of a panel.

    Attributes:
        title: with the unit.
        span: lowest and highest value, of a logarithmic axis too; None: as the data are.
        log: logarithmic.
        percent: its numbers are shares in [0, 1], written as percentages.
        names: of places 0, 1, ... where it has names for numbers; a y axis begins at the top.
    """

    title: str = ""
    span: tuple[float, float] | None = None
    log: bool = False
    percent: bool = False
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Points:
    """Marks at places.

    Attributes:
        name: in the legend.
        x, y: places.
        texts: what each tells when it is pointed at; lines end in newlines.
        color, symbol, size, opacity: of all; sizes are diameters in pixels.
        shades: numbers that colours are made of, in place of `color`.
        x_bars, y_bars: low and high ends of each one's interval.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    texts: Sequence[str] = ()
    color: str = GREY
    symbol: Symbol = "circle"
    size: float = 6.0
    opacity: float = 1.0
    shades: Sequence[float] = ()
    x_bars: Sequence[tuple[float, float]] = ()
    y_bars: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Line:
    """A line through places; a NaN among them breaks it.

    Attributes:
        name: in the legend; "" is in none.
        x, y: its corners.
        color, dash, width, opacity: width in pixels.
        text: what it tells when it is pointed at.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str = GREY
    dash: Dash = "solid"
    width: float = 2.0
    opacity: float = 1.0
    text: str = ""


@dataclass(frozen=True)
class Bars:
    """Bars from left to right.

    Attributes:
        name: in the legend.
        y: the row of each.
        begin, end: along x.
        texts: what each tells when it is pointed at.
        color, hatched: of all; hatching is the mark of what means little.
        thick: share of a row.
    """

    name: str
    y: Sequence[float]
    begin: Sequence[float]
    end: Sequence[float]
    texts: Sequence[str] = ()
    color: str = GREY
    hatched: bool = False
    thick: float = 0.7


@dataclass(frozen=True)
class Region:
    """A shaded part of a panel, with a line on the side of its bound.

    Attributes:
        name: in the legend.
        bound: where the line is.
        end: where the shade ends.
        upright: whether `bound` is on the x axis.
    """

    name: str
    bound: float
    end: float
    upright: bool
    color: str = AMBER


@dataclass(frozen=True)
class Label:
    """A name beside a point, so many pixels from it (to the right, and up)."""

    text: str
    x: float
    y: float
    right: float
    up: float
    color: str


Series = Points | Line | Bars


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    title: str = ""
    regions: Sequence[Region] = ()
    labels: Sequence[Label] = ()


@dataclass(frozen=True)
class Chart:
    """All panels of a figure, row by row.

    Attributes:
        panels: at least one.
        columns: in a row.
        height: of a panel in pixels.
        shades: what the colours of `Points.shades` are, with the lowest and highest number.
    """

    panels: Sequence[Panel]
    columns: int = 1
    height: int = 300
    shades: tuple[str, float, float] | None = None

    @property
    def rows(self) -> int:
        """How many rows of panels there are."""
        return -(-len(self.panels) // self.columns)

    def named_before(self, index: int) -> bool:
        """Whether a panel's rows have the names of those of the panel to its left."""
        names = self.panels[index].y.names
        return bool(names) and index % self.columns > 0 and self.panels[index - 1].y.names == names


def spanned(values: Sequence[float], least: float = 0.02) -> tuple[float, float]:
    """A span that has all finite `values` well inside, and is `least` wide at least."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = max(0.06 * (high - low), least / 2, 1e-6 * max(abs(low), abs(high)))
    return low - room, high + room


def number(value: object) -> str:
    """A parameter's or a score's value as people read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_WIDE, _HIGH = 6.5, 13.0  # a character and a line of a label, in pixels
_AROUND = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))


@dataclass
class Placed:
    """Puts labels beside points so that they cover neither one another nor the points.

    Args:
        x, y: axes with spans.
        width, height: of the panel in pixels, roughly.
    """

    x: Axis
    y: Axis
    width: float = 760.0
    height: float = 420.0
    labels: list[Label] = field(default_factory=list)
    _boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    def keep_free(self, x: float, y: float, size: float = 5.0) -> None:
        """No label may cover this point."""
        left, low = self._pixels(x, y)
        self._boxes.append((left - size, low - size, left + size, low + size))

    def keep_clear(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """No label may cross this upright or level line."""
        (left, low), (right, high) = self._pixels(*begin), self._pixels(*end)
        self._boxes.append((left - 1, low - 1, right + 1, high + 1))

    def add(self, text: str, x: float, y: float, color: str, *, must: bool = False) -> None:
        """Name a point, where there is room; `must`: wherever it covers least."""
        wide, left, low = _WIDE * len(text), *self._pixels(x, y)
        best: tuple[float, float, float, tuple[float, float, float, float]] | None = None
        for far in (8.0, 22.0, 38.0, 56.0):
            for right, up in _AROUND:
                dx, dy = right * far, up * far
                begin = left + dx - (wide / 2 if right == 0 else wide if right < 0 else 0.0)
                box = (begin, low + dy - _HIGH / 2, begin + wide, low + dy + _HIGH / 2)
                covered = sum(_overlap(box, other) for other in self._boxes)
                cost = covered + 4 * self._outside(box)
                if best is None or cost < best[0]:
                    best = (cost, dx, dy, box)
            if best is not None and best[0] == 0:
                break
        assert best is not None
        if best[0] == 0 or must:
            self._boxes.append(best[3])
            self.labels.append(Label(text, x, y, best[1], best[2], color))

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        assert self.x.span is not None
        assert self.y.span is not None
        across, along = self.x.span, self.y.span
        return (
            self.width * (x - across[0]) / (across[1] - across[0]),
            self.height * (y - along[0]) / (along[1] - along[0]),
        )

    def _outside(self, box: tuple[float, float, float, float]) -> float:
        whole = (box[2] - box[0]) * (box[3] - box[1])
        return whole - _overlap(box, (0.0, 0.0, self.width, self.height))


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)
