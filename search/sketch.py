"""The front in characters: a small plot for terminals, braille where they can and ASCII elsewhere.

One cell shows one thing: a baseline's letter, else a front member, else dots of other trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rich.text import Text

_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row of 4][column of 2]
_STYLES = {"other": "cyan", "front": "bold green", "chosen": "bold magenta", "baseline": "yellow"}
LEAST_WIDTH, LEAST_HEIGHT = 24, 7
"""Of a plot with its axes; below, none is drawn."""
_LARGE = 1e6  # from here on an axis is labelled with exponents
_MOST = 1e300  # what is beyond has no place on an axis
_LOW, _HIGH = 11, 20  # lines from which the legend has two of them, and three


@dataclass(frozen=True)
class Points:
    """What a plot shows: values of the first two objectives, or of the only one over the trials.

    Attributes:
        names: of the two axes, x first.
        less: whether less is better, by axis.
        others: trials that are not on the front.
        front: those on it.
        chosen: the exported one, be it one of the front's, or None.
        baselines: by label.
        note: what is to be known of it, "" for nothing.
    """

    names: tuple[str, str]
    less: tuple[bool, bool] = (False, False)
    others: Sequence[tuple[float, float]] = ()
    front: Sequence[tuple[float, float]] = ()
    chosen: tuple[float, float] | None = None
    baselines: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""

    @property
    def all(self) -> list[tuple[float, float]]:
        """Every point."""
        own = [] if self.chosen is None else [self.chosen]
        return [*self.others, *self.front, *self.baselines.values(), *own]

    @property
    def placeable(self) -> Points:
        """Those that have a place on axes: neither infinite nor NaN."""
        return replace(
            self,
            others=[point for point in self.others if _has_place(point)],
            front=[point for point in self.front if _has_place(point)],
            chosen=self.chosen if self.chosen and _has_place(self.chosen) else None,
            baselines={k: point for k, point in self.baselines.items() if _has_place(point)},
        )


def _has_place(point: tuple[float, float]) -> bool:
    return all(abs(value) < _MOST for value in point)


@dataclass(frozen=True)
class _Axis:
    """A range with round ends."""

    low: float
    high: float
    digits: int

    @classmethod
    def of(cls, values: Sequence[float]) -> _Axis:
        low, high = min(values), max(values)
        scale = max(1.0, abs(low), abs(high))
        if high - low < 1e-9 * scale:
            low, high = low - 0.05 * scale, high + 0.05 * scale
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= 5.0 if (high - low) / step > 10 else 2.0 if (high - low) / step > 4 else 1.0
        step /= 2.0
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high, max(0, math.ceil(-math.log10(step) - 1e-9)))

    def text(self, value: float) -> str:
        large = max(abs(self.low), abs(self.high)) >= _LARGE
        told = f"{value:.4g}" if large else f"{value:.{self.digits}f}"
        return told.lstrip("-") if float(told) == 0.0 else told

    def at(self, value: float, steps: int) -> int:
        """The step from 0 to steps - 1 that a value falls on."""
        share = (value - self.low) / (self.high - self.low)
        return min(steps - 1, max(0, round(share * (steps - 1))))


def sketch(points: Points, width: int, height: int, *, plain: bool = False) -> Text | None:
    """The plot with axes and legend, in at most `width` columns and `height` lines.

    Args:
        points: what it shows.
        width: columns there are.
        height: lines there are.
        plain: draw with ASCII alone.

    Returns:
        None if there are no points, or no room.
    """
    points = points.placeable
    every = points.all
    legend = _legend(points, width, 1 if height < _LOW else 2 if height < _HIGH else 3, plain=plain)
    rows = height - 3 - len(legend)
    rows -= rows % 2 == 0  # an odd number has a middle
    if not every or width < LEAST_WIDTH or rows < LEAST_HEIGHT - 4:
        return None
    x, y = (_Axis.of([point[axis] for point in every]) for axis in (0, 1))
    gutter = max(len(y.text(y.low)), len(y.text(y.high)), len(y.text((y.low + y.high) / 2)))
    columns = width - gutter - 2
    cells = _cells(points, x, y, columns, rows, plain=plain)
    bar, tick, corner, dash = ("|", "+", "+", "-") if plain else ("│", "┤", "└", "─")
    lines = [Text(f"{points.names[1]}{' (less is better)' if points.less[1] else ''}")]
    labels = {0: y.high, rows // 2: (y.low + y.high) / 2}
    labels[rows - 1] = y.low
    for row in range(rows):
        told = y.text(labels[row]) if row in labels else ""
        line = Text.assemble((f"{told:>{gutter}} {tick if row in labels else bar}", "dim"))
        for column in range(columns):
            glyph, style = cells.get((row, column), (" ", ""))
            line.append(glyph, style=style)
        lines.append(line)
    lines.append(Text(f"{'':>{gutter}} {corner}{dash * columns}", style="dim"))
    name = f"{points.names[0]}{' (less is better)' if points.less[0] else ''}"
    lines.append(_under(x, name, gutter + 2, columns))
    return Text("\n", no_wrap=True, overflow="crop").join([*lines, *legend])


def _under(x: _Axis, name: str, start: int, columns: int) -> Text:
    """The labels of the x axis: its ends, and its name between them."""
    low, high = x.text(x.low), x.text(x.high)
    room = columns - len(low) - len(high) - 2
    name = name if len(name) <= room else name[: max(0, room - 1)] + "~" if room > 3 else ""
    return Text.assemble((" " * start + low, "dim"), f"{name:^{max(0, room) + 2}}", (high, "dim"))


def _cells(
    points: Points, x: _Axis, y: _Axis, columns: int, rows: int, *, plain: bool
) -> dict[tuple[int, int], tuple[str, str]]:
    """Glyph and style by (row, column)."""
    dots: dict[tuple[int, int], int] = {}
    cells: dict[tuple[int, int], tuple[str, str]] = {}

    def place(point: tuple[float, float]) -> tuple[int, int]:
        return rows - 1 - y.at(point[1], rows), x.at(point[0], columns)

    for point in points.others:
        down = 4 * rows - 1 - y.at(point[1], 4 * rows)
        right = x.at(point[0], 2 * columns)
        key = (down // 4, right // 2)
        dots[key] = dots.get(key, 0) | _BRAILLE[down % 4][right % 2]
    for key, held in dots.items():
        cells[key] = ("." if plain else chr(0x2800 + held), _STYLES["other"])
    taken = set()
    for point in points.front:
        cells[place(point)] = ("o" if plain else "●", _STYLES["front"])
        taken.add(place(point))
    if points.chosen is not None:
        cells[place(points.chosen)] = ("*" if plain else "★", _STYLES["chosen"])
        taken.add(place(points.chosen))
    for letter, point in zip(_letters(points), points.baselines.values(), strict=True):
        row, column = place(point)
        # One that lies on a member stands beside it: both are to be seen.
        beside = ((row, column + move) for move in (0, 1, -1, 2, -2, 3, -3))
        free = next(
            (cell for cell in beside if cell not in taken and 0 <= cell[1] < columns), (row, column)
        )
        cells[free] = (letter, _STYLES["baseline"])
        taken.add(free)
    return cells


def _letters(points: Points) -> list[str]:
    """A letter a baseline: its own first letter where that is free."""
    found: list[str] = []
    for label in points.baselines:
        named = label.rpartition(":")[2].rpartition("/")[2].upper()
        others = (chr(code) for code in range(ord("A"), ord("Z") + 1))
        wanted = [c for c in named if c.isascii() and c.isalpha()]
        found.append(next((c for c in [*wanted, *others] if c not in found), "?"))
    return found


def _legend(points: Points, width: int, most: int, *, plain: bool) -> list[Text]:
    """What the marks mean, in `most` lines; what has no room is left out."""
    marks = [("o" if plain else "●", "front", "front")] if points.front else []
    marks += [("." if plain else "⠒", "other trials", "other")] if points.others else []
    marks += [("*" if plain else "★", "exported", "chosen")] if points.chosen else []
    marks += [
        (letter, label, "baseline")
        for letter, label in zip(_letters(points), points.baselines, strict=True)
    ]
    lines = [Text()]
    for glyph, what, kind in marks:
        shown = "".join(c if c.isprintable() else "?" for c in what)
        entry = Text.assemble((glyph, _STYLES[kind]), f" {shown}")
        gap = 2 if lines[-1].plain else 0
        if lines[-1].cell_len + gap + entry.cell_len > width:
            if len(lines) == most:
                break
            lines.append(Text())
            gap = 0
        lines[-1].append(" " * gap).append_text(entry)
    if points.note:
        lines.append(Text(points.note[:width], style="dim"))
    return [line for line in lines if line.plain]
