"""Schedules and settings from papers: as baselines, and as the first trials of a search.

Typhoon2-R1's M3 (arXiv 2502.09056): the reasoning model has 75% of the weight to layer 53 of 80,
then linearly less, to 12.5% at the last; the language model has the rest. Their density is not
published; baselines drop nothing.
"""

from __future__ import annotations

from merge_core.values import Knee, Value

PLATEAU, END = 0.75, 0.125
KNEE = 53 / 79
"""Of the depth, 0 at the first layer and 1 at the last."""

ANCHORS = (PLATEAU, PLATEAU, PLATEAU, END)
"""The same as mergekit writes it: a gradient of evenly spaced anchors."""


def reasoning_share() -> Value:
    """The reasoning model's share of the weight over the layers."""
    return Knee(PLATEAU, END, KNEE)


def language_share(experts: int) -> Value:
    """What is left of the weight, for each of `experts` other experts."""
    return Knee((1.0 - PLATEAU) / experts, (1.0 - END) / experts, KNEE)


DENSITY = {"ties": 0.2, "dare_ties": 0.5}
"""TIES keeps the largest fifth (arXiv 2306.01708). DARE's paper (2311.03099) merges after dropping
between a tenth and nine tenths; half is the middle."""
