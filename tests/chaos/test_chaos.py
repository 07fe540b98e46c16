"""The harness itself: `make chaos` runs it; here is shown that its checks find what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from search.config import load
from search.samplers import make_sampler
from tests.chaos import checks
from tests.chaos.checks import Trial
from tests.chaos.schedule import KINDS, schedule
from tests.chaos.workplace import make_workplace


@pytest.mark.parametrize("kills", [8, 100])
def test_a_seed_is_a_schedule_in_which_no_kind_is_left_out(kills: int) -> None:
    drawn = schedule(7, kills, 300)
    assert drawn == schedule(7, kills, 300)
    assert drawn != schedule(8, kills, 300)
    counts = Counter(kill.kind for kill in drawn)
    assert set(counts) == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert [kill.after for kill in drawn] == sorted(kill.after for kill in drawn)
    assert all(0 < kill.after < 300 for kill in drawn)
    assert Counter(kill.kind for kill in schedule(7, kills, 300, heads=2))["head"] == 2


def told(number: int, *values: float, state: str = "COMPLETE", **attributes: object) -> Trial:
    return Trial(number, state, values, {}, {"fingerprint": f"f{number}", **attributes})


GOOD = [
    told(0, 0.5, 0.5),
    told(1, state="FAIL"),
    told(2, 0.2, 0.9),
    told(3, 0.5, 0.5, duplicate_of=0),
]


def test_a_study_is_whole_or_not() -> None:
    assert checks.study(GOOD, 2) == []
    for broken, word in (
        (GOOD[:1] + GOOD[2:], "numbered"),
        ([*GOOD, GOOD[-1]], "numbered"),
        ([*GOOD, told(4, state="RUNNING")], "RUNNING"),
        ([*GOOD, told(4, 0.1, 0.1)], "3 trials are complete"),
        ([*GOOD, replace(told(4, 0.5, 0.5), attributes={"fingerprint": "f0"})], "paid for twice"),
        ([*GOOD, told(4, 0.5, duplicate_of=0)], "with values"),
    ):
        assert any(word in problem for problem in checks.study(broken, 2)), word


def test_a_run_has_a_whole_result_for_each_trial_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "trials"
    folder.mkdir()
    (folder / "000000.json").write_text('{"items": {}}')
    assert checks.results(GOOD, tmp_path) == ["trial 2: no result file"]
    (folder / "000002.json").write_text('{"items": {}')
    assert ["is not whole" in problem for problem in checks.results(GOOD, tmp_path)] == [True]
    (folder / "000002.json").write_text('{"items": {}}')
    assert checks.results(GOOD, tmp_path) == []
    (folder / "000003.json").write_text('{"items": {}}')
    assert checks.results(GOOD, tmp_path) == ["trial 3: only a result file"]


def test_the_front_is_of_those_that_hold_the_constraint() -> None:
    assert checks.front([*GOOD, told(4, 0.4, 0.4), told(5, 0.9, 0.05)]) == {(0.5, 0.5), (0.2, 0.9)}


def test_scores_of_another_recipe_are_found(tmp_path: Path) -> None:
    file = make_workplace(
        tmp_path,
        trials=2,
        workers=1,
        delay=0.0,
        seed=0,
        storage=f"sqlite:///{tmp_path / 'study.db'}",
        tracking="http://127.0.0.1:9",
    )
    search = load(file)
    import optuna

    study = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler(search, 0))
    recipes = [search.space.sample(study.ask()).plain() for _ in range(2)]
    alone = [checks.score_alone(recipe, file) for recipe in recipes]
    assert checks.score_alone(recipes[0], file) == alone[0]
    assert alone[0] != alone[1]
    trials = []
    for number, rows in enumerate(alone):
        values = [sum(row[1][key] for row in rows) / len(rows) for key in checks.SCORES]
        trials.append(told(number, *values, recipe=json.dumps(recipes[number])))
        stored = [{"text": text, "scores": scores} for text, scores in rows]
        path = tmp_path / "run" / "trials" / f"{number:06d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"items": {"sums": stored}}))
    run = tmp_path / "run"
    assert checks.scores(trials, run, file) == []
    swapped = replace(trials[0], attributes=trials[1].attributes)
    problems = checks.scores([swapped, trials[1]], run, file)
    assert len(problems) == 3, problems
    (odd,) = checks.scores([replace(trials[0], values=(0.0, 0.0)), trials[1]], run, file)
    assert odd.startswith("trial 0: told (0.0, 0.0)")


def test_no_process_gets_out_of_sight() -> None:
    # One that leaves its session, whose parent is killed, and that calls itself something else.
    script = (
        "import subprocess, sys, time\n"
        "from tests.chaos import processes\n"
        "from tests.processes import end\n"
        "processes.adopt_orphans()\n"
        'child = \'import subprocess, sys, time; subprocess.Popen([sys.executable, "-c", '
        '"import time; time.sleep(60) # strayed"], start_new_session=True, env={}); '
        "print(1, flush=True); time.sleep(60)'\n"
        "parent = subprocess.Popen([sys.executable, '-c', child], stdout=subprocess.PIPE)\n"
        "parent.stdout.readline()\n"
        "parent.kill()\n"
        "parent.wait()\n"
        "found = processes.descendants(lambda line: 'strayed' in line)\n"
        "end(found)\n"
        "processes.bury(set())\n"
        "print(len(found), len(processes.descendants()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["1", "0"]
