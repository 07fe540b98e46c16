"""Compiling the fused pass for a method.

Each combination of expert count and flags is compiled once per machine: the specialized source
lies in the user's cache with numba's machine code beside it, so that a second process starts
without compiling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

from merge_core.kernels import scalar, template
from merge_core.kernels.specialized import Makes, flags, load
from merge_core.kernels.unroll import specialize
from merge_core.methods import Method

BLOCK = 1 << 15
"""Elements that are worked on at once: the merge stays in the second-level cache until it has been
looked through for overflows. Shorter ones cost up to a fifth more: each is a call."""
BLOCK_WITH_BITS = 1 << 13
"""The same where random bits or words of keys are made first: these stay in the first level."""


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
    halves: int = 1,
) -> Callable[..., Any]:
    """The compiled pass `template.blocks`; see `specialized.flags`.

    With `histogram` words are counted instead of listed; with `halves` 2 elements are worked on in
    pairs: rows must have two or more.
    """
    constants, registers = flags(method, experts, restored, replace, given, bf16_out, makes, tally)
    short = makes != "merge" or method.random
    constants |= {
        "HALVES": halves,
        "HISTOGRAM": histogram,
        "BLOCK": BLOCK_WITH_BITS if short else BLOCK,
    }
    # Python 3.11 raises SystemError where two threads make syntax trees at once; numba makes them
    # too, of the files that it compiles, under this lock.
    with global_compiler_lock:
        source = _HEADER + specialize(template.block, constants, registers)
        source += "\n\n" + _JIT + specialize(template.blocks, constants, registers)
        # numba does not see changes in what it inlines, nor that it is another version itself.
        pieces = Path(scalar.__file__).read_text(encoding="utf-8")
        kernel: Callable[..., Any] = load(source, numba.__version__, pieces).blocks
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
