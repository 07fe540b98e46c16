"""Compile the GPU's kernels for a GPU that need not be there and print what their code holds.

A program of its own, since the tests beside it set Triton to interpret.
"""

from __future__ import annotations

import json
import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import mangle_type

from merge_core.kernels import triton as gpu
from merge_core.methods import get_method
from tests.merge_core.test_triton import CPU, MERGED, problem

PATTERNS = {
    "fused": r"\bfma\.",
    "flushed": r"\.ftz",
    "unrounded": r"\b(add|sub|mul)\.f32",  # without .rn: the assembler may fuse these
    "wide": r"ld\.global\.v4",  # 16 bytes at once
}


def code_of(kernel: object, arguments: list) -> str:
    """PTX for an H100 and what Triton takes for granted of such arguments."""
    signature, constants, attributes = {}, {}, {}
    for place, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=True)):
        if isinstance(value, int) and value == 1:
            signature[name], constants[(place,)] = "constexpr", 1
            continue
        signature[name] = mangle_type(value)
        number = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if number % 16 == 0:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options=dict(gpu.OPTIONS)).asm["ptx"]


def main() -> None:
    """Print {kernel: {pattern: how often}}."""
    found = {}
    variants = [(name, 2, "merge", False) for name in MERGED]
    variants += [(name, 2, "distance", False) for name in MERGED if get_method(name).elects]
    variants += [("ties_sv", 5, "merge", False), ("dare_ties", 2, "merge", True)]
    variants += [("della", 5, "merge", False)]
    for name, experts, makes, tally in variants:
        job, tile = problem(name, experts, width=4096)
        moved = gpu.to_device(tile, CPU)
        counts = torch.zeros(1 + 4 * experts, dtype=torch.int64)
        out = torch.empty(tile.size, dtype=torch.bfloat16 if makes == "merge" else torch.int32)
        restored = tuple(job.restored)
        kernel, _, arguments = gpu.prepare(
            job, moved, out, counts, restored, makes, job.numbers, tally
        )
        code = code_of(kernel, arguments)
        label = f"{name} {experts} {makes} {tally}"
        found[label] = {what: len(re.findall(how, code)) for what, how in PATTERNS.items()}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
