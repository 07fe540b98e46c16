"""What a run tells of its parameters: their importance, and ranges narrowed to the good trials.

The runs are made of told trials: no worker, no model is asked.
"""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from merge_core.yaml_io import load_yaml
from search.config import Search, load
from search.errors import ConfigError
from search.importance import FEWEST, FRONT, Importance, importances
from search.narrow import Seen, at_ends
from search.rewrite import Text, flow
from search.run import Run
from search.standing import behind
from search.study import PARTIAL, current_front, open_study, scored
from tests.search.small import GOOD, make_workplace

WEIGHT, DENSITY = "language.weight", "language.density"
PLATEAU, KNEE, SLACK = "reasoning.weight.plateau", "reasoning.weight.knee", "reasoning.slack"
NAMES = (WEIGHT, DENSITY, PLATEAU, KNEE, SLACK)


def scores(params: dict) -> list[float]:
    """Two objectives at odds over one weight; the plateau helps both; the rest changes nothing."""
    weight, plateau = params[WEIGHT], params.get(PLATEAU, 1.0)
    help_ = 1 - abs(plateau - 1.2) / 2
    return [help_ * (1 - abs(weight - 0.5)), help_ * (1 - abs(weight - 0.7))]


def run_of(folder: Path, text: str = GOOD, count: int = 50) -> Run:
    """A run of `count` random trials, told what `scores` gives."""
    make_workplace(folder)
    file = folder / "search.yaml"
    file.write_text(text)
    search = load(file)
    run = Run.start(search, folder / "runs" / "search", [], {})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study = open_study(run)
    for _ in range(count):
        trial = drawn.ask()
        search.space.sample(trial)
        study.add_trial(told(search, trial.params))
    return run


