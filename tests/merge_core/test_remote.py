"""A plan told as plain data is made again elsewhere: the same bits, sources opened once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from merge_core import MergePlan, Recipe
from merge_core.opened import MOST_OPEN
from merge_core.remote import plan_of
from tests.merge_core.conftest import make_model, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("remote")
    base = make_model(0)
    write_checkpoint(path / "base", base)
    for seed in (1, 2):
        write_checkpoint(path / f"m{seed}", make_model(seed, base))
    return path


def recipe(folder: Path, method: str = "dare_ties", seed: int = 3, name: str = "a") -> Recipe:
    own = {"weight": [0.4, 0.8], "density": 0.5}
    if method == "linear":
        del own["density"]
    models = [
        {"model": str(folder / f"m{n}"), "name": f"{name}{n}", "parameters": own} for n in (1, 2)
    ]
    data = {"merge_method": method, "base_model": str(folder / "base"), "models": models}
    return Recipe.parse(data | {"seed": seed, "dtype": "float32"})


@pytest.mark.parametrize("method", ["linear", "ties", "ties_sv", "dare_ties"])
def test_it_makes_the_same_bits(folder: Path, method: str) -> None:
    plan = MergePlan(recipe(folder, method))
    told = plan.portable()
    again = plan_of(json.loads(json.dumps(told.data)), {})
    assert again.specs() == plan.specs()
    assert list(again.ahead()) == list(plan.specs())
    for name in plan.specs():
        assert torch.equal(again.part(name, ()), plan.tensor(name))


def test_sources_are_opened_once_and_the_oldest_are_let_go(folder: Path) -> None:
    kept: dict = {}
    first = plan_of(MergePlan(recipe(folder)).portable().data, kept)
    second = plan_of(MergePlan(recipe(folder, "ties", 5)).portable().data, kept)
    assert second.sources is first.sources
    for number in range(MOST_OPEN):
        plan_of(MergePlan(recipe(folder, name=f"b{number}x")).portable().data, kept)
    again = plan_of(MergePlan(recipe(folder)).portable().data, kept)
    assert again.sources is not first.sources


def test_tables_are_found_where_the_plan_keeps_them(folder: Path, tmp_path: Path) -> None:
    plan = MergePlan(recipe(folder, "ties"))
    plan.sources.facts.keep(tmp_path, plan.sources.digests())
    for name in plan.specs():
        plan.tensor(name)
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert made
    again = plan_of(plan.portable().data, {})
    for name in plan.specs():
        assert torch.equal(again.part(name, ()), plan.tensor(name))
    assert made == {p.name: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
