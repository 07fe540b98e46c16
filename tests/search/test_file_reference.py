"""The page of all keys of a search file: it is the models', and what it says of them holds."""

import re
from pathlib import Path

import pytest

from merge_core.recipe import RECIPE_KEYS
from merge_core.yaml_io import dump_yaml, parse_yaml
from objectives.engines.config import ENGINES
from objectives.scorers import SCORERS, make_scorer
from objectives.splits import SplitConfig
from objectives.tables import resolve
from search.config import load
from search.file import BudgetEntry, SearchFile, TrackingEntry
from search.file_reference import SHORT, reference, yaml_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = reference()
REST = """
merge_method: linear
models:
  - {model: a, parameters: {weight: {low: 0, high: 1}}}
  - {model: b, parameters: {weight: 1}}
tasks: {math_th: {items: sums.jsonl, scorers: [math]}}
objectives: {right: math_th/math}
"""


def rows(title: str) -> dict[str, list[str]]:
    """The rows below a heading, by key."""
    body = re.split(rf"^##+ {title}$", PAGE, flags=re.MULTILINE)[1]
    body = re.split(r"^##+ ", body, flags=re.MULTILINE)[0]
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", body, re.MULTILINE)
    return {key: rest.split(" | ") for key, rest in lines}


def test_the_page_is_that_of_the_models():
    told = (ROOT / "docs" / "search_file.md").read_text(encoding="utf-8")
    assert told == PAGE, "run `python -m search.file_reference > docs/search_file.md`"


def test_every_key_of_every_block_is_told():
    schema = SearchFile.model_json_schema()
    blocks = {name: set(found["properties"]) for name, found in schema["$defs"].items()}
    # Kinds of workers have the keys of all workers, and choices are told where they may stand.
    keys = {"All keys": set(schema["properties"]), **blocks}
    del keys["ChoiceEntry"], keys["KindEntry"], keys["ScriptedConfig"]
    told = [set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) for part in PAGE.split("|---|")]
    assert [name for name, wanted in keys.items() if wanted not in told] == []
    for name in SCORERS:
        own = set(resolve(SCORERS, name).Params.model_fields) - {"name", "task", "include"}
        assert own <= set(rows(name)), name
    headings = re.findall(r"^##+ (.+)$", PAGE, re.MULTILINE)
    assert set(headings) >= {*SCORERS, *ENGINES}
    assert len(set(headings)) == len(headings)  # else links lead to the first of them


def test_every_key_says_what_it_is_in_plain_markdown():
    for line in re.findall(r"^\| `.*$", PAGE, re.MULTILINE):
        assert not line.endswith("|  |"), line
        bare = re.sub(r"`[^`]*`", "", line)
        assert not re.search(r"[{}<>*]|\w_\w", bare), line


def test_rows_say_what_users_write():
    assert rows("All keys")["dtype"][:3] == [
        "one of `bfloat16`, `float16`, `float32`",
        "unset",
        "frozen",
    ]
    assert rows("All keys")["sampler"][2] == "may change, but for `seed`"
    assert rows("All keys")["constraints"][0] == "mapping of names to bounds such as `'>= 0.9'`"
    assert rows("All keys")["racing"][0] == "`true`, `false` or [mapping](#racing)"
    assert rows("generate")["max_tokens"][:2] == ["whole number, more than 0", "`512`"]
    assert rows("budget")["timeout"][:2] == ["duration such as `8h`", "unset"]
    assert rows("splits")["dev"][0] == (
        "whole number, at least 0; or number, more than 0 and at most 1"
    )
    assert rows("judge")["scale"][:2] == ["list of 2 numbers", "`[1, 10]`"]
    assert rows("judge")["url"][1] == "required"
    assert "Frozen in a run, but for `batch_size`, `device`, `max_batch_tokens`." in PAGE


def test_the_recipe_comes_first():
    assert tuple(rows("All keys"))[: len(RECIPE_KEYS)] == RECIPE_KEYS


@pytest.mark.parametrize("title", ["All keys", *SCORERS, "generate", "chat", "workers", "racing"])
def test_defaults_are_yaml(title):
    for key, cells in rows(title).items():
        if (default := cells[1]).startswith("`"):
            (text,) = re.fullmatch(r"`(.*)`", default).groups()
            value = parse_yaml(f"{key}: {text}", Path("default.yaml")).data[key]
            assert yaml_of(value) == text


def test_a_default_of_a_block_is_what_it_sets():
    assert yaml_of(BudgetEntry(trials=120)) == "{trials: 120}"
    assert yaml_of(SplitConfig()) == "{}"
    assert yaml_of(TrackingEntry(retained=False, uri="a b")) == '{retained: false, uri: "a b"}'


@pytest.mark.parametrize("key", SHORT)
def test_short_spellings_are_the_same_search(key, tmp_path):
    short, full = (searched(text, tmp_path) for text in SHORT[key])
    assert short == full


def searched(text: str, folder: Path) -> object:
    """What a search file with these keys comes to."""
    data = parse_yaml(text, Path("keys.yaml")).data
    if "scorers" in data:
        (scorer,) = map(make_scorer, data["scorers"])
        return type(scorer), scorer.name, scorer.params
    file = folder / "search.yaml"
    rest = parse_yaml(REST, Path("rest.yaml")).data
    file.write_text(dump_yaml({**rest, **data}), encoding="utf-8")
    search = load(file)
    return search.objectives, search.engine, search.file.model_copy(update={"objectives": {}})
