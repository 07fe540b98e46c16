"""Every sampler by name on spaces of every kind, through ask and tell alone."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from merge_core.yaml_io import dump_yaml
from search import samplers
from search.config import Search, load
from search.errors import ConfigError
from search.sampler_classes import START, Auto
from search.samplers import SAMPLERS, make_sampler, random_sampler, scouts
from search.unit import to_unit

UNIT = {"low": 0.0, "high": 1.0}
STEPS = {"low": 0.0, "high": 1.0, "step": 0.25}
LOG = {"low": 0.05, "high": 1.0, "log": True}
SPACES: dict[str, dict[str, Any]] = {
    "numeric": {"weight": UNIT, "density": {"low": 0.1, "high": 1.0}},
    "stepped": {"weight": STEPS, "density": {"low": 0.2, "high": 1.0, "step": 0.2}},
    "log": {"weight": LOG, "density": 0.5},
    "choices": {"weight": {"choices": [0.25, 0.5, 1.0]}, "density": 0.5},
    "mixed": {"weight": STEPS, "density": {"choices": [0.2, 0.5, 1.0]}},
    "conditional": {"weight": UNIT, "density": {"low": 0.1, "high": 1.0}},
    "conditional in steps": {"weight": STEPS, "density": {"choices": [0.2, 1.0]}},
}
FEW: dict[str, dict[str, Any]] = {
    "gp": {"n_startup_trials": 26},  # each ask of its model takes a third of a second
    "auto": {"gp_trials": 9},
    "nsga2": {"population_size": 8},
    "nsga3": {"population_size": 8},
}
REFUSED = {
    "gp": "takes no parameter that only some methods have",
    "nsga2": "takes no parameter that only some methods have",
    "nsga3": "takes no parameter that only some methods have",
    "qmc": "takes no parameter that only some methods have",
    "cmaes": "takes one objective",
    "grid": "needs a step for every range|takes no parameter",
    "bruteforce": "needs a step for every range",
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def write(folder: Path, space: str = "numeric", **changes: Any) -> Path:
    method: Any = {"choices": ["linear", "ties"]} if "conditional" in space else "ties"
    data = {
        "merge_method": method,
        "base_model": "b",
        "models": [{"model": n, "name": n, "parameters": SPACES[space]} for n in ("l", "r")],
        "tasks": {"t": {"items": "i.jsonl", "scorers": ["math", {"language": {"expect": "th"}}]}},
        "objectives": {"right": "t/math", "said": "t/language"},
        "constraints": {"right": ">= 0.5", "t/language": ">= 0.1"},
        "sampler": {"name": "random"},
        **changes,
    }
    (folder / "s.yaml").write_text(dump_yaml(data))
    return folder / "s.yaml"


def search_of(folder: Path, space: str = "numeric", **changes: Any) -> Search:
    return load(write(folder, space, **changes))


def refused(folder: Path, space: str = "numeric", **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        search_of(folder, space, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def scores(params: Mapping[str, Any]) -> tuple[float, float]:
    """A front from one expert to the other; best at density .5 of the methods that have one."""
    left, right = (float(params[f"{name}.weight"]) for name in ("l", "r"))
    density = float(params.get("l.density", 0.5))
    loss = (density - 0.5) ** 2 + 0.2 * (params.get("merge_method") == "linear")
    return 1 - (right - 0.9) ** 2 - loss, 1 - (left - 0.9) ** 2 - loss - 0.3 * right


def ask_and_tell(search: Search, asks: int, running: int = 2) -> list[FrozenTrial]:
    """A search with some trials always running, as the driver's are; warnings are errors."""
    study = optuna.create_study(
        directions=[o.direction for o in search.objectives], sampler=make_sampler(search, 0)
    )
    held: list[tuple[optuna.Trial, Mapping[str, Any]]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("error", FutureWarning)
        for _ in range(asks):
            trial = study.ask()
            search.space.sample(trial)
            held.append((trial, trial.params))
            if len(held) > running:
                ended, params = held.pop(0)
                values = scores(params)
                for constraint in search.constraints:
                    index = 0 if constraint.key == "right" else 1
                    ended.set_constraint(constraint.key, constraint.violation(values[index]))
                study.tell(ended, values[: len(search.objectives)])
    return study.trials


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_or_is_refused_in_one_line(
    name: str, space: str, tmp_path: Path
) -> None:
    sampler = {"name": name, "seed": 3, "options": FEW.get(name, {})}
    try:
        search = search_of(tmp_path, space, sampler=sampler)
    except ConfigError:
        message = refused(tmp_path, space, sampler=sampler)
        assert re.search(REFUSED[name], message)
        assert message.startswith(f"{tmp_path / 's.yaml'}:")
        return
    trials = ask_and_tell(search, 30)
    assert len(trials) == 30
    kinds = search.space.distributions()
    for trial in trials:
        for key, value in trial.params.items():
            assert kinds[key]._contains(kinds[key].to_internal_repr(value))
    assert len({tuple(sorted(t.params.items())) for t in trials}) > 4


def test_which_sampler_takes_which_space(tmp_path: Path) -> None:
    """The table of docs/samplers.md."""
    taken: dict[str, set[str]] = {name: set() for name in SAMPLERS}
    one = {"objectives": {"right": "t/math"}, "constraints": {}}
    for name in SAMPLERS:
        for space in SPACES:
            try:
                search_of(tmp_path, space, sampler=name, **(one if name == "cmaes" else {}))
            except ConfigError:
                continue
            taken[name].add(space)
    fixed = {space for space in SPACES if "conditional" not in space}
    assert taken["auto"] == taken["tpe"] == taken["random"] == set(SPACES)
    for name in ("gp", "nsga2", "nsga3", "qmc"):
        assert taken[name] == fixed
    assert taken["cmaes"] == {"numeric", "stepped", "log"}
    assert taken["grid"] == {"stepped", "choices", "mixed"}
    assert taken["bruteforce"] == {"stepped", "choices", "mixed", "conditional in steps"}


def test_every_name_resolves_and_every_option_is_the_constructors(tmp_path: Path) -> None:
    words = {int: "int", float: "float", bool: "bool", str: "str"}
    for name, kind in SAMPLERS.items():
        parameters = inspect.signature(kind.load()).parameters
        assert "seed" in parameters, name
        for option, rule in kind.options.items():
            assert words[rule.type] in str(parameters[option].annotation).split(" | "), option
        assert set(kind.defaults) <= set(parameters)
    known = {kind.alias for kind in SAMPLERS.values()}
    bases = {"BaseSampler", "BaseGASampler", "PartialFixedSampler", "nsgaii"}
    assert set(optuna.samplers.__all__) - bases <= known


def test_names_of_optunas_classes_are_taken(tmp_path: Path) -> None:
    assert search_of(tmp_path, sampler="GPSampler").file.sampler.name == "gp"
    assert "did you mean 'tpe'?" in refused(tmp_path, sampler="tpee")


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ({"name": "tpe", "options": {"n_startup": 3}}, "did you mean 'n_startup_trials'?"),
        ({"name": "gp", "options": {"n_startup_trials": 2.5}}, "is a whole number, not 2.5"),
        ({"name": "gp", "options": {"n_startup_trials": True}}, "is a whole number, not True"),
        ({"name": "gp", "options": {"n_startup_trials": 0}}, "is at least 1, not 0"),
        ({"name": "random", "options": {"a": 1}}, "sampler random takes no options"),
        ({"name": "nsga2", "options": {"crossover_prob": 3}}, "crossover_prob"),
        ({"name": "qmc", "options": {"qmc_type": "foo"}}, "Choose either halton or sobol"),
        ({"name": "tpe", "options": {"group": True, "multivariate": False}}, "multivariate"),
        ({"freeze": {"l.wieght": 0.3}}, "did you mean 'l.weight'?"),
        ({"freeze": {"l.weight": 3}}, "goes from 0 to 1: 3 lies outside"),
        ({"freeze": {"l.weight": "x"}}, "is a number, not 'x'"),
        ({"name": "cmaes", "freeze": {"l.weight": 0.5}}, "takes one objective"),
        ({"warm_starts": ["run"]}, "unknown warm start 'run'; known: published"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(
    sampler: dict[str, Any], said: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, sampler=sampler)
    assert said in message
    line = (tmp_path / "s.yaml").read_text().splitlines()[int(message.split(":")[1]) - 1]
    key = next(iter(sampler.get("options") or sampler.get("freeze") or {"warm_starts": 0}))
    assert key.split(".")[0] in line or "options:" in line or "sampler:" in line or "- run" in line


def test_options_reach_the_constructor(tmp_path: Path) -> None:
    search = search_of(tmp_path, sampler={"name": "tpe", "options": {"n_startup_trials": 23}})
    assert make_sampler(search, 0)._n_startup_trials == 23
    search = search_of(tmp_path, sampler={"name": "auto", "options": {"gp_trials": 5}})
    auto = make_sampler(search, 0)
    assert isinstance(auto, Auto)
    trials = [optuna.trial.create_trial(value=0.0) for _ in range(2)]
    trials[0].number, trials[1].number = 4, 5
    assert [type(auto.of(trial)).__name__ for trial in trials] == ["EHVISampler", "TPESampler"]


@pytest.mark.parametrize("space", ["choices", "mixed", "conditional"])
def test_auto_takes_tpe_where_the_space_is_not_numeric(space: str, tmp_path: Path) -> None:
    auto = make_sampler(search_of(tmp_path, space, sampler="auto"), 0)
    assert isinstance(auto, Auto)
    first = optuna.trial.create_trial(value=0.0)
    assert type(auto.of(first)).__name__ == "TPESampler"
    assert auto.of(first)._group == (space == "conditional")


def test_the_middle_comes_first_of_what_auto_proposes_and_not_again(tmp_path: Path) -> None:
    """After what is put first, and in a later session."""
    search = search_of(tmp_path, sampler="auto")
    study = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler(search, 0))
    low = {name: d.low for name, d in search.space.distributions().items()}
    study.enqueue_trial(low)
    proposed = []
    for _ in range(3):
        trial = study.ask()
        search.space.sample(trial)
        proposed.append(trial.params)
    middle = [all(v in (0.5, 0.55) for v in params.values()) for params in proposed]
    assert middle == [False, True, False]
    study.sampler = make_sampler(search, 3)
    again = study.ask()
    search.space.sample(again)
    assert not all(value in (0.5, 0.55) for value in again.params.values())


@pytest.mark.parametrize("space", ["numeric", "stepped", "log", "mixed", "conditional"])
def test_auto_begins_in_the_middle_and_goes_on_all_over_the_space(
    space: str, tmp_path: Path
) -> None:
    search = search_of(
        tmp_path, space, sampler={"name": "auto", "options": {"n_startup_trials": 6}}
    )
    study = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler(search, 0))
    shares = []
    for number in range(6):
        trial = study.ask()
        search.space.sample(trial)
        for name, distribution in trial.distributions.items():
            if not isinstance(distribution, FloatDistribution):
                continue
            assert distribution._contains(trial.params[name])
            share = to_unit(distribution, trial.params[name])
            if number == 0:
                step = (distribution.step or 0.0) / (distribution.high - distribution.low)
                assert abs(share - 0.5) <= step / 2 + 1e-9
            shares.append(share)
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_scouts_are_for_auto_and_for_searches_that_can_afford_them(tmp_path: Path) -> None:
    few_trials = search_of(tmp_path, sampler="auto", budget={"trials": 47})
    assert scouts(few_trials) == 0
    search = search_of(tmp_path, sampler="auto", budget={"trials": 48})
    assert scouts(search) == START
    few = {"name": "auto", "options": {"n_startup_trials": 6}}
    assert scouts(search_of(tmp_path, sampler=few, budget={"trials": 24})) == 6
    assert scouts(search_of(tmp_path, sampler="auto", budget={"tokens": 10**6})) == START
    for other in (
        {"sampler": "tpe"},
        {"sampler": "gp"},
        {"sampler": "auto", "racing": False},
        {"sampler": "auto", "racing": {"scouts": False}},
        {"sampler": {"name": "auto", "options": {"gp_trials": 0}}},
    ):
        assert scouts(search_of(tmp_path, **{"budget": {"trials": 100}, **other})) == 0
    assert scouts(search_of(tmp_path, "choices", sampler="auto", budget={"trials": 100})) == 0


