"""Whatever is wrong with what a user gives: one line, exit code 2, and nothing written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from search.config import load
from search.run import LOCK, STUDY, Run
from search.study import open_study
from tests.search.small import GOOD, Ended

CHECK = ("check", "search.yaml")
MODEL = Path("models/r1/model.safetensors")
RECIPE = """\
merge_method: linear
models:
  - {model: models/thai, name: a, parameters: {weight: 0.5}}
  - {model: models/r1, name: b, parameters: {weight: 0.5}}
"""


@pytest.fixture
def workplace(workplace, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return workplace


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Every file and folder, with what would change if it were written."""
    return sorted(
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    )


def check_line(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended
    assert ended.err.startswith("mergefront: ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err


# --- The search file: each case is the good one with a small change ------------------------------

WEIGHT = "weight: {low: 0.3, high: 1.2}"
DENSITY = "density: {low: 0.1, high: 1.0}"
PARAMETERS = "parameters: {normalize: false}"
ENGINE = '{kind: scripted, default: "The answer is 7."}'
TRIALS = "budget: {trials: 3}"

# replaced text | by what | where the fault is (text that stands there) | words of the message
FILES = {
    "unknown key": (
        TRIALS,
        "budgets: {trials: 3}",
        "budgets",
        "unknown key 'budgets'; did you mean 'budget'?",
    ),
    "unknown nested key": ("trials: 3", "trails: 3", "trails", "did you mean 'trials'?"),
    "unknown key of a model": (
        "    name: language",
        "    nam: language",
        "nam: language",
        "did you mean 'name'?",
    ),
    "unknown parameter": (
        WEIGHT,
        "wieght: 0.5",
        "wieght",
        "unknown parameter of ties_sv 'wieght'; did you mean 'weight'?",
    ),
    "unknown key of a range": (
        WEIGHT,
        "weight: {low: 0.3, hgih: 1}",
        "hgih",
        "did you mean 'high'?",
    ),
    "unknown key of a scorer": (
        "{expect: en}",
        "{expct: en}",
        "{language:",
        "scorer language",
    ),
    "unknown key of the engine": (
        'default: "The',
        'defualt: "The',
        "defualt",
        "did you mean 'default'?",
    ),
    "unknown key of an objective": (
        "right: sums/math",
        "right: {scor: sums/math}",
        "scor:",
        "did you mean 'score'?",
    ),
    "duplicate key": (
        "tokenizer_source: base",
        "base_model: other",
        "base_model: other",
        'duplicate key "base_model"',
    ),
    "duplicate nested key": (
        "      density: 0.5",
        "      density: 0.5\n      density: 0.6",
        "density: 0.6",
        'duplicate key "density"',
    ),
    "merged key": (TRIALS, "budget: {<<: {trails: 3}}", "budget", "did you mean 'trials'?"),
    "low above high": (
        WEIGHT,
        "weight: {low: 1.3, high: 1.2}",
        "low: 1.3",
        "low 1.3 is above high 1.2",
    ),
    "log from 0": (
        WEIGHT,
        "weight: {low: 0, high: 1, log: true}",
        "low: 0, high: 1,",
        "a log range starts above 0",
    ),
    "step too wide": (
        WEIGHT,
        "weight: {low: 0.3, high: 1.2, step: 2}",
        "step: 2",
        "step 2 does not fit",
    ),
    "step too fine": (
        WEIGHT,
        "weight: {low: 0.3, high: 1.2, step: 1e-300}",
        "step: 1e-300",
        "does not fit",
    ),
    "negative step": (
        WEIGHT,
        "weight: {low: 0.3, high: 1.2, step: -1}",
        "step: -1",
        "does not fit",
    ),
    "infinite bound": (
        WEIGHT,
        "weight: {low: 0.3, high: .inf}",
        "high: .inf",
        "inf is not a finite float32 number",
    ),
    "huge bound": (
        WEIGHT,
        f"weight: {{low: 0.3, high: 1{'0' * 400}}}",
        "high: 1000",
        "not a finite float32 number",
    ),
    "text bound": (WEIGHT, "weight: {low: a, high: 1}", "low: a", "'a' is not a number"),
    "no anchors": (
        WEIGHT,
        "weight: {low: 0, high: 1, anchors: 0}",
        "anchors: 0",
        "anchors 0 is not a whole number from 1 to 64",
    ),
    "density above 1": (
        DENSITY,
        "density: {low: 0.1, high: 1.5}",
        "density: {low: 0.1, high: 1.5}",
        "density 1.5 lies outside 0 to 1",
    ),
    "density below 0": (
        DENSITY,
        "density: {low: -0.1, high: 1}",
        "density: {low: -0.1",
        "density -0.1 lies outside 0 to 1",
    ),
    "density between steps": (
        DENSITY,
        "density: {low: 0.101, high: 0.104}",
        "density: {low: 0.101",
        "no multiple of density_step 0.01",
    ),
    "density in a filter": (
        "      density: 0.5",
        "      density: [{filter: mlp, value: {low: 0.1, high: 2}}, {value: 1}]",
        "density: [{",
        "density 2 lies outside",
    ),
    "filter twice": (
        "      density: 0.5",
        "      density: [{filter: a, value: {low: 0.1, high: 1}}, "
        "{filter: a, value: {low: 0.2, high: 1}}, {value: 1}]",
        "value: {low: 0.2",
        "two ranges would be named reasoning.density[a]",
    ),
    "bad choice in the middle": (
        "      density: 0.5",
        "      density: {choices: [0.5, 3.0, 0.6]}",
        "density: {choices",
        "density 3 lies outside 0 to 1",
    ),
    "choice twice": (WEIGHT, "weight: {choices: [0.5, 0.5]}", "0.5]}", "0.5 is listed twice"),
    "no choices": (WEIGHT, "weight: {choices: []}", "weight: {choices", "at least one value"),
    "density_step as range": (
        PARAMETERS,
        "parameters: {density_step: {low: 0, high: 1}}",
        "density_step",
        "density_step is one number",
    ),
    "density_step as text": (
        PARAMETERS,
        "parameters: {density_step: fine}",
        "density_step",
        "is a number, not 'fine'",
    ),
    "knee out of range": (
        "knee: {low: 0.2, high: 1.0}",
        "knee: {low: 0.2, high: 1.1}",
        "knee",
        "knee 1.1 lies outside 0 to 1",
    ),
    "schedule without knee": (
        ", knee: {low: 0.2, high: 1.0}",
        "",
        "weight: {plateau",
        "plateau, end and knee",
    ),
    "unknown method": (
        "ties_sv",
        "ties_vs",
        "merge_method",
        "unknown merge_method 'ties_vs'; did you mean 'ties_sv'?",
    ),
    "unknown method among choices": (
        "merge_method: ties_sv",
        "merge_method: {choices: [ties_sv, tis]}",
        "merge_method",
        "unknown merge_method 'tis'",
    ),
    "method as list": (
        "merge_method: ties_sv",
        "merge_method: [ties_sv]",
        "merge_method",
        "has to be text",
    ),
    "no method": ("merge_method: ties_sv\n", "", "base_model", "'merge_method' is missing"),
    "unknown sampler": (
        "sampler: random",
        "sampler: ranom",
        "sampler",
        "unknown sampler 'ranom'; did you mean 'random'?",
    ),
    "unknown scorer": ("[math,", "[mth,", "mth,", "unknown scorer 'mth'; did you mean 'math'?"),
    "scorer twice": ("[math,", "[math, math,", "scorers", "listed twice"),
    "unknown engine": (
        "kind: scripted",
        "kind: scriptd",
        "engine",
        "unknown engine 'scriptd'; did you mean 'scripted'?",
    ),
    "engine without answers": (ENGINE, "{kind: scripted}", "engine", "nothing to answer"),
    "engine's file is missing": (
        ENGINE,
        "{kind: scripted, responses: nope.json}",
        "responses",
        "nope.json: no such file",
    ),
    "unknown task": (
        "sums/math",
        "smus/math",
        "right",
        "unknown task 'smus'; did you mean 'sums'?",
    ),
    "unknown score": (
        "sums/math",
        "sums/mth",
        "right",
        "unknown score of task 'sums' 'mth'; did you mean 'math'?",
    ),
    "objective without slash": (
        "sums/math",
        "math",
        "right",
        "'math' is no score; write task/scorer",
    ),
    "objective of nothing": ("right: sums/math", "right: []", "right", "names no score"),
    "score twice": ("right: sums/math", "right: [sums/math, sums/math]", "right", "listed twice"),
    "minimized as maximized": (
        "right: sums/math",
        "right: sums/language.switch",
        "right",
        "is to be minimized: write {score: sums/language.switch, direction: minimize, reference",
    ),
    "minimized without reference": (
        "right: sums/math",
        "right: {score: sums/language.switch, direction: minimize}",
        "right",
        "needs a reference",
    ),
    "reference is the best": (
        "right: sums/math",
        "right: {score: sums/math, reference: 1}",
        "reference",
        "nothing to gain",
    ),
    "reference is no number": (
        "right: sums/math",
        "right: {score: sums/math, reference: .nan}",
        "reference",
        "finite",
    ),
    "no objectives": (
        "  right: sums/math\n  english: sums/language\n",
        "  {}\n",
        "objectives",
        "objectives is empty",
    ),
    "objective's name": (
        "right: sums/math",
        "ri ght: sums/math",
        "ri ght",
        "letters, digits, - and _",
    ),
    "reported task searched": (
        "    items:",
        "    role: report\n    items:",
        "right",
        "role report",
    ),
    "constraint is no bound": (
        '">= 0.1"',
        '"> 0.1"',
        'english: ">',
        "'> 0.1' is no bound; write '>= 0.8'",
    ),
    "constraint is no number": ('">= 0.1"', '">= 0.1.2"', 'english: ">', "is no bound"),
    "constraint as a number": ('">= 0.1"', "0.1", "english: 0.1", "0.1 is no bound"),
    "constraint out of range": (
        '">= 0.1"',
        '">= 80"',
        'english: ">',
        "bound 80 lies outside 0 to 1",
    ),
    "constraint on nothing": (
        "constraints: {english",
        "constraints: {englsh",
        "englsh",
        "unknown objective 'englsh'; did you mean 'english'?",
    ),
    "unknown baseline": (
        "[base, experts",
        "[bas, experts",
        "bas, experts",
        "unknown baseline 'bas'; did you mean 'base'?",
    ),
    "unknown expert in a baseline": (
        "[base, experts",
        "['expert:lang', experts",
        "'expert:lang'",
        "unknown expert 'lang'; did you mean 'language'?",
    ),
    "recipe of a baseline is missing": (
        "[base, experts",
        "['recipe:x.yaml', experts",
        "'recipe:x.yaml'",
        "x.yaml: no such file",
    ),
    "checkpoint of a baseline is missing": (
        "[base, experts",
        "['checkpoint:a/b/c', experts",
        "'checkpoint:a/b/c'",
        "a/b/c: no such folder",
    ),
    "unknown expert's tokenizer": (
        "tokenizer_source: base",
        "tokenizer_source: model:lang",
        "tokenizer_source",
        "unknown expert 'lang'; did you mean 'language'?",
    ),
    "expert named base": (
        "name: language",
        "name: base",
        "name: base",
        "'base' names the base model",
    ),
    "two experts of one name": (
        "name: language",
        "name: reasoning",
        "name: reasoning\n    parameters:\n      weight: {plateau",
        "two models are named 'reasoning'",
    ),
    "expert's name": (
        "name: language",
        "name: lang uage",
        "name: lang",
        "letters, digits, - and _",
    ),
    "no base": ("base_model: models/base\n", "", "merge_method", "base_model, which is missing"),
    "model as text": (
        "  - model: models/thai\n",
        "  - models/x\n  - model: models/thai\n",
        "models/x",
        "models.0 has to be a mapping, not 'models/x'",
    ),
    "bad dtype": (
        "tokenizer_source: base",
        "dtype: bf16",
        "dtype",
        "'bfloat16', 'float16' or 'float32', not 'bf16'",
    ),
    "bad seed": ("tokenizer_source: base", "seed: 1.5", "seed", "whole number"),
    "bad duration": (
        TRIALS,
        "budget: {timeout: 8 hours}",
        "timeout",
        "'8 hours' is no duration; write 90s, 45m, 8h or 1h30m",
    ),
    "duration without unit": (TRIALS, "budget: {timeout: 30}", "timeout", "'30' is no duration"),
    "no time at all": (TRIALS, "budget: {timeout: 0s}", "timeout", "no time"),
    "no trials": ("trials: 3", "trials: 0", "trials", "budget.trials has to be at least 1"),
    "no confirm items": ("confirm: 4", "confirm: 0", "confirm", "split confirm is 0"),
    "bad split": ("dev: 4", "dev: 1.5", "dev", "splits.dev"),
    "bad storage": ("sampler: random", "storage: foo", "storage", "no database URL"),
    "empty section": (TRIALS, "budget:", "budget", "budget has to be a mapping, not empty"),
    "racing is neither": (
        "sampler: random",
        "racing: maybe",
        "racing",
        "racing takes true, false or a mapping of its settings, not 'maybe'",
    ),
    "sampler is no name": (
        "sampler: random",
        "sampler: 3",
        "sampler",
        "sampler takes a name or a mapping of its settings, not 3",
    ),
    "frozen, but fixed": (
        "sampler: random",
        "sampler: {freeze: {reasoning.density: 0.3}}",
        "reasoning.density: 0.3",
        "reasoning.density is fixed at 0.5 in the file already: only ranges can be frozen",
    ),
    "broken YAML": (TRIALS, "budget: {trials: 3", "workers: {count: 1}", "not valid YAML"),
    "tab": (TRIALS, "budget:\n\ttrials: 3", "\ttrials", "not valid YAML"),
    "two documents": (TRIALS, f"---\n{TRIALS}", "---", "not valid YAML"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_wrong_search_file_is_one_line_with_its_place(case, workplace, mergefront):
    old, new, spot, words = FILES[case]
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    Path("search.yaml").write_text(text)
    before = listing(workplace)
    ended = mergefront(*CHECK)
    start = text.rindex(spot) if case == "broken YAML" else text.index(spot)
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    place = f"search.yaml:{line}:"
    if case != "broken YAML":  # the parser stops after the word that it did not expect
        place += f"{column}: "
    check_line(ended, place, words)
    assert listing(workplace) == before


# --- Checkpoints, items, recipes, and the use of commands -----------------------------------------


@dataclass
class Case:
    """What is done to the workplace, the command, and words that its line holds."""

    says: tuple[str, ...]
    command: tuple[str, ...] = CHECK
    do: Callable[[], object] = lambda: None
    edit: tuple[str, str] = ("", "")
    files: dict[str, str] = field(default_factory=dict)


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[], None]:
    def do() -> None:
        held = load_file(MODEL)
        change(held)
        save_file(held, MODEL, metadata={"format": "pt"})

    return do


def configured(**changes: object) -> Callable[[], object]:
    path = Path("models/r1/config.json")
    return lambda: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def items(change: Callable[[list[str]], list[str]]) -> Callable[[], object]:
    path = Path("items.jsonl")
    return lambda: path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def with_nan(held: dict[str, torch.Tensor]) -> None:
    held["model.norm.weight"][3] = float("nan")


def as_pickle() -> None:
    MODEL.rename(MODEL.with_name("pytorch_model.bin"))


def index_outside() -> None:
    MODEL.unlink()
    index = {"weight_map": {"model.norm.weight": "../thai/model.safetensors"}}
    MODEL.with_name("model.safetensors.index.json").write_text(json.dumps(index))


def other_vocabulary() -> None:
    path = Path("models/r1/tokenizer.json")
    path.write_text(path.read_text().replace('"WordLevel"', '"WordPiece"').replace('"b"', '"z"'))


def cut(count: int) -> Callable[[], object]:
    return lambda: MODEL.write_bytes(MODEL.read_bytes()[:count])


def a_run(**manifest: object) -> Run:
    """A run folder as `run` leaves it before its first trial."""
    search = load(Path("search.yaml"))
    references = [str(Path(f"models/{name}").resolve()) for name in ("base", "thai", "r1")]
    run = Run.start(search, Path("runs/search"), references, {})
    (run.folder / LOCK).touch()
    if manifest:
        path = run.folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    return run


def worked(store: bytes | None = None, **changes: object) -> None:
    """A run with one session of its account, in part damaged; `store` is MLflow's."""
    run = a_run()
    open_study(run)
    if store is not None:
        (run.folder / "mlflow.db").write_bytes(store)
    row = {"began": "2026-01-01T00:00:00+00:00", "seconds": 1.5, "workers": 2, "gpus": 0.5}
    (run.folder / "sessions.json").write_text(json.dumps([row | changes]))


def without_study(study: bytes | None = None) -> None:
    """A run that has lost its study, but has results; `study` is what is left of its file."""
    run = a_run()
    for number in range(2):
        run.trial(number).parent.mkdir(exist_ok=True)
        run.trial(number).write_text("{}")
    if study is not None:
        (run.folder / STUDY).write_bytes(study)


def confirmed(trial: int, **changes: object) -> None:
    """A run of which one trial is confirmed."""
    run = a_run()
    open_study(run)
    told = {key: {"value": 0.5, "low": 0.1, "high": 0.9, "n": 4} for key in ("right", "english")}
    models = [{"model": "a", "parameters": {"weight": 1}}]
    member = {
        "label": f"trial {trial}",
        "trial": trial,
        "fingerprint": "0",
        "recipe": {"merge_method": "linear", "models": models},
        "claimed": told,
        "confirmed": told,
        "joint": None,
        "feasible": True,
        "on_front": True,
    }
    data = {"finished": 0, "members": [member | changes]}
    (run.folder / "confirmed.json").write_text(json.dumps(data))


def in_a_storage_that_was_emptied() -> None:
    """The same, of a run whose study was in a storage of the user's own."""
    Path("search.yaml").write_text(GOOD + "storage: sqlite:///own.db\n")
    open_study(a_run())
    without_study()
    with closing(sqlite3.connect("own.db")) as held:
        held.execute("DELETE FROM studies")
        held.commit()


def damaged(*, whole: bool, place: str = "runs/search") -> None:
    """A run whose study has broken pages, or is none at all (`whole`)."""
    a_run()
    if place != "runs/search":
        shutil.move("runs/search", place)
    run = Run.open(Path(place))
    open_study(run)._storage.remove_session()
    path = run.folder / STUDY
    path.write_bytes(b"no study " * 3000 if whole else path.read_bytes()[:4096] + bytes(40960))


def recipe(*changes: tuple[str, str]) -> dict[str, str]:
    text = RECIPE
    for old, new in changes:
        text = text.replace(old, new, 1)
    return {"recipe.yaml": text}


MERGE = ("merge", "recipe.yaml", "out")
SET = (*CHECK, "--set")
CASES = {
    # checkpoints
    "missing model": Case(("models/nope: no such folder",), edit=("models/r1", "models/nope")),
    "missing base": Case(("models/base: no such folder",), do=lambda: shutil.rmtree("models/base")),
    "hub id while offline": Case(
        ("some-org/model: no such folder, and the hub",), edit=("models/r1", "some-org/model")
    ),
    "model is a file": Case(("items.jsonl: is a file",), edit=("models/r1", "items.jsonl")),
    "other architecture": Case(
        ("models/r1: is Qwen2ForCausalLM", "models/base"),
        do=configured(architectures=["Qwen2ForCausalLM"]),
    ),
    "wrong shape": Case(
        ("models/r1: tensor model.norm.weight has shape [9]",),
        do=tensors(lambda t: t.update({"model.norm.weight": torch.zeros(9, dtype=torch.bfloat16)})),
    ),
    "missing tensor": Case(
        ("models/r1: lacks tensor model.norm.weight",),
        do=tensors(lambda t: t.pop("model.norm.weight")),
    ),
    "cut short": Case((f"{MODEL}: ", "cut short"), do=cut(-9)),
    "cut in its header": Case((f"{MODEL}: ", "cut short"), do=cut(200)),
    "index points outside": Case(
        ("model.safetensors.index.json: points to '../thai/",), do=index_outside
    ),
    "pickle": Case(("pytorch_model.bin: is a pickle",), do=as_pickle),
    "other vocabulary": Case(
        ("models/r1/tokenizer.json: is a WordPiece tokenizer, ",), do=other_vocabulary
    ),
    "no config": Case(
        ("models/r1/config.json: no such file",), do=lambda: Path("models/r1/config.json").unlink()
    ),
    "NaN in a search": Case(
        (f"{MODEL}: tensor model.norm.weight holds NaN",),
        ("run", "search.yaml"),
        do=tensors(with_nan),
    ),
    "NaN in a merge": Case(
        (f"{MODEL}: tensor model.norm.weight holds NaN",),
        MERGE,
        do=tensors(with_nan),
        files=recipe(),
    ),
    "NaN in a score": Case(
        (f"{MODEL}: tensor model.norm.weight holds NaN",),
        ("score", "models/r1", "search.yaml"),
        do=tensors(with_nan),
    ),
    # items
    "missing items": Case(("nope.jsonl: no such item file",), edit=("items.jsonl", "nope.jsonl")),
    "items are a folder": Case(("models: cannot be read",), edit=("items.jsonl", "models")),
    "bad JSON line": Case(
        ("items.jsonl:4: not JSON",), do=items(lambda rows: [*rows[:3], "{", *rows[4:]])
    ),
    "duplicate item": Case(
        ("items.jsonl:13: id 'i0' was used in", "items.jsonl:1"),
        do=items(lambda rows: [*rows, rows[0]]),
    ),
    "item without answer": Case(
        ('items.jsonl:1: "answer" is missing',),
        do=items(lambda rows: ['{"id": 1, "prompt": "x"}', *rows]),
    ),
    "too few items": Case(
        ("task sums: split confirm asks for 40", "items.jsonl has 8 left of 12"),
        edit=("confirm: 4", "confirm: 40"),
    ),
    # files
    "no file": Case(("nope.yaml: no such file",), ("check", "nope.yaml")),
    "folder as file": Case(("models: cannot be read",), ("check", "models")),
    "folder as file of a run": Case(("models: cannot be read",), ("run", "models")),
    "empty file": Case(
        ("search.yaml:1:1: is no search file",), do=lambda: Path("search.yaml").write_text("")
    ),
    "text file": Case(
        ("search.yaml:1:1: is no search file",), do=lambda: Path("search.yaml").write_text("hello")
    ),
    "not UTF-8": Case(
        ("search.yaml: cannot be read", "utf-8"),
        do=lambda: Path("search.yaml").write_bytes(GOOD.encode() + b"# caf\xe9"),
    ),
    # --set
    "--set without =": Case(("--set budget.trials: write a.b=value",), (*SET, "budget.trials")),
    "--set without key": Case(("--set =3: write a.b=value",), (*SET, "=3")),
    "--set of an unknown key": Case(
        ("--set budgets.trials=3: unknown key 'budgets'",), (*SET, "budgets.trials=3")
    ),
    "--set into nothing": Case(
        ("--set models.5.name=x: there is no 5 in models",), (*SET, "models.5.name=x")
    ),
    "--set into a value": Case(
        ("--set merge_method.x=3: merge_method is no mapping",), (*SET, "merge_method.x=3")
    ),
    "--set of bad YAML": Case(
        ("--set budget.trials=[: not valid YAML",), (*SET, "budget.trials=[")
    ),
    "--set of a bad value": Case(
        ("--set budget.trials=many: budget.trials has to be a whole number",),
        (*SET, "budget.trials=many"),
    ),
    "--set of an illegal value": Case(
        ("--set models.0.parameters.density=3: density 3 lies outside",),
        (*SET, "models.0.parameters.density=3"),
    ),
    "--timeout": Case(
        ("'8 hours' is no duration",), ("run", "search.yaml", "--timeout", "8 hours")
    ),
    # usage
    "unknown command": Case(("No such command 'chekc'", "--help"), ("chekc",)),
    "unknown option": Case(
        ("No such option: --foo", "`mergefront check --help`"), (*CHECK, "--foo")
    ),
    "no argument": Case(("Missing argument", "`mergefront check --help`"), ("check",)),
    "one argument too many": Case(("unexpected extra argument",), (*CHECK, "more")),
    "bad number": Case(("--trials",), ("run", "search.yaml", "--trials", "x")),
    "number out of range": Case(("--trials",), ("run", "search.yaml", "--trials", "0")),
    "bad name": Case(("--name 'a/b'",), ("run", "search.yaml", "--name", "a/b")),
    "name that leaves the folder": Case(
        ("--name '..'",), ("run", "search.yaml", "--runs", "runs/a", "--name", "..")
    ),
    "runs under a file": Case(
        ("items.jsonl/search: cannot be written",), ("run", "search.yaml", "--runs", "items.jsonl")
    ),
    "demo of no trials": Case(("--trials",), ("demo", "--trials", "0")),
    "init over a file": Case(("search.yaml: exists already",), ("init", "search.yaml")),
    "init under a file": Case(("search.yaml/tiny: cannot be written",), ("init", "search.yaml/x")),
    "unknown split": Case(
        ("--split devv: choose one of dev",),
        ("score", "models/r1", "search.yaml", "--split", "devv"),
    ),
    "score of nothing": Case(("a/b/c: no such folder",), ("score", "a/b/c", "search.yaml")),
    # runs
    "folder that holds no run": Case(("models: holds no run",), ("status", "models")),
    "no run to confirm": Case(("runs/x: holds no run",), ("confirm", "runs/x")),
    "no run to show": Case(("runs/x: holds no run",), ("front", "runs/x")),
    "no run to export": Case(("runs/x: holds no run",), ("export", "runs/x")),
    "no run to look at": Case(("runs/x: holds no run",), ("ui", "runs/x")),
    "damaged MLflow store": Case(
        ("runs/search/mlflow.db: ", "file is not a database"),
        ("ui", "runs/search"),
        do=lambda: worked(store=b"no database " * 3000),
    ),
    "export before confirm": Case(
        ("not confirmed yet", "mergefront confirm"), ("export", "runs/search"), do=a_run
    ),
    "status before the first trial": Case(
        ("runs/search: no trial has begun yet",), ("status", "runs/search"), do=a_run
    ),
    "front before the first trial": Case(
        ("runs/search: no trial has begun yet",), ("front", "runs/search"), do=a_run
    ),
    **{
        f"{command[0]} without its study": Case(
            (
                "runs/search: holds results of 2 trials but no study (study.db is missing): "
                "put it back from a copy, or start another run with --new",
            ),
            command,
            do=without_study,
        )
        for command in (
            ("run", "search.yaml"),
            *((name, "runs/search") for name in ("confirm", "status", "front", "narrow")),
            ("importance", "runs/search"),
        )
    },
    **{
        f"{' '.join(command)} of {what}": Case(
            (f"runs/search/study.db: is damaged ({says}", "): put it back from a copy, or start"),
            command,
            do=lambda whole=whole: damaged(whole=whole),
        )
        for what, whole, says, commands in (
            ("broken pages", False, "", (("run", "search.yaml"), ("front", "runs/search"))),
            (
                "no database",
                True,
                "file is not a database",
                (("run", "search.yaml", "--dry-run"), ("confirm", "runs/search")),
            ),
        )
        for command in commands
    },
    **{
        f"begun with a damaged run, {' '.join(more)}": Case(
            ("mergefront: --from runs/old: ", "runs/old/study.db: is damaged (file is not a"),
            ("run", "search.yaml", "--from", "runs/old", *more),
            do=lambda: damaged(whole=True, place="runs/old"),
        )
        for more in (("--dry-run",), ("--freeze", "reasoning.slack=0"))
    },
    "frozen, but fixed in a schedule": Case(
        ("--freeze reasoning.weight.end=1: reasoning.weight.end is fixed at 0.5 in the file",),
        ("run", "search.yaml", "--freeze", "reasoning.weight.end=1"),
    ),
    "frozen twice": Case(
        ("--freeze reasoning.slack: is given 2 times; give it once",),
        ("run", "search.yaml", *("--freeze", "reasoning.slack=0", "--freeze=reasoning.slack=1")),
    ),
    "sessions of no workers": Case(
        ("runs/search/sessions.json: cannot be read; put it back from a copy, or delete it",),
        ("status", "runs/search"),
        do=lambda: worked(workers=-2),
    ),
    "sessions before time": Case(
        ("runs/search/sessions.json: cannot be read; put it back from a copy, or delete it",),
        ("status", "runs/search"),
        do=lambda: worked(seconds=-0.1),
    ),
    "begun with no run": Case(
        ("mergefront: --from runs/old: holds no run (no run.json)",),
        ("run", "search.yaml", "--from", "runs/old"),
    ),
    "begun with itself": Case(
        ("mergefront: --from runs/search: is the run itself, which goes on from its own results",),
        ("run", "search.yaml", "--from", "runs/search"),
        do=a_run,
    ),
    **{
        f"emptied study: {' '.join(command)}": Case(
            ("runs/search: holds results of 2 trials but no study (study.db is empty): put it",),
            command,
            do=lambda: without_study(b""),
        )
        for command in (
            ("run", "search.yaml"),
            ("status", "runs/search"),
        )
    },
    **{
        f"emptied storage of the user's own: {' '.join(command)}": Case(
            ("holds results of 2 trials but no study (own.db holds none of its name, ",),
            command,
            do=in_a_storage_that_was_emptied,
        )
        for command in (("run", "search.yaml"), ("confirm", "runs/search"))
    },
    "storage of the user's own is gone": Case(
        ("runs/search: holds results of 2 trials but no study (own.db is missing)",),
        ("run", "search.yaml"),
        do=lambda: (in_a_storage_that_was_emptied(), Path("own.db").unlink()),
    ),
    "confirm before the first trial": Case(
        ("runs/search: no trial has finished yet: nothing to confirm",),
        ("confirm", "runs/search"),
        do=lambda: open_study(a_run()),
    ),
    "damaged run": Case(
        ("run.json: cannot be read",),
        ("front", "runs/search"),
        do=lambda: (a_run(), Path("runs/search/run.json").write_text("{")),
    ),
    **{
        f"run whose search file holds {text!r}": Case(
            (f"runs/search/search.yaml:1:1: {says}",),
            ("status", "runs/search"),
            do=lambda text=text: (a_run(), Path("runs/search/search.yaml").write_text(text)),
        )
        for text, says in (("", "is no search file"), ("[]", "is no search file"), ("{}", ""))
    },
    **{
        f"manifest with {key} {value!r}": Case(
            ("runs/search/run.json: is damaged; put back a copy",),
            ("status", "runs/search"),
            do=lambda key=key, value=value: a_run(**{key: value}),
        )
        for key, value in (("root", 3), ("sources", []))
    },
    **{
        f"confirmed front with {change}": Case(
            ("runs/search/confirmed.json: cannot be read; delete it and `mergefront confirm",),
            ("front", "runs/search"),
            do=lambda change=change: confirmed(0, **change),
        )
        for change in (
            {"claimed": []},
            {"confirmed": {}},
            {"claimed": {"right": {"value": "x", "low": 0, "high": 1, "n": 4}}},
            {"recipe": {}},
        )
    },
    "run of another version": Case(
        ("run.json: was written by another version",),
        ("front", "runs/search"),
        do=lambda: a_run(version=99),
    ),
    "frozen change": Case(
        ("'splits.dev' is frozen in run", "it was 4, now it is 3", "--new"),
        ("run", "search.yaml", "--set", "splits.dev=3"),
        do=a_run,
    ),
    "folder of something else": Case(
        ("runs/search: is not empty and holds no run",),
        ("run", "search.yaml"),
        do=lambda: shutil.copytree("models", "runs/search"),
    ),
    # recipes
    "missing recipe": Case(("nope.yaml: no such file",), ("merge", "nope.yaml", "out")),
    "merge into a folder": Case(
        ("models: exists already",), ("merge", "recipe.yaml", "models"), files=recipe()
    ),
    "merge under a file": Case(
        ("items.jsonl/x: cannot be written",),
        ("merge", "recipe.yaml", "items.jsonl/x"),
        files=recipe(),
    ),
    "merge of a search file": Case(
        ("search.yaml: is a search file", "mergefront run"), ("merge", "search.yaml", "out")
    ),
    "unknown key in a recipe": Case(
        ("recipe.yaml:5:1: unknown key 'dtpye'; did you mean 'dtype'?",),
        MERGE,
        files={"recipe.yaml": RECIPE + "dtpye: float32\n"},
    ),
    "unknown parameter in a recipe": Case(
        ("recipe.yaml:3:48: unknown parameter of linear 'wieght'",),
        MERGE,
        files=recipe(("weight", "wieght")),
    ),
    "mergekit's slices": Case(
        ("recipe.yaml:1:1: mergekit's 'slices' is not something mergefront has",),
        MERGE,
        files={"recipe.yaml": "slices: []\nmerge_method: linear\n"},
    ),
    "mergekit's tokenizer": Case(
        ("recipe.yaml:5:1: mergekit's 'tokenizer' is not",),
        MERGE,
        files={"recipe.yaml": RECIPE + "tokenizer: {source: base}\n"},
    ),
    "fault in a mergekit file": Case(
        ("recipe.yaml:1:1: unknown merge_method 'model_stock'",),
        MERGE,
        files={
            "recipe.yaml": RECIPE.replace("linear", "model_stock").replace("name: a, ", "")
            + "out_dtype: float32\n"
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_checkpoints_items_recipes_and_use_are_one_line(name, workplace, mergefront):
    case = CASES[name]
    if case.edit[0]:
        assert case.edit[0] in GOOD
        Path("search.yaml").write_text(GOOD.replace(*case.edit, 1))
    for file, text in case.files.items():
        Path(file).write_text(text)
    case.do()
    before = listing(workplace)
    check_line(mergefront(*case.command), *case.says)
    assert listing(workplace) == before


def test_a_pick_that_was_not_confirmed_is_named_beside_what_was(workplace, mergefront):
    confirmed(2)
    ended = mergefront("export", "runs/search", "--pick", "trial:7")
    check_line(ended, "--pick trial:7: not among the confirmed members (trial:2)")


THREE = ("--base", "models/base", "--language", "models/thai", "--reasoning", "models/r1")


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize(
    ("command", "place"),
    [
        (("run", "search.yaml"), "runs/search"),
        (("init", "new.yaml"), "tiny/base"),
        (("init", "new.yaml", *THREE, "--items", "items.jsonl"), "new.yaml"),
        (("merge", "--no-verify", "recipe.yaml", "out"), "out"),
    ],
)
def test_a_folder_that_cannot_be_written(
    refusal, command, place, workplace, mergefront, monkeypatch
):
    # Rights do not bind root, who may run these tests; so the system call is made to refuse.
    Path("recipe.yaml").write_text(RECIPE)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal), str(workplace))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    check_line(mergefront(*command), place, "cannot be written", os.strerror(refusal))


def test_our_own_faults_keep_their_traceback(workplace, mergefront, monkeypatch):
    def broken(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("search.session.prepare", broken)
    with pytest.raises(AssertionError, match="ours"):
        mergefront(*CHECK)


def test_what_the_system_refuses_anywhere_is_one_line(workplace, mergefront, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "runs/search/.lock")

    monkeypatch.setattr("search.session.prepare", refused)
    check_line(mergefront(*CHECK), "mergefront: runs/search/.lock: Permission denied")


# --- As users start it ----------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("mergefront"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )


def test_in_a_process_of_its_own(workplace):
    Path("search.yaml").write_text(GOOD.replace("budget:", "budgets:"))
    done = start(*CHECK)
    check_line(Ended(done.returncode, done.stdout, done.stderr), "search.yaml:31:1: unknown key")
    assert done.stdout == ""


def test_a_mistyped_option_in_a_process_of_its_own(workplace):
    done = start("run", "search.yaml", "--trails", "3")
    check_line(Ended(done.returncode, done.stdout, done.stderr), "--trails", "--trials")


def test_a_second_driver_is_turned_away(workplace, mergefront):
    a_run()
    lock = Path("runs/search/.lock")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\nfrom filelock import FileLock\n"
            f"with FileLock({str(lock)!r}):\n    print('held', flush=True)\n    sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        ended = mergefront("run", "search.yaml")
        check_line(ended, "runs/search: another mergefront is working on this run")
        assert not Path("runs/search/study.db").exists()
    finally:
        holder.communicate(b"")
    assert holder.returncode == 0
    with FileLock(lock, timeout=0):
        pass


# --- Faults behind a task or a baseline begin with its place -------------------------------------

SCORERS = "[math, {language: {expect: en}}]"
BASELINES = "[base, experts, uniform]"
PLACED = {
    "items are missing": ("items.jsonl", "nope.jsonl", "  sums:", ("sums", "no such item file")),
    "too few items": ("confirm: 4", "confirm: 40", "  sums:", ("task sums: split confirm asks",)),
    "a scorer's own items": (
        SCORERS,
        "[{lm_eval: {metrics: [acc]}}]",
        "  sums:",
        ("task sums: scorer lm_eval: its items are documents of a task",),
    ),
    "a model of a recipe": (
        BASELINES,
        "[base, 'recipe:other.yaml']",
        "'recipe:",
        ("baseline recipe:other.yaml: ", "models/zz: no such folder"),
    ),
}


@pytest.mark.parametrize("case", PLACED)
def test_faults_behind_a_task_or_baseline_begin_with_its_place(case, workplace, mergefront):
    old, new, spot, words = PLACED[case]
    text = GOOD.replace(old, new, 1)
    if case == "a scorer's own items":  # whose names the objectives give
        text = text.replace("sums/math", "sums/lm_eval").replace("  english: sums/language\n", "")
        text = text.replace('constraints: {english: ">= 0.1"}\n', "")
    Path("search.yaml").write_text(text)
    Path("other.yaml").write_text(RECIPE.replace("models/r1", "models/zz"))
    start = text.index(spot) + len(spot) - len(spot.lstrip())
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    ended = mergefront(*CHECK)
    check_line(ended, *words)
    assert ended.err.startswith(f"mergefront: search.yaml:{line}:{column}: "), ended.err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tis", "--baseline tis: unknown baseline 'tis'; did you mean 'ties'?"),
        ("recipe:other.yaml", "--baseline recipe:other.yaml: baseline recipe:"),
        ("recipe:nope.yaml", "nope.yaml: no such file"),
    ],
)
def test_a_baseline_typed_later_is_named_as_it_was_typed(given, words, workplace, mergefront):
    a_run()
    Path("other.yaml").write_text(RECIPE.replace("models/r1", "models/zz"))
    ended = mergefront("confirm", "runs/search", "--baseline", given)
    check_line(ended, words)
    assert "--set" not in ended.err
    assert ended.err.startswith("mergefront: --baseline ")
