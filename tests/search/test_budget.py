"""Budgets, patience, the account and what `check` foretells: on real studies and run folders.

Workers are simulated by the order in which results are told; `tests/search/test_driver.py` has the
same limits on real workers.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives import ItemScore
from search import study as studies
from search.account import Account
from search.amounts import amount
from search.budget import GAIN, Budget, Shares, start_up, until, volumes
from search.config import Search, load
from search.dispatch import CEILINGS, Ceiling, ceiling, warning
from search.errors import ConfigError, RunError
from search.estimate import estimate, measured
from search.file import BudgetEntry
from search.front import hypervolume
from search.ledger import Ledger, Session, sessions
from search.panel import status_lines
from search.results import Result, Stopped
from search.run import Run
from search.sampler_classes import START
from search.session import Prepared, prepare
from search.status import as_json, look
from tests.search.test_driver import write

DEV = 4
SHARES = Shares(dev=4, confirm=8, test=4, items=DEV, most_tokens=2048, baselines=1)
"""Confirming one merge takes 2 trials, testing it 1."""


def result(
    tokens: int = 10,
    seconds: float = 1.0,
    right: float = 1.0,
    *,
    stopped: Stopped | None = None,
    items: int = DEV,
    **more: Any,
) -> Result:
    """Of a merge whose every item took so many tokens, and was right so often."""
    rows = [
        ItemScore(f"q{i}", {"math": float(i < right * items), "language": 1.0}, "", tokens, "stop")
        for i in range(items)
    ]
    took = {"load": 0.25 * seconds, "generate": 0.75 * seconds}
    return Result(
        {}, "f", **{"split": "dev", "items": {"t": rows}, "seconds": took, **more}, stopped=stopped
    )


def stop(asked: int, *, audited: bool = False) -> Stopped:
    told = {"reasoning": 0.0, "language": 0.0}
    return Stopped("behind trial 0", told, {}, asked=asked, of=DEV, audited=audited)


class Begun:
    """A run folder with a study, in memory where it is not `stored`, and no workers."""

    def __init__(
        self, folder: Path, *, budget: dict[str, Any], stored: bool = False, **changes: Any
    ) -> None:
        self.file = write(folder, budget=budget, **changes)
        search, place = load(self.file), folder / "runs" / "s"
        if stored:
            self.prepared: Prepared = prepare(search)
            self.run = Run.start(search, place, self.prepared.references, self.prepared.roles)
            self.study = studies.open_study(self.run)
        else:
            place.mkdir(parents=True)
            self.run = Run(place, search)
            self.study = optuna.create_study(directions=["maximize"] * 2)

    def tell(self, told: Result, duplicate_of: int | None = None) -> int:
        trial = self.study.ask()
        self.run.search.space.sample(trial)
        told.save(self.run.trial(trial.number))
        studies.tell(self.study, self.run.search, trial, told, duplicate_of)
        return trial.number

    def held(self, *hours: float, workers: int = 1, gpus: float = 0.0) -> None:
        """Earlier sessions."""
        rows = [
            {"began": "2026-01-01T00:00:00+00:00", "seconds": h * 3600, "workers": workers}
            | {"gpus": gpus}
            for h in hours
        ]
        (self.run.folder / "sessions.json").write_text(json.dumps(rows))

    def budget(
        self, shares: Shares = SHARES, *, workers: int = 2, gpus: float = 0.0, ago: float = 0.0
    ) -> Budget:
        ledger = Ledger(self.run, workers, gpus)
        budget = Budget(self.run.search, shares, ledger, time.monotonic() - ago)
        budget.resume(self.run, self.study)
        return budget


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return load(write(tmp_path_factory.mktemp("one")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def free(folder: Path, **limits: Any) -> Budget:
    """A budget of a new run, whose first merge took 10 tokens an item and 100 seconds."""
    budget = Begun(folder, budget=limits, confirm={"max": 3}).budget()
    budget.spend(result(10, 100.0))
    return budget


# --- limits --------------------------------------------------------------------------------------


def test_trials_that_are_running_count(folder: Path) -> None:
    budget = free(folder, trials=3)
    assert budget.allows(running=2, others=0, able=0)
    assert not budget.allows(running=3, others=0, able=0)
    budget.told(0.5)
    assert not budget.allows(running=2, others=0, able=1)
    assert budget.reason == "trials"
    assert budget.line() == "1 of 3 trials are done"


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("limit", [3_000, 12_000])
def test_tokens_are_never_overspent_and_hardly_left_over(
    workers: int, limit: int, folder: Path
) -> None:
    """Whatever is on its way, confirmation and test included, ends within the limit."""
    begun = Begun(folder, budget={"tokens": limit}, confirm={"max": 3})
    budget = begun.budget(workers=workers)
    rng = random.Random(0)
    spent, running, able, done = 0, 0, 0, 0
    budget.spend(result(10))  # the baseline
    spent += 10 * DEV
    while True:
        while running < workers and budget.allows(running, 0, able):
            running += 1
        if not running:
            break
        running -= 1
        ended = result(rng.choice([9, 10, 11]))
        budget.spend(ended)
        spent += ended.tokens
        done += 1
        able += done % 2  # the others are stopped early, or miss a constraint
        budget.told(0.1 * able)
    assert budget.reason == "tokens"
    assert budget.tokens == spent
    reserve = (2 * (min(able, 3) + 1) + 1) * 10 * DEV  # what will be confirmed and tested
    assert 0.95 * limit < spent + reserve + 5 * 10 * DEV  # a member and a trial more would not fit
    assert spent + reserve <= limit * 1.01
    assert f"of {limit:,} tokens are spent" in str(budget.line())


def test_before_anything_has_ended_answers_may_be_as_long_as_they_can(folder: Path) -> None:
    room = 2048 * (1 + 2 + 2 * (3 + 1) + 1)  # three trials, two members and one baseline, a test
    budget = Begun(folder, budget={"tokens": room}).budget(workers=64)
    started = 0
    while budget.allows(started, 0, 0):
        started += 1
    assert 1 <= started <= 3
    budget.spend(result(10))
    assert budget.allows(started - 1, 0, 0)  # now it is known that they are short
    tight = Begun(folder / "tight", budget={"tokens": 100}).budget(workers=64)
    assert tight.allows(0, 0, 0)  # one is tried to know
    assert not tight.allows(1, 0, 0)
    assert not tight.allows(0, 4, 0)  # but not beside baselines, which will tell
    tight.spend(result(16))  # a baseline: as docs/budgets.md says, it has told
    assert not tight.allows(0, 0, 0)


def test_baselines_on_their_way_are_in_the_expected_tokens(folder: Path) -> None:
    # One trial, confirmation of one member and one baseline, a test: 6 x 40 tokens, and 40 spent.
    budget = free(folder, tokens=40 + 6 * 40)
    assert budget.allows(running=0, others=0, able=0)
    assert not budget.allows(running=0, others=1, able=0)
    assert not budget.allows(running=1, others=0, able=0)
    assert not budget.allows(running=0, others=0, able=1)


def test_time_keeps_what_confirmation_and_test_take(folder: Path) -> None:
    # A trial takes 100 s, confirming a member and a baseline on two workers 200 s, the test 100 s.
    begun = Begun(folder, budget={"timeout": "1000s"}, confirm={"max": 3})
    for ago, on_front, allowed in (
        (590.0, 0, True),
        (610.0, 0, False),
        (450.0, 1, False),  # with a third merge to confirm there is a second round
        (390.0, 1, True),
        (390.0, 9, True),  # no more than `confirm.max` are
    ):
        budget = begun.budget(ago=ago)
        budget.spend(result(10, 100.0))
        assert budget.allows(running=0, others=0, able=on_front) is allowed
        if not allowed:
            assert budget.reason == "timeout"
            assert str(budget.line()).startswith("1000s of time, which another trial")


@pytest.mark.parametrize(
    ("limit", "gpus", "unit"),
    [
        ({"gpu_hours": 10.0}, 2.0, "8 of 10 GPU-hours are used"),
        ({"cost": 20.0, "gpu_hour_price": 2.0}, 2.0, "16.00 of 20 are paid"),
        ({"gpu_hours": 5.0}, 0.0, "4 of 5 worker-hours are used"),
    ],
)
def test_hours_of_all_sessions_count_idle_or_not(
    limit: dict[str, float], gpus: float, unit: str, folder: Path
) -> None:
    begun = Begun(folder, budget=limit, confirm={"max": 3})
    begun.held(0.5, 0.5, workers=4, gpus=gpus)  # 4 worker-hours: 900 s of four workers are left
    for seconds, allowed in ((220.0, True), (230.0, False)):  # a trial, one round of 2, and a test
        budget = begun.budget(workers=4, gpus=gpus)
        budget.spend(result(10, seconds))
        assert budget.allows(running=3, others=0, able=0) is allowed
    assert budget.reason == next(iter(limit))
    assert str(budget.line()).startswith(unit)


def test_a_resumed_run_counts_what_earlier_sessions_spent(folder: Path) -> None:
    begun = Begun(folder, budget={"tokens": 500, "trials": 50}, confirm={"max": 1})
    for _ in range(5):
        begun.tell(result(10, 100.0))
    result(10).save(begun.run.baseline("base"))
    result(5, split="confirm").save(begun.run.held_out("confirm", "a"))
    budget = begun.budget()
    assert budget.finished == 5
    assert budget.tokens == (5 * 10 + 10 + 5) * DEV
    # 260 of 500; a trial, a member, a baseline and a test: 6 x 40.
    assert budget.allows(running=0, others=0, able=0)
    assert not budget.allows(running=1, others=0, able=0)
    assert budget.reason == "tokens"


def test_faults_and_stopped_trials_do_not_make_the_reserve_small(folder: Path) -> None:
    budget = free(folder, tokens=40 + 1 + 6 * 40)
    budget.spend(result(1, 1.0, items=1, stopped=stop(1)))
    budget.spend(result(items=0, fault="not finite"))
    assert budget.allows(running=0, others=0, able=0)
    assert not budget.allows(running=0, others=0, able=1)  # in full trials, as ever


def test_what_no_full_trial_has_shown_is_bounded(folder: Path) -> None:
    """A merge at fault generates nothing, one that was stopped little: the next may."""
    room = 2048 * (1 + 2 + 2 * (3 + 1) + 1)  # three trials, two members and one baseline, a test
    budget = Begun(folder, budget={"tokens": room}).budget(workers=64)
    budget.spend(result(items=0, fault="not finite"))
    budget.spend(result(1, items=1, stopped=stop(1)))
    assert not budget.allows(running=3, others=0, able=0)
    assert budget.allows(running=0, others=0, able=0)
    budget.spend(result(10))
    assert budget.allows(running=3, others=0, able=0)


def test_tokens_alone_never_end_a_search_that_generates_none(folder: Path) -> None:
    chosen = {"scorers": ["choice"], "fields": {"choices": "choices", "answer": "answer"}}

    def told(budget: dict[str, Any], **task: Any) -> list[str]:
        rows = [
            json.dumps({"id": f"c{i}", "prompt": f"{i}?", "choices": ["a", "b"], "answer": 0})
            for i in range(12)
        ]
        folder.joinpath("choices.jsonl").write_text("\n".join(rows))
        return [
            note
            for note in prepare(load(write(folder, budget=budget, **task))).notes
            if "budget.tokens" in note
        ]

    choice = {"tasks": {"t": {"items": "choices.jsonl", **chosen}}, "objectives": {"a": "t/choice"}}
    assert told({"tokens": 100}) == []
    assert told({"tokens": 100, "trials": 5}, **choice) == []
    (note,) = told({"tokens": 100}, **choice)
    assert "never ends the search" in note


def test_a_cost_needs_the_price_of_an_hour(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"s\.yaml:\d+:\d+: cost needs gpu_hour_price: what an"):
        load(write(folder, budget={"cost": 5.0}))
    assert load(write(folder, budget={"cost": 5.0, "gpu_hour_price": 2.0})).file.budget.cost == 5.0


def test_what_ends_a_search_is_told_whole() -> None:
    assert until(BudgetEntry()) == "stopped"
    limits = BudgetEntry(trials=5, timeout="8h", tokens=10**6, patience=9)
    told = "5 trials or 8h or 1,000,000 tokens or 9 trials in a row gain nothing"
    assert until(limits) == told
    assert until(BudgetEntry(trials=1, patience=1)) == "1 trial or 1 trial gains nothing"
    dear = BudgetEntry(gpu_hours=2.5, gpu_hour_price=3, cost=7)
    assert until(dear) == "2.5 GPU-hours or a cost of 7"


def test_numbers_are_readable_without_an_exponent() -> None:
    numbers = [0.0, 6.95e-05, 0.001, 0.0244, 3.14159, 99.94, 99.96, 12345.6]
    told = ["0", "under 0.001", "0.001", "0.0244", "3.14", "99.9", "100", "12,346"]
    assert [amount(number) for number in numbers] == told


# --- patience ------------------------------------------------------------------------------------


def ended_after(budget: Budget, gained: Sequence[float | None]) -> int | None:
    """After how many trials with these hypervolumes no other is allowed."""
    for number, volume in enumerate(gained):
        if not budget.allows(0, 0, 1):
            return number
        budget.told(volume)
    return None


def test_patience_waits_for_the_first_gain_the_start_up_and_so_many_trials(folder: Path) -> None:
    begun = Begun(folder, budget={"patience": 20})  # sampler: random, which has no start-up
    gaining = [0.1 * (1 + n / 10) for n in range(30)]
    assert ended_after(begun.budget(), [None] * 100) is None  # no front yet
    # On the edge of a reference a front has no volume; that it is there was a gain.
    assert ended_after(begun.budget(), [None] * 50 + [0.0] * 100) == 71
    assert ended_after(begun.budget(), [0.5] * 100) == 21
    # What gained more than 1% has to be 20 trials old.
    assert ended_after(begun.budget(), gaining + [gaining[-1]] * 40) == 50
    budget = begun.budget()
    ended_after(budget, [0.5] * 100)
    assert budget.reason == "patience"
    assert "the last 20 trials added 0.0% to the hypervolume, less than 1%" in str(budget.line())
    slow = [0.5 * 1.0011**n for n in range(100)]  # more than 1% in 20 trials
    assert ended_after(begun.budget(), slow) is None
    assert GAIN < 1 - 1.0011**-20


def test_patience_lets_the_sampler_begin(folder: Path) -> None:
    begun = Begun(folder, budget={"patience": 5}, sampler="tpe")
    assert ended_after(begun.budget(), [0.5] * 100) == 15  # 10 of TPE's own
    begun.study.enqueue_trial({"language.weight": 0.5})
    assert start_up(begun.study, begun.run.search) == 10
    for n in range(12):
        begun.study.enqueue_trial({"language.weight": n / 12})
    assert start_up(begun.study, begun.run.search) == 13
    assert ended_after(begun.budget(), [0.5] * 100) == 18
    own = load(begun.file, ["sampler={name: tpe, options: {n_startup_trials: 30}}"])
    assert start_up(begun.study, own) == 30


@pytest.mark.parametrize(
    ("sampler", "trials"),
    [
        ("auto", START),
        ({"name": "auto", "options": {"n_startup_trials": 3}}, 3),
        ("gp", 10),
        ("nsga2", 50),
        ({"name": "nsga3", "options": {"population_size": 8}}, 8),
        ("qmc", 0),
    ],
)
def test_the_start_is_that_of_the_sampler(sampler: Any, trials: int, search: Search) -> None:
    study = optuna.create_study(directions=["maximize"] * 2)
    data = sampler if isinstance(sampler, dict) else {"name": sampler}
    assert start_up(study, search.with_value("sampler", data, "typed")) == trials


def test_patience_counts_all_sessions_and_goes_on_when_raised(folder: Path) -> None:
    begun = Begun(folder, budget={"patience": 4})
    for right in (0.5, 0.75, 0.75, 0.5, 0.25):
        begun.tell(result(right=right))
    begun.tell(result(1, items=1, stopped=stop(1)))  # a stopped trial is a trial
    begun.tell(result(right=0.75), duplicate_of=1)  # a duplicate is none
    assert not begun.budget().allows(0, 0, 1)
    begun.run = Run(begun.run.folder, load(begun.file, ["budget={patience: 5}"]))
    assert begun.budget().allows(0, 0, 1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 2, st.integers(0, 3)), max_size=25))
def test_hypervolumes_of_a_run_are_those_of_its_fronts(
    search: Search, rows: list[tuple[int, int, int]]
) -> None:
    study = optuna.create_study(directions=["maximize"] * 2)
    for a, b, kind in rows:
        mark = {1: {studies.PARTIAL: {}}, 2: {studies.ORIGIN: "baseline base"}}.get(kind, {})
        study.add_trial(optuna.trial.create_trial(values=[a / 6, b / 6], user_attrs=mark))
    trials = studies.scored(study)
    points = studies.points(trials, search)
    expected: list[float | None] = []
    for number in trials:
        so_far = {n: point for n, point in points.items() if n <= number}
        if number in studies.paid(trials):
            expected.append(hypervolume(list(so_far.values())) if so_far else None)
    assert volumes(trials, search) == pytest.approx(expected)


# --- the ledger ----------------------------------------------------------------------------------


def test_a_killed_session_is_in_the_ledger_all_the_same(folder: Path) -> None:
    begun = Begun(folder, budget={})
    killed = Ledger(begun.run, 4, 2.0, every=0.02)
    killed.__enter__()
    end = time.monotonic() + 10
    while not (kept := sessions(begun.run)) or kept[0].seconds < 0.05:
        assert time.monotonic() < end
        time.sleep(0.01)
    killed.close()  # no more than its thread's end: what was written stands
    with Ledger(begun.run, 3, 0.0) as ledger:
        assert ledger.sessions[0].workers == 4
    both = sessions(begun.run)
    assert [held.workers for held in both] == [4, 3]
    assert both[0].priced_hours == pytest.approx(both[0].seconds * 8 / 3600)
    assert both[1].priced_hours == pytest.approx(both[1].seconds * 3 / 3600)
    held = ledger.own.seconds
    assert ledger.own.seconds == held  # it stands still after the end
    (begun.run.folder / "sessions.json").write_text("[{]")
    with pytest.raises(RunError, match=r"sessions\.json: cannot be read"):
        Ledger(begun.run, 1, 0.0)


# --- the account ---------------------------------------------------------------------------------


def accounted(folder: Path, **limits: Any) -> Begun:
    begun = Begun(folder, budget={"trials": 9, **limits}, baselines=["base"], stored=True)
    first = begun.tell(result(10, 4.0, right=0.5))
    begun.tell(result(10, 4.0, right=0.25))
    begun.tell(result(20, 1.0, items=1, stopped=stop(1)))
    begun.tell(result(10, 4.0, right=1.0, stopped=stop(2, audited=True)))  # would be on the front
    begun.tell(result(10, 4.0, right=0.25, stopped=stop(2, audited=True)))
    begun.tell(result(10, 4.0, right=0.5), duplicate_of=first)
    begun.tell(result(10, 4.0, right=0.75).taken_over("trial 7 of run old"))
    lost = begun.study.ask()
    lost.set_user_attr(studies.RECIPE, "{}")
    studies.fail(begun.study, lost)
    studies.fail(begun.study, begun.study.ask())  # never begun: that is no failure
    result(10, 4.0).save(begun.run.baseline("base"))
    result(10, 8.0, split="confirm", items=8).save(begun.run.held_out("confirm", "a"))
    result(10, 3.0, split="test").save(begun.run.held_out("test", "a"))
    begun.held(0.001, 0.002, workers=4, gpus=2.0)
    return begun


def test_the_account_of_a_run_is_whole_and_in_its_status(folder: Path) -> None:
    begun = accounted(folder, gpu_hour_price=3.0)
    account = Account.of(begun.run, begun.study, sessions(begun.run))
    assert (account.full, account.partial, account.taken) == (2, 3, 1)
    assert (account.duplicates, account.failed, account.trials) == (1, 1, 5)
    assert {name: spent.tokens for name, spent in account.stages.items()} == {
        "search": 40 + 40 + 20 + 40 + 40,
        "baselines": 40,
        "confirm": 80,
        "test": 40,
    }
    assert account.stages["search"].seconds == pytest.approx({"load": 4.25, "generate": 12.75})
    assert account.saved == 3 * 20  # the missing items of the one that really stopped
    assert (account.audited, account.misjudged) == (2, 1)
    assert account.worker_hours == pytest.approx(0.012)
    assert account.gpu_hours == pytest.approx(0.024)
    assert account.cost == pytest.approx(0.072)
    assert account.busy == pytest.approx((17 + 4 + 8 + 3) / (0.012 * 3600))
    told = json.loads(json.dumps(account.plain()))
    assert {name: told[name] for name in ("full", "failed", "cost")} == {
        name: getattr(account, name) for name in ("full", "failed", "cost")
    }
    assert account.metrics()["tokens_confirm"] == 80.0
    assert math.isclose(account.metrics()["cost"], 0.072)

    data = json.loads(json.dumps(as_json(look(begun.run))))
    assert data["account"]["gpu_hours"] == pytest.approx(0.024)
    assert data["account"]["stages"]["test"]["tokens"] == 40
    lines = status_lines(look(begun.run))
    assert "trials      2 full, 3 stopped early, 1 taken over, 1 duplicate, 1 failed" in lines
    assert "tokens      340 (search 180, baselines 40, confirm 80, test 40)" in lines
    assert "saved       about 60 tokens, by stopping trials early" in lines
    assert any("2 stopped trials were scored in full" in line for line in lines)
    held = "held        0.024 GPU-hours, 0.07 at the price given; 11 s in 2 sessions, workers busy"
    assert any(line.startswith(held) for line in lines)


def test_a_stopped_trial_is_an_error_if_no_front_member_is_as_good(folder: Path) -> None:
    begun = Begun(folder, budget={"trials": 9}, stored=True)
    for right in (0.5, 0.75, 1.0, 0.25):
        begun.tell(result(10, 4.0, right=right, stopped=stop(2, audited=True)))
    begun.tell(result(10, 4.0, right=0.5))  # as good as the first, though it came later
    account = Account.of(begun.run, begun.study, sessions(begun.run))
    assert (account.audited, account.misjudged) == (4, 2)


def test_hours_before_the_ledger_are_not_counted(folder: Path) -> None:
    begun = Begun(folder, budget={})
    begun.tell(result(10, 7200.0))  # by a version that kept no hours
    begun.held(0.5, workers=2)
    account = Account.of(begun.run, begun.study, sessions(begun.run))
    assert account.busy is None
    assert "busy" not in account.metrics()
    assert account.rows()["held"] == (
        "1 worker-hours; 1,800 s, without sessions before hours were counted"
    )


def test_a_run_without_a_ledger_tells_no_hours(folder: Path) -> None:
    begun = Begun(folder, budget={})
    account = Account.of(begun.run, begun.study, sessions(begun.run))
    assert account.busy is None
    assert account.cost is None
    assert account.lines() == ["trials: 0 full", "tokens: 0 (none yet)"]
    assert Session("2026-01-01T00:00:00+00:00", 3600.0, 2, 0.5).priced_hours == 1.0


# --- what check foretells ------------------------------------------------------------------------


def test_check_tells_answers_bounds_and_shares_and_makes_up_no_seconds(folder: Path) -> None:
    prepared = prepare(load(write(folder, baselines=["base"], budget={"trials": 20})))
    lines = estimate(prepared, folder / "runs" / "s")
    # 4 answers of at most 512 tokens; 20 trials, a baseline, 9 confirmed, a test.
    assert lines[0] == "a trial generates at most 2,048 tokens"
    assert (
        "confirming up to 8 members and 1 baselines on 4 answers each takes as much as 9"
        in (lines[1])
    )
    assert "in all as much as 31 full trials" in lines[2]
    assert f"at most {31 * 2048:,} tokens; for each minute that a full trial takes" in lines[3]
    assert "0.517 hours of a worker" in lines[3]
    assert "not known before a first one has run" in lines[4]
    sure = prepare(load(write(folder, baselines=["base"], budget={"tokens": 14 * 2048})))
    told = "28,672 tokens are enough for 3 trials, however long answers"
    assert told in estimate(sure, folder / "runs" / "s")
    few = prepare(load(write(folder, baselines=["base"], budget={"tokens": 9 * 2048})))
    told = "18,432 tokens are not enough for one trial, its confirmation and test: the search ends"
    assert any(told in line for line in estimate(few, folder / "runs" / "s"))
    drawn = {"sampler": {"name": "tpe", "options": {"n_startup_trials": 5}}}
    for trials, blind in ((5, True), (6, False)):
        small = prepare(load(write(folder, budget={"trials": trials}, **drawn)))
        lines = estimate(small, folder / "runs" / "s")
        told = "sampler tpe proposes its first 5 recipes without having learned anything: with 5"
        assert any(line.startswith(told) for line in lines) == blind


def test_check_confirms_no_more_members_than_there_are_trials(folder: Path) -> None:
    prepared = prepare(load(write(folder, baselines=["base"], budget={"trials": 2})))
    lines = estimate(prepared, folder / "runs" / "s")
    assert lines[1].startswith("confirming up to 2 members and 1 baselines")
    assert "in all as much as 7 full trials" in lines[2]  # 2, 3 confirmed, a baseline, a test
    # Members may come from a run whose results are taken over.
    sampler = {"name": "random", "warm_starts": ["run:runs/earlier"]}
    search = prepared.search.with_value("sampler", sampler, "")
    assert estimate(replace(prepared, search=search), folder)[1].startswith("confirming up to 8")


def test_check_takes_seconds_and_tokens_from_the_run_of_that_name(folder: Path) -> None:
    begun = Begun(folder, budget={"trials": 100, "gpu_hour_price": 2.0}, stored=True)
    place = begun.run.folder
    assert measured(begun.prepared, place) is None
    for _ in range(3):
        begun.tell(result(10, 36.0))
    begun.tell(result(10, 12.0, items=2, stopped=stop(2)))
    begun.held(0.5, workers=4)
    seen = measured(begun.prepared, place)
    assert seen is not None
    assert (seen.trials, seen.seconds, seen.full_seconds) == (4, 30.0, 36.0)
    assert (seen.tokens, seen.full_tokens, seen.workers) == (35.0, 40.0, 4)
    lines = estimate(begun.prepared, place)
    assert any("(4 trials): a trial takes 30 s and 35 tokens, a full one 36 s" in s for s in lines)
    # 100 trials of 30 s, confirmation of 8 and the test as 9 of 36 s.
    whole = next(line for line in lines if line.startswith("the whole run"))
    assert "about 3,860 tokens, 0.923 worker-hours, 1.85 at 2 an hour, 0.462 h on all of 2" in whole
    tight = load(folder / "s.yaml", ["budget={trials: 100, tokens: 1060}"])
    told = estimate(prepare(tight), place)
    assert any("budget.tokens is reached first, after about 20 trials" in line for line in told)
    short = load(folder / "s.yaml", ["budget={timeout: 30m}"])
    # 1,800 s of two workers; 4 rounds of confirmation and a test of 36 s with both held.
    told = estimate(prepare(short), place)
    assert any("budget.timeout is reached first, after about 108 trials" in line for line in told)
    short = load(folder / "s.yaml", ["budget={timeout: 20s}"])
    told = estimate(prepare(short), place)
    assert any(line.startswith("budget.timeout is too small for one trial, its") for line in told)
    busy = load(folder / "s.yaml", ["workers.count=900"])
    assert (
        "900 workers with trials of 30 s ask for 30 a second" in estimate(prepare(busy), place)[-1]
    )
    other = prepare(load(folder / "s.yaml", ["seed=3"]))
    assert measured(other, place) is None  # another search's


# --- the driver's ceiling ------------------------------------------------------------------------


def test_the_ceiling_is_that_of_who_proposes(folder: Path) -> None:
    def of(sampler: str, *more: str) -> tuple[str, Ceiling] | None:
        return ceiling(load(write(folder, sampler=sampler, budget={}), list(more)))

    gp = CEILINGS["gp", "sqlite"]
    assert of("gp", "budget.trials=1") == ("gp on sqlite", gp[0])
    assert of("gp", f"budget.trials={gp[1].trials}") == ("gp on sqlite", gp[1])
    assert of("gp") == ("gp on sqlite", gp[-1])
    between = of("gp", f"budget.trials={gp[1].trials * 2}")
    assert between is not None
    assert gp[2].per_second < between[1].per_second < gp[1].per_second
    # While workers wait, `auto` leaves proposals to TPE.
    assert of("auto", "budget.trials=5000") == of("tpe", "budget.trials=5000")
    assert of("auto", "budget.trials=100") == of("tpe", "budget.trials=100")
    assert of("grid", "models.0.parameters.weight={low: 0, high: 1, step: 0.5}") is None
    for known in CEILINGS.values():
        assert [held.trials for held in known] == sorted({held.trials for held in known})
        assert all(held.per_second > 0 for held in known)


def test_check_warns_above_half_of_the_ceiling(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CEILINGS, ("random", "sqlite"), (Ceiling(100, 10.0),))
    search = load(write(folder, budget={"trials": 100}))
    assert warning(search, 64, 13.0) is None  # 4.9 a second
    told = warning(search, 64, 12.0)
    assert told is not None
    assert told.startswith("64 workers with trials of 12 s ask for 5.3 a second and will wait")
    assert "random on sqlite proposes about 10 trials a second at 100 trials" in told
    assert str(warning(search, 64, None)).startswith("trials under 13 s would let 64 workers wait")
    assert "0.2 s would let 1 worker, and more of them in" in str(warning(search, None, None))
    # As `check` says it: no trial of this run is known.
    prepared = prepare(load(write(folder, budget={"trials": 100}, workers={"count": 64})))
    assert "13 s would let 64 workers wait" in estimate(prepared, folder / "runs" / "s")[-1]