@pytest.mark.parametrize("name", ["auto", "gp", "tpe", "nsga2", "nsga3", "qmc", "random"])
def test_a_frozen_parameter_stays_and_the_others_go_on(name: str, tmp_path: Path) -> None:
    """Frozen in the middle of a search, as after its importance report."""
    few = {"gp": {"n_startup_trials": 13}, "auto": {"gp_trials": 15}}
    search = search_of(tmp_path, sampler={"name": name, "options": few.get(name, {})})
    study = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler(search, 0))

    def go_on(asks: int) -> list[FrozenTrial]:
        for _ in range(asks):
            trial = study.ask()
            search.space.sample(trial)
            for constraint in search.constraints:
                trial.set_constraint(constraint.key, -1.0)
            study.tell(trial, scores(trial.params))
        return study.trials[-asks:]

    go_on(13)
    frozen = samplers.freeze(search, ["l.density=0.3"])
    study.sampler = make_sampler(frozen, 13)
    after = go_on(5)
    assert {trial.params["l.density"] for trial in after} == {0.3}
    assert len({trial.params["r.density"] for trial in after}) >= 4
    study.sampler = random_sampler(frozen, 18)
    assert {trial.params["l.density"] for trial in go_on(3)} == {0.3}
    study.sampler = make_sampler(search, 21)
    assert {trial.params["l.density"] for trial in go_on(1)} != {0.3}


