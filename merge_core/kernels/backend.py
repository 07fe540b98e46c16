"""Which kernels merge where: the CPU's (`fused`), or on a GPU those that Triton compiles.

All take tiles as they are read, in the memory of the host, and give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from merge_core.errors import MergeError
from merge_core.kernels import fused
from merge_core.kernels.fused import Census, sampled
from merge_core.kernels.job import HIGHEST_WORD, TensorJob, Tile, elements
from merge_core.selection import Keys

LONGEST = 1 << 26
"""Elements that a GPU takes at once: beside the live model there is little room."""
_WIDENED = 1 << 22
"""Elements that are merged in float32 before they are rounded to float16."""


class Backend(Protocol):
    """The passes that depend on a trial."""

    def merge(
        self,
        job: TensorJob,
        tile: Tile,
        out: torch.Tensor,
        tally: npt.NDArray[np.int64] | None = None,
    ) -> int:
        """Merge `tile` into `out` [tile.size] as `fused.merge_into` does; any floating dtype."""

    def slack_keys(
        self, job: TensorJob, tile: Tile, expert: int, low: int = 0, high: int = HIGHEST_WORD
    ) -> Census:
        """See `fused.slack_keys`."""

    def slack_sample(self, job: TensorJob, tile: Tile, expert: int) -> Keys:
        """See `fused.slack_sample`."""


def backend_of(device: torch.device) -> Backend:
    """What merges into tensors on `device`.

    Raises:
        MergeError: nothing does, or Triton is missing.
    """
    if device.type not in BACKENDS:
        raise MergeError(f"no kernels merge on {device}: merge on the CPU, or on a CUDA device")
    return BACKENDS[device.type](device)


class Cpu:
    """numba's kernels, in threads."""

    def merge(
        self,
        job: TensorJob,
        tile: Tile,
        out: torch.Tensor,
        tally: npt.NDArray[np.int64] | None = None,
    ) -> int:
        """See `Backend`."""
        if out.dtype != torch.float16:
            return fused.merge_into(job, tile, elements(out), tally)
        # numba has no float16: merged in float32, rounded by torch.
        bad = done = 0
        for part in _parts(tile, _WIDENED):
            merged = np.empty(part.size, np.float32)
            fused.merge_into(job, part, merged, tally)
            rounded = out[done : done + part.size].copy_(torch.from_numpy(merged))
            bad += part.size - int(torch.isfinite(rounded).sum())
            done += part.size
        return bad

    slack_keys = staticmethod(fused.slack_keys)
    slack_sample = staticmethod(fused.slack_sample)


class Gpu:
    """Triton's kernels; tiles are copied to the device in parts of at most `LONGEST`.

    Args:
        device: where to.

    Raises:
        MergeError: Triton is missing.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from merge_core.kernels import triton
        except ModuleNotFoundError as error:
            if error.name != "triton":
                raise
            raise MergeError(
                f"merging on {device} needs Triton, which is not installed: "
                "pip install triton, or merge on the CPU"
            ) from None
        self._kernels = triton
        self._device = device

    def merge(
        self,
        job: TensorJob,
        tile: Tile,
        out: torch.Tensor,
        tally: npt.NDArray[np.int64] | None = None,
    ) -> int:
        """See `Backend`."""
        bad = done = 0
        for part in _parts(tile, LONGEST):
            target = out[done : done + part.size]
            moved = self._kernels.to_device(part, self._device)
            bad += self._kernels.merge_into(job, moved, target, tally)
            done += part.size
        return bad

    def slack_keys(
        self, job: TensorJob, tile: Tile, expert: int, low: int = 0, high: int = HIGHEST_WORD
    ) -> Census:
        """See `Backend`."""
        found = [
            self._kernels.slack_keys(
                job, self._kernels.to_device(part, self._device), expert, low, high
            )
            for part in _parts(tile, LONGEST)
        ]
        return Census(
            sum(part.candidates for part in found),
            sum(part.below for part in found),
            np.concatenate([np.empty(0, np.uint64), *(part.keys for part in found)]),
        )

    def slack_sample(self, job: TensorJob, tile: Tile, expert: int) -> Keys:
        """See `Backend`."""
        # Only the sample is copied to the device.
        return self.slack_keys(job, sampled(tile), expert).keys


def _parts(tile: Tile, most: int) -> Iterator[Tile]:
    """`tile` in parts of at most `most` elements, but one row or more."""
    rows = len(tile.starts)
    size, step = (tile.width, most) if rows == 1 else (rows, most // max(1, tile.width))
    for first in range(0, size, max(1, step)):
        yield tile.part(first, min(first + max(1, step), size))


_CPU = Cpu()
BACKENDS: dict[str, Callable[[torch.device], Backend]] = {"cpu": lambda _: _CPU, "cuda": Gpu}
"""By the type of a device."""
