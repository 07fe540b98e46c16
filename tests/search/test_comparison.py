"""Comparing trials, what items can tell, and confirming beside more baselines: on a real run."""

from __future__ import annotations

import io
import json
import math
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from merge_core.yaml_io import dump_yaml, load_yaml
from objectives import Estimate, ItemScore, SampleScore
from search.comparison import compare, noise, print_comparison, signed
from search.confirm import Member, load, members_of, save
from search.confirmed import findings, standing
from search.errors import ConfigError
from search.projection import _scores
from search.results import Result, Stopped
from search.run import Run
from search.study import PARTIAL, attributes_of, open_study
from tests.search.kit import finish, start
from tests.search.small import GOOD, CommandLine, make_workplace

COUNT = 12
LOADS = 10


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 trials; what each load of the scripted engine answers is drawn at random."""
    folder = make_workplace(tmp_path_factory.mktemp("compared"))
    rng = random.Random(5)
    table = {
        f"i{n}": [
            f"The answer is {n if rng.random() < 0.3 + 0.05 * load else 99}."
            for load in range(LOADS)
        ]
        for n in range(COUNT)
    }
    (folder / "responses.json").write_text(json.dumps(table))
    extra = [{"id": f"x{n}", "prompt": f"Say {n}", "answer": "7"} for n in range(3)]
    (folder / "extra.jsonl").write_text("".join(json.dumps(item) + "\n" for item in extra))
    (folder / "search.yaml").write_text(GOOD)
    data = load_yaml(folder / "search.yaml").data
    (folder / "ours.py").write_text(
        "def short(sample, limit):\n    return float(len(sample.generation.text) <= limit)\n"
    )
    ours = {"python": {"function": "ours:short", "args": {"limit": 30}, "binary": True}}
    data["tasks"]["extra"] = {"items": "extra.jsonl", "scorers": ["math", ours], "role": "report"}
    data["engine"] = {
        "kind": "scripted",
        "responses": "responses.json",
        "default": "The answer is 7.",
    }
    data["constraints"] = {}
    data["baselines"] = ["base", "uniform"]
    data["budget"] = {"trials": 4}
    (folder / "search.yaml").write_text(dump_yaml(data))
    printed = finish(start(folder, "run", "search.yaml"))
    assert "reported extra: math 1.000" in printed
    assert "short 1.000" in printed
    assert "than confirmed on average" in printed
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "work"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> CommandLine:
    return CommandLine(monkeypatch, capsys)


def test_two_trials_are_paired_by_item(folder: Path) -> None:
    run = Run.open(folder / "runs" / "search")
    split, rows, note = compare(run, "0", "trial 1", "dev")
    assert (split, note) == ("dev", "")
    results = [Result.load(run.trial(number)) for number in (0, 1)]
    scores = [[item.scores["math"] for item in result.items["sums"]] for result in results]
    right = rows[0]
    assert (right.score, right.objective) == ("right", True)
    assert right.a.value == sum(scores[0]) / 4
    assert right.difference is not None
    assert right.difference.value == pytest.approx((sum(scores[0]) - sum(scores[1])) / 4)
    assert right.better == sum(a > b for a, b in zip(*scores, strict=True))
    assert right.better + right.worse + right.same == 4
    names = [row.score for row in rows]
    assert names[:2] == ["right", "english"]
    assert "sums/joint" in names
    assert "sums/math" not in names  # it is the objective
    there = {row.score: row for row in compare(run, "1", "0", "dev")[1]}
    assert there["right"].p_value == right.p_value
    assert there["right"].better == right.worse


def test_confirmed_members_are_compared_on_held_out_items(folder: Path, cli: CommandLine) -> None:
    members = json.loads((folder / "runs/search/confirmed.json").read_text())["members"]
    trial = next(m["trial"] for m in members if m["trial"] is not None)
    ended = cli("compare", "runs/search", trial, "uniform")
    assert ended.code == 0, ended.err
    assert "on confirm items" in ended.out
    data = json.loads(cli("compare", "runs/search", trial, "uniform", "--json").out)
    assert data["split"] == "confirm"
    assert data["rows"][0]["a"]["n"] == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("77", "uniform"), "no result of trial 77; there are 4 trials, up to 3"),
        (("0", "unifrom"), "unknown trial or baseline 'unifrom'; did you mean 'uniform'?"),
        (("0", "1", "--split", "test"), "not scored on the test items; --split dev"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    folder: Path, cli: CommandLine, arguments: tuple[str, ...], words: str
) -> None:
    ended = cli("compare", "runs/search", *arguments)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert words in ended.err


def test_items_that_changed_show_what_was_read(
    folder: Path, cli: CommandLine, capsys: pytest.CaptureFixture
) -> None:
    data = json.loads(cli("compare", "runs/search", "0", "1", "--split", "dev", "--json").out)
    right = next(row for row in data["rows"] if row["score"] == "right")
    items = data["items"]
    assert sum("math" in one["better"] for one in items) == right["better"] > 0
    assert sum("math" in one["worse"] for one in items) == right["worse"]
    first = items[0]
    assert first["a"]["scores"]["math"] != first["b"]["scores"]["math"]
    assert first["a"]["details"]["math.answer"] != first["b"]["details"]["math.answer"]
    assert first["a"]["details"]["language.answer"]
    for width in (80, 160):
        to = io.StringIO()
        run = Run.open(folder / "runs" / "search")
        print_comparison(Console(file=to, width=width), run, "0", "1", "dev", as_json=False)
        out = to.getvalue()
        assert max(map(len, out.splitlines())) <= width
        assert f"items that changed: {len(items)}, trial 0 better in" in out
        assert first["a"]["details"]["math.answer"] in out
        assert "…" not in out


def test_noise_says_how_many_items_it_takes(folder: Path, cli: CommandLine) -> None:
    told = {row.score: row for row in noise(Run.open(folder / "runs" / "search"))}
    assert set(told) == {"sums/math", "sums/language"}
    math = told["sums/math"]
    assert (math.n, math.samples, math.within) == (4, 1, None)
    assert math.items[0.02] > math.items[0.05] > math.items[0.1]
    assert "items for" in cli("noise", "runs/search").out
    assert json.loads(cli("noise", "runs/search", "--json").out)[0]["n"] == 4


def test_a_damaged_result_is_named(folder: Path, cli: CommandLine) -> None:
    (folder / "runs" / "search" / "trials" / "000001.json").write_text('{"items": [')
    ended = cli("compare", "runs/search", "0", "1")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "000001.json: is damaged" in ended.err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_more_baselines_stand_beside_the_front_on_demand(folder: Path) -> None:
    rival = folder / "elsewhere" / "rival"
    shutil.copytree(folder / "models" / "thai", rival)
    printed = finish(
        start(folder, "confirm", "runs/search", "--baseline", "checkpoint:elsewhere/rival")
    )
    assert "checkpoint:elsewhere/rival" in printed
    run = Run.open(folder / "runs" / "search")
    assert run.search.file.baselines == ["base", "uniform", "checkpoint:elsewhere/rival"]
    members = json.loads(run.confirmed.read_text())["members"]
    assert [m["label"] for m in members if m["trial"] is None] == run.search.file.baselines
    report = (run.folder / "confirmed.md").read_text()
    assert "| checkpoint:elsewhere/rival | " in report
    assert "All confirmed intervals hold at once" in report


def test_a_baseline_that_is_none_leaves_the_run_as_it_was(folder: Path, cli: CommandLine) -> None:
    before = (folder / "runs/search/search.yaml").read_text()
    ended = cli("confirm", "runs/search", "--baseline", "unifrom")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "unknown baseline 'unifrom'" in ended.err
    assert (folder / "runs/search/search.yaml").read_text() == before


def test_a_users_scorer_is_part_of_what_a_run_keeps(folder: Path, cli: CommandLine) -> None:
    with (folder / "ours.py").open("a") as module:
        module.write("# changed\n")
    ended = cli("run", "search.yaml", "--name", "search")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "'tasks.items.extra.scorer.short.ours.py' is frozen in run" in ended.err


def member(label: str, confirmed: tuple[float, float], behind: str | None = None) -> Member:
    def estimates(values: tuple[float, float]) -> dict[str, Estimate]:
        names = ("right", "english")
        return {n: Estimate(v, v - 0.1, v + 0.1, 4) for n, v in zip(names, values, strict=True)}

    return Member(
        label=label,
        trial=int(label.split()[1]) if label.startswith("trial") else None,
        fingerprint="f",
        recipe={},
        claimed=estimates((0.9, 0.9)),
        confirmed=estimates(confirmed),
        joint=None,
        feasible=True,
        on_front=behind is None,
        behind=behind,
    )


def test_what_fell_off_is_named_with_what_is_ahead_of_it(folder: Path) -> None:
    run = Run.open(folder / "runs" / "search")
    members = [
        member("trial 1", (0.8, 0.7)),
        member("trial 2", (0.6, 0.6), behind="trial 1"),
        member("uniform", (0.7, 0.65)),
    ]
    lines = findings(run, members)
    assert lines[0].startswith("trial 2 fell off: trial 1 is at least as good")
    assert "baseline uniform is ahead of trial 2" in lines
    assert "right: claimed 0.200 better than confirmed on average, +0.300 at most" in lines
    assert [standing(m) for m in members] == ["front", "fell off: behind trial 1", "baseline"]


def test_the_front_is_of_feasible_members_and_of_equals_the_first_stays(folder: Path) -> None:
    search = Run.open(folder / "runs" / "search").search

    def result(name: str, right: int) -> Result:
        rows = [
            ItemScore(str(i), {"math": float(i < right), "language": 1.0}, "x", 1, "stop")
            for i in range(20)
        ]
        return Result({}, name, "confirm", {"sums": rows})

    results = {
        "trial 1": result("a", 12),
        "trial 2": result("b", 12),
        "trial 3": result("c", 20),
        "trial 4": result("d", 5),
    }
    results["trial 3"] = replace(results["trial 3"], fault="overflow")
    recipe = search.example()
    members = members_of(search, dict.fromkeys(results, recipe), results, results)
    by_label = {m.label: m for m in members}
    assert [label for label, m in by_label.items() if m.on_front] == ["trial 1"]
    assert by_label["trial 2"].behind is None
    assert standing(by_label["trial 2"]) == "equal to trial 1"
    assert "trial 2 is equal to trial 1 on held-out items" in findings(
        Run.open(folder / "runs" / "search"), members
    )
    assert by_label["trial 4"].behind == "trial 1"  # not the infeasible one, which nobody can take
    assert standing(by_label["trial 3"]) == "broken"


def test_infinite_bounds_are_null_in_json_and_come_back(folder: Path) -> None:
    run = Run.open(folder / "runs" / "search")
    endless = Estimate(3.0, 1.0, math.inf, 1)
    told = {objective.name: endless for objective in run.search.objectives}
    recipe = {"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}
    one = replace(
        member("trial 1", (0.8, 0.7)), joint=None, claimed=told, confirmed=told, recipe=recipe
    )
    save(run, [one], finished=4)
    assert "Infinity" not in run.confirmed.read_text()
    (again,), _ = load(run)
    assert again.claimed == again.confirmed == told


def test_samples_are_kept_and_their_ends_counted(tmp_path: Path) -> None:
    samples = tuple(
        SampleScore({"math": float(k == 0)}, f"say {k}", 3, reason)
        for k, reason in enumerate(("stop", "loop", "length", "loop"))
    )
    item = ItemScore("a", {"math": 0.25}, "say 0", 12, "stop", samples)
    plain = ItemScore("b", {"math": 1.0}, "x", 1, "stop")
    result = Result({}, "f", "dev", {"sums": [item, plain]})
    result.save(tmp_path / "r.json")
    again = Result.load(tmp_path / "r.json")
    assert again.items["sums"] == [item, plain]
    assert (again.ended("loop"), again.ended("length"), again.ended("stop")) == (0.4, 0.2, 0.4)
    assert asdict(again)["items"]["sums"][0]["samples"][1]["text"] == "say 1"


def test_more_samples_lessen_only_what_sampling_adds(folder: Path) -> None:
    file = folder / "runs" / "search" / "search.yaml"
    data = load_yaml(file).data
    data["tasks"]["sums"] |= {"samples": 4, "generate": {"temperature": 0.7}}
    file.write_text(dump_yaml(data))
    run = Run.open(folder / "runs" / "search")
    rng = random.Random(0)
    for number in range(4):
        result = Result.load(run.trial(number))
        rows = []
        for row in result.items["sums"]:
            answers = [float(rng.random() < 0.5) for _ in range(4)]
            samples = tuple(
                SampleScore({**row.scores, "math": right}, "t", 1, "stop") for right in answers
            )
            scores = {**row.scores, "math": sum(answers) / 4}
            rows.append(ItemScore(row.id, scores, "t", 4, "stop", samples))
        Result(result.recipe, result.fingerprint, "dev", {"sums": rows}).save(run.trial(number))
    told = {row.score: row for row in noise(run)}
    assert told["sums/math"].samples == 4
    assert 0.0 <= told["sums/math"].within <= 1.0


def test_a_difference_is_spelled_with_its_sign() -> None:
    assert signed(Estimate(0.034, -0.011, 0.08, 9)) == "+.034 [-.011, +.080]"


def told_anew(run: Run, trials: list[tuple[list[float], dict[str, object]]]) -> optuna.Study:
    """The run's study with these trials (values, attributes) in place of its own."""
    optuna.delete_study(study_name=run.name, storage=run.storage)
    results = run.folder / "trials"
    results.rename(run.folder / "kept")  # no study is begun where there are results
    study = open_study(run)
    (run.folder / "kept").rename(results)
    for values, attributes in trials:
        study.add_trial(optuna.trial.create_trial(values=values, user_attrs=attributes))
    return study