def test_a_method_can_be_frozen(tmp_path: Path) -> None:
    sampler = {"name": "tpe", "freeze": {"merge_method": "ties"}}
    trials = ask_and_tell(search_of(tmp_path, "conditional", sampler=sampler), 14)
    assert {trial.params["merge_method"] for trial in trials} == {"ties"}


def test_freezing_from_the_command_line(tmp_path: Path) -> None:
    search = load(write(tmp_path, sampler="tpe"), ["budget.trials=7"])
    frozen = samplers.freeze(search, ["l.density=0.3", "r.weight=1"])
    assert frozen.file.sampler.freeze == {"l.density": 0.3, "r.weight": 1}
    assert frozen.file.sampler.name == "tpe"
    assert frozen.file.budget.trials == 7  # what --set said still holds
    with pytest.raises(ConfigError, match=r"^--freeze l.density=3: l.density goes from 0.1 to 1"):
        samplers.freeze(search, ["l.density=3"])
    with pytest.raises(ConfigError, match=r"^--freeze l.density: write NAME=VALUE"):
        samplers.freeze(search, ["l.density"])
    every = [f"{name}=0.5" for name in search.space.distributions()]
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        samplers.freeze(search, every)


def test_a_step_that_a_frozen_value_misses(tmp_path: Path) -> None:
    message = refused(tmp_path, "stepped", sampler={"freeze": {"l.weight": 0.3}})
    assert "in steps of 0.25: 0.3 is none of them" in message
    message = refused(tmp_path, "choices", sampler={"freeze": {"l.weight": 0.3}})
    assert "is one of 0.25, 0.5, 1.0, not 0.3" in message


