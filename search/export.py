"""Exporting a recipe: ours, or as a mergekit configuration."""

from __future__ import annotations

from pathlib import Path

from merge_core import Recipe
from merge_core.mergekit import to_mergekit
from merge_core.yaml_io import dump_yaml, write_atomic
from objectives import Estimate
from search.confirm import Member
from search.results import Result
from search.run import Run


def save_recipe(
    run: Run, member: Member, path: Path, *, mergekit: bool = False, test: Result | None = None
) -> None:
    """Write a member's recipe with its scores as comments before it.

    Raises:
        RecipeError: mergekit does not have the method.
    """
    recipe = Recipe.parse(member.recipe)
    header = _header(run, member, test)
    if mergekit:
        write_atomic(path, dump_yaml(to_mergekit(recipe), header=header))
    else:
        recipe.save(path, header=header)


def tested(run: Run, member: Member) -> Result | None:
    """The member's result on the test items, if it was the exported one."""
    path = run.held_out("test", member.fingerprint)
    return Result.load(path) if path.is_file() else None


def spelled(estimate: Estimate) -> str:
    """An estimate as text: .934 [.901, .957]."""
    numbers = (f"{x:.3f}" for x in (estimate.value, estimate.low, estimate.high))
    value, low, high = (text.removeprefix("0") for text in numbers)
    return f"{value} [{low}, {high}]"


def _header(run: Run, member: Member, test: Result | None) -> str:
    lines = [
        f"Found by mergefront in run {run.name}: {member.label}, fingerprint {member.fingerprint}",
        *(
            f"{name}: confirmed {spelled(estimate)} on {estimate.n} held-out items, "
            f"claimed {member.claimed[name].value:.3f} on {member.claimed[name].n}"
            for name, estimate in member.confirmed.items()
        ),
    ]
    if member.joint is not None:
        lines.append(f"right and in the language: confirmed {spelled(member.joint)}")
    if test is not None:
        lines += [
            f"{o.name}: test {spelled(test.estimate(o))} on {test.estimate(o).n} items, scored once"
            for o in run.search.objectives
        ]
    if not member.feasible and run.search.constraints:
        lines.append("BEST EFFORT: it does not hold the constraints with 95% confidence")
    return "".join(f"# {line}\n" for line in lines)
