"""A finished search: the study, the files, MLflow, the export, the merged model."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import mlflow
import optuna
import pytest

from merge_core import MergePlan, Recipe
from merge_core.mergekit import load_mergekit, to_mergekit
from merge_core.yaml_io import dump_yaml
from search import confirm as confirming
from search.demo import Trio
from search.names import to_mlflow
from search.results import Result, values_of
from search.run import Run
from search.study import open_study
from tests.search.kit import MERGEFRONT, environment, finish, items_of, start, write_search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_search(folder, trio, constraints={"math_th/think": ">= 0.0"})
    finish(start(folder, "run", "small.yaml"))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return folder / "runs" / "small"


def mergefront(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [MERGEFRONT, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def study_of(run: Path) -> optuna.Study:
    return optuna.load_study(study_name="small", storage=f"sqlite:///{run / 'study.db'}")


def test_every_trial_is_told_with_values_constraints_and_recipe(run: Path) -> None:
    trials = study_of(run).trials
    assert len(trials) == 8
    for trial in trials:
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert list(trial.constraints) == ["math_th/think"]
        result = Result.load(run / "trials" / f"{trial.number:06d}.json")
        opened = Run.open(run)
        assert trial.values == values_of(result, opened.search)  # an estimate, if it was raced out
        recipe = opened.search.space.from_params(trial.params)
        assert (
            recipe.plain()["models"][1]["parameters"]
            == (json.loads(trial.user_attrs["recipe"])["models"][1]["parameters"])
        )
        assert opened.fingerprint(recipe.resolved(opened.search.root)) == result.fingerprint


def test_mlflow_agrees_with_the_study_trial_by_trial(run: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = {
        int(r.data.tags["mergefront.trial"]): r for r in runs if "mergefront.trial" in r.data.tags
    }
    study = open_study(Run.open(run), create=False)
    front = json.loads(mergefront(run.parent.parent, "front", "runs/small", "--json"))
    assert sorted(children) == [trial.number for trial in study.trials]
    for trial in study.trials:
        child = children[trial.number]
        for name, value in zip(("reasoning", "language"), trial.values, strict=True):
            assert child.data.metrics[name] == value
        for name, value in trial.params.items():
            assert child.data.params[to_mlflow(name)] == str(value)
        assert child.info.status == "FINISHED"
        assert {a.path for a in client.list_artifacts(child.info.run_id)} >= {
            "recipe.yaml",
            "items.json",
        }
    tagged = {n for n, r in children.items() if r.data.tags["front"] == "true"}
    claimed = {m["trial"] for m in front if m["trial"] is not None and not m["near"]}
    assert claimed <= tagged
    parent = next(r for r in runs if r.data.tags.get("role") == "search")
    steps = client.get_metric_history(parent.info.run_id, "hypervolume")
    volumes = [metric.value for metric in sorted(steps, key=lambda m: m.step)]
    assert volumes == sorted(volumes)
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} >= {
        "front.html",
        "front.png",
        "search.yaml",
        "recipe.yaml",
    }


def test_front_plot_works_offline(run: Path) -> None:
    html = (run / "front.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", html)
    assert html.count("<script") >= 1
    assert len(html) > 1_000_000  # plotly itself is inside
    assert (run / "front.png").read_bytes().startswith(b"\x89PNG")


def test_confirmed_members_are_scored_on_items_the_search_never_saw(run: Path) -> None:
    members, finished = confirming.load(Run.open(run))
    assert finished == 8
    opened = Run.open(run)
    dev = {row["id"] for row in items_of(run / "trials" / "000000.json")["math_th"]}
    for member in members:
        path = opened.held_out("confirm", member.fingerprint)
        held_out = {row["id"] for row in items_of(path)["math_th"]}
        assert len(held_out) == 64
        assert not dev & held_out
    tests = list((run / "test").glob("*.json"))
    assert len(tests) == 1  # the exported recipe alone, once
    assert not {row["id"] for row in items_of(tests[0])["math_th"]} & dev


def test_same_command_again_only_prints(folder: Path, run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.json") if p.name != "run.json"}
    output = finish(start(folder, "run", "small.yaml"))
    assert "8 trials" in output
    kept = {p: t for p, t in before.items() if p.parent.name in ("trials", "confirm", "test")}
    assert kept == {p: p.stat().st_mtime_ns for p in kept}


def test_merged_folder_loads_and_scores_as_its_trial_item_by_item(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    mergefront(folder, "export", "runs/small", "-o", str(tmp_path / "recipe.yaml"))
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    merged = tmp_path / "merged"
    mergefront(folder, "merge", str(tmp_path / "recipe.yaml"), str(merged))
    model = AutoModelForCausalLM.from_pretrained(merged)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template
    assert sum(p.numel() for p in model.parameters()) > 300_000

    opened = Run.open(run)
    fingerprint = opened.fingerprint(recipe)
    trial = next(
        path
        for path in (run / "trials").glob("*.json")
        if json.loads(path.read_text())["fingerprint"] == fingerprint
    )
    scored = json.loads(mergefront(folder, "score", str(merged), "small.yaml", "--json"))
    assert scored["items"] == items_of(trial)


def test_export_says_plainly_what_mergekit_does_not_have(folder: Path) -> None:
    done = subprocess.run(
        [MERGEFRONT, "export", "runs/small", "--mergekit"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "mergekit has no ties_sv" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_mergekit_export_of_a_search_reads_back(
    method: str, folder: Path, trio: Trio, tmp_path: Path
) -> None:
    """From a search's own recipe to mergekit's YAML and back: the same fingerprint."""
    opened = Run.open(folder / "runs" / "small")
    trial = study_of(folder / "runs" / "small").trials[0]
    plain = opened.search.space.from_params(trial.params).plain()
    plain["merge_method"] = method
    for model in plain["models"]:
        keep = {"weight"} if method != "ties" else {"weight", "density"}
        model["parameters"] = {k: v for k, v in model["parameters"].items() if k in keep}
    if method == "linear":
        plain.pop("base_model")  # linear has no use for it, and mergekit's linear would merge it
    plain["dtype"] = "bfloat16"
    recipe = Recipe.parse(plain).resolved(opened.search.root)
    path = tmp_path / "mergekit.yaml"
    path.write_text(dump_yaml(to_mergekit(recipe)), encoding="utf-8")
    back, _ = load_mergekit(path)
    assert back.fingerprint() == recipe.fingerprint()
    for name, tensor in MergePlan(recipe).tensors():
        assert tensor.equal(MergePlan(back).tensor(name))
