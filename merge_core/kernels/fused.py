"""Compiling the fused pass for a method and running it over many elements in threads.

Each combination of expert count and flags is compiled once per machine: the specialized source
lies in the user's cache with numba's machine code beside it, so that a second process starts
without compiling.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch

from merge_core.arithmetic import Float32
from merge_core.kernels import scalar, template
from merge_core.kernels.scalar import f32, u32
from merge_core.kernels.unroll import specialize
from merge_core.methods import Method
from merge_core.selection import KEEP_NONE, Keys

CHUNK = 1 << 19  # elements per call: long against the call, short against the thread pool
BLOCK = 1 << 13  # elements whose random bits are made at once: they stay in the first-level cache
_TREE_UP_TO = 4  # experts; beyond, 2^N selects cost more than a look-up

Elements = npt.NDArray[Any]
"""Flat elements of a tensor: float32, or bfloat16 held in uint16."""


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


@dataclass(frozen=True)
class Tile:
    """Flat elements [start, start + n) of one tensor in every source, shape [n].

    Attributes:
        start: flat index of the first.
        base: None for methods that merge the experts themselves.
        experts: in recipe order.
    """

    start: int
    base: Elements | None
    experts: Sequence[Elements]


def merge_into(job: TensorJob, tile: Tile, out: Elements) -> int:
    """Merge `tile` into `out`: float32, or bfloat16 held in uint16.

    Returns:
        How many merged elements are not finite.
    """
    restored = tuple((q, bound) for q, bound in job.restore if bound != KEEP_NONE)
    kernel = _kernel(
        job.method,
        len(tile.experts),
        tuple(q for q, _ in restored),
        job.replace,
        out.dtype == np.uint16,
        -1,
    )
    constant = _arguments(job, dict(restored))

    def run(begin: int, end: int) -> int:
        part = [expert[begin:end] for expert in tile.experts]
        base = part[0] if tile.base is None else tile.base[begin:end]
        return int(kernel(base, *part, out[begin:end], *constant(tile.start + begin)))

    return sum(_parallel(run, out.size))


def slack_keys(job: TensorJob, tile: Tile, expert: int) -> Keys:
    """Slack keys of the entries of `tile` that `expert` may win back, given `job.restore`."""
    earlier = {q: bound for q, bound in job.restore if bound != KEEP_NONE}
    kernel = _kernel(job.method, len(tile.experts), (*earlier, expert), job.replace, False, expert)
    constant = _arguments(job, {**earlier, expert: KEEP_NONE})

    def run(begin: int, end: int) -> Keys:
        part = [one[begin:end] for one in tile.experts]
        assert tile.base is not None
        keys = np.empty(end - begin, np.uint64)
        count = kernel(tile.base[begin:end], *part, keys, *constant(tile.start + begin))
        return keys[:count]

    return np.concatenate([np.empty(0, np.uint64), *_parallel(run, tile.experts[0].size)])


def trim_keys(tile: Tile, tensor_id: int) -> Keys:
    """Trim keys of the only expert of `tile`."""
    (expert,) = tile.experts
    assert tile.base is not None
    base = tile.base
    keys = np.empty(expert.size, np.uint64)

    def run(begin: int, end: int) -> None:
        scalar.fill_trim_keys(
            keys[begin:end], base[begin:end], expert[begin:end], tile.start + begin, tensor_id
        )

    _parallel(run, keys.size)
    return keys


def elements(tensor: torch.Tensor) -> Elements:
    """The flat elements of a floating tensor as kernels take them; float16 is widened."""
    flat = tensor.reshape(-1)
    if flat.dtype == torch.bfloat16:
        bits: Elements = flat.view(torch.int16).numpy().view(np.uint16)
        return bits
    values: Elements = flat.to(torch.float32).numpy()
    return values


def _arguments(job: TensorJob, restored: dict[int, int]) -> Callable[[int], tuple[Any, ...]]:
    """The arguments of a kernel that follow the arrays, given the flat start of its elements."""
    experts = len(job.factors)
    tail: list[Any] = [f32(factor) for factor in job.factors]
    if job.method.sparsify == "trim":
        pairs = [_trim_pair(bound) for bound in job.trim]
        tail += [u32(tau) for tau, _ in pairs] + [u32(cut) for _, cut in pairs]
    elif job.method.sparsify == "drop":
        tail += [u32(bound) for bound in job.drop]
    if restored:
        # The last key that is restored, in its two words; 0 where none is asked for.
        last = [max(0, restored.get(k, KEEP_NONE) - 1) for k in range(experts)]
        tail += [u32(key >> 32) for key in last] + [u32(key & 0xFFFFFFFF) for key in last]
    tail += list(job.coefficients) if experts <= _TREE_UP_TO else [job.coefficients]
    if job.method.sparsify == "drop":
        tail += [u32(job.seed & 0xFFFFFFFF), u32(job.seed >> 32)]
        return lambda start: (start, u32(job.tensor_id), *tail)
    return lambda start: (u32(start & 0xFFFFFFFF), u32(job.tensor_id), *tail)


def _trim_pair(bound: int) -> tuple[int, int]:
    """(tau, cut) of an exclusive bound on trim keys, whose high word is 0x7FFFFFFF - |delta|."""
    if bound == KEEP_NONE:
        return 0x7FFFFFFF, 0
    last = bound - 1
    if last >> 32 > 0x7FFFFFFF:
        return 0, 0xFFFFFFFF
    return 0x7FFFFFFF - (last >> 32), last & 0xFFFFFFFF


@cache
def _kernel(
    method: Method,
    experts: int,
    restored: tuple[int, ...],
    replace: bool,
    bf16_out: bool,
    collect: int,
) -> Callable[..., Any]:
    trim, drop = method.sparsify == "trim", method.sparsify == "drop"
    tree = experts <= _TREE_UP_TO
    constants = {
        "N": experts,
        "DIFFERENCES": method.on_differences,
        "TRIM": trim,
        "DROP": drop,
        "ELECTS": method.elects,
        "RANKED": trim or bool(restored),
        "RESTORED": restored,
        "REPLACE": replace,
        "BF16_OUT": bf16_out,
        "TREE": tree,
        "COLLECT": collect,
        "BLOCK": BLOCK,
    }
    registers = dict.fromkeys(("experts", "factors", "delta", "term", "kept", "lost"), experts)
    registers |= dict.fromkeys(("tau", "cut"), experts if trim else 0)
    registers |= dict.fromkeys(("bits", "drop", "half", "part"), experts if drop else 0)
    registers |= dict.fromkeys(("sigma", "sigma_cut"), experts if restored else 0)
    if tree:
        registers |= {"table": 2**experts, "choice": 2**experts}
    source = _HEADER + specialize(template.block, constants, registers)
    if drop:
        source += "\n\n" + _JIT + specialize(template.blocks, constants, registers)
    module = _module(source)
    kernel: Callable[..., Any] = module.blocks if drop else module.block
    return kernel


_JIT = "@njit(nogil=True, cache=True, fastmath=False, boundscheck=False, error_model='numpy')\n"
_HEADER = f'''"""Made from merge_core/kernels/template.py; made anew when that changes."""

import numpy as np
from numba import njit

from merge_core.kernels.scalar import (
    SIGN, ZERO, f32, fill_bits, from_bits, load, magnitude, mix, round_bf16, to_bits, u32, u64,
)


{_JIT}'''


def _module(source: str) -> Any:
    """Import `source` from a file of the cache: numba keeps machine code beside files only."""
    # numba does not see changes in what it inlines: the name covers those pieces too.
    parts = (source, numba.__version__, Path(scalar.__file__).read_text(encoding="utf-8"))
    name = f"mergefront_{hashlib.sha256(''.join(parts).encode()).hexdigest()[:24]}"
    path = _folder() / f"{name}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") != source:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        Path(temporary).replace(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _folder() -> Path:
    """Where kernels are kept: the user's cache, or a folder of this process if that is closed."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "mergefront" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mergefront-kernels-"))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")


def _parallel(run: Callable[[int, int], Any], size: int) -> list[Any]:
    """`run` over [begin, end) chunks of `size`, in as many threads as torch uses; in order."""
    spans = [(begin, min(begin + CHUNK, size)) for begin in range(0, size, CHUNK)]
    threads = torch.get_num_threads()
    if len(spans) <= 1 or threads == 1:
        return [run(begin, end) for begin, end in spans]
    return list(_pool(threads).map(lambda span: run(*span), spans))
