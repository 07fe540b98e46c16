"""Tables and the plot of `benchmarks.searching`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.simulation import Step, Story
from merge_core.yaml_io import write_atomic

Array = npt.NDArray[np.float64]
Stories = Mapping[str, Sequence[Story]]

TRIALS = (10, 20, 30, 60, 90, 120)
WORTH = (5, 10, 15, 20, 30, 45, 60, 90, 120)
"""Tokens at which ways are compared, in full trials' worth: of a random recipe on all dev items."""
TARGETS = ("cma-es", "cma-es, its best", "random")
RACED, BOUNDED = "ours+racing", "ours+racing+bound"
_FINE = 4  # points of a curve per full trial


def worth(stories: Stories) -> float:
    """Tokens of a full trial: the mean over the recipes of whoever samples most plainly."""
    held = stories.get("random") or next(iter(stories.values()))
    whole = sum(story.whole for story in held)
    return whole / sum(len(story.steps) for story in held)


def volumes(
    stories: Sequence[Story], at: Array, key: Callable[[Step, int], float], of: str = "volume"
) -> npt.NDArray[np.float64]:
    """[stories, points], the volume of each story's last step whose `key` is at most `at`."""
    rows = []
    for story in stories:
        keys = [key(step, count) for count, step in enumerate(story.steps, 1)]
        values = np.array([0.0, *(getattr(step, of) for step in story.steps)])
        rows.append(values[np.searchsorted(keys, at, side="right")])
    return np.array(rows)


def _tokens(step: Step, _: int) -> float:
    return step.tokens


def _clock(step: Step, _: int) -> float:
    return step.clock


def _count(_: Step, count: int) -> float:
    return count


def spent(story: Story) -> int:
    """Tokens of all its trials."""
    return story.steps[-1].tokens


def final(stories: Sequence[Story], of: str = "volume") -> float:
    """Median volume after the last trial."""
    return float(median(getattr(story.steps[-1], of) for story in stories))


def reached(
    stories: Sequence[Story],
    target: float,
    key: Callable[[Step, int], float],
    unit: float,
    of: str = "volume",
) -> tuple[float | None, float | None]:
    """Where the median curve first reaches `target`, and from where on it stays; None: nowhere."""
    end = max(key(story.steps[-1], len(story.steps)) for story in stories)
    at = np.arange(0.0, end + unit / _FINE, unit / _FINE)
    there = np.median(volumes(stories, at, key, of), axis=0) >= target - 1e-9
    if not there.any():
        return None, None
    below = np.flatnonzero(~there)
    stays = 0 if len(below) == 0 else below[-1] + 1
    return float(at[np.argmax(there)]), float(at[stays]) if stays < len(at) else None


def tables(stories: Stories, bound: str) -> list[str]:
    """All tables in Markdown."""
    free = {way: held for way, held in stories.items() if way != BOUNDED}
    lines: list[str] = []
    if free:
        unit = worth(free)
        seeds = len(next(iter(free.values())))
        lines += [
            f"{seeds} seeds. A full trial's worth is {unit:,.0f} tokens. Confirmed hypervolume:"
            " median (quartiles).",
            "",
            *_grid(free, "tokens, in full trials", WORTH, np.array(WORTH) * unit, _tokens),
            "",
            *_grid(free, "trials", TRIALS, np.array(TRIALS, dtype=float), _count),
            "",
            "Of each search up to 8 trials are confirmed: its front, and if that has fewer, those"
            " just behind it, as `mergefront run` does.",
            "",
            *_reaching(free, unit, "volume"),
            "",
            "The same with the front alone confirmed, in all ways:",
            "",
            *_reaching(free, unit, "front"),
        ]
    raced = {way: held for way, held in stories.items() if any(s.stopped for s in held)}
    if raced:
        lines += ["", *_races(raced)]
    if BOUNDED in stories:
        lines += ["", *_bounded(stories[BOUNDED], bound)]
    return lines