def stop(run: Run, number: int, items: int = 2) -> Result:
    """A trial's result, as if a race had stopped it after so many of its 4 items."""
    full = Result.load(run.trial(number))
    stopped = Stopped("behind trial 0", {"right": 0.1, "english": 0.2}, {}, asked=items, of=4)
    result = replace(full, items={"sums": full.items["sums"][:items]}, stopped=stopped)
    result.save(run.trial(number))
    return result


def test_a_stopped_trial_is_compared_on_what_it_answered(folder: Path, cli: CommandLine) -> None:
    run = Run.open(folder / "runs" / "search")
    stopped, full = stop(run, 1), Result.load(run.trial(0))
    _, rows, note = compare(run, "0", "1", "dev")
    assert note == "trial 1 was stopped after 2 of 4 items: both are compared on what both answered"
    for row in rows:
        assert (row.a.n, row.b.n) == (2, 2)
        assert row.difference is not None
        assert row.difference.value == pytest.approx(row.a.value - row.b.value)
    right = [[i.scores["math"] for i in r.items["sums"][:2]] for r in (full, stopped)]
    assert [rows[0].a.value, rows[0].b.value] == [sum(scores) / 2 for scores in right]
    assert note in cli("compare", "runs/search", "0", "1", "--split", "dev").out
    data = json.loads(cli("compare", "runs/search", "1", "0", "--split", "dev", "--json").out)
    assert data["note"] == note
    assert data["rows"][0]["b"]["n"] == 2

    stop(run, 2, 3)
    _, (row, *_), note = compare(run, "trial:2", "1", "dev")
    assert note.startswith("trial 2 was stopped after 3 of 4 items and trial 1 was stopped after 2")
    assert (row.a.n, row.b.n) == (2, 2)

    # An audited one has answered all.
    whole = replace(full, stopped=replace(stopped.stopped, audited=True))
    whole.save(run.trial(0))
    assert compare(run, "0", "3", "dev")[2] == ""


