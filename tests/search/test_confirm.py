"""What is chosen for export, and with what confidence a constraint holds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from objectives import Estimate, ItemScore
from objectives.scorers.base import Measure
from search.config import Constraint, Search, load
from search.confirm import Member, choose
from search.errors import ConfigError, ExportError
from search.results import Result
from tests.search.test_driver import write


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return load(write(tmp_path_factory.mktemp("s"), constraints={"language": ">= 0.5"}))


def member(
    number: int, reasoning: float, language: float, *, feasible: bool = True, off: float = 0.0
) -> Member:
    confirmed = {
        name: Estimate(value, value, value, 100)
        for name, value in (("reasoning", reasoning), ("language", language))
    }
    return Member(
        label=f"trial {number}",
        trial=number,
        fingerprint=str(number),
        recipe={},
        claimed=confirmed,
        confirmed=confirmed,
        joint=None,
        feasible=feasible,
        violation=off,
    )


def test_the_knee_and_the_best_are_never_dominated(search: Search) -> None:
    members = [member(3, 0.5, 0.0), member(9, 0.6, 0.0)]
    assert choose(search, members).trial == 9
    members = [member(1, 0.9, 0.2), member(2, 0.9, 0.6), member(0, 0.1, 0.9)]
    assert choose(search, members, "best:reasoning").trial == 2
    assert choose(search, members, "best:language").trial == 0
    assert choose(search, [member(5, 0.7, 0.7), member(4, 0.7, 0.7)]).trial == 4  # lowest number


def test_infeasible_members_are_taken_only_on_best_effort_and_then_the_nearest(
    search: Search,
) -> None:
    members = [
        member(1, 0.9, 0.3, feasible=False, off=0.2),
        member(2, 0.5, 0.45, feasible=False, off=0.05),
    ]
    for pick in ("knee", "best:reasoning", "trial:1"):
        with pytest.raises(ExportError, match=r"language >= 0\.5 with 95% confidence"):
            choose(search, members, pick)
    assert choose(search, members, best_effort=True).trial == 2
    assert choose(search, members, "trial:1", best_effort=True).trial == 1


def test_nothing_is_chosen_where_no_trial_is_confirmed(search: Search) -> None:
    with pytest.raises(ExportError, match="no trial is confirmed yet: `mergefront confirm RUN`"):
        choose(search, [], best_effort=True)


@pytest.mark.parametrize("sizes", [(60, 60), (40, 1000)])
def test_a_confirmed_constraint_over_tasks_errs_at_its_level(sizes: tuple[int, int]) -> None:
    """With the truth exactly on the bound, at most about 5% of merges may pass."""
    constraint = Constraint(
        key="both",
        parts=(("a", "math"), ("b", "math")),
        at_least=True,
        bound=0.8,
        worst=0.0,
        measures=(Measure(binary=True),) * 2,
    )
    rng = random.Random(0)
    passed = 0
    for _ in range(1000):
        items = {
            task: [
                ItemScore(str(i), {"math": float(rng.random() < 0.8)}, "", 1, "stop")
                for i in range(size)
            ]
            for task, size in zip(("a", "b"), sizes, strict=True)
        }
        result = Result(recipe={}, fingerprint="f", split="confirm", items=items)
        passed += result.holds(constraint, confirmed=True)
    assert passed / 1000 < 0.08
    assert passed > 0


def test_a_score_that_some_items_lack_is_not_searched_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not every item has t/language\.thinking"):
        load(write(tmp_path, constraints={"t/language.thinking": ">= 0.1"}))


def test_a_fault_is_as_bad_as_can_be(search: Search) -> None:
    result = Result(recipe={}, fingerprint="f", split="dev", items={}, fault="overflow")
    assert [result.estimate(o).value for o in search.objectives] == [0.0, 0.0]
    assert not result.holds(search.constraints[0], confirmed=False)
    assert not result.holds(search.constraints[0], confirmed=True)


def test_results_round_trip(tmp_path: Path) -> None:
    items = {"t": [ItemScore("a", {"math": 1.0}, "คำตอบ", 3, "stop")]}
    result = Result(recipe={"seed": 1}, fingerprint="f", split="dev", items=items)
    result.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json") == result
    assert "คำตอบ" in (tmp_path / "r.json").read_text(encoding="utf-8")
