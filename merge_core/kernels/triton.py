"""The passes over one tensor on a GPU: the same template, signatures and bits as in `fused`.

What depends on a trial is found here; what passes over the sources alone find (`merge_core.facts`)
is found by the CPU, `fused.pair_sums` among it. Importing this imports Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton

from merge_core.kernels import template, triton_pieces, triton_program
from merge_core.kernels.fused import Census, magnitudes
from merge_core.kernels.job import HIGHEST_WORD, TensorJob, Tile, numbers
from merge_core.kernels.scalar import HIGH_SHIFT, NOT_ONE, PHILOX_ROUNDS, SIGN
from merge_core.kernels.specialized import Makes, flags, load
from merge_core.kernels.triton_form import BlockForm, ProgramForm
from merge_core.kernels.unroll import specialize
from merge_core.methods import Method
from merge_core.selection import KEEP_NONE

BLOCK = 1024
"""Elements of a program: eight a thread, one 16-byte access of bfloat16."""

OPTIONS = {"enable_fp_fusion": False}
"""Of every launch: a fused multiply-add rounds once where the reference rounds twice."""

_LOW32 = 0xFFFFFFFF


@dataclass(frozen=True)
class DeviceTile:
    """A `Tile` whose arrays are tensors on a device.

    Attributes:
        base: flat elements, bfloat16, float16 or float32; None as in `Tile`.
        experts: likewise, in recipe order.
        starts: int64 [rows], each row's first flat index in its whole tensor.
        width: elements of a row that are merged.
        stride: elements between the beginnings of rows in `base` and `experts`.
        given: the experts whose elements are differences from base already.
        ranks: per expert, DELLA's rank of each element in its row: uint16 or uint32.
    """

    base: torch.Tensor | None
    experts: Sequence[torch.Tensor]
    starts: torch.Tensor
    width: int
    stride: int
    given: tuple[int, ...] = ()
    ranks: Sequence[torch.Tensor] = ()

    @property
    def size(self) -> int:
        """Elements that are merged."""
        return len(self.starts) * self.width

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.starts.device


def to_device(tile: Tile, device: torch.device) -> DeviceTile:
    """Copy to `device` what of `tile` is merged: rows that lie apart come to lie together."""
    rows = len(tile.starts)

    def moved(array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(array, requirements="W"))
        if rows > 1 and tile.stride != tile.width:
            tensor = tensor.as_strided((rows, tile.width), (tile.stride, 1)).reshape(-1)
        return tensor.to(device)

    def source(array: npt.NDArray[Any]) -> torch.Tensor:
        if array.dtype == np.uint16:
            return moved(array.view(np.int16)).view(torch.bfloat16)
        return moved(array)

    return DeviceTile(
        None if tile.base is None else source(tile.base),
        [source(expert) for expert in tile.experts],
        torch.from_numpy(tile.starts).to(device),
        tile.width,
        tile.width,
        tile.given,
        [moved(rank) for rank in tile.ranks],
    )


def merge_into(
    job: TensorJob,
    tile: DeviceTile,
    out: torch.Tensor,
    tally: npt.NDArray[np.int64] | None = None,
) -> int:
    """Merge `tile` into `out` [tile.size]: bfloat16, float16 or float32, on the tile's device.

    Args:
        job: of the tensor.
        tile: its bytes.
        out: where to, contiguous.
        tally: as in `fused.merge_into`: int64 [experts, 4] of the host, added to.

    Returns:
        How many merged elements are not finite.
    """
    experts = len(tile.experts)
    # What programs count: the merge's elements that are not finite, then the tally.
    counts = torch.zeros(1 + 4 * experts, dtype=torch.int64, device=tile.device)
    _launch(job, tile, out, counts, tuple(job.restored), "merge", job.numbers, tally is not None)
    bad, *rest = counts.tolist()
    if tally is not None:
        tally += np.array(rest, np.int64).reshape(experts, 4)
    return int(bad)


def slack_keys(
    job: TensorJob, tile: DeviceTile, expert: int, low: int = 0, high: int = HIGHEST_WORD
) -> Census:
    """As `fused.slack_keys`; distances are held in memory, four bytes an element."""
    restored = {**job.restored, expert: KEEP_NONE}
    words = _words(job, tile, tuple(restored), "distance", numbers(job, restored))
    return _census(words, tile, job.tensor_id, low, high)


def trim_keys(tile: DeviceTile, tensor_id: int, low: int = 0, high: int = HIGHEST_WORD) -> Census:
    """Trim keys of the only expert of `tile` whose high words lie in [low, high]."""
    words = _words(magnitudes(tensor_id), tile, (), "magnitude", ())
    return _census(words, tile, tensor_id, low, high)


def trim_histogram(tile: DeviceTile) -> npt.NDArray[np.int64]:
    """How many trim keys of the only expert have each upper half of the high word: [65536]."""
    words = _words(magnitudes(0), tile, (), "magnitude", ())
    found: npt.NDArray[np.int64] = torch.bincount(words >> HIGH_SHIFT, minlength=1 << 16).numpy(
        force=True
    )
    return found


# ---- keys


def _words(
    job: TensorJob,
    tile: DeviceTile,
    restored: tuple[int, ...],
    makes: Makes,
    arguments: tuple[Any, ...],
) -> torch.Tensor:
    """High words [tile.size] int32: at most HIGHEST_WORD, or -1 where there is no candidate."""
    words = torch.empty(tile.size, dtype=torch.int32, device=tile.device)
    none = torch.zeros(1, dtype=torch.int64, device=tile.device)
    _launch(job, tile, words, none, restored, makes, arguments, False)
    return words


def _census(words: torch.Tensor, tile: DeviceTile, tensor_id: int, low: int, high: int) -> Census:
    places = ((words >= low) & (words <= high)).nonzero().view(-1)
    width = max(1, tile.width)
    index = tile.starts[places // width] + places % width
    keys = (words[places].to(torch.int64) << 32) | _mix((index & _LOW32) ^ tensor_id)
    return Census(
        int((words >= 0).sum()),
        int(((words >= 0) & (words < low)).sum()),
        keys.numpy(force=True).view(np.uint64),
    )


def _mix(x: torch.Tensor) -> torch.Tensor:
    """`merge_core.random.mix` of 32-bit integers held in int64."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _LOW32
    x = x ^ (x >> 15)
    # 2^64 is a multiple of 2^32: what overflows int64 leaves the low half right.
    x = (x * 0x846CA68B) & _LOW32
    return x ^ (x >> 16)


