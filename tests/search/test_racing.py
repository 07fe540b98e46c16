"""Racing: who is stopped, how often wrongly, what is told, and what a worker leaves unasked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.scorers.base import Measure
from search.config import Constraint, Objective, load
from search.front import dominates
from search.racing import (
    SCOUT,
    Race,
    Rival,
    Target,
    blocks,
    by_part,
    forecast,
    order,
    share,
    unfit,
)
from search.results import Result, values_of
from search.session import prepare
from search.worker import Evaluator, Job
from tests.search.small import GOOD, make_workplace

ITEMS = 128
RIGHT, SPOKEN = ("math", "right"), ("math", "spoken")


def objective(name: str, part: tuple[str, str], **changes: object) -> Objective:
    values = {"direction": "maximize", "reference": 0.0, "measures": (Measure(),), **changes}
    return Objective(name=name, parts=(part,), **values)  # type: ignore[arg-type]


TARGETS = (Target.of(objective("right", RIGHT)), Target.of(objective("spoken", SPOKEN)))


def race(rivals: list[Rival], **changes: object) -> Race:
    sizes = tuple(blocks(ITEMS, 16))
    made = Race(TARGETS, (), sizes, level=0.9, epsilon=0.0, audit=0.0, rivals=tuple(rivals))
    return replace(made, **changes)  # type: ignore[arg-type]


def prefix(scores: dict, done: int) -> dict:
    return {part: np.where(np.arange(len(row)) < done, row, np.nan) for part, row in scores.items()}


def answers(rng: np.random.Generator, rates: tuple[float, float], hard: np.ndarray) -> dict:
    """Scores of items that are hard for one model where they are for another, mostly."""
    drawn = np.where(rng.random(hard.shape) < 0.7, hard, rng.random(hard.shape))
    return {
        part: (drawn[index] < rates[index]).astype(float)
        for index, part in enumerate((RIGHT, SPOKEN))
    }


@given(st.integers(1, 3000), st.integers(1, 200))
def test_blocks_grow_to_all_items_and_leave_enough_to_save(items: int, first: int) -> None:
    sizes = blocks(items, first)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == items
    assert all(4 * size < 3 * items for size in sizes[:-1])
    assert sizes[0] == first or sizes == [items]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.data())
def test_every_prefix_holds_each_task_in_proportion(totals: list[int], data: st.DataObject) -> None:
    items = sum(totals)
    done = data.draw(st.integers(1, items))
    for total in totals:
        held = share(total, done, items)
        assert 1 <= held <= total
        assert abs(held - total * done / items) < 1.0
    assert [share(total, items, items) for total in totals] == totals


def test_what_is_clearly_behind_stops_at_the_first_look_and_what_leads_never_does() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random((2, ITEMS))
    held = race([Rival("trial 3", answers(rng, (0.9, 0.9), hard))])
    worse = held.judge(prefix(answers(rng, (0.1, 0.2), hard), 16))
    assert worse is not None
    assert worse.reason == "behind trial 3"
    for done in held.sizes[:-1]:
        assert held.judge(prefix(answers(rng, (0.97, 0.95), hard), done)) is None
        assert held.judge(prefix(answers(rng, (0.5, 1.0), hard), done)) is None


def test_a_front_stops_what_no_single_member_surely_leads() -> None:
    """As right as one member or the other, and far less spoken than both."""
    rng = np.random.default_rng(1)
    hard = rng.random((2, ITEMS))
    members = [
        Rival("a", answers(rng, (0.97, 0.6), hard)),
        Rival("b", answers(rng, (0.8, 0.9), hard)),
    ]
    behind = prefix(answers(rng, (0.82, 0.1), hard), 32)
    assert race([members[1]]).judge(behind) is None
    assert race(members).judge(behind) is not None


@pytest.mark.parametrize("lead", [(0.01, 0.01), (0.03, -0.2), (-0.2, 0.03)])
def test_those_that_would_have_just_reached_the_front_are_stopped_as_rarely_as_promised(
    lead: tuple[float, float],
) -> None:
    """Members with full scores a little inside the trial's: each stop is an error."""
    rng = np.random.default_rng(2)
    stopped, trials = 0, 150
    for _ in range(trials):
        scores = answers(rng, (0.8, 0.8), rng.random((2, ITEMS)))
        rival = {}
        for index, (part, row) in enumerate(scores.items()):
            # The member's full score is just below the trial's, or far above it.
            member, flips = row.copy(), round(lead[index] * ITEMS)
            solved, missed = np.flatnonzero(row == 1.0), np.flatnonzero(row == 0.0)
            if flips > 0:
                member[rng.choice(solved, flips, replace=False)] = 0.0
            else:
                member[rng.choice(missed, min(-flips, len(missed)), replace=False)] = 1.0
            swapped = min(10, len(missed) // 2)  # and they differ elsewhere, to no effect
            member[rng.choice(np.flatnonzero(member == 1.0), swapped, replace=False)] = 0.0
            member[rng.choice(np.flatnonzero(member == 0.0), swapped, replace=False)] = 1.0
            rival[part] = member
        held = race([Rival("m", rival)])
        stopped += any(held.judge(prefix(scores, done)) for done in held.sizes[:-1])
    assert stopped / trials <= 0.1 + 2 * (0.1 * 0.9 / trials) ** 0.5


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([16, 32, 64]), st.booleans())
def test_what_is_told_of_a_stopped_trial_is_no_better_than_the_front(
    seed: int, done: int, graded: bool
) -> None:
    rng = np.random.default_rng(seed)
    hard = rng.random((2, ITEMS))
    rates = rng.random((4, 2))
    rivals = [Rival(str(i), answers(rng, tuple(rate), hard)) for i, rate in enumerate(rates[1:])]
    trial = answers(rng, tuple(rates[0]), hard)
    if graded:
        trial = {part: row * 0.5 + 0.25 for part, row in trial.items()}
    told = race(rivals, epsilon=0.02).judge(prefix(trial, done))
    if told is not None:
        point = (told.objectives["right"], told.objectives["spoken"])
        assert all(0.0 <= value <= 1.0 for value in point)
        fronts = [tuple(float(rival.scores[p].mean()) for p in (RIGHT, SPOKEN)) for rival in rivals]
        assert any(dominates(member, point) or member == point for member in fronts)


