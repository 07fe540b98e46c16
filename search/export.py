"""Exporting a recipe: ours, or as a mergekit configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from merge_core import Recipe
from merge_core.mergekit import to_mergekit
from merge_core.yaml_io import dump_yaml, one_line, write_atomic
from objectives import Estimate
from search.confirm import Member
from search.errors import ConfigError, ExportError
from search.results import Result
from search.run import Run

_BOUND = re.compile(r"\s*([^<>=\s]+)\s*([<>]=)\s*(\S+)\s*")


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


def required(run: Run, members: Sequence[Member], bounds: Sequence[str]) -> list[Member]:
    """The members, feasible only where they hold more bounds too: `language>=0.9`.

    A bound is read as one of `constraints` is, and holds by its one-sided 95% confirmed bound.

    Raises:
        ConfigError: no objective or score has that name, or the bound is none.
        ExportError: no member holds them all; the nearest is named.
    """
    if not bounds:
        return list(members)
    wanted: dict[str, str] = {}
    for text in bounds:
        found = _BOUND.fullmatch(text)
        if found is None:
            raise ConfigError(f"--require {text}: write a score and its bound, as language>=0.9")
        if found[1] in wanted:
            raise ConfigError(f"--require {text}: {found[1]} is bounded twice; give one bound")
        wanted[found[1]] = f"{found[2]} {found[3]}"
    typed = " ".join(f"--require {text!r}" for text in bounds)
    constraints = run.search.with_value("constraints", wanted, typed).constraints
    results = {m.label: _held(run, m) for m in members if m.trial is not None}
    able = {
        label
        for label, result in results.items()
        if all(result.holds(constraint, confirmed=True) for constraint in constraints)
    }
    if not able:
        missed = {
            label: sum(max(0.0, c.violation(result.estimate(c).value)) for c in constraints)
            for label, result in results.items()
            if result.fault is None
        }
        nearest = min(missed, key=lambda label: missed[label], default=None)
        told = ""
        if nearest is not None:
            values = (f"{c.key} {results[nearest].estimate(c).value:.3f}" for c in constraints)
            told = f"; the nearest is {nearest} with {', '.join(values)}"
        raise ExportError(
            f"no confirmed member holds {', '.join(map(str, constraints))} with 95% confidence"
            + told
        )
    return [replace(m, feasible=m.feasible and m.label in able) for m in members]


def _held(run: Run, member: Member) -> Result:
    return Result.load(run.held_out("confirm", member.fingerprint))


def tested(run: Run, member: Member) -> Result | None:
    """The member's result on the test items, if it was the exported one."""
    path = run.held_out("test", member.fingerprint)
    return Result.load(path) if path.is_file() else None


def spelled(estimate: Estimate) -> str:
    """An estimate as text: .934 [.901, .957]."""
    numbers = (f"{x:.3f}" for x in (estimate.value, estimate.low, estimate.high))
    value, low, high = (text.removeprefix("0") for text in numbers)
    return f"{value} [{low}, {high}]"


def short(estimate: Estimate) -> str:
    """An estimate's value alone as text: .934."""
    return spelled(estimate).partition(" ")[0]


def test_items(scores: Mapping[str, Estimate]) -> str:
    """How many test items scores are of: "128 test items", by name where tasks have other sizes."""
    counts = {name: f"{estimate.n:,}" for name, estimate in scores.items()}
    if len({*counts.values()}) == 1:
        return f"{next(iter(counts.values()))} test items"
    return f"test items ({', '.join(f'{name} on {n}' for name, n in counts.items())})"


def _header(run: Run, member: Member, test: Result | None) -> str:
    lines = [
        f"Found by mergefront in run {one_line(run.name)}: {member.label}, "
        f"fingerprint {member.fingerprint}",
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