def test_cmaes_takes_one_objective_and_ranges(tmp_path: Path) -> None:
    one = {"objectives": {"right": "t/math"}, "constraints": {}}
    trials = ask_and_tell(search_of(tmp_path, sampler="cmaes", **one), 60)
    values = [trial.values[0] for trial in trials if trial.values]
    assert np.mean(values[-15:]) > np.mean(values[:15])
    assert "takes ranges only" in refused(tmp_path, "mixed", sampler="cmaes", **one)
    sampler = {"name": "cmaes", "freeze": {"l.weight": 0.5}}
    assert "cannot go on with fewer dimensions" in refused(tmp_path, sampler=sampler, **one)


@pytest.mark.parametrize("name", ["grid", "bruteforce"])
def test_a_whole_space_is_walked_without_repeats_over_two_sessions(
    name: str, tmp_path: Path
) -> None:
    search = search_of(tmp_path, "choices", sampler={"name": name, "seed": 1}, constraints={})
    study = optuna.create_study(directions=["maximize"] * 2)
    study.enqueue_trial({"l.weight": 0.5})  # as published schedules do, which leave some open
    for session in (0, 5):
        study.sampler = make_sampler(search, session)
        for _ in range(5):
            trial = study.ask()
            search.space.sample(trial)
            study.tell(trial, scores(trial.params))
    seen = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(seen)) == 9
    assert len(seen) == 10


