"""The executor's arithmetic on the CPU: one tile of one tensor, all facts known beforehand.

Same bits as `merge_core.reference`, which see for the mathematics. What depends on a whole tensor
(thresholds) comes in through `TensorJob`, so that any slice of a tensor merges alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_core.arithmetic import Float32, Mask
from merge_core.methods import Method
from merge_core.random import UInt32, drop_bits, tie_ranks
from merge_core.selection import KEEP_NONE, Keys, slack_keys, trim_keys

ZERO = np.float32(0.0)


@dataclass(frozen=True)
class TensorJob:
    """All that a pass over one tensor needs besides its bytes.

    Attributes:
        method: which stages to run.
        tensor_id: of the tie ranks and drop masks.
        seed: of the drop masks.
        factors: per expert, what its difference is multiplied by (float32 values).
        coefficients: [2^N] float32, by subset of kept experts.
        trim: per expert, the exclusive bound of the trim keys that stay.
        drop: per expert, the exclusive bound of the 16 random bits that stay.
        restore: (expert, exclusive bound of its slack keys), in recipe order.
        replace: whether a restored entry stands alone.
    """

    method: Method
    tensor_id: int
    seed: int
    factors: tuple[float, ...]
    coefficients: Float32
    trim: tuple[int, ...] = ()
    drop: tuple[int, ...] = ()
    restore: tuple[tuple[int, int], ...] = ()
    replace: bool = True


@dataclass
class Tile:
    """Flat elements [start, start + n) of one tensor in every source, float32, shape [n]."""

    start: int
    base: Float32 | None
    experts: Sequence[Float32]

    @property
    def stop(self) -> int:
        """One past the last flat index."""
        return self.start + self.experts[0].size


def merge_tile(job: TensorJob, tile: Tile) -> Float32:
    """The merged elements of `tile`, float32 [n], before rounding to the output dtype."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if not job.method.on_differences:
            averaged: Float32 = _sum(_products(tile.experts, job.factors)) * job.coefficients[-1]
            return averaged
        assert tile.base is not None
        deltas, terms = _terms(job, tile)
        if not job.method.elects:
            merged: Float32 = tile.base + _sum(terms) * job.coefficients[-1]
            return merged
        kept = _elect(terms)
        if job.restore:
            ranks = tie_ranks(tile.start, tile.stop, job.tensor_id)
            kept = _restore(job, deltas, terms, kept, ranks)
        total = _sum([np.where(mask, term, ZERO) for mask, term in zip(kept, terms, strict=True)])
        subset = np.zeros(total.shape, np.uint8)
        for i, mask in enumerate(kept):
            subset |= mask.astype(np.uint8) << np.uint8(i)
        return tile.base + total * job.coefficients[subset]


def trim_stream(delta: Float32, start: int, tensor_id: int) -> Keys:
    """Trim keys of one expert's difference, flat elements from `start`."""
    return trim_keys(delta, tie_ranks(start, start + delta.size, tensor_id))


def slack_stream(job: TensorJob, tile: Tile, expert: int) -> Keys:
    """Slack keys of the entries of `tile` that `expert` may win back, given `job.restore`."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        deltas, terms = _terms(job, tile)
        won = _elect(terms)
        ranks = tie_ranks(tile.start, tile.stop, job.tensor_id)
        keys = slack_keys(_distance(deltas, won, expert), ranks)
        return keys[_candidates(job, deltas, terms, won, ranks, expert)]


def _products(arrays: Sequence[Float32], factors: Sequence[float]) -> list[Float32]:
    return [array * np.float32(factor) for array, factor in zip(arrays, factors, strict=True)]


def _sum(terms: Sequence[Float32]) -> Float32:
    # Starting with the first term, not with 0, keeps -0.0.
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _terms(job: TensorJob, tile: Tile) -> tuple[list[Float32], list[Float32]]:
    assert tile.base is not None
    deltas = [expert - tile.base for expert in tile.experts]
    terms = _products(deltas, job.factors)
    if job.method.sparsify == "trim":
        ranks = tie_ranks(tile.start, tile.stop, job.tensor_id)
        for i, bound in enumerate(job.trim):
            terms[i] = np.where(trim_keys(deltas[i], ranks) < np.uint64(bound), terms[i], ZERO)
    elif job.method.sparsify == "drop":
        for i, bound in enumerate(job.drop):
            bits = drop_bits(
                tile.start, tile.stop, seed=job.seed, tensor_id=job.tensor_id, expert=i
            )
            terms[i] = np.where(bits < np.uint32(bound), terms[i], ZERO)
    return deltas, terms


def _elect(terms: Sequence[Float32]) -> list[Mask]:
    positive = _sum(terms) >= ZERO
    return [((term > ZERO) & positive) | ((term < ZERO) & ~positive) for term in terms]


def _distance(deltas: Sequence[Float32], won: Sequence[Mask], expert: int) -> Float32:
    opponent = np.zeros(deltas[0].shape, np.float32)
    for delta, mask in zip(deltas, won, strict=True):
        opponent = np.where(mask, np.maximum(opponent, np.abs(delta)), opponent)
    distance: Float32 = np.abs(np.abs(deltas[expert]) - opponent)
    return distance


def _candidates(
    job: TensorJob,
    deltas: Sequence[Float32],
    terms: Sequence[Float32],
    won: Sequence[Mask],
    ranks: UInt32,
    expert: int,
) -> Mask:
    """Where `expert` lost the original election and no earlier expert was restored."""
    lost: Mask = (terms[expert] != ZERO) & ~won[expert]
    for earlier, bound in job.restore:
        if earlier == expert:
            break
        if bound != KEEP_NONE:
            taken = _candidates(job, deltas, terms, won, ranks, earlier)
            keys = slack_keys(_distance(deltas, won, earlier), ranks)
            lost &= ~(taken & (keys < np.uint64(bound)))
    return lost


def _restore(
    job: TensorJob,
    deltas: Sequence[Float32],
    terms: Sequence[Float32],
    won: Sequence[Mask],
    ranks: UInt32,
) -> list[Mask]:
    kept = list(won)
    for expert, bound in job.restore:
        if bound == KEEP_NONE:
            continue
        keys = slack_keys(_distance(deltas, won, expert), ranks)
        restored = _candidates(job, deltas, terms, won, ranks, expert) & (keys < np.uint64(bound))
        if job.replace:
            kept = [mask & ~restored for mask in kept]
        kept[expert] = kept[expert] | restored
    return kept