# ---- kernels


def _launch(
    job: TensorJob,
    tile: DeviceTile,
    out: torch.Tensor,
    counts: torch.Tensor,
    restored: tuple[int, ...],
    makes: Makes,
    arguments: tuple[Any, ...],
    tally: bool,
) -> None:
    if not tile.size:
        return
    kernel, programs, passed = prepare(job, tile, out, counts, restored, makes, arguments, tally)
    # Triton launches on the current device, which need not be the tensors'.
    here = nullcontext() if tile.device.type == "cpu" else torch.cuda.device(tile.device)
    with here:
        kernel[(programs,)](*passed, **OPTIONS)


def prepare(
    job: TensorJob,
    tile: DeviceTile,
    out: torch.Tensor,
    counts: torch.Tensor,
    restored: tuple[int, ...],
    makes: Makes,
    arguments: tuple[Any, ...],
    tally: bool,
) -> tuple[Any, int, list[Any]]:
    """The kernel of a pass, how many programs it takes, and what it is called with."""
    rows, lanes = len(tile.starts), job.method.random
    aligned = lanes and not bool((tile.starts & 7).any())
    kernel = get_kernel(
        job.method,
        len(tile.experts),
        restored,
        job.replace,
        tile.given,
        out.dtype == torch.bfloat16,
        makes,
        tally,
        aligned,
        BLOCK,
    )
    scalars = [x for x in arguments if not isinstance(x, np.ndarray)]
    tables = [x for x in arguments if isinstance(x, np.ndarray)]
    words = [np.uint32(job.tensor_id), *scalars]
    words += [np.uint32(job.seed & _LOW32), np.uint32(job.seed >> 32)]
    # Bits, not values: a float that goes through a launch's arguments may be rounded.
    bits = np.array([word.view(np.uint32) for word in words], np.uint32)
    passed = [
        _held(tile.experts[0] if tile.base is None else tile.base),
        *(_held(expert) for expert in tile.experts),
        *tile.ranks,
        _held(out),
        counts[1:],
        counts,
        tile.starts,
        # A stride of 0 is a multiple of 16: accesses of one row stay wide whatever its width.
        tile.stride if rows > 1 else 0,
        tile.width,
        # Rows that begin inside a Philox block are begun earlier.
        blocks := -(-(tile.width + (7 if lanes and not aligned else 0)) // BLOCK),
        *(torch.from_numpy(array).to(tile.device) for array in (bits, *tables)),
    ]
    return kernel, rows * blocks, passed


def _held(tensor: torch.Tensor) -> torch.Tensor:
    """As kernels take it: bfloat16 held in uint16."""
    return tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor


@cache
def get_kernel(
    method: Method,
    experts: int,
    restored: tuple[int, ...],
    replace: bool,
    given: tuple[int, ...],
    bf16_out: bool,
    makes: Makes,
    tally: bool,
    aligned: bool,
    block: int,
) -> Any:
    """The kernel `triton_program.program`, of programs of `block` elements; see `flags`.

    With `aligned` each row begins at a multiple of 8 of its tensor.
    """
    constants, registers = flags(method, experts, restored, replace, given, bf16_out, makes, tally)
    constants |= {"ALIGNED": aligned, "BLOCK": block, "PHILOX_ROUNDS": PHILOX_ROUNDS}
    constants |= {"ZERO": 0.0, "SIGN": int(SIGN), "NOT_ONE": int(NOT_ONE)}
    source = _HEADER + specialize(template.block, constants, registers, BlockForm)
    source += "\n\n@triton.jit\n" + specialize(
        triton_program.program, constants, registers, ProgramForm
    )
    pieces = Path(triton_pieces.__file__).read_text(encoding="utf-8")
    return load(source, triton.__version__, pieces).program


_HEADER = '''"""Made from merge_core/kernels/template.py; made anew when that changes."""

import triton
import triton.language as tl

from merge_core.kernels.triton_pieces import (
    count, drop_bits, f32, from_bits, load, magnitude, mix, not_finite, round_bf16, to_bits, u32,
)


@triton.jit
'''