def _grid(
    stories: Stories,
    head: str,
    names: Sequence[int],
    at: Array,
    key: Callable[[Step, int], float],
) -> list[str]:
    lines = [f"| {head} | {' | '.join(map(str, names))} |", "|---" * (len(names) + 1) + "|"]
    for way, held in stories.items():
        low, middle, high = np.quantile(volumes(held, at, key), [0.25, 0.5, 0.75], axis=0)
        cells = [f"{m:.4f} ({a:.3f}-{b:.3f})" for a, m, b in zip(low, middle, high, strict=True)]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def _reaching(stories: Stories, unit: float, of: str) -> list[str]:
    """What each way takes for what CMA-ES and random search have at the end."""
    lines: list[str] = []
    for goal in TARGETS:
        if goal not in stories:
            continue
        target = final(stories[goal], of)
        tokens = median(spent(story) for story in stories[goal])
        clock = median(story.steps[-1].clock for story in stories[goal])
        lines += [
            *([""] if lines else []),
            f"{goal} confirms a median of {target:.4f} with {tokens / unit:.1f} full trials' worth"
            " of tokens. To reach it, and to stay there:",
            "",
            "| | tokens, in full trials | share of tokens | stays from | trials | share of time |",
            "|---|---|---|---|---|---|",
        ]
        for way, held in stories.items():
            first, stays = reached(held, target, _tokens, unit, of)
            if first is None:
                lines.append(f"| {way} | not reached: {final(held, of):.4f} at the end | | | | |")
                continue
            trials, _ = reached(held, target, _count, float(_FINE), of)
            ends, _ = reached(held, target, _clock, unit, of)
            cells = [
                f"{first / unit:.1f}",
                f"{first / tokens:.3f}",
                "-" if stays is None else f"{stays / tokens:.3f}",
                "-" if trials is None else f"{trials:.0f}",
                "-" if ends is None else f"{ends / clock:.3f}",
            ]
            lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def _races(stories: Stories) -> list[str]:
    lines = [
        "| | trials stopped | dev items answered | tokens spent of those of full trials |"
        " stopped trials that would be on the final dev front |",
        "|---|---|---|---|---|",
    ]
    for way, held in stories.items():
        stopped, false = (sum(getattr(s, name) for s in held) for name in ("stopped", "false"))
        trials = sum(len(story.steps) for story in held)
        answered = sum(s.answered for s in held) / sum(s.answers for s in held)
        paid = sum(map(spent, held)) / sum(s.whole for s in held)
        lines.append(
            f"| {way} | {stopped / trials:.1%} | {answered:.1%} | {paid:.1%} |"
            f" {false} of {stopped:,} ({false / max(1, stopped):.2%}) |"
        )
    return lines


def _bounded(stories: Sequence[Story], bound: str) -> list[str]:
    key, _, value = bound.split()
    exported = [story.test for story in stories if story.exported]
    holding = sum(test[key] >= float(value) for test in exported)
    scores = ", ".join(f"{test[key]:.3f}" for test in exported)
    return [
        f"With {bound}: {len(exported)} of {len(stories)} searches exported a recipe;"
        f" {holding} of them hold it on the test items ({scores}).",
    ]


def write(stories: Stories, lines: Sequence[str], path: Path) -> None:
    """The tables as a file."""
    trials = {len(story.steps) for held in stories.values() for story in held}
    head = [
        "# Ways to search, on the surrogate of the tiny world",
        "",
        f"{max(trials)} trials each. Made by `make bench-search`; what is compared and how:"
        " [README.md](README.md).",
        "",
        "![confirmed hypervolume against tokens and trials](searching.png)",
        "",
    ]
    write_atomic(path, "\n".join([*head, *lines]) + "\n")


def plot(stories: Stories, path: Path) -> None:
    """Medians with quartiles, against tokens and against trials."""
    from matplotlib import pyplot

    free = {way: held for way, held in stories.items() if way != BOUNDED}
    unit = worth(free)
    end = max(spent(story) for held in free.values() for story in held) / unit
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    scales = (
        (axes[0], np.arange(1.0, end, 0.25), unit, _tokens, "generated tokens, in full trials"),
        (axes[1], np.arange(1.0, TRIALS[-1] + 1), 1.0, _count, "trials"),
    )
    for axis, at, scale, key, label in scales:
        for way, held in free.items():
            found = volumes(held, at * scale, key)
            low, middle, high = np.quantile(found, [0.25, 0.5, 0.75], axis=0)
            axis.plot(at, middle, label=way, lw=1.5)
            axis.fill_between(at, low, high, alpha=0.12, lw=0)
        axis.set(xlabel=label, xscale="log")
        axis.grid(alpha=0.3)
    finals = [final(held) for held in free.values()]
    axes[0].set(ylabel="confirmed hypervolume", ylim=(min(finals) - 0.15, max(finals) + 0.01))
    axes[1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
