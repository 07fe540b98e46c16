"""Two recipes on the same items: the difference, how sure it is, and watching it as items come in.

Items differ far more than recipes do, so recipes are compared item by item: what both get right or
both get wrong says nothing about which is better, and adds no noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from objectives.intervals import lower_bound, upper_bound
from objectives.statistics import check_level

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FLIPS = 9_999
"""Random sign flips of a permutation test that cannot list them all; a tenth for many items."""

_MOST_SIGNS = 20_000_000  # drawn in a second or two

EXACT_ITEMS = 14
"""Up to so many differing items, all sign flips are listed (16,384)."""

BETS = 32
"""Stakes that a `PairedWatch` spreads its capital over."""


@dataclass(frozen=True)
class Comparison:
    """How much better a is than b, over `n` items that both were asked.

    Attributes:
        value: mean of a - b.
        low, high: two-sided interval of the mean difference over all items there might be.
        p_value: two-sided, of "neither is better": how often a difference as large as this comes
            up if each item's two scores are swapped at random. Exact (or drawn, for many graded
            items) given which items differ, so it may stay just above 1 - level where the interval
            just leaves 0 out.
        n: items.
        wins, losses, ties: items where a scores more, less, the same.
    """

    value: float
    low: float
    high: float
    p_value: float
    n: int
    wins: int
    losses: int
    ties: int


def paired(
    a: Sequence[float],
    b: Sequence[float],
    binary: bool,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Comparison:
    """Compare the per-item scores of two recipes on the same items, in the same order.

    The interval is that of `intervals` for the differences, which lie in plus or minus the range's
    width; for binary scores its distributions are those of Tango's (1998) score interval. The
    p-value is McNemar's exact test for binary scores and the sign-flip permutation test of the
    mean for graded ones, with a fixed seed. Neither depends on the order of items, and swapping a
    and b changes signs only.

    Raises:
        ValueError: no scores, different numbers of them, a score outside `bounds`, a binary score
            between them, or a level outside (0, 1).
    """
    differences = _differences(a, b, bounds)
    if binary and any(score not in bounds for scores in (a, b) for score in scores):
        raise ValueError(f"binary scores must be exactly {bounds[0]:g} or {bounds[1]:g}")
    check_level(level)
    width = bounds[1] - bounds[0]
    unit = [(1.0 + difference) / 2 for difference in differences]
    tail = (1.0 - level) / 2
    value = width * math.fsum(differences) / len(differences)
    low = width * (2.0 * lower_bound(unit, tail) - 1.0)
    high = width * (2.0 * upper_bound(unit, tail) - 1.0)
    wins = sum(difference > 0.0 for difference in differences)
    losses = sum(difference < 0.0 for difference in differences)
    return Comparison(
        value=value,
        low=min(low, value),
        high=max(high, value),
        p_value=_mcnemar(wins, losses) if binary else _sign_flips(differences),
        n=len(differences),
        wins=wins,
        losses=losses,
        ties=len(differences) - wins - losses,
    )


class PairedWatch:
    """Looks at paired differences as they come in and says when one recipe is better.

    May be looked at after every item, as often as one likes and for as long as one likes: over all
    looks together, the chance of ever speaking up is at most 1 - level if the mean difference is
    0, so also if labels are swapped at random per item; and so is the chance of ever naming the
    wrong direction. No schedule of looks is needed, and none is wasted.

    It bets (Shafer 2021; Waudby-Smith & Ramdas 2024). A gambler who stakes the share s of their
    capital on "better" has 1 + s d times as much after a difference d in [-1, 1]: no gain to be
    expected unless the mean is above 0. The capital is spread evenly over stakes in (0, 1), and,
    with two sides, over both directions. By Ville's inequality it ever reaches 1 / (1 - level)
    with probability at most 1 - level.

    Args:
        level: 1 - the chance of a false alarm, as everywhere in `statistics`.
        sides: which findings are wanted; asking for one alone makes it come sooner.
        bounds: range of the scores whose differences come in.
    """

    def __init__(
        self,
        level: float = 0.95,
        sides: Literal["both", "better", "worse"] = "both",
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        import numpy as np

        check_level(level)
        self.level = level
        self.sides = sides
        self.n = 0
        """Differences seen."""
        self.p_value = 1.0
        """Valid at any time: one over the largest capital so far."""
        self.verdict: Literal["better", "worse"] | None = None
        """What was found; once found it stays."""
        self._width = _width(bounds)
        self._stakes = (np.arange(BETS) + 0.5) / BETS
        signs = {"both": (1.0, -1.0), "better": (1.0,), "worse": (-1.0,)}[sides]
        self._logs = {sign: np.zeros(BETS) for sign in signs}

    def update(self, differences: Sequence[float]) -> Literal["better", "worse"] | None:
        """Take in the next items' differences (a - b) and look: a is "better", "worse", or None.

        Raises:
            ValueError: a difference is larger than the range's width, or no number.
        """
        import numpy as np

        fresh = np.asarray(differences, dtype=np.float64) / self._width
        if not np.all(np.abs(fresh) <= 1.0 + 1e-12):
            raise ValueError(f"differences must lie within plus or minus {self._width:g}")
        fresh = np.clip(fresh[fresh != 0.0], -1.0, 1.0)
        self.n += len(differences)
        capitals: dict[float, float] = {}
        for sign, logs in self._logs.items():
            logs += np.log1p(sign * fresh[:, None] * self._stakes).sum(axis=0)
            capitals[sign] = _log_mean(logs)
        both = np.array(list(capitals.values()))
        self.p_value = min(self.p_value, math.exp(-max(0.0, _log_mean(both))))
        if self.verdict is None and self.p_value <= 1.0 - self.level:
            leading = max(capitals, key=lambda sign: capitals[sign])
            self.verdict = "better" if leading > 0.0 else "worse"
        return self.verdict


def _log_mean(logs: NDArray[np.float64]) -> float:
    """The logarithm of the mean of exponentials."""
    import numpy as np

    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).mean()))


def _differences(
    a: Sequence[float], b: Sequence[float], bounds: tuple[float, float]
) -> list[float]:
    """Each a - b as a share of the range's width."""
    width = _width(bounds)
    if len(a) != len(b):
        raise ValueError(f"paired scores must be as many on both sides, got {len(a)} and {len(b)}")
    if len(a) == 0:
        raise ValueError("no scores to compare")
    if not all(bounds[0] <= score <= bounds[1] for scores in (a, b) for score in scores):
        raise ValueError(f"scores must lie in [{bounds[0]}, {bounds[1]}]")
    return [min(1.0, max(-1.0, (x - y) / width)) for x, y in zip(a, b, strict=True)]