def told(search: Search, params: dict, values=None, **attributes) -> optuna.trial.FrozenTrial:
    distributions = search.space.distributions()
    return optuna.trial.create_trial(
        values=scores(params)[: len(search.objectives)] if values is None else values,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs=attributes,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = run_of(tmp_path_factory.mktemp("narrow"), count=48)
    study, (trial, *_) = open_study(run), scored(open_study(run)).values()
    for weight in (0.5, 0.7):
        study.add_trial(told(run.search, {**trial.params, PLATEAU: 1.2, WEIGHT: weight}))
    return run


# --- Importance ----------------------------------------------------------------------------------


def test_what_decides_the_scores_matters_and_the_rest_does_not(run):
    found = {one.name: one for one in importances(run)}
    assert set(found) == set(run.search.space.distributions())
    for column in ("right", "english", FRONT):
        assert math.isclose(sum(one.shares[column] for one in found.values()), 1.0)
    assert found[WEIGHT].matters("right")
    assert found[PLATEAU].matters("english")
    assert {WEIGHT, PLATEAU} <= set(list(found)[:3])
    assert sum(found[name].idle for name in (DENSITY, KNEE, SLACK)) >= 2
    low, middle, high = found[WEIGHT].best["right"]
    assert low <= middle <= high < 0.8


def test_importance_is_told_as_a_table_with_what_could_be_frozen(run, mergefront):
    ended = mergefront("importance", run.folder)
    assert ended.code == 0, ended.err
    assert WEIGHT in ended.out
    assert "no sign that it matters: " in ended.out
    assert f"mergefront narrow {run.folder} --freeze" in ended.out


def test_importance_as_json(run, mergefront):
    data = json.loads(mergefront("importance", run.folder, "--json").out)
    assert {row["name"] for row in data["parameters"]} == set(run.search.space.distributions())
    assert WEIGHT not in data["idle"]
    assert set(data["parameters"][0]["best"][FRONT]) == {"low", "median", "high"}


def test_a_choice_of_methods_and_what_only_some_of_them_have(tmp_path):
    text = GOOD.replace("merge_method: ties_sv", "merge_method: {choices: [ties_sv, linear]}")
    text = text.replace("      slack", "      # of ties_sv alone\n      slack")
    text = text.replace(
        "weight: {plateau: {low: 0.3, high: 1.2}, end: 0.5,", "weight: {plateau: 1, end: 0.5,"
    )
    run = run_of(tmp_path, text, count=40)
    found = {one.name: one for one in importances(run)}
    assert isinstance(found["merge_method"], Importance)
    assert found["merge_method"].best["right"] in ("ties_sv", "linear")
    assert found[WEIGHT].matters("right")


def test_too_few_trials_are_one_line(tmp_path, mergefront):
    run = run_of(tmp_path, count=9)
    for command in ("importance", "narrow"):
        ended = mergefront(command, run.folder)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert f"{run.folder}: 9 " in ended.err
    assert str(FEWEST) in mergefront("importance", run.folder).err
    assert at_ends(run) == []


def test_estimates_inform_but_are_never_on_the_front(tmp_path):
    run = run_of(tmp_path, count=25)
    study = open_study(run)
    better = {name: d.low for name, d in run.search.space.distributions().items()}
    study.add_trial(told(run.search, better, [1.0, 1.0], **{PARTIAL: {"items": 2, "of": 4}}))
    study.add_trial(told(run.search, better, [0.0, 0.0], fault="overflow"))
    trials = scored(study)
    leads = behind(trials, run.search)
    assert 25 not in current_front(study, run.search)
    assert all(leads[number] == 0.0 for number in current_front(study, run.search))
    assert leads[26] == max(leads.values())
    assert importances(run)


# --- Narrowing -----------------------------------------------------------------------------------


def test_a_narrower_file_keeps_the_front_and_all_else_that_the_file_says(run, mergefront):
    out = run.search.root / "again.yaml"
    ended = mergefront("narrow", run.folder, "-o", out)
    assert ended.code == 0, ended.err
    assert f"wrote {out}; next: mergefront run {out} --from {run.folder}" in ended.out
    before, after = run.search.space, load(out).space
    narrower = 0
    for name, old in before.distributions().items():
        new = after.distributions()[name]
        assert old.low <= new.low <= new.high <= old.high
        narrower += (new.low, new.high) != (old.low, old.high)
    assert narrower >= 1
    trials = scored(open_study(run))
    for number in current_front(open_study(run), run.search):
        recipe = before.from_params(trials[number].params)
        assert after.params_of(recipe) is not None
    kept, written = (run.search.root / "search.yaml").read_text(), out.read_text()
    assert len(kept.splitlines()) == len(written.splitlines())
    changed = [
        a
        for a, b in zip(kept.splitlines(), written.splitlines(), strict=True)
        if a != b and "low" not in a
    ]
    assert changed == []
    assert mergefront("check", out).code == 0
    assert mergefront("narrow", run.folder, "-o", out).err.endswith("another file with -o\n")


def test_what_does_not_matter_is_frozen_at_the_knee_or_at_a_given_value(run, mergefront):
    out = run.search.root / "frozen.yaml"
    ended = mergefront("narrow", run.folder, "-o", out, "--freeze", KNEE, "--freeze", f"{SLACK}=0")
    assert ended.code == 0, ended.err
    search = load(out)
    assert search.file.sampler.freeze[SLACK] == 0
    assert search.file.sampler.name == "random"
    values = [t.params[KNEE] for t in scored(open_study(run)).values()]
    frozen = search.file.sampler.freeze[KNEE]
    assert any(math.isclose(frozen, value, rel_tol=1e-3) for value in values)
    # Their ranges stay, so that earlier trials lie in the new space.
    for name in (KNEE, SLACK):
        assert search.space.distributions()[name] == run.search.space.distributions()[name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--freeze", "reasoning.slak"], "did you mean 'reasoning.slack'"),
        (["--freeze", f"{SLACK}=2"], f"--freeze {SLACK}=2: {SLACK} goes from 0 to 1: 2 lies out"),
        (["--freeze", f"{SLACK}=much"], f"--freeze {SLACK}=much: {SLACK} is a number"),
        (
            [word for name in NAMES for word in ("--freeze", name)],
            "every parameter is frozen: nothing to search",
        ),
        (["-o", "/elsewhere.yaml"], "its relative paths are relative to there"),
    ],
)
def test_what_cannot_be_narrowed_is_one_line(run, mergefront, arguments, words):
    ended = mergefront("narrow", run.folder, *arguments)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert words in ended.err


