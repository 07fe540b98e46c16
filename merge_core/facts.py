"""What passes over the sources find and no recipe changes: made once, kept for all trials.

Tables of magnitudes give the trim threshold of any density after one look at the few entries near
it; thresholds, DELLA's ranks and SLERP's products are kept too. With a folder (`Facts.keep`) tables
and ranks lie on disk, named by the contents that they were made from, so that every worker and
every resumed run finds them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from merge_core.arithmetic import BLOCK, PairProducts
from merge_core.kernels.fused import pair_sums, span_of, trim_histogram, trim_keys
from merge_core.kernels.job import HIGHEST_WORD, Elements
from merge_core.kernels.threads import spread
from merge_core.reading import TILE, Reader
from merge_core.selection import KEEP_ALL, KEEP_NONE, Cut, Keys, kth_smallest

if TYPE_CHECKING:
    from collections.abc import Callable

    from merge_core.sources import Sources

_VERSION = 1  # of the tables on disk: another version's are made anew
_BUCKETS = 1 << 16

Histogram = npt.NDArray[np.int64]
Ranks = npt.NDArray[Any]
"""uint16, or uint32 where rows are too long for that."""


class Facts:
    """Facts of opened sources.

    Args:
        sources: whose.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._differences = Reader(sources, differences=True)
        self._folder: Path | None = None
        self._pairs: tuple[str, ...] = ()
        self._histograms: dict[tuple[int, str], Histogram] = {}
        self._bounds: dict[tuple[int, str, int], int] = {}
        self._products: dict[str, PairProducts] = {}

    def keep(self, folder: Path, digests: Sequence[str]) -> None:
        """Keep tables in `folder` from now on, and find there what others have made.

        Args:
            folder: made if need be; several processes may share it.
            digests: `Sources.digests()`: what the tables are named by. Facts are of differences:
                nothing is kept for sources without a base.
        """
        if self._sources.base is None:
            return
        base, *experts = digests
        alignment = self._sources.alignment
        self._folder = folder
        self._pairs = ()
        for index, expert in enumerate(experts):
            name = hashlib.sha256(f"{_VERSION} {base} {expert}".encode())
            if alignment is not None:
                rows = alignment.rows[index]
                name.update(alignment.core.tobytes())
                name.update(b"" if rows is None else rows.tobytes())
            self._pairs = (*self._pairs, name.hexdigest())

    # ---- trim

    def trim_bounds(self, expert: int, group: Sequence[str], count: int) -> dict[str, int]:
        """The exclusive bound of `expert`'s trim keys in each tensor of `group`.

        Args:
            expert: in recipe order.
            group: tensors that are ranked together: one, or all in name order.
            count: how many entries are below the bounds.
        """
        total = sum(self._differences.size(name) for name in group)
        if count in (0, total):
            return dict.fromkeys(group, KEEP_NONE if count == 0 else KEEP_ALL)
        place = (expert, group[0] if len(group) == 1 else "", count)
        if len(group) == 1 and place in self._bounds:
            return {group[0]: self._bounds[place]}
        histogram = np.zeros(_BUCKETS, np.int64)
        for name in group:
            histogram += self._histogram(expert, name)
        upto = np.cumsum(histogram)
        bucket = int(np.searchsorted(upto, count))
        below = int(upto[bucket] - histogram[bucket])
        low, high = span_of(bucket)

        def stream(names: Sequence[str] = group) -> Iterator[Keys]:
            for name in names:
                for tile in self._differences.all(name, expert):
                    yield trim_keys(tile, self._sources.ids[name], low, high).keys

        cut = kth_smallest(stream, count - below, int(histogram[bucket]))
        bounds = bounds_of(cut, group, stream)
        if len(group) == 1:
            self._bounds[place] = bounds[group[0]]
        return bounds

    def _histogram(self, expert: int, name: str) -> Histogram:
        """How many trim keys have each upper half of the high word: int64 [65536]."""
        if (expert, name) not in self._histograms:
            file = self._file(expert, name, "magnitudes.npy")
            filled = None if file is None else _load(file)
            if filled is None or int(filled[1].sum()) != self._differences.size(name):
                histogram = np.zeros(_BUCKETS, np.int64)
                for tile in self._differences.all(name, expert):
                    histogram += trim_histogram(tile)
                places = np.flatnonzero(histogram)
                filled = np.stack([places, histogram[places]])
                if file is not None:
                    _store(file, filled)
            histogram = np.zeros(_BUCKETS, np.int64)
            histogram[filled[0]] = filled[1]
            self._histograms[expert, name] = histogram
        return self._histograms[expert, name]

    # ---- DELLA

    def row_ranks(self, expert: int, name: str, rows: slice | npt.NDArray[np.int64]) -> Ranks:
        """The rank of each entry within its row, by (|delta|, tie rank), both ascending.

        Args:
            expert: in recipe order.
            name: of the tensor.
            rows: which of those that are merged by arithmetic.

        Returns:
            [rows, row length].
        """
        file = self._file(expert, name, "ranks.npy")
        if file is None:
            return self._make_ranks(expert, name, rows)
        shape = self._differences.rows(name)
        kept = _open_ranks(file, shape)
        if kept is None:
            with _replacing(file) as temporary:
                made = np.lib.format.open_memmap(
                    temporary, mode="w+", dtype=_rank_dtype(shape[1]), shape=shape
                )
                height = max(1, TILE // max(1, shape[1]))
                for start in range(0, shape[0], height):
                    stop = min(start + height, shape[0])
                    made[start:stop] = self._make_ranks(expert, name, slice(start, stop))
                made.flush()
                del made
            kept = _open_ranks(file, shape)
            assert kept is not None
        ranks: Ranks = kept[rows]
        return ranks

    def _make_ranks(self, expert: int, name: str, rows: slice | npt.NDArray[np.int64]) -> Ranks:
        tile = self._differences.core_rows(name, rows, expert)
        shape = (tile.starts.size, tile.width)
        # All keys are listed, in order. Trim keys have magnitudes descending: turned round, they
        # order as DELLA does.
        keys = trim_keys(tile, self._sources.ids[name]).keys.reshape(shape)
        keys ^= np.uint64(HIGHEST_WORD << 32)
        ranks = np.empty(shape, _rank_dtype(tile.width))
        ascending = np.broadcast_to(np.arange(tile.width, dtype=ranks.dtype), shape)

        def run(begin: int, end: int) -> None:
            order = np.argsort(keys[begin:end], axis=1)
            np.put_along_axis(ranks[begin:end], order, ascending[begin:end], axis=1)

        height = max(1, (1 << 16) // max(1, tile.width))
        spread(run, shape[0], height, height)
        return ranks

    # ---- slerp

    def products(self, name: str) -> PairProducts:
        """Dot product and squared norms of the only two experts' tensors, in recipe order."""
        if name not in self._products:
            sums = [np.zeros((1, 3))]
            rest: list[Elements] = []
            for tile in Reader(self._sources, differences=False).all(name):
                pair = (
                    [_joined(old, new) for old, new in zip(rest, tile.experts, strict=True)]
                    if (rest)
                    else list(tile.experts)
                )
                whole = pair[0].size // BLOCK * BLOCK
                sums.append(pair_sums(pair[0][:whole], pair[1][:whole], BLOCK))
                rest = [values[whole:] for values in pair]
            if rest and rest[0].size:
                sums.append(pair_sums(rest[0], rest[1], BLOCK))
            # In block order, one after the other: sum() of numpy would add in pairs.
            dot, first, second = np.add.accumulate(np.concatenate(sums))[-1]
            self._products[name] = PairProducts(float(dot), float(first), float(second))
        return self._products[name]

    # ---- on disk

    def _file(self, expert: int, name: str, what: str) -> Path | None:
        """Where a table is kept: by the contents of its pair, and by the tensor."""
        if self._folder is None:
            return None
        return self._folder / self._pairs[expert][:32] / f"{name}.{what}"


def bounds_of(
    cut: Cut, group: Sequence[str], stream: Callable[[Sequence[str]], Iterator[Keys]]
) -> dict[str, int]:
    """An exclusive bound per tensor from the k-th key of their union.

    Tie ranks are distinct within a tensor, so at most one key a tensor equals the cut; among
    tensors the first in name order are kept.
    """
    bounds = {}
    ties = cut.ties
    for name in group:
        has = len(group) == 1 or any(
            bool((keys == np.uint64(cut.key)).any()) for keys in stream([name])
        )
        bounds[name] = cut.key + 1 if has and ties > 0 else cut.key
        ties -= has
    return bounds


def _rank_dtype(length: int) -> type[np.uint16 | np.uint32]:
    return np.uint16 if length <= 1 << 16 else np.uint32


def _joined(old: Elements, new: Elements) -> Elements:
    return np.concatenate([old, new])


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A temporary file that takes `file`'s place when the block ends well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _store(file: Path, table: Histogram) -> None:
    """Write a table and, after it, its sha256."""
    with _replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, table)
        stream.write(hashlib.sha256(table.tobytes()).digest())


def _load(file: Path) -> Histogram | None:
    """The table in `file`; None if there is none, or it is damaged (and then made anew)."""
    with suppress(OSError, ValueError, EOFError), file.open("rb") as stream:
        table: Histogram = np.load(stream, allow_pickle=False)
        if stream.read() == hashlib.sha256(table.tobytes()).digest():
            return table
    return None


def _open_ranks(file: Path, shape: tuple[int, int]) -> Ranks | None:
    """The ranks in `file`, mapped; None if there are none. Files appear whole or not at all."""
    with suppress(OSError, ValueError, EOFError):
        ranks: Ranks = np.load(file, mmap_mode="r", allow_pickle=False)
        if ranks.shape == shape and ranks.dtype == _rank_dtype(shape[1]):
            return ranks
    return None
