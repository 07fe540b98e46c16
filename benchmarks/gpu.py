"""Merges on a GPU: the CPU's bits, and the share of a torch copy's speed that they reach.

    python -m benchmarks.gpu [--millions 450] [--repeats 9] [--methods ...]

For each method and 2 to 4 experts: every tensor is merged on both and compared bit for bit; then
all tensors lie on the GPU and are merged in turn, in pairs with a copy that moves as many bytes
(2 a parameter for each source that is read, 2 for the merge). Bytes that only some methods read
(DELLA's ranks) are not counted. Two figures are of a trial whose sources are on disk: "numbers",
finding its slack thresholds, and "streamed", merging all of it, transfers included.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.measure import Table, paired, say, timed
from benchmarks.merge import recipe_of
from benchmarks.models import write_set
from merge_core import MergePlan, Sources
from merge_core.kernels.backend import Gpu
from merge_core.methods import METHODS, get_method

WEIGHTS = (0.6, 0.5, 0.4, 0.3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or say that there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--millions", type=float, default=450, help="parameters of each model")
    parser.add_argument("--repeats", type=int, default=9, help="pairs a median is taken of")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        say("no GPU here: not measured")
        return
    device = torch.device("cuda", torch.cuda.current_device())
    say(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), options.millions, experts=len(WEIGHTS))
        report(Path(folder), device, options.repeats, options.methods)


def report(folder: Path, device: torch.device, repeats: int, methods: Sequence[str]) -> None:
    """Print a row per method and number of experts for the set in `folder`.

    Raises:
        SystemExit: a bit differs: speed of wrong bits is no speed.
    """
    table = Table(
        ("method", 18), ("experts", 7), ("bits", 6), ("copy share", 10), ("merge GB/s", 10),
        ("copy GB/s", 9), ("numbers s", 9), ("streamed s", 10),
    )  # fmt: skip
    for method in methods:
        most = get_method(method).max_models
        for experts in range(2, min(most, len(WEIGHTS)) + 1):
            _row(table, folder, device, repeats, method, experts)


def _row(
    table: Table, folder: Path, device: torch.device, repeats: int, method: str, experts: int
) -> None:
    recipe = recipe_of(folder, method, WEIGHTS[:experts])
    opened = Sources.open(recipe)
    plan, there = MergePlan(recipe, opened), MergePlan(recipe, opened)
    for name, expected in plan.tensors():
        out = torch.empty(expected.numel(), dtype=expected.dtype, device=device)
        merged = there.elements(name, 0, out.numel(), out).cpu()
        if not torch.equal(merged.view(torch.int16), expected.reshape(-1).view(torch.int16)):
            raise SystemExit(f"{method}, {experts} experts: {name} differs from the CPU's bits")
    merge, moved = _resident(there, device)
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    merge()
    merges, copies = paired(
        repeats,
        partial(_finished, merge, device),
        partial(_finished, lambda: target.copy_(source), device),
    )
    trial = MergePlan(recipe, opened)  # knows of its sources what a trial of a search finds known
    share = median(copy / own for own, copy in zip(merges, copies, strict=True))
    table.row(
        method,
        str(experts),
        "equal",
        f"{share:.2f}",
        f"{moved / median(merges) / 1e9:.0f}",
        f"{moved / median(copies) / 1e9:.0f}",
        f"{timed(lambda: [_job(trial, name, device) for name in opened.specs]):.2f}",
        f"{timed(lambda: [None for _ in trial.tensors(device)]):.2f}",
    )


def _resident(plan: MergePlan, device: torch.device) -> tuple[Callable[[], None], int]:
    """A pass over tensors that lie on `device` already, and the bytes that it moves."""
    from merge_core.kernels import triton

    calls, moved = [], 0
    for name, spec in plan.specs().items():
        for tile in plan._reader.all(name):
            held = triton.to_device(tile, device)
            out = torch.empty(tile.size, dtype=spec.dtype, device=device)
            sources = [*held.experts, *([] if held.base is None else [held.base])]
            moved += sum(x.numel() * x.element_size() for x in (*sources, out))
            calls.append(partial(triton.merge_into, _job(plan, name, device), held, out))

    def merge() -> None:
        for call in calls:
            call()

    return merge, moved


def _job(plan: MergePlan, name: str, device: torch.device) -> Any:
    return plan._jobs.get(name, Gpu(device))


def _finished(action: Callable[[], object], device: torch.device) -> None:
    """`action` and all that the device has to do for it."""
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