def test_a_flag_is_no_number_of_choices(tmp_path, mergefront):
    text = GOOD.replace("density: {low: 0.1, high: 1.0}", "density: {choices: [1, 0.5, 0.25]}")
    run = run_of(tmp_path, text, 12)
    out = tmp_path / "out.yaml"
    ended = mergefront("narrow", run.folder, "-o", out, "--freeze", f"{DENSITY}=true")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert f"{DENSITY} is one of 1, 0.5, 0.25, not True" in ended.err
    assert not out.exists()


def test_no_file_is_written_that_the_sampler_refuses(tmp_path, mergefront):
    one = GOOD.replace("sampler: random", "sampler: cmaes").replace(
        "  english: sums/language\n", ""
    )
    run = run_of(tmp_path, one.replace('constraints: {english: ">= 0.1"}\n', ""), 12)
    out = tmp_path / "out.yaml"
    ended = mergefront("narrow", run.folder, "-o", out, "--freeze", SLACK)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "sampler cmaes cannot go on with fewer dimensions" in ended.err
    assert not out.exists()


def test_no_file_is_written_that_leaves_nothing_to_search(tmp_path, mergefront):
    text = GOOD.replace("density: {low: 0.1, high: 1.0}", "density: {choices: [0.5, 0.25]}")
    frozen = {WEIGHT: 0.5, PLATEAU: 1.0, KNEE: 0.5, SLACK: 0.5}
    sampler = f"sampler: {flow({'name': 'random', 'freeze': frozen})}"
    run = run_of(tmp_path, text.replace("sampler: random", sampler), count=0)
    study, out = open_study(run), tmp_path / "out.yaml"
    for n in range(6):
        study.add_trial(told(run.search, {**frozen, DENSITY: 0.5}, [0.5 + n / 20, 1 - n / 20]))
        study.add_trial(told(run.search, {**frozen, DENSITY: 0.25}, [0.1, 0.1]))
    ended = mergefront("narrow", run.folder, "-o", out)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "every parameter is frozen: nothing to search; nothing is written" in ended.err
    assert not out.exists()


def test_comments_stay_and_a_file_that_has_changed_gives_way_to_the_runs_own_copy(tmp_path):
    run = run_of(tmp_path, GOOD.replace("weight: {low", "weight:  # of Thai\n        {low"), 12)
    file, out = tmp_path / "search.yaml", tmp_path / "out.yaml"
    from rich.console import Console

    from search.narrow import narrow

    narrow(Console(quiet=True), run, out, [])
    assert "# of Thai" in out.read_text()
    out.unlink()
    file.write_text(
        file.read_text().replace("high: 1.2}\n      density", "high: 9.2}\n      density")
    )
    narrow(Console(quiet=True), run, out, [])
    assert "# of Thai" not in out.read_text()
    assert load(out).space.distributions()[WEIGHT].high <= 1.2


def test_the_front_at_an_end_of_a_range_is_pointed_out(run, mergefront):
    ends = at_ends(run)
    assert any(PLATEAU in line and "high end" in line and "widen it" in line for line in ends)
    # Nothing is legal beyond these.
    assert not any(name in line for line in ends for name in (KNEE, SLACK))


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path, monkeypatch):
    from rich.console import Console

    from search.narrow import narrow

    run = run_of(tmp_path, GOOD, 12)
    out = run.search.root / "narrow.yaml"

    def refuse(*_: object, **__: object) -> None:  # rights do not bind root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), ".narrow.yaml.tmp")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(ConfigError, match=r"^\S*/narrow.yaml: cannot be written: Permission"):
        narrow(Console(quiet=True), run, out, [])


def test_a_range_that_is_written_once_for_two_experts_holds_both(tmp_path):
    text = GOOD.replace("density: {low: 0.1, high: 1.0}", "density: &d {low: 0.1, high: 1.0}")
    run = run_of(tmp_path, text.replace("density: 0.5", "density: *d"), 12)
    from rich.console import Console

    from search.narrow import narrow

    out = narrow(Console(quiet=True), run, None, [])
    assert out == run.search.root / "search-narrow.yaml"
    found = load(out).space.distributions()
    assert found[DENSITY] == found["reasoning.density"]


# --- One range -----------------------------------------------------------------------------------


def seen(distribution, good, front=None, tried=(), bounds=(-math.inf, math.inf)) -> Seen:
    front = good[:2] if front is None else front
    return Seen(("x",), distribution, tuple(front), tuple(good), tuple(tried), bounds)


