"""The passes over one tensor, compiled and in threads: merging, and what it must know first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from merge_core.kernels import scalar
from merge_core.kernels.compiled import BLOCK, get_kernel
from merge_core.kernels.job import HIGHEST_WORD, Elements, TensorJob, Tile, numbers
from merge_core.kernels.scalar import HIGH_SHIFT, u32
from merge_core.kernels.threads import spread
from merge_core.methods import Method
from merge_core.selection import KEEP_NONE, Keys

LONGEST = 1 << 25  # elements per call: long against the call, short against the threads' wait
SHORTEST = 1 << 15  # fewer are not worth a second thread
_SAMPLE = 1 << 18  # elements that bracket a slack threshold, at most
_SAMPLED = 48  # one in so many: more would cost more than a wider bracket does
_FEWEST = 1 << 12  # elements of a sample
_RUN = 32  # of them in a row: two cache lines
_NO_TALLY = np.zeros((0, 4), np.int64)
_DIFFERENCES = Method(name="differences", parameters=(), source="")
"""What the keys of one expert's differences need of a method."""


@dataclass(frozen=True)
class Census:
    """What a pass over keys has found.

    Attributes:
        candidates: all keys there are.
        below: how many high words lie below the span that was asked for.
        keys: uint64, those with high words inside the span, in no order.
    """

    candidates: int
    below: int
    keys: Keys


def merge_into(
    job: TensorJob, tile: Tile, out: Elements, tally: npt.NDArray[np.int64] | None = None
) -> int:
    """Merge `tile` into `out` [tile.size]: float32, or bfloat16 held in uint16.

    Args:
        job: of the tensor.
        tile: its bytes.
        out: where to.
        tally: int64 [experts, 4]; counts of entries that stayed after sparsifying, are retained in
            the merge, lost the election, were restored by slack are added to it.

    Returns:
        How many merged elements are not finite.
    """
    bf16_out = out.dtype == np.uint16
    # Random bits and counts would have to be told apart by halves: they are made one by one.
    paired = bf16_out and tally is None and not job.method.random and tile.width > 1
    paired = paired and all(
        a.dtype == np.uint16 for a in (tile.base, *tile.experts) if a is not None
    )
    key = (tile.given, bf16_out, tally is not None, paired)
    kernel = job.kernels.get(key)
    if kernel is None:
        kernel = job.kernels[key] = get_kernel(
            job.method,
            len(tile.experts),
            tuple(job.restored),
            job.replace,
            tile.given,
            bf16_out,
            "merge",
            tally is not None,
            False,
            2 if paired else 1,
        )
    arguments, experts = job.numbers, len(tile.experts)

    def run(first: int, last: int) -> tuple[int, npt.NDArray[np.int64]]:
        part = tile.part(first, last)
        if paired and part.width == 1:  # its other half is another thread's
            return merge_into(job, part, out[first:last]), _NO_TALLY
        wide = part.width if tile.starts.size > 1 else 1
        counts = _NO_TALLY if tally is None else np.zeros((experts, 4), np.int64)
        bad, *_ = _call(kernel, part, out[first * wide : last * wide], counts, job, arguments)
        return bad, counts

    results = _parallel(run, tile)
    if tally is not None:
        for _, counts in results:
            tally += counts
    return sum(bad for bad, _ in results)


def slack_keys(
    job: TensorJob, tile: Tile, expert: int, low: int = 0, high: int = HIGHEST_WORD
) -> Census:
    """Slack keys of the entries that `expert` may win back, given the job's earlier restorations.

    Args:
        job: of the tensor.
        tile: its bytes.
        expert: whose.
        low: smallest high word (distance) of the keys that are listed.
        high: largest one.
    """
    return _census(*_slack(job, tile, expert), job, tile, low, high)


def slack_sample(job: TensorJob, tile: Tile, expert: int) -> Keys:
    """As `slack_keys`, of runs spread evenly over `tile`."""
    kernel, arguments = _slack(job, tile, expert)
    return _census(kernel, arguments, job, sampled(tile), 0, HIGHEST_WORD).keys


