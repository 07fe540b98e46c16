"""Merge a whole model by every method, in pairs with a torch copy of the same bytes and with eager.

The floor of a merge in bfloat16 is 2 bytes a parameter for each source that is read and 2 for the
merge that is written, but not below `FLOOR`, which is bound by arithmetic where memory is fast. A
pass asks `MergePlan.tensors()` for every tensor; the copy moves as many bytes in torch's threads,
which are the merge's threads too. Ratios are medians over pairs.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks import eager
from benchmarks.eager import DENSITY, WEIGHTS
from benchmarks.measure import Table, paired, say, timed, verdict
from benchmarks.models import names
from merge_core import MergePlan, Recipe, Sources
from merge_core.methods import METHODS, get_method

FLOOR = 0.195e-9
"""Seconds a parameter under which no copy counts as the floor."""
SLACK = 0.5
EAGER_MILLIONS = 25  # parameters that eager torch merges: TIES of a whole model takes minutes
TARGETS = {
    "linear": 1.1,
    "task_arithmetic": 1.1,
    "ties": 1.15,
    "ties_sv": 3.5,
    "ties_sv, threshold kept": 1.7,
    "dare_linear": 2.1,
    "dare_ties": 2.3,
}
"""Largest ratio to the floor with two experts."""
UNTARGETED_REPEATS = 3  # some of the methods without a target take half a minute a pass


def recipe_of(
    folder: Path,
    method_name: str,
    weights: Sequence[float] = WEIGHTS,
    slack: float = SLACK,
    density: float = DENSITY,
    parameters: Mapping[str, object] | None = None,
) -> Recipe:
    """A recipe on the set in `folder`: a weight an expert, one density, slack where it is meant.

    A method that interpolates takes base and the first expert, at the first weight.
    """
    method = get_method(method_name)
    data: dict[str, object] = {"merge_method": method_name, "parameters": dict(parameters or {})}
    if method.needs_base:
        data["base_model"] = "base"
    experts = names(len(weights))[1:]
    if method.interpolates:
        data["models"] = [{"model": "base"}, {"model": experts[0]}]
        data["parameters"] = {"t": weights[0]}
        return Recipe.parse(data).resolved(folder)
    models = []
    for expert, weight in zip(experts, weights, strict=True):
        own = {"weight": weight}
        if "density" in method.by_name:
            own["density"] = density
        if method_name == "ties_sv" and expert == experts[-1]:
            own["slack"] = slack
        models.append({"model": expert, "parameters": own})
    return Recipe.parse({**data, "models": models}).resolved(folder)


def report(folder: Path, repeats: int, methods: Sequence[str] = tuple(METHODS)) -> None:
    """Print both tables for the set in `folder`."""
    sources = Sources.open(recipe_of(folder, "task_arithmetic"))
    numel = sum(spec.numel for spec in sources.specs.values())
    say(
        f"merge: {numel / 1e6:.1f}M parameters, {len(WEIGHTS)} experts, bfloat16, "
        f"{torch.get_num_threads()} threads, load before {os.getloadavg()[0]:.1f}; "
        f"ratio to max(torch copy of the same bytes, {FLOOR * 1e9:g} ns a parameter)"
    )
    say(f"medians of {repeats} pairs; without a target, of {min(repeats, UNTARGETED_REPEATS)}")
    say(f"finite check of all sources, once: {timed(sources.check_finite):.2f} s")
    table = Table(
        ("method", 24),
        ("ratio", 7),
        ("ns/param", 9),
        ("copy ns/param", 14),
        ("copy GB/s", 10),
        ("prepare s", 10),
        ("target", 8),
        ("met", 4),
    )
    for method in methods:
        for label, plans in _rows(folder, method):
            warm, first, moved = _prepare(plans)
            count = repeats if label in TARGETS else min(repeats, UNTARGETED_REPEATS)
            merges, copies = paired(count, partial(_merge_next, plans), _copy(moved))
            pairs = zip(merges, copies, strict=True)
            ratio = median(m / max(c, FLOOR * numel) for m, c in pairs)
            copy = median(copies)
            table.row(
                label,
                f"{ratio:.2f}",
                f"{median(merges) / numel * 1e9:.3f}",
                f"{copy / numel * 1e9:.3f}",
                f"{moved / copy / 1e9:.1f}",
                f"{max(0.0, first - warm):.2f}",
                *verdict(ratio, TARGETS.get(label)),
            )
    _eager(folder, repeats, methods)


def _rows(folder: Path, method: str) -> Iterator[tuple[str, Iterator[MergePlan]]]:
    """Label of each row of `method` and the plans that its passes take in turn."""
    opened = Sources.open(recipe_of(folder, method))
    if get_method(method).sparsify == "rank_drop":  # a run keeps its ranks: see `Facts.keep`
        opened.facts.keep(folder / "prepared", opened.digests())
    if method != "ties_sv":
        yield method, itertools.repeat(MergePlan(recipe_of(folder, method), opened))
        return
    # What a trial of a search does: numbers never seen before, on sources that are open.
    trials = (
        MergePlan(recipe_of(folder, method, (WEIGHTS[0] + step, WEIGHTS[1]), SLACK - step), opened)
        for step in (trial * 1e-4 for trial in itertools.count())
    )
    yield method, trials
    kept = MergePlan(recipe_of(folder, method), opened)
    yield f"{method}, threshold kept", itertools.repeat(kept)


def _prepare(plans: Iterator[MergePlan]) -> tuple[float, float, int]:
    """Seconds of a warm and of the very first pass, and the bytes that a pass moves."""
    plan = next(plans)
    read = {expert.model for expert in plan.recipe.models}
    if plan.recipe.method.needs_base and plan.recipe.base_model is not None:
        read.add(plan.recipe.base_model)
    moved = sum(spec.numel for spec in plan.specs().values()) * 2 * (len(read) + 1)
    # Compiled code is loaded on the smallest tensor, of which another plan knows nothing.
    smallest = min(plan.specs(), key=lambda name: plan.specs()[name].numel)
    MergePlan(plan.recipe).tensor(smallest)
    first = timed(partial(_merge_next, iter([plan])))
    return timed(partial(_merge_next, plans)), first, moved


def _merge_next(plans: Iterator[MergePlan]) -> None:
    for _ in next(plans).tensors():
        pass


def _copy(moved: int) -> Callable[[], object]:
    """A torch copy that reads and writes `moved` bytes together."""
    source = torch.zeros(moved // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    target.copy_(source)  # its pages exist from here on
    return lambda: target.copy_(source)


def _eager(folder: Path, repeats: int, methods: Sequence[str]) -> None:
    """Eager torch on some tensors, in pairs with plans on the same tensors."""
    sources = Sources.open(recipe_of(folder, "task_arithmetic"))
    chosen: list[str] = []
    numel = 0
    for name in sorted(sources.layers):
        if numel + sources.specs[name].numel <= EAGER_MILLIONS * 1e6:
            chosen.append(name)
            numel += sources.specs[name].numel
    say()
    say(f"eager torch, on {numel / 1e6:.1f}M of the parameters ({len(chosen)} tensors of layers)")
    table = Table(("method", 24), ("eager/ours", 11), ("eager ns/param", 15), ("ours ns/param", 14))
    assert sources.base is not None
    read = [[source.tensor(name) for source in sources.all] for name in chosen]
    for method, merge in eager.METHODS.items():
        if method not in methods:
            continue
        plan = MergePlan(recipe_of(folder, method))
        for compute in (torch.float32, torch.bfloat16):

            def theirs(merge: eager.Merge = merge, compute: torch.dtype = compute) -> None:
                for base, *experts in read:
                    merge(base, experts, compute)

            out = torch.empty(max(sources.specs[n].numel for n in chosen), dtype=torch.bfloat16)

            def ours(plan: MergePlan = plan, out: torch.Tensor = out) -> None:
                for name in chosen:
                    size = plan.specs()[name].numel
                    plan.elements(name, 0, size, out[:size])

            ours()
            theirs()
            slow, fast = paired(repeats, theirs, ours)
            ratio = median(s / f for s, f in zip(slow, fast, strict=True))
            label = f"{method}, {str(compute).removeprefix('torch.')}"
            each = [f"{median(seconds) / numel * 1e9:.3f}" for seconds in (slow, fast)]
            table.row(label, f"{ratio:.1f}", *each)