def _width(bounds: tuple[float, float]) -> float:
    width = bounds[1] - bounds[0]
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"bounds must be finite and ascending, got [{bounds[0]}, {bounds[1]}]")
    return width


def _mcnemar(wins: int, losses: int) -> float:
    """McNemar's exact test: wins among items that differ are Binomial(wins + losses, 1/2)."""
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def _sign_flips(differences: Sequence[float]) -> float:
    """How often random signs make a sum at least as far from 0 as the one seen."""
    import numpy as np

    sizes = np.sort(np.abs([d for d in differences if d != 0.0]))
    if sizes.size == 0:
        return 1.0
    # Sums of equal sizes in another order must count as equal.
    seen = abs(math.fsum(differences)) * (1.0 - 1e-9) - 1e-12
    if sizes.size <= EXACT_ITEMS:
        codes = np.arange(2**sizes.size)[:, None] >> np.arange(sizes.size)
        sums = (1.0 - 2.0 * (codes & 1)) @ sizes
        return float(np.mean(np.abs(sums) >= seen))
    rng = np.random.default_rng(0)
    flips = min(FLIPS, max(FLIPS // 10, _MOST_SIGNS // sizes.size))
    reached, done = 0, 0
    while done < flips:
        count = min(2_000, flips - done, max(1, _MOST_SIGNS // sizes.size))
        signs = rng.integers(0, 2, (count, sizes.size), dtype=np.int8) * 2.0 - 1.0
        reached += int(np.count_nonzero(np.abs(signs @ sizes) >= seen))
        done += count
    return (reached + 1) / (flips + 1)
