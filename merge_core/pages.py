"""Memory pages: what of a file lies in the page cache, asking for more, keeping what was made."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

AHEAD = 256 << 20
"""Bytes that are asked for before they are needed."""
AT_ONCE = 128 << 20
"""Bytes of merged tensors that may wait for their turn."""
_LIBC = ctypes.CDLL(None)
_SMALL = 1 << 20  # bytes; less comes with the disk's own read-ahead


@dataclass(frozen=True)
class Span:
    """Bytes [offset, offset + size) of a file."""

    file: Path
    offset: int
    size: int


class Ring:
    """Memory for what is made in order and used up in the same order.

    Args:
        buffer: uint8 [bytes].
    """

    def __init__(self, buffer: torch.Tensor) -> None:
        self._buffer = buffer
        self._taken: deque[tuple[int, int]] = deque()  # [start, stop), oldest first

    def take(self, size: int) -> torch.Tensor | None:
        """The next `size` bytes; None while older ones are in the way."""
        assert size > 0, "of pieces without bytes the oldest could not be told"
        room = self._buffer.numel()
        if not self._taken:
            start, limit = 0, room
        else:
            first, last = self._taken[0][0], self._taken[-1][1]
            # Free is what follows the newest, or what precedes the oldest.
            wrapped = self._taken[-1][0] < first
            start, limit = last, first if wrapped else room
            if start + size > limit and not wrapped:
                start, limit = 0, first
        if start + size > limit:
            return None
        self._taken.append((start, start + size))
        return self._buffer[start : start + size]

    def give_back(self) -> None:
        """The oldest bytes are used up."""
        self._taken.popleft()


class Buffers:
    """Memory that is lent, and kept for the next: new pages cost as much as a merge into them."""

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []

    @contextmanager
    def lent(self, size: int) -> Iterator[torch.Tensor]:
        """At least `size` bytes, uint8, of any content."""
        buffer = self._free.pop() if self._free else torch.empty(0, dtype=torch.uint8)
        if buffer.numel() < size:
            buffer = torch.empty(size, dtype=torch.uint8)
        try:
            yield buffer
        finally:
            self._free = [buffer]


BUFFERS = Buffers()
"""This process's, for merged tensors: one merge follows the other."""


def read_ahead(
    names: Iterable[str], spans_of: Callable[[str], Sequence[Span]], ahead: int = AHEAD
) -> Iterator[str]:
    """`names` in order, their bytes asked for before they come.

    A merge reads each byte once, from several mapped files in turn: left alone, the kernel reads
    a cold file in small pieces, each when it is touched. What comes of one name is asked for
    where a page of it is missing.
    """
    waiting: list[tuple[str, int]] = []
    files: dict[Path, int] = {}
    total = 0
    try:
        for name in names:
            spans = spans_of(name)
            size = sum(span.size for span in spans)
            if size >= _SMALL:
                handles = [_handle(span.file, files) for span in spans]
                # One after the other: tensors that lie side by side come and go together.
                probe = len(waiting) % len(spans)
                middle = spans[probe].offset + spans[probe].size // 2
                if not _is_cached(handles[probe], middle):
                    for handle, span in zip(handles, spans, strict=True):
                        _ask(handle, span)
            waiting.append((name, size))
            total += size
            while waiting and total > ahead:
                first, gone = waiting.pop(0)
                total -= gone
                yield first
        yield from (name for name, _ in waiting)
    finally:
        for handle in files.values():
            os.close(handle)


def cached_share(spans: Iterable[Span]) -> float:
    """What share of the bytes lies in the page cache (1 where the system does not tell)."""
    resident = pages = 0
    for span in spans:
        found = _resident(span)
        resident, pages = resident + int(found.sum()), pages + found.size
    return resident / pages if pages else 1.0


def disk_rate(spans: Iterable[Span], most: int = 32 << 20) -> float:
    """Bytes a second at which a part of `spans` that is not in memory is read; inf if all is."""
    for span in spans:
        absent = np.flatnonzero(~_resident(span))
        if absent.size:
            offset = span.offset + int(absent[0]) * mmap.PAGESIZE
            size = min(most, absent.size * mmap.PAGESIZE, span.offset + span.size - offset)
            with span.file.open("rb", buffering=0) as stream:
                stream.seek(offset)
                started = time.perf_counter()
                read = len(stream.read(max(1, size)))
                return read / (time.perf_counter() - started)
    return float("inf")


def _resident(span: Span) -> npt.NDArray[np.bool_]:
    """Of each page of `span`, whether it is in memory."""
    if not span.size:
        return np.zeros(0, bool)
    start = span.offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    length = span.offset + span.size - start
    flags = np.ones(-(-length // mmap.PAGESIZE), np.uint8)
    with (
        span.file.open("rb") as stream,
        mmap.mmap(stream.fileno(), length, offset=start, access=mmap.ACCESS_READ) as mapped,
    ):
        view = np.frombuffer(mapped, np.uint8)
        address, target = view.ctypes.data, flags.ctypes.data
        del view  # or the map could not be closed; it stays where it is until then
        _LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), ctypes.c_void_p(target))
    return (flags & 1).astype(bool)


def _is_cached(handle: int, offset: int) -> bool:
    try:
        return bool(os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT))
    except OSError:  # not in memory, or the file system cannot tell
        return False


def _handle(file: Path, opened: dict[Path, int]) -> int:
    if file not in opened:
        opened[file] = os.open(file, os.O_RDONLY)
    return opened[file]


def _ask(handle: int, span: Span) -> None:
    """Have the kernel read `span`."""
    with suppress(OSError):  # advice: a file system that takes none reads when it is touched
        os.posix_fadvise(handle, span.offset, span.size, os.POSIX_FADV_WILLNEED)
