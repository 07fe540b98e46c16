"""What a merge will read, hold and take, said before it starts, from headers and short probes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from merge_core.checkpoint import TensorSpec
from merge_core.pages import AT_ONCE, cached_share, disk_rate
from merge_core.reading import TILE, Reader
from merge_core.recipe import Recipe, TensorSettings

_PROBE = 64 << 20  # bytes that are copied to learn the memory's speed: about 5 ms
_FLOOR = 0.1e-9  # seconds a parameter and source: below it arithmetic binds, not memory
_PASS = {"none": 1.1, "trim": 1.2, "band": 1.4, "drop": 2.3, "rank_drop": 12.0}
"""Times the copy of the same bytes that a pass takes; benchmarks/LOG.md holds what was measured."""
_SLACK = 2.2  # on top: another pass that finds the threshold, and the larger pass itself
_PREPARE = {"trim": 10.0, "band": 10.0, "rank_drop": 150.0}
"""The same for each expert's tables, which are made once for all recipes."""


@dataclass(frozen=True)
class Estimate:
    """What one merge needs.

    Attributes:
        parameters: of the merge.
        read: bytes read from the sources, once a merge.
        write: bytes of the merge.
        held: bytes of memory of its own at most, besides the mapped files: the largest merged
            tensor, those that threads have merged ahead, and what each makes of the sources on the
            way.
        tables: bytes of tables that are kept on disk or made anew (DELLA's ranks).
        cached: about what share of the sources is in the page cache.
        load: seconds to read the rest from disk, once.
        prepare: seconds to make what no recipe changes, once.
        seconds: of one merge in memory. All times are rough: within a factor of two.
    """

    parameters: int
    read: int
    write: int
    held: int
    tables: int
    cached: float
    load: float
    prepare: float
    seconds: float

    def line(self) -> str:
        """All in one line for people."""
        cold = "" if self.cached > 0.99 else f" ({self.load:.0f} s from disk)"
        tables = f", {_bytes(self.tables)} of ranks" if self.tables else ""
        return (
            f"{self.parameters / 1e6:,.1f}M parameters: reads {_bytes(self.read)}{cold}, "
            f"writes {_bytes(self.write)}, holds {_bytes(self.held)} of memory{tables}; "
            f"about {self.prepare:.1f} s to prepare once, {self.seconds:.2f} s a merge"
        )


def estimate(
    recipe: Recipe,
    reader: Reader,
    specs: Mapping[str, TensorSpec],
    settings: Mapping[str, TensorSettings],
) -> Estimate:
    """The `Estimate` of merging tensors of `specs` from the sources of `reader`."""
    method, sources = recipe.method, reader.sources
    spans = [span for name in specs for span in reader.spans(name)]
    read, write = sum(span.size for span in spans), sum(spec.nbytes for spec in specs.values())
    parameters = sum(spec.numel for spec in specs.values())
    largest = max((spec.nbytes for spec in specs.values()), default=0)
    made = any(not reader.views(name) or specs[name].dtype == torch.float16 for name in settings)
    threads = torch.get_num_threads()
    ahead = min(AT_ONCE, write) if threads > 1 else 0
    tables = 2 * parameters * len(recipe.models) if method.sparsify == "rank_drop" else 0
    share = cached_share(spans)
    floor = max((read + write) / _copy_rate(), _FLOOR * parameters * len(recipe.models))
    slack = any(any(own.slacks) for own in settings.values())
    return Estimate(
        parameters=parameters,
        read=read,
        write=write,
        held=largest + ahead + 4 * TILE * (len(sources.all) + 1) * threads * made,
        tables=tables,
        cached=share,
        load=(1.0 - share) * read / disk_rate(spans) if share < 1.0 else 0.0,
        prepare=floor * _PREPARE.get(method.sparsify, 0.0),
        seconds=floor * (_PASS[method.sparsify] + _SLACK * slack),
    )


@cache
def _copy_rate() -> float:
    """Bytes a second, read and written, of a torch copy."""
    source = torch.zeros(_PROBE, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    started = time.perf_counter()
    target.copy_(source)
    return 2 * _PROBE / (time.perf_counter() - started)


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