@given(st.integers(0, 10**6), st.integers(1, ITEMS))
def test_a_forecast_lies_between_what_is_sure_and_what_is_possible(seed: int, done: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {RIGHT: rng.random(ITEMS), SPOKEN: rng.random(ITEMS)}
    rival = answers(rng, (0.6, 0.6), rng.random((2, ITEMS)))
    for held in (None, rival):
        found = forecast(TARGETS[0], prefix(scores, done), held)
        full = float(np.mean(scores[RIGHT]))
        assert found.low - 1e-9 <= full <= found.high + 1e-9
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
        drawn = found.draw(np.random.default_rng(0))
        assert drawn.min() >= found.low - 1e-9
        assert drawn.max() <= found.high + 1e-9
        assert abs(float(drawn.mean()) - found.mean) < 0.02
    assert forecast(TARGETS[0], scores).mean == pytest.approx(float(np.mean(scores[RIGHT])))


def test_minimized_scores_and_other_ranges_are_the_same_race_turned_round() -> None:
    rng = np.random.default_rng(5)
    hard = rng.random((2, ITEMS))
    member, trial = answers(rng, (0.9, 0.9), hard), answers(rng, (0.3, 0.5), hard)
    turned = Target.of(
        objective(
            "cost",
            SPOKEN,
            direction="minimize",
            measures=(Measure(range=(1.0, 5.0)),),
            reference=5.0,
        )
    )

    def cost(scores: dict) -> dict:
        return {RIGHT: scores[RIGHT], SPOKEN: 5.0 - 4.0 * scores[SPOKEN]}

    plain = race([Rival("m", member)]).judge(prefix(trial, 32))
    costly = race([Rival("m", cost(member))], objectives=(TARGETS[0], turned)).judge(
        prefix(cost(trial), 32)
    )
    assert plain is not None
    assert costly is not None
    assert costly.objectives["right"] == pytest.approx(plain.objectives["right"])
    assert costly.objectives["cost"] == pytest.approx(5.0 - 4.0 * plain.objectives["spoken"])


def test_a_constraint_that_can_hardly_be_met_any_more_stops_a_trial() -> None:
    rng = np.random.default_rng(6)
    bound = Constraint("spoken", (SPOKEN,), True, 0.9, 0.0, (Measure(),))
    held = race([], constraints=(Target.of(bound),))
    scores = answers(rng, (0.9, 0.4), rng.random((2, ITEMS)))
    told = held.judge(prefix(scores, 16))
    assert told is not None
    assert told.reason == "misses spoken"
    assert bound.violation(told.constraints["spoken"]) > 0.0
    assert held.judge(prefix(answers(rng, (0.1, 0.97), rng.random((2, ITEMS))), 16)) is None


def test_audits_are_drawn_by_fingerprint_in_the_share_asked_for() -> None:
    held = race([], audit=0.25)
    drawn = [held.audited(f"{n:064x}") for n in range(2000)]
    assert 0.22 < sum(drawn) / len(drawn) < 0.28
    assert drawn == [held.audited(f"{n:064x}") for n in range(2000)]


def test_scores_that_no_prefix_bounds_are_not_raced(tmp_path: Path) -> None:
    make_workplace(tmp_path)
    search = load(tmp_path / "search.yaml")
    assert unfit(search) is None
    assert Race.of(search, 128) is not None
    off = load(tmp_path / "search.yaml", ["racing=false"])
    assert Race.of(off, 128) is None
    unbounded = replace(search.objectives[1], measures=(Measure(range=(1.0, float("inf"))),))
    assert "sums/language" in str(unfit(replace(search, objectives=(unbounded,))))


# --- In the worker -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 dev items; the first and third merge answer well, the second and fourth at random."""
    folder = make_workplace(tmp_path_factory.mktemp("race"))
    items = [{"id": f"i{n}", "prompt": f"What is 0 + {n}?", "answer": str(n)} for n in range(72)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    good, bad = "The answer is clearly {}.", "???"
    rows = {f"i{n}": [good.format(n), good.format(n) if n % 8 == 0 else bad] for n in range(72)}
    (folder / "answers.json").write_text(json.dumps(rows))
    (folder / "search.yaml").write_text(
        GOOD.replace('default: "The answer is 7."', "responses: answers.json").replace(
            "splits: {dev: 4,", "splits: {dev: 64,"
        )
    )
    return folder


def test_a_worker_asks_blocks_until_the_race_stops_it(workplace: Path) -> None:
    settings = ["constraints={}", "racing.first=16"]
    prepared = prepare(load(workplace / "search.yaml", settings))
    search, task = prepared.search, prepared.tasks["sums"]
    worker = Evaluator(prepared.setup())
    recipe = prepared.plan.recipe
    plain = worker.evaluate(Job("trial 0", recipe, "a", "dev"))
    full_bad = worker.evaluate(Job("trial 1", recipe, "b", "dev"))
    held = Race.of(search, 64)
    assert held is not None
    assert held.sizes == (16, 32, 64)
    held = held.against([Rival.of("trial 0", plain, held.parts)])

    good = worker.evaluate(Job("trial 2", recipe, "c", "dev", held))
    assert good.stopped is None
    assert good.items == plain.items  # in item order, whatever the order of asking

    bad = worker.evaluate(Job("trial 3", recipe, "d", "dev", held))
    assert bad.stopped is not None
    assert (bad.stopped.asked, bad.stopped.of, bad.stopped.audited) == (16, 64, False)
    assert bad.stopped.reason == "behind trial 0"
    first = sorted(order(task)[:16])
    assert bad.items["sums"] == [full_bad.items["sums"][index] for index in first]
    assert bad.tokens < full_bad.tokens / 2
    assert values_of(bad, search) == list(bad.stopped.objectives.values())

    for name, (mean, deviation) in bad.stopped.expected.items():
        assert mean >= bad.stopped.objectives[name]
        assert 0.0 < deviation < 0.2

    path = workplace / "result.json"
    bad.save(path)
    assert Result.load(path) == bad

    scout = worker.evaluate(Job("trial 4", recipe, "e", "dev", held.scouting()))
    assert scout.stopped is not None  # though it is as good as the best one
    assert (scout.stopped.reason, scout.stopped.asked) == (SCOUT, 16)
    means = {name: mean for name, (mean, _) in scout.stopped.expected.items()}
    assert means == scout.stopped.objectives
    audited = worker.evaluate(Job("trial 5", recipe, "f", "dev", replace(held, audit=1.0)))
    assert audited.stopped is not None
    assert audited.stopped.audited
    assert audited.items == full_bad.items
    assert audited.stopped.objectives == bad.stopped.objectives
    worker.close()


def test_scores_by_part_have_their_items_places() -> None:
    found = {"math": {2: _item(1.0), 0: _item(0.5)}}
    rows = by_part((RIGHT,), found, {"math": 4})
    np.testing.assert_array_equal(rows[RIGHT], [0.5, np.nan, 1.0, np.nan])


def _item(score: float):
    from objectives import ItemScore

    return ItemScore("x", {"right": score}, "", 1, "stop")
