"""Compiling the fused pass for a method.

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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numba

from merge_core.kernels import scalar, template
from merge_core.kernels.job import TREE_UP_TO
from merge_core.kernels.unroll import specialize
from merge_core.methods import Method

BLOCK = 1 << 12
"""Elements that are worked on at once: they stay in the first-level cache."""

Makes = Literal["merge", "magnitude", "distance"]


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
    histogram: bool,
) -> Callable[..., Any]:
    """The compiled pass `template.blocks`; what is not named below is its flag of that name.

    Args:
        method: which stages to run.
        experts: how many.
        restored: those with slack, in order.
        replace: whether a restored entry stands alone.
        given: the experts that are given as differences.
        bf16_out: whether the merge is bfloat16 held in uint16; otherwise float32.
        makes: the merge, or words of keys.
        tally: whether entries are counted.
        histogram: whether words are counted instead of listed.
    """
    band, drop = method.sparsify == "band", method.sparsify == "drop"
    trim = band or method.sparsify == "trim"
    rank_drop = method.sparsify == "rank_drop"
    tree = experts <= TREE_UP_TO
    constants = {
        "N": experts,
        "DIFFERENCES": method.on_differences,
        "GIVEN": given,
        "SPARSE": trim or drop or rank_drop,
        "TRIM": trim,
        "BAND": band,
        "DROP": drop,
        "RANK_DROP": rank_drop,
        "ELECTS": method.elects,
        # The last restored expert's ranks are not needed where its keys are being collected.
        "RANKED": trim or len(restored) > (makes == "distance"),
        "RESTORED": restored,
        "REPLACE": replace,
        "BF16_OUT": bf16_out,
        "TREE": tree,
        "TALLY": tally,
        "MAKES": makes,
        "COLLECT": restored[-1] if makes == "distance" else -1,
        "HISTOGRAM": histogram,
        "BLOCK": BLOCK,
    }
    registers = dict.fromkeys(("experts", "part", "delta", "term", "stays", "kept"), experts)
    registers |= dict.fromkeys(("lost", "stayed", "retained", "beaten", "returned"), experts)
    registers |= dict.fromkeys(("bits", "half"), experts if drop or rank_drop else 0)
    registers |= dict.fromkeys(("ranks", "place", "limits", "scales"), experts * rank_drop)
    registers["factors"] = 0 if rank_drop or makes == "magnitude" else experts
    registers |= dict.fromkeys(("tau", "cut"), experts if trim else 0)
    registers |= dict.fromkeys(("top", "top_cut"), experts if band else 0)
    registers["drop"] = experts if drop else 0
    registers |= dict.fromkeys(("sigma", "sigma_cut"), experts if restored else 0)
    if makes == "magnitude":
        registers["table"] = 0
    elif tree:
        registers |= {"table": 2**experts, "choice": 2**experts}
    source = _HEADER + specialize(template.block, constants, registers)
    source += "\n\n" + _JIT + specialize(template.blocks, constants, registers)
    kernel: Callable[..., Any] = _module(source).blocks
    return kernel


_JIT = "@njit(nogil=True, cache=True, fastmath=False, boundscheck=False, error_model='numpy')\n"
_HEADER = f'''"""Made from merge_core/kernels/template.py; made anew when that changes."""

import numpy as np
from numba import njit

from merge_core.kernels.scalar import (
    NOT_ONE, SIGN, ZERO, census, count_high, f32, fill_bits, from_bits, gather, load, magnitude,
    mix, not_finite, round_bf16, to_bits, u32, u64,
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