def test_noise_is_told_by_full_trials_that_hold_the_constraints(folder: Path) -> None:
    run = Run.open(folder / "runs" / "search")
    # A front of one, stopped trials with better estimates than the rest, and a fault.
    stop(run, 1)
    part = {PARTIAL: {"reason": "", "items": 2, "of": 4, "audited": False}}
    full = [([1.0, 1.0], {}), ([0.9, 0.9], part), ([0.5, 0.5], {}), ([0.1, 0.1], {})]
    told_anew(run, [*full, *[([0.9, 0.9], part)] * 7, ([0.8, 0.8], {"fault": "NaN"})])
    assert [told.pairs for told in noise(run)] == [2, 2]
    told_anew(run, [full[0], *full[1:2] * 2, ([0.9, 0.9], {"fault": "NaN"})])
    with pytest.raises(ConfigError, match="needs two trials with full scores"):
        noise(run)


@pytest.mark.parametrize("command", ["noise", "front"])
def test_a_missing_result_is_one_line(command: str, folder: Path, cli: CommandLine) -> None:
    run = Run.open(folder / "runs" / "search")
    told_anew(run, [([1.0, 0.5], {}), ([0.5, 1.0], {})])
    (run.folder / "confirmed.json").unlink(missing_ok=True)
    run.trial(1).unlink()
    ended = cli(command, "runs/search")
    assert ended.code == 2
    assert ended.err == f"mergefront: {run.trial(1)}: is missing; put it back from a copy\n"


def test_an_estimate_is_tracked_without_what_is_of_the_answered_items(folder: Path) -> None:
    run = Run.open(folder / "runs" / "search")
    stopped, full = stop(run, 1), Result.load(run.trial(0))
    trials = (([0.1, 0.2], stopped), ([0.5, 1.0], full))
    study = told_anew(run, [(values, attributes_of(r, run.search)) for values, r in trials])
    first, second = (_scores(trial, run.search) for trial in study.trials)
    assert first == {"right": 0.1, "right_n": 2, "english": 0.2, "english_n": 2}
    assert {"right_low", "right_high", "english_low", "english_high", "joint"} < set(second)