def sampled(tile: Tile) -> Tile:
    """Runs of `tile`, or rows if it has several: spread evenly."""
    most = min(_SAMPLE, max(_FEWEST, tile.size // _SAMPLED))
    if tile.starts.size == 1:
        count, width, step = tile.width // _RUN, _RUN, _RUN
    else:
        count, width, step = tile.starts.size, tile.width, tile.stride
    every = max(1, -(-count * width // most))
    starts = tile.starts[::every]
    if tile.starts.size == 1:
        starts = tile.starts + step * np.arange(0, count, every)
    return replace(tile, starts=starts, width=width, stride=every * step)


def trim_keys(tile: Tile, tensor_id: int, low: int = 0, high: int = HIGHEST_WORD) -> Census:
    """Trim keys of the only expert of `tile` whose high words lie in [low, high]."""
    job = magnitudes(tensor_id)
    return _census(_magnitude_kernel(tile, False), (), job, tile, low, high)


def trim_histogram(tile: Tile) -> npt.NDArray[np.int64]:
    """How many trim keys of the only expert have each upper half of the high word: [65536]."""
    job = magnitudes(0)
    kernel = _magnitude_kernel(tile, True)

    def run(first: int, last: int) -> npt.NDArray[np.int64]:
        histogram = np.zeros(1 << 16, np.int64)
        _call(kernel, tile.part(first, last), histogram, _NO_TALLY, job, ())
        return histogram

    return sum(_parallel(run, tile), np.zeros(1 << 16, np.int64))


def pair_sums(base: Elements, other: Elements, length: int) -> npt.NDArray[np.float64]:
    """float64 [blocks, 3]: per block of `length` elements the sums of b e, b b and e e."""
    sums = np.zeros((-(-base.size // length), 3))

    def run(first: int, last: int) -> None:
        begin, end = first * length, last * length
        scalar.block_products(base[begin:end], other[begin:end], length, sums[first:last])

    spread(run, sums.shape[0], max(1, SHORTEST // length), max(1, LONGEST // length))
    return sums


def count_not_finite(values: Elements) -> int:
    """How many elements are NaN or infinite."""

    def run(first: int, last: int) -> int:
        return int(scalar.not_finite(values[first:last]))

    return sum(spread(run, values.size, SHORTEST, LONGEST))


def span_of(bucket: int) -> tuple[int, int]:
    """The smallest and largest high word that `trim_histogram` counts at `bucket`."""
    return bucket << HIGH_SHIFT, ((bucket + 1) << HIGH_SHIFT) - 1


def _call(
    kernel: Callable[..., Any],
    tile: Tile,
    out: npt.NDArray[Any],
    tally: npt.NDArray[np.int64],
    job: TensorJob,
    arguments: tuple[Any, ...],
    low: int = 0,
    high: int = 0,
) -> tuple[int, int, int]:
    base = tile.experts[0] if tile.base is None else tile.base
    result: tuple[int, int, int] = kernel(
        base,
        *tile.experts,
        *tile.ranks,
        out,
        tally,
        tile.starts,
        tile.stride,
        tile.width,
        u32(low),
        u32(high),
        u32(job.tensor_id),
        *arguments,
        u32(job.seed & 0xFFFFFFFF),
        u32(job.seed >> 32),
    )
    return result


def _census(
    kernel: Callable[..., Any],
    arguments: tuple[Any, ...],
    job: TensorJob,
    tile: Tile,
    low: int,
    high: int,
) -> Census:
    def run(first: int, last: int) -> Census:
        part = tile.part(first, last)
        # Room for all would be touched only as far as it is filled, but counts as address space.
        room = part.size if (low, high) == (0, HIGHEST_WORD) else part.size // 4 + 4096
        while True:
            keys = np.empty(room, np.uint64)
            candidates, below, inside = _call(
                kernel, part, keys, _NO_TALLY, job, arguments, low, high
            )
            if inside <= room:
                return Census(candidates, below, keys[:inside].copy())
            room = inside

    parts = _parallel(run, tile)
    return Census(
        sum(part.candidates for part in parts),
        sum(part.below for part in parts),
        np.concatenate([np.empty(0, np.uint64), *(part.keys for part in parts)]),
    )


def _slack(job: TensorJob, tile: Tile, expert: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    restored = {**job.restored, expert: KEEP_NONE}
    kernel = get_kernel(
        job.method,
        len(tile.experts),
        tuple(restored),
        job.replace,
        tile.given,
        False,
        "distance",
        False,
        False,
    )
    return kernel, numbers(job, restored)


def magnitudes(tensor_id: int) -> TensorJob:
    """The job of passes that make trim keys."""
    return TensorJob(_DIFFERENCES, tensor_id, 0, (), np.zeros(0, np.float32))


def _magnitude_kernel(tile: Tile, histogram: bool) -> Callable[..., Any]:
    assert tile.base is not None
    return get_kernel(_DIFFERENCES, 1, (), True, tile.given, False, "magnitude", False, histogram)


def _parallel(run: Callable[[int, int], Any], tile: Tile) -> list[Any]:
    """`run` over parts of `tile` (see `Tile.part`), in order."""
    if tile.starts.size == 1:
        return spread(run, tile.width, SHORTEST, LONGEST, BLOCK)
    width = max(1, tile.width)
    return spread(run, tile.starts.size, -(-SHORTEST // width), max(1, LONGEST // width))
