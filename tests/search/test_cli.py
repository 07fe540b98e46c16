import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import torch
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from merge_core.yaml_io import load_yaml, parse_yaml
from search import completion
from search.beginning import around
from search.cli import app
from search.cli_reference import reference
from search.config import load
from search.console import console
from search.run import folder_for
from tests.merge_core.conftest import SHAPES
from tests.search.small import GOOD

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    [name, inner] if inner else [name]
    for name, command in typer.main.get_command(app).commands.items()
    for inner in getattr(command, "commands", {None: None})
]
RECIPE = """\
merge_method: ties
base_model: models/base
models:
  - {model: models/thai, parameters: {weight: 0.5, density: 0.5}}
  - {model: models/r1, parameters: {weight: 0.5, density: 0.333}}
"""


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- Help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_every_command_has_help_with_an_example(words, mergefront, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ended = mergefront(*words, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "Usage: mergefront" in ended.out
    lines = [line.strip() for line in ended.out.splitlines()]
    examples = [line for line in lines if line.startswith("Example: mergefront ")]
    assert examples
    for line in examples:  # each a line of its own
        assert line.count("Example:") == 1
        if words:
            assert line.split()[2 : 2 + len(words)] == words


def test_the_reference_has_all_of_it():
    told = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert told == reference(), "run `python -m search.cli_reference > docs/cli.md`"
    for words in COMMANDS:
        assert f"### {' '.join(words)}\n" in told


def test_all_commands_are_there():
    listed = "demo init check run confirm status front export merge analyze score ui schema"
    assert set(listed.split()) <= {words[0] for words in COMMANDS}


def test_help_and_mistyped_options_import_nothing_heavy():
    # What takes a second to import would be waited for at every key that is mistyped.
    code = (
        "import sys\nfrom search.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code)\n"
        "heavy = ('torch', 'optuna', 'mlflow', 'ray', 'transformers')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    for arguments, status in ((["run", "--help"], "0"), (["run", "--hlep"], "2")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert done.stdout.splitlines()[-2:] == [status, "[]"]


def test_looking_imports_nothing_of_what_runs_a_search():
    # `status`, `front` and completion are asked often: Ray, scikit-learn and MLflow take seconds.
    code = (
        "import sys, search.looking\n"
        "heavy = ('ray', 'sklearn', 'mlflow', 'transformers', 'matplotlib', 'plotly')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_command_alone_is_help(mergefront):
    ended = mergefront()
    assert ended.code == 2
    assert "Usage: mergefront" in ended.out
    assert ended.err == ""


# --- check, run --dry-run ------------------------------------------------------------------------


GIVEN = ("--base", "models/base", "--language", "models/thai", "--reasoning", "models/r1")
MERGEKIT = """\
# by hand, and good
merge_method: dare_ties
base_model: ../models/base
models:
  - model: ../models/base
  - model: ../models/thai
    parameters: {weight: 0.5, density: 0.33}   # Thai
  - model: ../models/r1
    parameters:
      weight: [0.75, 0.75, 0.125]
      density: [{filter: mlp, value: 0.4}, {value: 0.2}]
parameters: {normalize: true, lambda: 1.1}
dtype: float32
out_dtype: bfloat16
"""


def test_init_then_check(workplace, mergefront):
    items = [{"id": n, "prompt": f"0 + {n}", "answer": n} for n in range(250)]  # as MGSM has
    Path("many.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    ended = mergefront("init", "new.yaml", *GIVEN, "--items", "many.jsonl")
    assert ended.code == 0
    assert ended.out == "wrote new.yaml; next: mergefront check new.yaml\n"
    ended = mergefront("check", "new.yaml")
    assert (ended.code, ended.err) == (0, "")
    for words in ("LlamaForCausalLM", "3 layers", "reasoning.slack", "100", "120 trials"):
        assert words in ended.out


def test_init_without_items_writes_some_that_check_accepts(workplace, mergefront):
    Path("items.jsonl").unlink()
    ended = mergefront("init", "new.yaml", *GIVEN, "--expect", "bn")
    assert "250 example sums" in ended.out
    assert load_yaml(Path("new.yaml")).data["tasks"]["math"]["scorers"][1]["language"] == {
        "expect": "bn"
    }
    assert mergefront("check", "new.yaml").code == 0
    again = mergefront("init", "other.yaml", *GIVEN)  # what is there stays
    assert "example sums" not in again.out


def test_init_alone_makes_a_search_of_the_tiny_trio(mergefront, trio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = mergefront("init")
    assert (ended.code, ended.err) == (0, "")
    assert "next: mergefront check search.yaml" in ended.out
    assert load_yaml(Path("search.yaml")).data["base_model"] == "tiny/base"
    ended = mergefront("check", "search.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"math +│ +96 +│ +128 +│ +96", ended.out)
    assert "serve no split" not in ended.out


def test_init_refuses_what_would_be_half_a_file(workplace, mergefront):
    for arguments, told in (
        (("new.yaml", *GIVEN[:4]), "--reasoning: give all three models, or none"),
        (("search.yaml", *GIVEN), "search.yaml: exists already"),
        (("new.yaml", *GIVEN, "--from-mergekit", "x.yaml"), "the recipe names the models"),
    ):
        ended = mergefront("init", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert told in ended.err
        assert not Path("new.yaml").exists()


@pytest.mark.parametrize(
    "name", ["with 'quotes' and: colon", "NULL", "True", 'a "b" # c', "ไทย", "[x]"]
)
def test_init_writes_any_name(name, workplace, mergefront):
    assert mergefront("init", "new.yaml", "--base", name, *GIVEN[2:]).code == 0
    assert load_yaml(Path("new.yaml")).data["base_model"] == name


def test_from_a_mergekit_file_to_a_search_that_runs(workplace, mergefront):
    Path("theirs").mkdir()
    Path("theirs/merge.yml").write_text(MERGEKIT)
    ended = mergefront("init", "new.yaml", "--from-mergekit", "theirs/merge.yml")
    assert (ended.code, ended.err) == (0, "")
    assert "note: the base model listed among the models has no difference: left out" in ended.out
    assert "7 numbers of theirs/merge.yml became ranges" in ended.out
    text = Path("new.yaml").read_text()
    data = parse_yaml(text, Path("new.yaml")).data
    thai, r1 = data["models"]
    assert thai["model"] == "models/thai"
    assert thai["parameters"] == {
        "weight": {"low": 0.25, "high": 1.0},
        "density": {"low": 0.17, "high": 0.66},
    }
    assert r1["parameters"]["weight"][2] == {"low": 0.062, "high": 0.25}
    assert data["parameters"] == {"normalize": True, "lambda": 1.1}
    assert data["dtype"] == "bfloat16"
    assert "# was [0.75, 0.75, 0.125]" in text
    assert all(f"# {line}" in text for line in MERGEKIT.splitlines())
    # As a user would: the language, and here answers from a table.
    text = text.replace('expect: "th"', "expect: en").replace(
        "engine: {kind: transformers}", 'engine: {kind: scripted, default: "It is 7."}'
    )
    Path("new.yaml").write_text(text)
    changed = ("--set", "splits={dev: 4, confirm: 4, test: 4}")
    ended = mergefront("run", "new.yaml", "--dry-run", *changed)
    assert (ended.code, ended.err) == (0, "")
    assert "recipe:new-start.yaml" in ended.out
    for recipe in re.split(r"(?m)^---\n", ended.out)[1:]:
        models = parse_yaml(recipe, Path("printed")).data["models"]
        assert 0.25 <= models[0]["parameters"]["weight"] <= 1.0


def test_a_mergekit_key_that_we_lack_is_refused_by_name(workplace, mergefront):
    Path("merge.yml").write_text(MERGEKIT.replace("../", "") + "chat_template: auto\n")
    before = files(workplace)
    ended = mergefront("init", "new.yaml", "--from-mergekit", "merge.yml")
    assert ended.code == 2
    assert "merge.yml:15:1" in ended.err
    assert "chat_template" in ended.err
    assert files(workplace) == before


@pytest.mark.parametrize("name", ["ค้นหา", "বাংলা", "தமிழ்", "ශ්‍රී", "می‌خواهم", "a-1_b.c"])
def test_a_run_is_named_as_its_file_in_any_script(name, workplace, mergefront):
    (workplace / "search.yaml").rename(f"{name}.yaml")
    assert mergefront("check", f"{name}.yaml").code == 0
    search = load(Path(f"{name}.yaml"))
    assert folder_for(search, Path("runs"), None, new=False) == Path("runs") / name


@pytest.mark.parametrize("name", ["two words", ".hidden", "\u0301x", "a\u0301/b", "a.\u0301", "x~"])
def test_a_name_that_no_run_can_have_is_told_with_where_it_is_from(name, workplace, mergefront):
    ended = mergefront("run", "search.yaml", "--name", name)
    rule = "a run's name has letters, digits, . _ and - only"
    assert (ended.code, ended.err) == (2, f"mergefront: --name {name!r}: {rule}\n")
    if "/" not in name:
        (workplace / "search.yaml").rename(f"{name}.yaml")
        ended = mergefront("run", f"{name}.yaml")
        told = f"mergefront: the file's name {name!r}: {rule}: give --name\n"
        assert (ended.code, ended.err) == (2, told)
    assert not (workplace / "runs").exists()


@settings(max_examples=80, derandomize=True, deadline=None)
@given(
    parameter=st.sampled_from(["weight", "density", "t"]),
    value=st.floats(0, 1) | st.lists(st.floats(0, 1), min_size=2, max_size=12),
)
def test_the_number_that_stood_there_is_in_its_range(parameter, value):
    def check(now, was):
        if isinstance(was, list) and now != was:
            for one, other in zip(now, was, strict=True):
                check(one, other)
        elif now != was:
            assert now["low"] <= was <= now["high"]
            assert now["low"] < now["high"]
            assert parameter == "weight" or (now["low"] >= 0 and now["high"] <= 1)

    check(around(parameter, value), value)


def test_check_shows_filters_and_paths_with_brackets(workplace, mergefront):
    # rich takes what stands in brackets for its markup unless told.
    weight = "weight: [{filter: mlp, value: {low: 0.1, high: 0.9}}, {value: {low: 0, high: 1}}]"
    folder = workplace / "a [bold]"
    folder.mkdir()
    text = GOOD.replace("weight: {low: 0.3, high: 1.2}", weight)
    text = text.replace("models/", "../models/").replace("items.jsonl", "../items.jsonl")
    (folder / "s[red].yaml").write_text(text)
    ended = mergefront("check", folder / "s[red].yaml")
    assert ended.code == 0, ended.err
    assert "language.weight[mlp]" in ended.out
    assert "language.weight[rest]" in ended.out
    assert "a [bold]/s[red].yaml: LlamaForCausalLM" in ended.out


def test_check_takes_settings(workplace, mergefront):
    ended = mergefront("check", "search.yaml", "--set", "budget.trials=77", "--set", "seed=1")
    assert "until 77 trials" in ended.out


def test_dry_run_prints_three_recipes_and_writes_nothing(workplace, mergefront):
    before = files(workplace)
    ended = mergefront("run", "search.yaml", "--dry-run", "--trials", "9")
    assert (ended.code, ended.err) == (0, "")
    plan, *recipes = re.split(r"(?m)^---\n", ended.out)
    assert "until 9 trials" in plan
    assert len(recipes) == 3
    weights = set()
    for text in recipes:
        recipe = parse_yaml(text, Path("printed")).data
        assert recipe["merge_method"] == "ties_sv"
        weights.add(recipe["models"][0]["parameters"]["weight"])
    assert len(weights) == 3
    assert all(0.3 <= weight <= 1.2 for weight in weights)
    assert files(workplace) == before


def test_what_is_frozen_is_shown_and_printed_so(workplace, mergefront):
    froze = ("--freeze", "language.density=0.4")
    ended = mergefront("run", "search.yaml", "--dry-run", *froze)
    assert (ended.code, ended.err) == (0, "")
    plan, *recipes = re.split(r"(?m)^---\n", ended.out)
    assert re.search(r"language\.density\W+frozen at 0\.4\W", plan)
    assert re.search(r"language\.weight\W+0\.3 to 1\.2\W", plan)
    models = [parse_yaml(text, Path("printed")).data["models"] for text in recipes]
    assert [model[0]["parameters"]["density"] for model in models] == [0.4] * 3
    assert len({model[0]["parameters"]["weight"] for model in models}) == 3


# --- completion, colours -------------------------------------------------------------------------


def completed(typed: str, shell: str, folder: Path) -> list[str]:
    words = typed.split(" ")
    asked = {
        "bash": {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": typed},
        "fish": {
            "_TYPER_COMPLETE_ARGS": typed,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
    }[shell]
    done = subprocess.run(
        [Path(sys.executable).with_name("mergefront")],
        env={**os.environ, **asked, "_MERGEFRONT_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_run_folders(shell, tmp_path):
    for place in ("runs/thai", "runs/bengali", "elsewhere/old", "runs/none"):
        (tmp_path / place).mkdir(parents=True)
    for place in ("runs/thai", "runs/bengali", "elsewhere/old"):
        (tmp_path / place / "run.json").touch()
    found = " ".join(completed("mergefront status runs/t", shell, tmp_path))
    assert "runs/thai" in found
    assert "bengali" not in found


def test_completion_knows_folders_trials_and_baselines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("elsewhere/old")
    for place in ("trials", "baselines"):
        (run / place).mkdir(parents=True)
    for file in ("run.json", "trials/000007.json", "trials/000012.json", "baselines/uniform.json"):
        (run / file).touch()
    (run / "confirmed.json").write_text('{"members": [{"label": "trial 7"}, {"label": "ties"}]}')
    assert completion.run_folders("") == ["elsewhere/"]
    assert completion.run_folders("elsewhere/") == ["elsewhere/old"]
    assert completion.run_folders("nowhere/x") == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert completion.run_folders("~/else") == ["~/elsewhere/"]
    assert completion.run_folders("~/elsewhere/o") == ["~/elsewhere/old"]
    assert completion.run_folders("~nobody-of-this-name/") == []
    context = SimpleNamespace(params={"run": Path("~") / run})
    assert completion.labels(context, "u") == ["uniform"]
    context = SimpleNamespace(params={"run": run})
    assert completion.labels(context, "") == ["7", "ties", "uniform", "12"]
    assert completion.labels(context, "u") == ["uniform"]
    assert completion.labels(SimpleNamespace(params={}), "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_for(shell, tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("mergefront"), "--install-completion", shell],
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{shell} completion installed in" in done.stdout
    scripts = [path for path in tmp_path.rglob("*mergefront*") if path.is_file()]
    assert any("_MERGEFRONT_COMPLETE" in path.read_text() for path in scripts)


def test_no_color_is_told_to_everything(mergefront, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setattr(console, "no_color", False)
    assert mergefront("--no-color", "schema").code == 0
    assert console.no_color
    assert os.environ["NO_COLOR"] == "1"


# --- schema --------------------------------------------------------------------------------------


@pytest.fixture
def schema(mergefront) -> dict:
    ended = mergefront("schema")
    assert ended.code == 0
    return json.loads(ended.out)


def test_the_schema_accepts_what_we_ship(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        text = path.read_text(encoding="utf-8").replace("@TOKENS@", "40")
        text = re.sub(r"@[A-Z]+@", '"x"', text)
        jsonschema.validate(parse_yaml(text, path).data, schema)
    jsonschema.validate(parse_yaml(GOOD, Path("good")).data, schema)


@pytest.mark.parametrize(
    "change",
    [
        ("budget:", "budgets:"),
        ("trials: 3", "trails: 3"),
        ("    name: language", "    nam: language"),
        ("right: sums/math", "ri ght: sums/math"),
        ("trials: 3", "trials: 0"),
        ("dev: 4", "dev: -1"),
    ],
)
def test_the_schema_refuses_what_we_refuse(schema, change):
    data = parse_yaml(GOOD.replace(*change, 1), Path("bad")).data
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)


def test_the_schema_takes_the_sampler_in_short(schema):
    jsonschema.validate(parse_yaml(GOOD, Path("good")).data | {"sampler": "tpe"}, schema)


# --- merge, score --------------------------------------------------------------------------------


def test_merge_from_our_recipe(workplace, mergefront):
    Path("recipe.yaml").write_text(RECIPE)
    ended = mergefront("merge", "--no-verify", "recipe.yaml", "out")
    assert ended.code == 0, ended.err
    said, *warned, wrote = ended.out.splitlines()
    assert said.startswith("0.0M parameters: reads ")
    assert all(line.startswith("warning: ") for line in warned)
    assert re.fullmatch(r"wrote out \([0-9a-f]{16}\)", wrote)
    assert set(load_file("out/model.safetensors")) == set(SHAPES)
    # The recipe inside makes the same bytes again.
    assert mergefront("merge", "--no-verify", "out/recipe.yaml", "again").code == 0
    first, again = (Path(name, "model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == again


def test_merge_from_a_mergekit_file_says_what_is_read_differently(workplace, mergefront):
    Path("config.yml").write_text(RECIPE + "out_dtype: float32\n")
    ended = mergefront("merge", "--no-verify", "config.yml", "out")
    assert ended.code == 0, ended.err
    assert "note: densities are taken as they are, as mergekit does" in ended.out
    assert {str(t.dtype) for t in load_file("out/model.safetensors").values()} == {"torch.float32"}


def test_merge_elsewhere_reads_paths_beside_the_recipe(
    workplace, mergefront, monkeypatch, tmp_path
):
    Path("recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert mergefront("merge", "--no-verify", "work/recipe.yaml", "out").code == 0
    assert (tmp_path / "out" / "config.json").is_file()


def test_score_a_checkpoint(workplace, mergefront):
    before = files(workplace)
    ended = mergefront("score", "models/r1", "search.yaml")
    assert ended.code == 0, ended.err
    assert "models/r1 on dev items" in ended.out
    assert "sums/math" in ended.out
    assert files(workplace) == before


def test_score_an_adapter_on_its_base(workplace, mergefront):
    weights = load_file("models/r1/model.safetensors")
    name, weight = next((n, w) for n, w in weights.items() if n.endswith("_proj.weight"))
    stem = "base_model.model." + name.removesuffix(".weight")
    factors = {"lora_A": torch.ones(2, weight.shape[1]), "lora_B": torch.ones(weight.shape[0], 2)}
    Path("adapter").mkdir()
    save_file(
        {f"{stem}.{factor}.weight": tensor for factor, tensor in factors.items()},
        "adapter/adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": [stem.split(".")[-1]]}
    Path("adapter/adapter_config.json").write_text(json.dumps(config))
    ended = mergefront("score", "models/r1+adapter", "search.yaml")
    assert ended.code == 0, ended.err
    assert "models/r1+adapter on dev items" in ended.out


def test_score_as_json_with_fewer_items_of_another_split(workplace, mergefront):
    ended = mergefront(
        "score", "models/r1", "search.yaml", "--split", "test", "--limit", "2", "--json"
    )
    result = json.loads(ended.out)
    assert result["split"] == "test"
    assert len(result["items"]["sums"]) == 2


def test_score_finds_the_engines_answers_beside_the_search_file(
    workplace, mergefront, monkeypatch, tmp_path
):
    answers = {f"i{n}": f"The answer is {n}." for n in range(12)}
    Path("answers.json").write_text(json.dumps(answers))
    text = GOOD.replace('default: "The answer is 7."', "responses: answers.json")
    Path("search.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    ended = mergefront("score", "work/models/r1", "work/search.yaml", "--json")
    assert ended.code == 0, ended.err
    assert all(item["scores"]["math"] == 1.0 for item in json.loads(ended.out)["items"]["sums"])


# --- How commands end ----------------------------------------------------------------------------


def test_the_exit_code_of_a_stopped_search_is_that_of_an_interrupt(
    workplace, mergefront, monkeypatch
):
    class Stopped:
        stopped = True

    monkeypatch.setattr("search.session.run", lambda *_: Stopped())
    monkeypatch.setattr("search.terminal.print_found", lambda *_: None)
    assert mergefront("run", "search.yaml").code == 130


def test_an_interrupt_elsewhere_is_one_line(workplace, mergefront, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.session.prepare", interrupted)
    ended = mergefront("check", "search.yaml")
    assert ended.code == 130
    assert ended.err.strip() == "mergefront: stopped; nothing that was finished is lost"


def pipe_to(reader: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = f'"$0" {" ".join(arguments)} | {reader}; echo "${{PIPESTATUS[0]}}"'
    return subprocess.run(
        ["bash", "-c", command, str(Path(sys.executable).with_name("mergefront"))],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )


@pytest.mark.parametrize("arguments", [("schema",), ("check", "search.yaml")])
def test_a_closed_pipe_ends_quietly(arguments, workplace):
    done = pipe_to("true", *arguments)
    assert done.stderr == ""
    assert done.stdout.strip() in {"0", "1", "141"}  # 0: it was done before the reader was


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(workplace):
    done = pipe_to("cat", "schema", ">/dev/full")
    assert done.stderr == "mergefront: standard output: No space left on device\n"
    assert done.stdout.strip() == "2"
