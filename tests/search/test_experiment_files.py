"""Files of experiments are checked, and commands go on where they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from merge_core.yaml_io import dump_yaml
from search.demo import write_items
from search.errors import ConfigError
from search.experiments import EXPERIMENTS, get_experiment
from search.experiments.layer_schedules import LayerSchedules
from search.experiments.outcome import difference
from search.experiments.running import run
from search.experiments.world import clear
from tests.objectives.tiny_model import save_model
from tests.search.test_experiments import RIGHT, result

SCHEDULES = {
    "experiment": "layer-schedules",
    "base_model": "models/base",
    "language": "models/thai",
    "reasoning": "models/r1",
    "schedules": {"low": 0.25, "M3": [0.75, 0.75, 0.75, 0.125]},
    "methods": {"linear": {"merge_method": "linear"}},
    "tasks": {"sums": {"items": "items.jsonl", "scorers": ["math"]}},
    "objectives": {"right": "sums/math"},
    "splits": {"dev": 4, "confirm": 4, "test": 4},
    "engine": {"kind": "scripted", "default": "The answer is 7."},
}
SLACK = {
    **{key: SCHEDULES[key] for key in ("base_model", "tasks", "objectives", "splits", "engine")},
    "experiment": "slack",
    "experts": {"thai": "models/thai", "r1": "models/r1"},
    "restored": "r1",
    "slacks": [0, 0.5],
    "judge": "right",
    "settings": [
        {"merge_method": "ties_sv", "experts": {"r1": {"weight": 1}, "thai": {"weight": 1}}}
    ],
}
SHARED = {key: SLACK[key] for key in ("base_model", "tasks", "objectives", "splits", "engine")}
CRITERIA = {**SLACK, "experiment": "criteria", "slacks": [0.5]}
CHECKPOINTS = {
    **SHARED,
    "sft": "models/r1",
    "checkpoints": [
        {"amount": 1, "ct": "models/thai", "ct_sft": "models/r1"},
        {"amount": 2, "ct": "models/thai", "ct_sft": "models/r1"},
    ],
}
LINEAR = {"merge_method": "linear"}
TIES = {"merge_method": "ties", "experts": {"ct": {"weight": 1}, "sft": {"weight": 1}}}
LANGUAGES = {
    "thai": {"expert": "models/thai", "scores": {"joint": "right", "other": "right"}},
    "english": {"expert": "models/r1", "scores": {"joint": "right", "other": "right"}},
}
ALL = {
    "ct-then-sft": {
        **CHECKPOINTS,
        "experiment": "ct-then-sft",
        "judge": "right",
        "merges": {"TIES": [TIES]},
    },
    "plateau": {**CHECKPOINTS, "experiment": "plateau", "setting": TIES},
    "slack": SLACK,
    "criteria": {**CRITERIA, "criteria": ["magnitude", "random"], "draws": 2},
    "two-languages": {
        **SHARED,
        "experiment": "two-languages",
        "skill": "models/r1",
        "languages": LANGUAGES,
        "judge": "joint",
        "settings": [{"merge_method": "linear", "parameters": {"weight": 1}}],
    },
    "layer-schedules": SCHEDULES,
}


BOTH = ["math", "perplexity"]
PUZZLED = {"score": "sums/perplexity", "direction": "minimize", "reference": 1000}


def ran(name: str, folder: Path, data: dict, **how: object) -> dict:
    (folder / "own.yaml").write_text(dump_yaml(data))
    run(get_experiment(name), folder / "out", config=folder / "own.yaml", **how)
    return json.loads((folder / "out" / "results.json").read_text())


def test_experiments_are_listed_and_known(mergefront) -> None:
    listed = mergefront("experiment")
    assert listed.code == 0
    for name in EXPERIMENTS:
        experiment = get_experiment(name)
        assert experiment.name == name
        assert f"{name} " in listed.out
        assert experiment.kind.model_fields["experiment"].default == name
    wrong = mergefront("experiment", "plato")
    assert wrong.code == 2
    assert "did you mean 'plateau'" in wrong.err


@pytest.mark.parametrize(
    ("base", "change_", "said"),
    [
        (SCHEDULES, {"experiment": "slack"}, ":1:1: is a file of the experiment slack"),
        (SCHEDULES, {"lanugage": 1}, "unknown key 'lanugage'; did you mean 'language'"),
        (SCHEDULES, {"reasoning": "models/nowhere"}, ":4:1: "),
        (SCHEDULES, {"schedules": {"low": 1.5}}, ":5:1: schedules: low is a share from 0 to 1"),
        (SCHEDULES, {"methods": {"a": {"merge_method": "linaer"}}}, "did you mean 'linear'"),
        (SCHEDULES, {"methods": {"a": {"merge_method": "slerp"}}}, "slerp"),
        (SCHEDULES, {"objectives": {"right": "sums/nope"}}, "unknown score of task 'sums' 'nope'"),
        (SCHEDULES, {"splits": {"dev": 40}}, "task sums"),
        (SLACK, {"judge": "wrong"}, "unknown objective 'wrong'"),
        (SLACK, {"restored": "r2"}, "'r2' is no role of experts"),
        (SLACK, {"slacks": [0, 2]}, "slack 2 lies outside 0 to 1"),
        (SLACK, {"settings": [{"merge_method": "linear"}]}, "linear elects no signs"),
        (
            SLACK,
            {"slacks": [0.5, 1, 0.50]},
            "mergefront: own.yaml:17:18: 'slack 0.5' would be the name of two results",
        ),
        (
            ALL["plateau"],
            {"checkpoints": [{"amount": 3, "ct": "models/thai"} for _ in range(2)]},
            "'3 documents' would be the name of two results; change one",
        ),
        (ALL["ct-then-sft"], {"merges": {"CT alone": [TIES]}}, "'CT alone' would be the name"),
        (ALL["two-languages"], {"others": {"merge of thai": "models/r1"}}, "'merge of thai' would"),
        (ALL["layer-schedules"], {"methods": {"language expert": LINEAR}}, "'language expert' wo"),
        (SLACK, {"settings": [{"merge_method": "ties", "experts": {"x": {}}}]}, "names 'x'"),
    ],
)
def test_a_bad_file_is_one_line_before_anything_is_written(
    workplace, mergefront, base, change_, said
) -> None:
    (workplace / "own.yaml").write_text(dump_yaml({**base, **change_}))
    ended = mergefront("experiment", base["experiment"], "--config", "own.yaml", "--out", "out")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "own.yaml:" in ended.err
    assert said in ended.err
    assert not (workplace / "out").exists()


def test_an_experiment_s_own_file_runs_and_leaves_other_folders_alone(
    workplace, mergefront
) -> None:
    (workplace / "own.yaml").write_text(dump_yaml(SLACK))
    ended = mergefront("experiment", "slack", "--config", "own.yaml")
    assert ended.code == 0, ended.err
    folder = workplace / "experiments" / "slack-own"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("report.md", "results.json", "values.csv", "differences.csv"),
        *("plot.png", "plot.html", "points"),
    }
    found = json.loads((folder / "results.json").read_text())
    # Whatever is merged, the scripted engine says the same.
    assert "not told apart" in found["findings"][0]
    assert {row["sign"] for row in found["differences"]} == {"not told apart"}


def test_all_criteria_that_one_sentence_tells_of_hold_together(workplace, mergefront) -> None:
    kinds = ["magnitude", "random", "farthest"]
    data = {**SLACK, "experiment": "criteria", "slacks": [0.5, 1], "criteria": kinds, "draws": 1}
    (workplace / "own.yaml").write_text(dump_yaml(data))
    ended = mergefront("experiment", "criteria", "--config", "own.yaml", "--out", "out")
    assert ended.code == 0, ended.err
    found = json.loads((workplace / "out" / "results.json").read_text())["differences"]
    counts = {rival: sum(row["b"] == rival for row in found) for rival in (*kinds[:2], "TIES")}
    assert counts == {"magnitude": 4, "random": 4, "TIES": 6}
    alike = [result([0.0] * 4)]  # as the scripted engine's answers are
    for row in found:
        held = difference(RIGHT, alike, alike, counts[row["b"]])
        assert (row["estimate"]["low"], row["estimate"]["high"]) == (held.low, held.high)
    wide, wider = (difference(RIGHT, alike, alike, count).high for count in (4, 6))
    assert 0.0 < wide < wider


def test_models_of_one_s_own_are_scored_once_and_alike_each_time(trio, tmp_path) -> None:
    write_items(tmp_path / "items.jsonl", dev=2, confirm=10, test=2)
    data = {
        **SCHEDULES,
        "base_model": str(trio.base),
        "language": str(trio.language),
        "reasoning": str(trio.reasoning),
        "schedules": {"0": 0, "1": 1},
        "tasks": {
            "sums": {
                "items": "items.jsonl",
                "generate": {"max_tokens": 40},
                "scorers": ["math", {"language": {"expect": "th"}}],
            }
        },
        "objectives": {"right": "sums/math", "thai": "sums/language"},
        "splits": {"dev": 2, "confirm": 10, "test": 2},
        "engine": {"kind": "transformers", "device": "cpu"},
    }
    (tmp_path / "own.yaml").write_text(dump_yaml(data))
    lines: list[str] = []

    def once(folder: str) -> dict[str, object]:
        lines.clear()
        run(LayerSchedules(), tmp_path / folder, config=tmp_path / "own.yaml", told=lines.append)
        return json.loads((tmp_path / folder / "results.json").read_text())

    first = once("one")
    assert len(lines) == 4
    written = (tmp_path / "one" / "report.md").read_text()
    assert LayerSchedules.limits in written
    assert LayerSchedules.miniature not in written
    # A share of 0 or 1 is the one expert, to the bit.
    held = {(v["series"], v["at"], v["score"]): v["estimate"] for v in first["values"]}
    for score in ("right", "thai"):
        assert held["linear", "0", score] == held["language expert", "0", score]
        assert held["linear", "1", score] == held["reasoning expert", "1", score]
    assert once("one") == first
    assert lines == []
    min((tmp_path / "one" / "points").iterdir()).unlink()
    assert once("one") == first
    assert len(lines) == 1
    assert once("two") == first


def test_amounts_that_differ_little_are_two(workplace) -> None:
    amounts = (1_234_567, 1_234_568)
    checkpoints = [{"amount": amount, "ct": "models/thai"} for amount in amounts]
    found = ran("plateau", workplace, {**ALL["plateau"], "checkpoints": checkpoints})
    assert {value["at"] for value in found["values"]} == {str(amount) for amount in amounts}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_by_a_score_without_bounds_nothing_is_compared_and_all_else_is(workplace, name) -> None:
    data = {**ALL[name], "tasks": {"sums": {"items": "items.jsonl", "scorers": BOTH}}}
    data["objectives"] = {"right": "sums/math", "puzzled": PUZZLED}
    if name == "two-languages":
        scores = {"joint": "right", "other": "puzzled"}
        data["languages"] = {key: {**one, "scores": scores} for key, one in LANGUAGES.items()}
    found = ran(name, workplace, data)
    told = {"joint", "other"} if name == "two-languages" else {"right", "puzzled"}
    assert told <= {value["score"] for value in found["values"]}
    assert {row["score"] for row in found["differences"]} == told - {"puzzled", "other"}
    assert found["findings"][-1].startswith("By puzzled, nothing is compared: a score without")
    assert sum("puzzled" in finding for finding in found["findings"]) == 1


@pytest.mark.parametrize("name", ["criteria", "two-languages"])
def test_scores_without_bounds_alone_are_told_too(workplace, name) -> None:
    data = {**ALL[name], "tasks": {"sums": {"items": "items.jsonl", "scorers": BOTH}}}
    data["objectives"] = {"right": PUZZLED}
    found = ran(name, workplace, data)
    assert found["values"]
    assert found["differences"] == []
    assert len(found["findings"]) == 1


def test_a_quick_look_asks_the_first_of_the_items_that_the_file_asks_for(workplace) -> None:
    lines = [{"id": f"i{n}", "prompt": f"0 + {n}?", "answer": str(n)} for n in range(40)]
    (workplace / "many.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = {"items": "many.jsonl", "scorers": ["math"], "splits": {"dev": 9, "confirm": 30}}
    own["splits"]["test"] = 1
    tasks = {**SLACK["tasks"], "many": own}  # sums has twelve items: 4 for each split
    data = {**SLACK, "tasks": tasks, "objectives": {"right": "sums/math", "many": "many/math"}}
    quick = ran("slack", workplace, data, quick=True)
    assert quick["items"]["many"] == {"dev": 8, "confirm": 24}
    assert quick["items"]["sums"] == {"dev": 4, "confirm": 4}
    points = set((workplace / "out" / "points").iterdir())
    # In the same folder, but of more items: nothing is taken over.
    whole = ran("slack", workplace, data)
    assert whole["items"]["many"] == {"dev": 9, "confirm": 30}
    assert {value["estimate"]["n"] for value in whole["values"] if value["score"] == "many"} == {30}
    assert set((workplace / "out" / "points").iterdir()) > points


def test_fisher_information_of_other_items_is_made_anew(tmp_path) -> None:
    for seed, name in enumerate(("base", "thai", "r1")):
        save_model(tmp_path / "models" / name, seed=seed)
    lines = [{"id": f"i{n}", "prompt": f"1 + {n} ?", "answer": str(n)} for n in range(12)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {**CRITERIA, "criteria": ["fisher"], "fisher": {"items": 2}}
    data["tasks"] = {"sums": {**SLACK["tasks"]["sums"], "generate": {"max_tokens": 3}}}

    def files(**changes: object) -> set[str]:
        ran("criteria", tmp_path, {**data, **changes})
        return {path.name for path in (tmp_path / "out").glob("fisher-*")}

    first = files()
    assert len(first) == 1
    assert files() == first
    assert len(files(splits={**SLACK["splits"], "seed": 1})) == 2


def test_a_removal_of_models_that_was_interrupted_locks_no_folder(tmp_path, monkeypatch) -> None:
    models = tmp_path / "models"
    (models / "base").mkdir(parents=True)
    (models / ".made-of").write_text("seed 0")
    whole = shutil.rmtree

    def interrupted(folder: Path, **how: object) -> None:
        if Path(folder).exists():
            (Path(folder) / ".made-of").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clear(models, "seed 1")
    monkeypatch.setattr(shutil, "rmtree", whole)
    clear(models, "seed 1")
    assert list(tmp_path.iterdir()) == []
    models.mkdir()
    with pytest.raises(ConfigError, match="was not put there by this command"):
        clear(models, "seed 1")
