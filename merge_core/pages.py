"""The page cache: what of a file lies in memory, and asking for what is read next."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

AHEAD = 256 << 20
"""Bytes that are asked for before they are needed."""
_SMALL = 1 << 20  # bytes; less comes with the disk's own read-ahead


@dataclass(frozen=True)
class Span:
    """Bytes [offset, offset + size) of a file."""

    file: Path
    offset: int
    size: int


def read_ahead(
    names: Iterable[str], spans_of: Callable[[str], Sequence[Span]], ahead: int = AHEAD
) -> Iterator[str]:
    """`names` in order, their bytes asked for before they come.

    A merge reads each byte once, from several mapped files in turn: left alone, the kernel reads
    a cold file in small pieces, each when it is touched.
    """
    waiting: list[tuple[str, int]] = []
    files: dict[Path, int] = {}
    total = 0
    try:
        for name in names:
            size = 0
            for span in spans_of(name):
                size += span.size
                if span.size >= _SMALL:
                    if span.file not in files:
                        files[span.file] = os.open(span.file, os.O_RDONLY)
                    _ask(files[span.file], span)
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


def cached_share(spans: Iterable[Span], samples: int = 64) -> float:
    """About what share of the bytes lies in the page cache, from a few pages spread over them."""
    found = known = 0
    for span in islice(_spread(list(spans), samples), samples):
        handle = os.open(span.file, os.O_RDONLY)
        try:
            found += _is_cached(handle, span.offset)
            known += 1
        finally:
            os.close(handle)
    return found / known if known else 1.0


def disk_rate(spans: Iterable[Span], most: int = 32 << 20) -> float:
    """Bytes a second at which a part of `spans` that is not in memory is read; inf if all is."""
    for span in _spread(list(spans), 64):
        handle = os.open(span.file, os.O_RDONLY)
        try:
            if not _is_cached(handle, span.offset):
                started, size = time.perf_counter(), min(most, span.size)
                read = len(os.pread(handle, size, span.offset))
                return read / (time.perf_counter() - started)
        finally:
            os.close(handle)
    return float("inf")


def _spread(spans: Sequence[Span], count: int) -> Iterator[Span]:
    """Places spread evenly over the bytes of `spans`, each with the rest of its span."""
    total = sum(span.size for span in spans)
    step = max(1, total // count)
    place = step // 2
    for span in spans:
        while place < span.size:
            yield Span(span.file, span.offset + place, span.size - place)
            place += step
        place -= span.size


def _is_cached(handle: int, offset: int) -> bool:
    try:
        return bool(os.preadv(handle, [bytearray(1)], offset, os.RWF_NOWAIT))
    except OSError:  # not in memory, or the file system cannot tell
        return False


def _ask(handle: int, span: Span) -> None:
    """Have the kernel read `span`, unless its middle is in memory already."""
    if not _is_cached(handle, span.offset + span.size // 2):
        with suppress(OSError):  # advice: a file system that takes none reads when it is touched
            os.posix_fadvise(handle, span.offset, span.size, os.POSIX_FADV_WILLNEED)
