"""Prompts that cannot be asked: known by `check`, of every split, before anything is paid for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.objectives.tiny_model import save_model
from tests.search.small import Ended

POSITIONS = 40
FILE = """\
merge_method: linear
models:
  - {model: models/one, name: one, parameters: {weight: {low: 0.0, high: 1.0}}}
  - {model: models/two, name: two, parameters: {weight: 0.5}}

tasks:
  sums:
    items: items.jsonl
    generate: {max_tokens: 8}
    scorers: [math]
  pick:
    items: picks.jsonl
    scorers: [choice]
objectives: {right: sums/math, picked: pick/choice}
splits: {dev: 4, confirm: 4, test: 4}
baselines: []
engine: {device: cpu}
budget: {trials: 1}
"""
SPLITS = ["dev"] * 4 + ["confirm"] * 4 + ["test"] * 4
SUMS, PICK = "search.yaml:7:3: task sums: ", "search.yaml:11:3: task pick: "


def rows(kind: str) -> list[dict]:
    return [
        {
            "id": f"{kind}{n}",
            "prompt": f"{'has' if kind == 's' else 'the'} {n} + w{n}",
            "answer": "4",
            "choices": ["3", "4"],
            "split": split,
        }
        for n, split in enumerate(SPLITS)
    ]


def write(items: list[dict], file: str = "items.jsonl") -> None:
    Path(file).write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for seed, name in enumerate(("one", "two")):
        save_model(folder / "models" / name, seed=seed, positions=POSITIONS, layers=1)
    return folder


@pytest.fixture
def workplace(good, tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "work"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    Path("search.yaml").write_text(FILE)
    write(rows("s"))
    write(rows("p"), "picks.jsonl")
    return folder


def check_line(ended: Ended, start: str, *words: str) -> None:
    assert ended.code == 2, ended
    assert ended.err.startswith(f"mergefront: {start}"), ended.err
    assert ended.err.count("\n") == 1
    assert "/tmp/mergefront-" not in ended.err
    for word in words:
        assert word in ended.err


def test_what_can_be_asked_passes_without_a_word(workplace, mergefront):
    ended = mergefront("check", "search.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert "note:" not in ended.out


@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_prompt_that_is_too_long_in_any_split(at, workplace, mergefront):
    items = rows("s")
    items[at]["prompt"] = "w1 " * 50
    write(items)
    message = f"prompt 's{at}' has 53 tokens, the model takes {POSITIONS} with the answer; shorten"
    check_line(mergefront("check", "search.yaml"), SUMS + message)
    check_line(mergefront("run", "search.yaml"), SUMS + message)
    assert not Path("runs").exists()


def test_prompts_that_are_cut_short_are_counted(workplace, mergefront):
    items = rows("s")
    for item in items[:3]:
        item["prompt"] += " w2" * 28  # 34 tokens
    write(items)
    ended = mergefront("check", "search.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert "note: task sums: 3 of 12 prompts leave less than max_tokens 8 of" in ended.out


KWARGS = "chat: {template_kwargs: %s}"
SETTINGS = {
    "a system message": ("system: w1", "refuses it: no system role here", "`system_role: user`"),
    "messages": (KWARGS % "{messages: []}", "template_kwargs: 'messages' is the engine's own"),
    "tools": (KWARGS % "{tools: [3]}", "prompt 's0': the chat template refuses it: Tools"),
    "a template": (
        KWARGS % '{chat_template: "{{ 1/0 }}"}',
        "prompt 's0': the chat template refuses it: division by zero",
    ),
    "examples": (
        "fewshot: {count: 4, items: shots.jsonl}",
        "prompt 's0' has 43 tokens, the model takes 40",
    ),
    "a prefill": (f'chat: {{prefill: "{" w3" * 40}"}}', "prompt 's0' has 47 tokens"),
    "half a character": (
        r'chat: {prefill: "\ud83d"}',
        r"the tokenizer refuses its text: half a character, '\ud83d'; mend it",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_with_which_nothing_can_be_asked(case, workplace, mergefront):
    line, *words = SETTINGS[case]
    shots = [{"id": n, "prompt": f"sells {n} ?", "answer": "w1 w2 w3"} for n in range(4)]
    write(shots, "shots.jsonl")
    items = "    items: items.jsonl\n"
    Path("search.yaml").write_text(FILE.replace(items, f"{items}    {line}\n"))
    check_line(mergefront("check", "search.yaml"), SUMS, *words)


def test_half_a_character(workplace, mergefront):
    items = rows("s")
    items[9]["prompt"] = "has \ud83d 3"
    write(items)
    check_line(mergefront("check", "search.yaml"), SUMS, "half a character")


MELTED = "[{choice: {prefix: ''}}]\n    chat: {template: false, prefill: w3}"


@pytest.mark.parametrize(
    ("scorers", "words"),
    [
        ("[choice]", "'p10' has 7 tokens and a continuation of 50, the model takes 40; shorten it"),
        (MELTED, "'p0': the continuation '3' has no tokens of its own"),
    ],
)
def test_continuations_that_cannot_be_scored(scorers, words, workplace, mergefront):
    items = rows("p")
    items[10]["choices"] = ["w1 " * 50, "4"]
    write(items, "picks.jsonl")
    text = FILE.replace("scorers: [choice]", f"scorers: {scorers}")
    Path("search.yaml").write_text(text)
    check_line(mergefront("check", "search.yaml"), PICK, words)


def test_what_is_never_asked_is_not_checked(workplace, mergefront):
    items = rows("s")
    for item in items:
        item["prompt"] = f"buys {item['prompt']}"
        if item["split"] != "test":
            item["prompt"] += " w1" * 50
    write(items, "report.jsonl")
    splits = "splits: {dev: 4, confirm: 4, test: 4}"
    seen = f"  seen: {{items: report.jsonl, scorers: [math], role: report, {splits}}}\n"
    Path("search.yaml").write_text(FILE.replace("objectives:", f"{seen}objectives:"))
    assert mergefront("check", "search.yaml").err == ""


def test_an_engine_without_a_model_takes_any_prompt(workplace, mergefront):
    items = rows("s")
    items[0]["prompt"] = "w1 " * 500
    write(items)
    scripted = "engine={kind: scripted, default: x}"
    assert mergefront("check", "search.yaml", "--set", scripted).err == ""


def test_a_tokenizer_that_cannot_be_opened_is_the_users_not_a_copy(workplace, mergefront):
    for name in ("one", "two"):
        path = Path(f"models/{name}/tokenizer.json")
        data = json.loads(path.read_text())
        del data["model"]["unk_token"]
        path.write_text(json.dumps(data))
    check_line(mergefront("check", "search.yaml"), "", "models/one: the tokenizer cannot be opened")


def test_score_checks_what_it_asks(workplace, mergefront):
    items = rows("s")
    items[1]["prompt"] = "w1 " * 50
    items[5]["prompt"] += " w2" * 28
    write(items)
    ended = mergefront("score", "models/one", "search.yaml")
    check_line(ended, SUMS + "prompt 's1' has 53 tokens")
    ended = mergefront("score", "models/one", "search.yaml", "--split", "confirm")
    assert (ended.code, ended.err) == (0, "")
    assert "note: task sums: 1 of 4 prompts leave less than max_tokens 8" in ended.out
    ended = mergefront("score", "models/one", "search.yaml", "--limit", "1")
    assert (ended.code, ended.err) == (0, "")