def test_a_grid_is_not_larger_than_memory(tmp_path: Path) -> None:
    fine = {"low": 0.0, "high": 1.0, "step": 0.001, "anchors": 3}
    models = [{"model": n, "name": n, "parameters": {"weight": fine}} for n in ("l", "r")]
    message = refused(tmp_path, models=models, merge_method="linear", sampler="grid")
    assert "would list" in message
    assert "bruteforce" in message


def test_a_scrambled_sequence_goes_on_where_it_was(tmp_path: Path) -> None:
    def proposals(sessions: tuple[int, ...]) -> list[dict[str, Any]]:
        search = search_of(tmp_path, sampler={"name": "qmc", "seed": 2}, constraints={})
        study = optuna.create_study(directions=["maximize"] * 2)
        for asks in sessions:
            study.sampler = make_sampler(search, len(study.trials))
            for _ in range(asks):
                trial = study.ask()
                search.space.sample(trial)
                study.tell(trial, scores(trial.params))
        return [trial.params for trial in study.trials[1:]]  # the first is drawn at random

    assert proposals((6,)) == proposals((3, 3))


@pytest.mark.parametrize("name", ["gp", "tpe", "nsga2"])
def test_feasible_recipes_are_preferred(name: str, tmp_path: Path) -> None:
    """The best of both objectives breaks the constraint; who looks for it fails most trials."""

    def share(*, told: bool) -> float:
        options = {"population_size": 10} if name == "nsga2" else {}
        asks = {"gp": 16, "tpe": 40, "nsga2": 60}[name]
        search = search_of(tmp_path, sampler={"name": name, "options": options, "seed": 5})
        study = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler(search, 0))
        held = []
        for _ in range(asks):
            trial = study.ask()
            search.space.sample(trial)
            weight = trial.params["l.weight"]
            violation = weight - 0.4
            for constraint in search.constraints:
                trial.set_constraint(constraint.key, violation if told else -1.0)
            held.append(violation <= 0)
            study.tell(trial, (weight, weight * (0.5 + trial.params["r.weight"])))
        return float(np.mean(held[-6 if name == "gp" else -16 :]))

    assert share(told=True) >= share(told=False) + 0.25


def test_every_trial_has_the_same_constraints_or_the_gp_raises(tmp_path: Path) -> None:
    """Why `search.study` sets all of them, in file order."""
    search = search_of(tmp_path, sampler={"name": "gp", "options": {"n_startup_trials": 2}})
    study = optuna.create_study(directions=["maximize"] * 2, sampler=make_sampler(search, 0))
    for number in range(2):
        trial = study.ask()
        search.space.sample(trial)
        if number:
            trial.set_constraint("right", -1.0)
        study.tell(trial, scores(trial.params))
    with pytest.raises(ValueError, match="constraint"):
        search.space.sample(study.ask())


def test_samplers_that_ignore_constraints_say_so(tmp_path: Path) -> None:
    assert samplers.notes(search_of(tmp_path, sampler="tpe")) == []
    (note,) = samplers.notes(search_of(tmp_path, sampler="qmc"))
    assert "without regard to constraints" in note
