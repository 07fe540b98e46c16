"""The merges as a competent user writes them in eager torch, to compare with."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WEIGHTS = (0.6, 0.5)
DENSITY = 0.3


def linear(base: Tensor, experts: Sequence[Tensor], compute: torch.dtype) -> Tensor:
    """Weighted average of the experts."""
    total = _total([e.to(compute) * w for e, w in zip(experts, WEIGHTS, strict=True)])
    return (total / sum(WEIGHTS)).to(base.dtype)


def task_arithmetic(base: Tensor, experts: Sequence[Tensor], compute: torch.dtype) -> Tensor:
    """Base plus the weighted differences."""
    start = base.to(compute)
    terms = [(e.to(compute) - start) * w for e, w in zip(experts, WEIGHTS, strict=True)]
    return (start + _total(terms)).to(base.dtype)


def ties(base: Tensor, experts: Sequence[Tensor], compute: torch.dtype) -> Tensor:
    """Differences trimmed by magnitude; a sign elected; the mean of what agrees with it."""
    start = base.to(compute)
    terms = []
    for expert, weight in zip(experts, WEIGHTS, strict=True):
        delta = expert.to(compute) - start
        magnitude = delta.abs().flatten()
        drop = magnitude.numel() - int(DENSITY * magnitude.numel())
        threshold = magnitude.kthvalue(max(1, drop)).values
        terms.append(torch.where(delta.abs() > threshold, delta, 0) * weight)
    positive = _total(terms) >= 0
    kept = [(term != 0) & ((term > 0) == positive) for term in terms]
    total = _total([torch.where(k, term, 0) for k, term in zip(kept, terms, strict=True)])
    weights = _total([k.to(compute) * w for k, w in zip(kept, WEIGHTS, strict=True)])
    merged = start + torch.where(weights > 0, total / weights, 0)
    return merged.to(base.dtype)


def _total(terms: Sequence[Tensor]) -> Tensor:
    return functools.reduce(operator.add, terms)


Merge = Callable[[Tensor, Sequence[Tensor], torch.dtype], Tensor]
METHODS: dict[str, Merge] = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
}
