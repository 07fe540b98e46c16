"""What is killed when: a list drawn from a seed, so that a bad night can be had again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = ("driver", "worker", "engine", "raylet", "postgres", "mlflow")
"""What can be killed; `head` besides, the head of the cluster, with which all of Ray goes."""

_BURST = 0.25  # share of kills that fall while the last one is being mended
_LAST = 1.0  # share of the trials by which all kills have been


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        kind: of `KINDS`, or head.
        after: trials that are finished before.
        wait: seconds from then, or from the kill before if that is later.
        down: seconds until what died is started again; drivers and workers' nodes at once.
        draw: in [0, 1): which one of several.
    """

    kind: str
    after: int
    wait: float
    down: float
    draw: float

    def __str__(self) -> str:
        return f"{self.kind} after {self.after} trials and {self.wait:.1f}s, down {self.down:.1f}s"


def schedule(
    seed: int, kills: int, trials: int, heads: int = 0, kinds: Sequence[str] = KINDS
) -> list[Kill]:
    """`kills` of them over a search of `trials`; each kind as often as any other, give or take one.

    Args:
        seed: the same seed draws the same list.
        kills: how many.
        trials: over how many trials.
        heads: how many of them kill the cluster's head.
        kinds: of the others.
    """
    drawn = random.Random(f"chaos {seed} {kills} {trials} {heads}")
    order = [kinds[i % len(kinds)] for i in range(kills - heads)] + ["head"] * heads
    drawn.shuffle(order)
    found: list[Kill] = []
    for i, kind in enumerate(order):
        after = int(_LAST * trials * (i + 1) / (kills + 1))
        burst = found and drawn.random() < _BURST
        found.append(
            Kill(
                kind,
                after=found[-1].after if burst else after,
                wait=drawn.uniform(0.0, 0.5 if burst else 1.5),
                down=drawn.uniform(0.3, 5.0),
                draw=drawn.random(),
            )
        )
    return found
