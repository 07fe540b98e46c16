"""What passes over the sources find and no recipe changes: made once, kept for all trials.

Tables of magnitudes give the trim threshold of any density after one look at the few entries near
it; thresholds, DELLA's ranks and SLERP's products are kept too. With a folder (`Facts.keep`) tables
and ranks lie on disk, named by the contents that they were made from, so that every worker and
every resumed run finds them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from merge_core.arithmetic import BLOCK, PairProducts
from merge_core.kernels.fused import pair_sums, span_of, trim_histogram, trim_keys
from merge_core.kernels.job import HIGHEST_WORD, Elements
from merge_core.kernels.threads import spread
from merge_core.reading import TILE, single
from merge_core.selection import KEEP_ALL, KEEP_NONE, Cut, Keys, kth_smallest

if TYPE_CHECKING:
    from collections.abc import Callable

    from merge_core.sources import Sources

_VERSION = 1  # of the tables on disk: another version's are made anew
_BUCKETS = 1 << 16
_SPARE = 1 << 30  # bytes that tables leave free on a disk: results need them more

Histogram = npt.NDArray[np.int64]
"""[2, n]: which upper halves of high words there are, ascending, and how many keys have each."""
Ranks = npt.NDArray[Any]
"""uint16, or uint32 where rows are too long for that."""


class Facts:
    """Facts of opened sources.

    Args:
        sources: whose.

    Attributes:
        problem: why tables are no longer written to the folder, or None.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._differences = sources.reader(differences=True)
        self.problem: str | None = None
        self._folder: Path | None = None
        self._pairs: tuple[str, ...] = ()
        self._histograms: dict[tuple[int, str], Histogram] = {}
        self._ranks: dict[tuple[int, str], Ranks] = {}
        self._bounds: dict[tuple[int, str, int], int] = {}
        self._products: dict[str, PairProducts] = {}

    def keep(self, folder: Path, digests: Sequence[str]) -> None:
        """Keep tables in `folder` from now on, and find there what others have made.

        A folder that cannot be written, or is full, is no error: `problem` says so, and what is
        not there is made in memory, as without a folder.

        Args:
            folder: made if need be; several processes may share it.
            digests: `Sources.digests()`: what the tables are named by. Facts are of differences:
                nothing is kept for sources without a base.
        """
        sources, alignment = self._sources, self._sources.alignment
        if sources.base is None:
            return
        base, *experts = digests
        self._folder = folder
        self._pairs = ()
        for index, (source, expert) in enumerate(zip(sources.experts, experts, strict=True)):
            # What no weight says: which tensor is the head.
            heads = [sources.base.shares_head, source.shares_head]
            name = hashlib.sha256(f"{_VERSION} {base} {expert} {heads}".encode())
            if alignment is not None:
                rows = alignment.rows[index]
                name.update(alignment.core.tobytes())
                name.update(b"" if rows is None else rows.tobytes())
            self._pairs = (*self._pairs, name.hexdigest())

    @property
    def kept(self) -> tuple[Path, tuple[str, ...]] | None:
        """The folder of `keep` and the names in it, for `keep_as` of another process."""
        return None if self._folder is None else (self._folder, self._pairs)

    def keep_as(self, folder: Path, pairs: Sequence[str]) -> None:
        """As `keep`, of the same sources in another process: `kept` told what."""
        self._folder, self._pairs = folder, tuple(pairs)

    def __getstate__(self) -> dict[str, Any]:
        # Tables are large: who receives the sources finds them in the folder, or makes them anew.
        return {**self.__dict__, "_histograms": {}, "_ranks": {}}

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
            buckets, sizes = self._histogram(expert, name)
            histogram[buckets] += sizes
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
        """How many trim keys have which upper half of the high word."""
        if (expert, name) not in self._histograms:
            file = self._file(expert, name, "magnitudes")
            stored = None if file is None else _load(file, (2, -1), np.dtype(np.int64))
            filled = None if stored is None else np.array(stored)
            if filled is None or int(filled[1].sum()) != self._differences.size(name):
                histogram = np.zeros(_BUCKETS, np.int64)
                for tile in self._differences.all(name, expert):
                    histogram += trim_histogram(tile)
                places = np.flatnonzero(histogram)
                filled = np.stack([places, histogram[places]])
                if file is not None:
                    self._write(file, filled.shape, filled.dtype, iter([filled]))
            self._histograms[expert, name] = filled
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
        kept = self._kept_ranks(expert, name)
        if kept is None:
            return self._make_ranks(expert, name, rows)
        ranks: Ranks = kept[rows]
        return ranks

    def _kept_ranks(self, expert: int, name: str) -> Ranks | None:
        """All ranks of a tensor, mapped from the disk; None if they are not kept there."""
        if (expert, name) in self._ranks:
            return self._ranks[expert, name]
        # Tie ranks follow the tensor's id, which almost always follows from its name.
        file = self._file(expert, name, f"{self._sources.ids[name]:08x}.ranks")
        if file is None:
            return None
        shape = self._differences.rows(name)
        dtype = np.dtype(_rank_dtype(self._differences.rank_length(name)))
        kept = _load(file, shape, dtype)
        if kept is None:
            height = max(1, TILE // max(1, shape[1]))
            made = (
                self._make_ranks(expert, name, slice(start, min(start + height, shape[0])))
                for start in range(0, shape[0], height)
            )
            kept = _load(file, shape, dtype) if self._write(file, shape, dtype, made) else None
        if kept is not None:
            self._ranks[expert, name] = kept
        return kept

    def _make_ranks(self, expert: int, name: str, rows: slice | npt.NDArray[np.int64]) -> Ranks:
        length = self._differences.rank_length(name)
        together = length != self._differences.rows(name)[1]
        tile = self._differences.core_rows(name, slice(0, length) if together else rows, expert)
        shape = (1, length) if together else (tile.starts.size, length)
        # All keys are listed, in order. Trim keys have magnitudes descending: turned round, they
        # order as DELLA does.
        keys = trim_keys(tile, self._sources.ids[name]).keys.reshape(shape)
        keys ^= np.uint64(HIGHEST_WORD << 32)
        ranks = np.empty(shape, _rank_dtype(length))
        ascending = np.broadcast_to(np.arange(length, dtype=ranks.dtype), shape)

        def run(begin: int, end: int) -> None:
            order = np.argsort(keys[begin:end], axis=1)
            np.put_along_axis(ranks[begin:end], order, ascending[begin:end], axis=1)

        height = max(1, (1 << 16) // max(1, length))
        spread(run, shape[0], height, height)
        return ranks.reshape(-1, 1)[rows] if together else ranks

    # ---- slerp

    def products(self, name: str) -> PairProducts:
        """Dot product and squared norms of the only two experts' tensors, in recipe order."""
        if name not in self._products:
            sums = [np.zeros((1, 3))]
            rest: list[Elements] = []
            for tile in self._sources.reader(differences=False).all(name):
                pair = (
                    [_joined(old, new) for old, new in zip(rest, tile.experts, strict=True)]
                    if rest
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
        return self._folder / self._pairs[expert][:32] / f"{quote(name, safe='')}.{what}"

    def _write(
        self,
        file: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        parts: Iterator[npt.NDArray[Any]],
    ) -> bool:
        """Write a table to `file`; whether that went well. After a failure nothing is written."""
        if self.problem is not None:
            return False
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            if shutil.disk_usage(file.parent).free < size + _SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with _replacing(file) as stream:
                _store(stream, parts)
        except OSError as error:
            self.problem = (
                f"{self._folder}: cannot be written ({error.strerror or error}): tables of the "
                "sources are made anew by each worker"
            )
            return False
        return True


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
    # A tile in which rows were filled in from base may have another dtype than the next.
    same = old.dtype == new.dtype
    return np.concatenate([old, new] if same else [single(old), single(new)])


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    """A temporary file that takes `file`'s place when the block ends well."""
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _store(stream: BinaryIO, parts: Iterator[npt.NDArray[Any]]) -> None:
    """Write a table, given in parts along its first axis: its entries, then their sha256."""
    sha256 = hashlib.sha256()
    for part in parts:
        data = part.tobytes()
        sha256.update(data)
        stream.write(data)
    stream.write(sha256.digest())


def _load(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """The table in `file`, mapped; None if there is none, or it is damaged (and then made anew).

    Tables have no header: whoever reads one knows its shape, and numpy's own reader parses headers
    by Python's, which in Python 3.11 fails now and then where several threads parse at once.
    """
    with suppress(OSError, ValueError):
        stored = np.memmap(file, np.uint8, "r")
        end = stored.size - hashlib.sha256().digest_size
        if end > 0 and hashlib.sha256(stored[:end].data).digest() == stored[end:].tobytes():
            table: npt.NDArray[Any] = stored[:end].view(dtype).reshape(shape)
            return table
    return None
