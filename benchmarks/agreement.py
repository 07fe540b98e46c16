"""Whether mergekit, given our export, merges the same numbers: where not, how often and how far.

Expected (and explained in the docs of `merge_core.mergekit`): mergekit divides where we multiply by
a rounded reciprocal, so that with `normalize` some entries differ by one step of bfloat16; and it
breaks ties at the trim boundary by an unstable sort. A *tied* entry is one where the difference of
some expert has just the magnitude at which the trim cuts. mergekit's linear runs torch's
`addcmul_`, which on CPUs rounds product and sum as one, so that without `normalize` too an entry in
some 10,000 differs, unless the weights' products are exact.

A *step* is the spacing of bfloat16 at the largest of the entry's sources: where a sum cancels,
neighbours of the result itself lie so close that their distance says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.eager import WEIGHTS
from benchmarks.measure import Table, say
from benchmarks.merge import recipe_of
from benchmarks.process import ours, scratch, theirs
from merge_core import Checkpoint, Recipe, Sources
from merge_core.arithmetic import band

MILLIONS = 8
METHODS = ("linear", "task_arithmetic", "ties")
GRADIENT_WEIGHT = [0.2, 0.9, 0.4]
FILTERED_WEIGHT = [
    {"filter": "self_attn", "value": 0.7},
    {"filter": "mlp", "value": [0.3, 0.8]},
    {"value": WEIGHTS[1]},
]
GRADIENT_DENSITY = [0.2, 0.6]


@dataclass
class Difference:
    """Counts over all tensors: entries, tied ones, and those of each that differ; largest steps."""

    entries: int = 0
    tied: int = 0
    differ: int = 0
    differ_untied: int = 0
    steps: float = 0.0
    steps_untied: float = 0.0


def recipe_for(folder: Path, method: str, *, varied: bool, normalize: bool) -> Recipe:
    """Plain numbers, or (`varied`) a gradient for one expert and filters for the other."""
    recipe = recipe_of(folder, method, parameters={"normalize": normalize})
    if not varied:
        return recipe
    data = recipe.plain()
    for model, weight in zip(data["models"], (GRADIENT_WEIGHT, FILTERED_WEIGHT), strict=True):
        model["parameters"]["weight"] = weight
        if "density" in recipe.method.by_name:
            model["parameters"]["density"] = GRADIENT_DENSITY
    return Recipe.parse(data)


def report(folder: Path, mergekit: Path | None) -> None:
    """Print how far both merges of the set in `folder` agree."""
    if mergekit is None:
        say("merged numbers against mergekit's: mergekit not named: not measured")
        return
    say("merged numbers against mergekit's with our export; steps are of bfloat16")
    table = Table(
        ("method", 16),
        ("values", 20),
        ("normalize", 9),
        ("differ", 9),
        ("max steps", 9),
        ("tied", 9),
        ("differ untied", 13),
        ("max steps untied", 16),
    )
    for method in METHODS:
        for varied in (False, True):
            for normalize in (False, True):
                recipe = recipe_for(folder, method, varied=varied, normalize=normalize)
                with scratch(folder) as work:
                    ours(recipe, work)(work / "ours")
                    theirs(recipe, work, mergekit, plain=False)(work / "theirs")
                    found = compare(recipe, work / "ours", work / "theirs")
                untied = found.entries - found.tied
                table.row(
                    method,
                    "gradients, filters" if varied else "numbers",
                    "on" if normalize else "off",
                    _share(found.differ, found.entries),
                    f"{found.steps:.2g}",
                    _share(found.tied, found.entries),
                    _share(found.differ_untied, untied),
                    f"{found.steps_untied:.2g}",
                )


def compare(recipe: Recipe, one: Path, other: Path) -> Difference:
    """Compare two merged checkpoints of `recipe`, tensor by tensor."""
    first, second = Checkpoint.open(str(one)), Checkpoint.open(str(other))
    assert first.specs == second.specs, "other names, shapes or dtypes"
    sources = Sources.open(recipe)
    result = Difference()
    for name in first.specs:
        steps = steps_apart(first.tensor(name), second.tensor(name), sources, name)
        tied = tied_entries(recipe, sources, name)
        result.entries += steps.numel()
        result.tied += int(tied.sum())
        result.differ += int((steps > 0).sum())
        result.steps = max(result.steps, float(steps.max()))
        steps[tied] = 0
        result.differ_untied += int((steps > 0).sum())
        result.steps_untied = max(result.steps_untied, float(steps.max()))
    return result


def steps_apart(
    one: torch.Tensor, other: torch.Tensor, sources: Sources, name: str
) -> torch.Tensor:
    """Distance of each entry, flat float32, in steps; 0 where the numbers are equal."""
    stored = [source.tensor(source.stored_name(name)) for source in sources.all]
    largest = torch.stack([tensor.reshape(-1).float().abs() for tensor in stored]).amax(0)
    _, exponent = torch.frexp(largest.clamp_min(torch.finfo(torch.bfloat16).tiny))
    step = torch.ldexp(
        torch.ones_like(largest), exponent - 8
    )  # 8 significant bits; frexp's start below 1
    return (one.reshape(-1).float() - other.reshape(-1).float()).abs() / step


def tied_entries(recipe: Recipe, sources: Sources, name: str) -> torch.Tensor:
    """Flat mask of the entries where some expert's trim cuts: of the last that stay's magnitude.

    Of Breadcrumbs, of the first that stays', too.
    """
    tied = torch.zeros(sources.specs[name].numel, dtype=torch.bool)
    if recipe.method.sparsify not in ("trim", "band"):
        return tied
    assert sources.base is not None
    base = sources.base.tensor(name).reshape(-1).float()
    settings = recipe.settings_for(name, sources.depths[name])
    gammas = settings.gammas or (0.0,) * len(sources.experts)
    for expert, density, gamma in zip(sources.experts, settings.densities, gammas, strict=True):
        magnitude = (expert.tensor(name).reshape(-1).float() - base).abs()
        first, kept = band(density, gamma, magnitude.numel())
        if not 0 < kept < magnitude.numel():
            continue
        ranked = magnitude.sort(descending=True).values
        tied |= magnitude == ranked[first + kept - 1]
        if first:
            tied |= magnitude == ranked[first]
    return tied


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1e}" if part else "0"