@st.composite
def ranges(draw):
    low, width = draw(st.floats(0.001, 10)), draw(st.floats(0.001, 10))
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    if kind == "step":
        low, count = round(low, 2), draw(st.integers(1, 40))
        return FloatDistribution(low, round(low + count * 0.25, 2), step=0.25)
    return FloatDistribution(low, low + width, log=kind == "log")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ranges(), st.lists(st.floats(0, 1), min_size=5, max_size=12))
def test_a_new_range_lies_in_the_old_one_and_holds_the_front(old, shares):
    values = [old.low + share * (old.high - old.low) for share in shares]
    if old.step:
        values = [min(old.low + round((v - old.low) / 0.25) * 0.25, old.high) for v in values]
    new = seen(old, [min(max(v, old.low), old.high) for v in values]).narrowed()
    assert isinstance(new, FloatDistribution)
    assert old.low <= new.low <= new.high <= old.high
    assert (new.log, new.step) == (old.log, old.step)
    for value in values[:2]:
        assert new.low - 1e-12 <= value <= new.high + 1e-12
    if old.step:
        for end in (new.low, new.high):
            assert math.isclose((end - old.low) % 0.25 % 0.25, 0, abs_tol=1e-9) or math.isclose(
                (end - old.low) % 0.25, 0.25, abs_tol=1e-9
            )


def test_choices_that_no_good_trial_made_go_if_they_were_tried_often_enough():
    old = CategoricalDistribution(["a", "b", "c"])
    tried = ["a"] * 5 + ["b"] * 5 + ["c"] * 2
    assert seen(old, ["a"] * 5, tried=tried).narrowed().choices == ("a", "c")
    assert seen(old, ["a"] * 4, tried=tried).narrowed() == old


def test_few_values_change_nothing_and_neither_does_a_number():
    old = FloatDistribution(0, 1)
    assert seen(old, [0.5] * 4).narrowed() == old
    one = FloatDistribution(1, 1)
    assert seen(one, [1.0] * 9).narrowed() == one
    assert seen(one, [1.0] * 9).ends() == []


def test_a_range_is_widened_as_far_as_is_legal():
    old = FloatDistribution(0.2, 0.9)
    lines = seen(old, [0.2, 0.9], bounds=(0.0, 1.0)).ends()
    assert [line.rsplit("widen it, ")[1] for line in lines] == ["low: 0.025", "high: 1"]
    assert seen(FloatDistribution(0, 1), [0.0, 1.0], bounds=(0.0, 1.0)).ends() == []
    assert seen(old, [0.2, 0.9]).ends(frozen={"x"}) == []
    log = seen(FloatDistribution(0.1, 10, log=True), [0.1], [0.1]).ends()
    assert "low: 0.03" in log[0]


# --- Changes to a text ---------------------------------------------------------------------------

YAML = """\
a: {low: 1, high: 2}  # one
b:
  - &x {low: 0.5, high: 0.75}
  - *x
c:   # two
  d: [1,
      2]
  e:
    - f
    - g
"""


def test_only_what_is_changed_is_changed(tmp_path):
    text = Text(YAML)
    text.replace(text.node(("a", "low")), 1.5)
    text.replace(text.node(("b", 1, "high")), 0.7)
    text.replace(text.node(("c", "d")), [1])
    text.replace(text.node(("c", "e")), ["f"])
    text.put(("a",), "step", 0.1)
    text.put(("c",), "h", {"i": "yes", "j.k[0]": True})
    text.put((), "l", {})
    file = tmp_path / "x.yaml"
    file.write_text(str(text))
    assert load_yaml(file).data == {
        "a": {"low": 1.5, "high": 2, "step": 0.1},
        "b": [{"low": 0.5, "high": 0.7}] * 2,
        "c": {"d": [1], "e": ["f"], "h": {"i": "yes", "j.k[0]": True}},
        "l": {},
    }
    assert "# one" in str(text)
    assert "# two" in str(text)
    assert str(Text(YAML)) == YAML
    assert text.node(("a", "none")) is None
    assert text.node(("b", 7)) is None
    assert flow(np.float64(0.5).item()) == "0.5"
