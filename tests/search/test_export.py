"""From a confirmed run to a checkpoint that is verified, and to the hub."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file, save_file

from merge_core import MergePlan, Recipe
from merge_core.versions import spelled_versions, versions_of
from merge_core.yaml_io import dump_yaml, load_yaml
from objectives.errors import ServiceError
from objectives.item_source import DatasetItems
from objectives.scorers.base import Rated
from objectives.scorers.math import Math
from search import confirm as confirming
from search import session
from search.cli import main
from search.config import load
from search.demo import write_items
from search.errors import ConfigError, ExportError, RunError, SearchError
from search.export import required
from search.ledger import sessions
from search.model_card import Chosen, found_in
from search.placement import Node
from search.publish import write_checkpoint
from search.push import Push
from search.results import Result
from search.run import Run
from search.verify import Question, question, stored_result, verify
from tests.search.kit import search_data
from tests.search.life import LocalPool
from tests.search.test_driver import Quiet

HOW = "How it was chosen"
SMALL = {"dev": 12, "confirm": 12, "test": 12}


class Untracked:
    """In the place of a `Tracker`: nothing is written to MLflow."""

    problem = link = None

    def __init__(self, run: Run, study: object) -> None:
        self.study = study

    def _nothing(self, *_: object) -> None:
        pass

    baseline = trial = confirmed = report = close = _nothing


@pytest.fixture(scope="module")
def done(trio, tmp_path_factory) -> Path:
    """A search of two trials on the tiny trio, confirmed: its project's folder."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("base", "language", "reasoning"):
        shutil.copytree(trio.root / name, folder / "models" / name)
    for name, licence in (("base", "apache-2.0"), ("language", "llama3.1")):
        card = f"---\nlicense: {licence}\nlanguage: [th, en]\nbase_model: tiny/{name}\n---\n"
        (folder / "models" / name / "README.md").write_text(card)
    write_items(folder / "items.jsonl", **SMALL)
    data = search_data(
        trio,
        merge_method="ties",
        base_model="models/base",
        splits=SMALL,
        budget={"trials": 2},
        constraints={"reasoning": ">= 0"},
    )
    for model, name in zip(data["models"], ("language", "reasoning"), strict=True):
        model["model"] = f"models/{name}"
        model["parameters"].pop("slack", None)
    (folder / "small.yaml").write_text(dump_yaml(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "connected", contextlib.nullcontext)
        patch.setattr(session, "Pool", LocalPool)
        patch.setattr(session, "nodes", lambda: [Node("here", "here", {"CPU": 4.0})])
        patch.setattr(session.figures, "draw", lambda view: [])  # seconds of drawing
        patch.setattr(session.report, "draw", lambda view, **_: None)
        patch.setattr(session, "Tracker", Untracked)  # seconds of MLflow
        prepared = session.prepare(load(folder / "small.yaml"))
        found = session.run(prepared, folder / "runs" / "small", Quiet())
    assert found.chosen is not None
    return folder


@pytest.fixture
def here(done, monkeypatch) -> Path:
    monkeypatch.chdir(done)
    return done


@pytest.fixture
def run(done) -> Run:
    return Run.open(done / "runs" / "small")


# ---- the recipe


def test_more_can_be_required_of_a_member(run, here, mergefront):
    members, _ = confirming.load(run)
    able = required(run, members, ["reasoning>=0", "language >= 0.0"])
    assert [m.feasible for m in able if m.trial is not None].count(True) == sum(
        m.feasible for m in members if m.trial is not None
    )
    with pytest.raises(ExportError, match=r"holds language >= 1 with 95% confidence; the nearest"):
        required(run, members, ["language>=1"])
    with pytest.raises(ConfigError, match=r"write a score and its bound, as language>=0\.9"):
        required(run, members, ["language"])
    with pytest.raises(ConfigError, match="unknown objective 'langage'"):
        required(run, members, ["langage>=0.5"])
    ended = mergefront("export", "runs/small", "--require", "math_th/language>=1")
    assert (ended.code, ended.out) == (2, "")
    assert "no confirmed member holds math_th/language >= 1" in ended.err
    with pytest.raises(ConfigError, match="language is bounded twice"):
        required(run, members, ["language>=0.9", "language >= 0.1"])


def test_what_belongs_to_a_run_is_not_written_over(here, mergefront):
    for command in (
        ("export", "runs/small", "-o", "runs/small/run.json"),
        ("front", "runs/small", "--csv", "-o", "runs/small/study.db"),
        ("report", "runs/small", "-o", "runs/small/confirmed.json"),
    ):
        before = Path(command[-1]).read_bytes()
        ended = mergefront(*command)
        assert ended.code == 2
        assert f"--out {command[-1]}: belongs to the run; name another file" in ended.err
        assert Path(command[-1]).read_bytes() == before
    assert mergefront("export", "runs/small", "-o", "runs/small/recipe.yaml").code == 0


@pytest.fixture
def moved(done, monkeypatch) -> Iterator[Path]:
    """The whole project under another name: nothing is where it was when it was scored."""
    there = done.rename(done.with_name("moved"))
    monkeypatch.chdir(there)
    yield there
    monkeypatch.chdir("/")
    there.rename(done)


def models_of(recipe: Recipe) -> set[str]:
    return {str(recipe.base_model), *(expert.model for expert in recipe.models)}


def test_a_run_that_was_moved_exports_from_where_its_models_are(moved, mergefront, tmp_path):
    ended = mergefront("export", "runs/small", "-o", tmp_path / "r.yaml")
    assert ended.code == 0, ended.err
    names = ("base", "language", "reasoning")
    assert models_of(Recipe.load(tmp_path / "r.yaml")) == {
        str(moved / "models" / name) for name in names
    }
    for number, command in enumerate(
        (
            ("export", "runs/small", "--model"),
            ("merge", "runs/small/recipe.yaml"),  # written before the move
            ("merge", tmp_path / "r.yaml", "--run", "runs/small"),
        )
    ):
        ended = mergefront(*command, tmp_path / f"out{number}", "--no-verify")
        assert ended.code == 0, ended.err
        card = (tmp_path / f"out{number}" / "README.md").read_text(encoding="utf-8")
        assert "Run `small` scored 2 recipes" in card


def test_a_model_that_is_gone_is_one_line_and_no_recipe(moved, mergefront, tmp_path):
    (moved / "models" / "language").rename(moved / "away")
    try:
        for command in (
            ("export", "runs/small", "-o", tmp_path / "r.yaml"),
            ("export", "runs/small", "--model", tmp_path / "out"),
            ("merge", "runs/small/recipe.yaml", tmp_path / "out"),
        ):
            ended = mergefront(*command)
            assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
            assert "models/language, which is gone: put it back, or name its new" in ended.err
    finally:
        (moved / "away").rename(moved / "models" / "language")
    assert not list(tmp_path.iterdir())


def test_what_an_older_version_confirmed_still_opens(run, tmp_path):
    alone = Run.open(Path(shutil.copytree(run.folder, tmp_path / "runs" / "small")))
    data = json.loads(alone.confirmed.read_text(encoding="utf-8"))
    del data["failed"]
    alone.confirmed.write_text(json.dumps(data))
    assert confirming.unconfirmed(alone) == {}
    # Its models are not here: the recipe keeps the places that are.
    assert confirming.load(alone)[0] == confirming.load(run)[0]


def test_options_of_a_checkpoint_need_one(here, mergefront):
    ended = mergefront("export", "runs/small", "--public")
    assert (ended.code, ended.out) == (2, "")
    assert "--hub-id are for --model" in ended.err


# ---- the checkpoint


@pytest.fixture(scope="module")
def merged(done) -> Path:
    """What `mergefront export --model` wrote, and what it said beside it."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(done)
        patch.setattr(sys, "argv", ["mergefront", "export", "runs/small", "--model", "merged"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0, out.getvalue()
    (done / "said.txt").write_text(out.getvalue())
    return done / "merged"


def test_the_checkpoint_is_verified_against_the_run(merged, run):
    said = (merged.parent / "said.txt").read_text()
    assert "transformers loads them, 38 compared bit by bit; 8 of 8 confirm items answered" in said
    for words in (
        "warning: the models' licences are not one, so the merge has none of its own: base "
        "apache-2.0, language llama3.1, reasoning unknown",
        "warning: licence llama3.1: publish the licence's text and the notice",
        "warning: model language is not known on the hub, so the card's base_model names "
        "tiny/language for it: --hub-id language=ORG/NAME",
        "warning: model reasoning is not known on the hub, so the card's base_model does not name "
        "it: --hub-id reasoning=ORG/NAME",
    ):
        assert words in said.replace("\n", " "), words
    assert {path.name for path in merged.iterdir()} >= {
        *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json"),
        *("chat_template.jinja", "recipe.yaml", "mergekit_config.yml", "README.md"),
    }
    chosen = confirming.choose(run.search, confirming.load(run)[0])
    assert Recipe.load(merged / "recipe.yaml").plain() == Recipe.parse(chosen.recipe).plain()


def test_the_card_tells_the_run(merged, run, tmp_path):
    text = (merged / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    chosen = confirming.choose(run.search, confirming.load(run)[0])
    test = Result.load(run.held_out("test", chosen.fingerprint))
    scores = {entry.metric_name: entry.metric_value for entry in card.data.eval_results}
    for objective in run.search.objectives:
        assert scores[objective.name] == round(test.estimate(objective).value, 4)
    assert card.data.language == ["th", "en"]
    assert card.data.base_model == ["tiny/base", "tiny/language"]
    assert card.data.license == "other"
    assert "mergekit" in card.data.tags
    for words in (
        *(chosen.label, chosen.fingerprint, "its knee", "uniform, held-out", "scored once"),
        *("name with “Llama”", "Of `reasoning` no licence is known", r"| reasoning \>= 0 |"),
        *("8 of 8 confirm items answered and scored as in the run", "right and in the language"),
    ):
        assert words in text, words
    assert str(merged.parent) not in text


def test_a_card_says_why_this_one_and_how_to_make_just_it(run):
    members, _ = confirming.load(run)
    member = confirming.choose(run.search, members)
    told = Chosen(run, member, members, "knee", ["language>=0.9"])
    found = found_in(told)
    assert "(its knee), of those that hold `language>=0.9` with 95%" in dict(found.sections)[HOW]
    again = f"mergefront export runs/small --pick trial:{member.trial} --model OUT"
    assert found.commands[0].startswith(again)
    short = replace(told, member=replace(member, feasible=False), nearest=True)
    found = found_in(short)
    text = dict(found.sections)[HOW]
    assert "misses the constraints least, for no confirmed one holds them and `langu" in text
    assert "knee" not in text
    assert f"--pick trial:{member.trial} --best-effort --model OUT" in found.commands[0]


def test_the_card_tells_with_which_versions_the_run_was_scored(run, tmp_path):
    alone = Run.open(Path(shutil.copytree(run.folder, tmp_path / "runs" / "small")))
    members, _ = confirming.load(alone)
    told = Chosen(alone, confirming.choose(alone.search, members), members, "knee")
    (held,) = sessions(alone)
    assert held.versions == versions_of(held.versions)
    assert {"mergefront", "python", "torch", "transformers", "optuna", "ray"} == set(held.versions)
    assert found_in(told).scored_with == (spelled_versions(held.versions),)
    row = json.loads((alone.folder / "sessions.json").read_text())[0]
    days = ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04")
    torch = ({}, {"versions": {"torch": "1"}}, {"versions": {"torch": "1"}}, {"versions": {}})
    del row["versions"]
    rows = [row | {"began": f"{d}T00:00:00+00:00"} | v for d, v in zip(days, torch, strict=True)]
    (alone.folder / "sessions.json").write_text(json.dumps(rows))
    assert found_in(told).scored_with == (
        "not kept (sessions from 2026-01-01 on)",
        "torch 1 (sessions from 2026-01-02 on)",
        "not kept (sessions from 2026-01-04 on)",
    )
    for odd in (3, {"torch": 2}):
        (alone.folder / "sessions.json").write_text(json.dumps([row | {"versions": odd}]))
        with pytest.raises(RunError, match=r"sessions\.json: cannot be read"):
            sessions(alone)


def test_a_local_data_set_is_none_of_the_hubs(run, tmp_path):
    task = next(iter(run.search.file.tasks.values()))
    items = DatasetItems(dataset="data/mine", split="train")
    file = run.search.file.model_copy(
        update={"tasks": {"math_th": task.model_copy(update={"items": items})}}
    )
    elsewhere = replace(run, search=replace(run.search, file=file, path=tmp_path / "s.yaml"))
    members, _ = confirming.load(run)
    chosen = Chosen(elsewhere, confirming.choose(run.search, members), members, "knee")
    assert found_in(chosen).scores[0].dataset_id == "data/mine"
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert found_in(chosen).scores[0].dataset_id == "math_th"


def test_a_recipe_in_its_runs_folder_remembers_the_run(here, merged, mergefront, tmp_path):
    ended = mergefront("merge", "runs/small/recipe.yaml", tmp_path / "again", "--no-verify")
    assert ended.code == 0, ended.err
    text = (tmp_path / "again" / "README.md").read_text(encoding="utf-8")
    assert "Run `small` scored 2 recipes" in text
    assert "Not verified after it was written." in text
    again = load_file(tmp_path / "again" / "model.safetensors")
    first = load_file(merged / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    # Elsewhere it is a recipe like any other, unless the run is named.
    shutil.copy(here / "runs" / "small" / "recipe.yaml", tmp_path / "r.yaml")
    assert mergefront("merge", tmp_path / "r.yaml", tmp_path / "plain", "--no-verify").code == 0
    assert "## Scores" not in (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    data = load_yaml(tmp_path / "r.yaml").data
    data["models"][0]["parameters"]["weight"] = 0.123
    (tmp_path / "other.yaml").write_text(dump_yaml(data))
    ended = mergefront("merge", tmp_path / "other.yaml", tmp_path / "x", "--run", "runs/small")
    assert ended.code == 2
    assert "is none of the members that run small confirmed" in ended.err


# ---- verification


@pytest.fixture
def copy(merged, tmp_path) -> Path:
    return Path(shutil.copytree(merged, tmp_path / "copy"))


def hashes_of(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.view(torch.uint8).numpy().data).hexdigest()
        for name, tensor in load_file(folder / "model.safetensors").items()
    }


def scored_in(run: Run) -> Result:
    chosen = confirming.choose(run.search, confirming.load(run)[0])
    result = stored_result(run, chosen.fingerprint, chosen.trial)
    assert result is not None
    return result


def asked_of(run: Run) -> Question:
    return question(run, scored_in(run))


def test_one_flipped_bit_is_found(copy):
    hashes = hashes_of(copy)
    tensors = load_file(copy / "model.safetensors")
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(torch.int16).view(-1)[7] ^= 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=f"tensor {name} has other bits on disk than were merged"):
        verify(copy, hashes)


def test_a_lost_tensor_is_found_by_name(copy):
    hashes = hashes_of(copy)
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"model\.norm\.weight is only in the merge, not in the"):
        verify(copy, hashes)
    with pytest.raises(ExportError, match="transformers loads it with missing keys: model"):
        verify(copy, hashes_of(copy))


def test_another_configuration_is_found_by_loading(copy):
    config = json.loads((copy / "config.json").read_text())
    config["num_hidden_layers"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError):
        verify(copy, hashes_of(copy))


def test_another_chat_template_is_found_by_its_answers(copy, run):
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'][::-1] }}")
    with pytest.raises(ExportError, match=r"of 8 confirm items are scored otherwise than"):
        verify(copy, hashes_of(copy), asked_of(run))


def test_a_tokenizer_that_does_not_open_is_found(copy):
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ExportError, match=r"it does not load: .*tokenizer"):
        verify(copy, hashes_of(copy))


def test_an_engine_that_is_not_there_is_no_fault_of_the_folder(copy, run):
    engine = run.search.file.engine.model_copy(update={"device": "cuda:7"})
    file = run.search.file.model_copy(update={"engine": engine})
    elsewhere = replace(run, search=replace(run.search, file=file))
    told = verify(copy, hashes_of(copy), question(elsewhere, scored_in(run)))
    assert told.asked == 0
    assert "no answers compared: the transformers engine does not start here: " in told.line()
    assert told.line(public=True).endswith("the transformers engine does not start here")


def test_a_scorer_that_is_not_there_is_no_fault_of_the_folder(copy, run):
    class Away(Math):
        def rated(self, sample: object) -> Rated:
            raise ServiceError("the judge at http://here:1 does not answer")

    asking = asked_of(run)
    task = asking.tasks["math_th"]
    away = replace(task, scorers=(Away(), *task.scorers[1:]))
    told = verify(copy, hashes_of(copy), replace(asking, tasks={"math_th": away}))
    assert "cannot be answered and scored here: the judge at http://here:1 does" in told.line()
    assert "here:1" not in told.line(public=True)


def test_an_answer_that_differs_is_named(copy, run):
    scored = scored_in(run)
    first, *others = scored.items["math_th"]
    changed = replace(first, text=first.text + "!")
    told = verify(
        copy,
        hashes_of(copy),
        question(run, replace(scored, items={"math_th": [changed, *others]})),
    )
    assert (told.differ, told.rescored) == ((f"math_th/{first.id}",), 0)
    assert told.line().endswith(f"otherwise: math_th/{first.id}")
    # Other texts alone come from batches of another size; other scores do not.
    reworded = [replace(item, text=item.text + "!") for item in scored.items["math_th"]]
    told = verify(
        copy,
        hashes_of(copy),
        question(run, replace(scored, items={"math_th": reworded})),
    )
    assert (len(told.differ), told.rescored) == (8, 0)


def test_items_that_are_gone_cost_no_merge(here, mergefront, tmp_path):
    items = here / "items.jsonl"
    items.rename(here / "moved.jsonl")
    try:
        ended = mergefront("export", "runs/small", "--model", tmp_path / "out")
    finally:
        (here / "moved.jsonl").rename(items)
    assert ended.code == 0, ended.err
    assert "no answers compared: the run's items cannot be asked here: " in ended.out
    assert "items.jsonl" in ended.out
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "no answers compared: the run's items cannot be asked here." in card
    assert str(here) not in card


def test_a_run_that_cannot_tell_is_known_before_the_merge(run, tmp_path):
    """What it confirmed is gone: nothing was merged that would be thrown away."""
    alone = Path(shutil.copytree(run.folder, tmp_path / "run"))
    opened = Run.open(alone)
    members, _ = confirming.load(opened)
    chosen = confirming.choose(opened.search, members)
    (alone / "confirmed.json").unlink()
    plan = MergePlan(Recipe.parse(chosen.recipe))
    done: list[int] = []
    with pytest.raises(SearchError):
        write_checkpoint(
            plan,
            tmp_path / "out",
            chosen=Chosen(opened, chosen, members),
            progress=lambda now, _: done.append(now),
        )
    assert not done


def test_a_folder_that_fails_keeps_a_name_that_says_so(here, mergefront, tmp_path, monkeypatch):
    """A tokenizer that cannot be opened: nothing is called by the name that was asked for."""
    shutil.copytree(here / "models", tmp_path / "models")
    recipe = Recipe.load(here / "runs" / "small" / "recipe.yaml")
    data = recipe.plain() | {"base_model": "models/base"}
    for model in data["models"]:
        model["model"] = f"models/{Path(model['model']).name}"
    (tmp_path / "r.yaml").write_text(dump_yaml(data))
    config = json.loads((tmp_path / "models" / "base" / "config.json").read_text())
    config["hidden_act"] = "no such"
    (tmp_path / "models" / "base" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    ended = mergefront("merge", "r.yaml", "out")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "out: failed its verification: it does not load:" in ended.err
    assert "what was written is out.failed-verification" in ended.err
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.failed-verification" / "model.safetensors").is_file()
    assert not list(tmp_path.glob(".out*"))


def test_sources_that_have_changed_are_not_the_runs(here, run, mergefront, monkeypatch, tmp_path):
    file = here / "models" / "language" / "model.safetensors"
    before = file.read_bytes()
    tensors = load_file(file)
    tensors["model.norm.weight"][0] += 1
    try:
        save_file(tensors, file, metadata={"format": "pt"})
        ended = mergefront("export", "runs/small", "--model", tmp_path / "x", "--no-verify")
    finally:
        file.write_bytes(before)
    assert ended.code == 2
    assert "its sources have changed since it was scored" in ended.err
    assert not (tmp_path / "x").exists()


# ---- the hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as one push needs; it keeps what it was sent."""

    def do_GET(self) -> None:
        server = self.server
        name = self.path.removeprefix("/api/models/").partition("?")[0]
        server.seen.append(("GET", self.path, self.headers.get("Authorization")))
        if name in server.repositories:
            siblings = [{"rfilename": file} for file in server.files.get(name, {})]
            told = {"id": name, "private": server.repositories[name], "sha": "1" * 40}
            self._say(told | {"siblings": siblings})
        else:
            self._say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self._say({}, 404)

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.seen.append(("POST", self.path, self.headers.get("Authorization")))
        if self.path == "/api/repos/create":
            data = json.loads(body)
            name = "/".join(filter(None, (data.get("organization"), data["name"])))
            private = data.get("private", data.get("visibility") == "private")
            server.repositories.setdefault(name, private)
            self._say({"url": f"{server.url}/{name}", "name": name})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self._say({"files": files})
        elif "/commit/" in self.path:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            if server.refuses:
                self._say({"error": "You have no right to write here"}, 403)
                return
            lines = [json.loads(line) for line in body.splitlines()]
            server.parents.append(lines[0]["value"].get("parentCommit"))
            server.files[name] = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            url = f"{server.url}/{name}/commit/{'0' * 40}"
            self._say({"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": None})
        else:
            self._say({})  # it checks a card's metadata

    def _say(self, data: dict, code: int = 200, headers: dict | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.seen, server.repositories, server.files, server.refuses = [], {}, {}, False
    server.parents = []  # what each commit was made onto
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_testtokentesttoken")
    yield server
    server.shutdown()
    server.server_close()


PUSH = ("export", "runs/small", "--no-verify", "--push-unverified")


def test_a_push_is_private_and_names_no_place_of_this_machine(here, hub, mergefront, tmp_path):
    out = tmp_path / "out"
    ended = mergefront(*PUSH, "--model", out, "--push", "org/thai", "--hub-id", "reasoning=org/r1")
    assert ended.code == 0, ended.err
    assert "warning: a parent's licence asks for a name that begins with 'Llama'" in ended.out
    assert f"pushed to {hub.url}/org/thai (private)" in ended.out
    assert hub.repositories == {"org/thai": True}
    asked = {auth for _, path, auth in hub.seen if "org/thai" in path or "repos" in path}
    assert asked == {"Bearer hf_testtokentesttoken"}

    sent = hub.files["org/thai"]
    assert set(sent) == {path.name for path in out.iterdir()}
    assert sent["model.safetensors"] == (out / "model.safetensors").read_bytes()
    for name in ("README.md", "recipe.yaml", "mergekit_config.yml"):
        text = sent[name].decode()
        assert str(here) not in text, name
        assert "org/r1" in text, name
    assert str(here) in (out / "recipe.yaml").read_text()  # where it works
    assert ModelCard(sent["README.md"].decode()).data.model_name == "org/thai"


def test_a_repository_is_looked_at_again_after_the_merge(hub, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    push = Push("org/thai", public=False)
    hub.repositories["org/thai"] = False  # somebody made it, for all to see
    with pytest.raises(ExportError, match=r"is public: add --public.*send it later with `hf upl"):
        push.send(tmp_path, {}, "f")
    assert hub.files == {}
    hub.repositories["org/thai"], hub.files["org/thai"] = True, {"theirs.bin": b""}
    with pytest.raises(ExportError, match=r"holds theirs\.bin already"):
        push.send(tmp_path, {}, "f")
    hub.files.clear()
    public = Push("org/thai", public=True)
    public.send(tmp_path, {}, "f")
    assert not public.public  # it was private, and the hub leaves it so
    assert hub.parents == ["1" * 40]  # nothing that came meanwhile is written over


def test_what_is_not_pushed(here, hub, mergefront, tmp_path, monkeypatch):
    def refused(*arguments: object) -> str:
        ended = mergefront(*arguments)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
        assert not (tmp_path / "out").exists()
        return ended.err

    model = ("--model", tmp_path / "out", "--push", "org/x")
    assert "name its folder with --model" in refused("export", "runs/small", "--push", "org/x")
    unverified = refused("export", "runs/small", "--no-verify", *model)
    assert "--push sends what was verified" in unverified
    assert "is no hub id" in refused(*PUSH, *model[:-1], "x")
    hub.repositories["org/x"], hub.files["org/x"] = True, {"model.safetensors": b""}
    assert "holds model.safetensors already: name a new one" in refused(*PUSH, *model)
    hub.repositories["org/x"], hub.files["org/x"] = False, {".gitattributes": b""}
    assert "is public: add --public, or name a new one" in refused(*PUSH, *model)
    assert not [path for method, path, _ in hub.seen if method == "POST"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(*PUSH, *model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token: `hf auth login`, or set HF_TOKEN" in refused(*PUSH, *model)


def test_what_cannot_be_asked_again_is_not_pushed(here, hub, mergefront, tmp_path):
    """Where no answer was compared, before the merge if that is known then, or after it."""
    push = ("export", "runs/small", "--push", "org/x", "--model")
    text = (here / "runs" / "small" / "search.yaml").read_text()
    (here / "items.jsonl").rename(here / "moved.jsonl")
    try:
        ended = mergefront(*push, tmp_path / "early")
    finally:
        (here / "moved.jsonl").rename(here / "items.jsonl")
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "cannot be asked again, and what was not verified is not pushed (" in ended.err
    assert ended.err.endswith("add --push-unverified\n")
    assert not (tmp_path / "early").exists()
    assert "device: cpu" in text
    try:
        (here / "runs" / "small" / "search.yaml").write_text(
            text.replace("device: cpu", "device: cuda:7")
        )
        late = mergefront(*push, tmp_path / "late")
        told = mergefront(*push, tmp_path / "told", "--push-unverified")
    finally:
        (here / "runs" / "small" / "search.yaml").write_text(text)
    assert (late.code, late.err.count("\n")) == (2, 1), late.err
    assert "is not pushed, for no answers were compared (the transformers engine does" in late.err
    assert "--push-unverified, or send this folder all the same with `hf upload org/x" in late.err
    assert (tmp_path / "late" / "README.md").is_file()
    assert told.code == 0, told.err
    assert list(hub.files) == ["org/x"]


def test_a_recipe_of_no_run_is_pushed_with_a_word(here, hub, mergefront, tmp_path):
    shutil.copy(here / "runs" / "small" / "recipe.yaml", tmp_path / "r.yaml")
    ended = mergefront("merge", tmp_path / "r.yaml", tmp_path / "out", "--push", "org/bare")
    assert ended.code == 0, ended.err
    assert "warning: no answers are compared, for no run is named that scored this" in ended.out
    assert "no answers compared: no run is named" in hub.files["org/bare"]["README.md"].decode()


def test_a_hub_that_refuses_is_one_line_and_the_folder_stays(here, hub, mergefront, tmp_path):
    hub.refuses = True
    ended = mergefront(*PUSH, "--model", tmp_path / "out", "--push", "org/x", "--public")
    assert ended.code == 2
    assert "--push org/x: the hub does not take it: " in ended.err
    assert ended.err.count("\n") == 1
    assert "hf_testtoken" not in ended.err + ended.out
    assert hub.repositories == {"org/x": False}
    later = f"hf upload org/x {tmp_path / 'out'} . --exclude recipe.yaml --exclude mergekit_config"
    assert later in ended.err
    assert (tmp_path / "out" / "README.md").is_file()
