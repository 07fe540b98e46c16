"""What the documentation says is so: examples load, names exist, the table is the code's."""

import itertools
import json
import math
import re
import shlex
from pathlib import Path

import pytest
import typer

from merge_core.methods import METHODS
from merge_core.yaml_io import dump_yaml, parse_yaml
from objectives import Task
from objectives.engines.base import Generation
from objectives.scorers import SCORERS, make_scorer
from objectives.scorers.base import EngineScorer, Sample, Scorer
from objectives.scorers.languages import SCRIPTS
from objectives.tables import resolve
from objectives.task import TaskConfig
from search.baselines import KINDS
from search.config import load
from search.file import SearchFile
from tests.docs.examples import fences

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE = ROOT / "docs" / "objectives.md"
REST = """
merge_method: ties
base_model: base
models:
  - {model: a, name: language, parameters: {weight: {low: 0, high: 1}}}
  - {model: b, name: reasoning, parameters: {weight: 1.0, density: {low: 0.1, high: 1}}}
tasks: {sums: {items: sums.jsonl, scorers: [math]}}
objectives: {right: sums/math}
"""


def blocks(text, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def alternatives(text):
    """The examples of a block: several, where it gives its first key again and again."""
    key = re.match(r"(?:#.*\n|\s*\n)*([\w.]+):", text)
    if key is None:
        return [text]
    parts = re.split(rf"^(?={re.escape(key[1])}:)", text, flags=re.MULTILINE)
    return [part for part in parts if part.strip()]


def read(path):
    return path.read_text(encoding="utf-8")


def data_of(text):
    return parse_yaml(text, Path("example.yaml")).data


EXAMPLES = [
    pytest.param(text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, text in enumerate(
        (part for block in blocks(read(page), "yaml") for part in alternatives(block)), 1
    )
]


def words_of(line):
    """Of a command: up to where the shell sends what it prints elsewhere."""
    return list(
        itertools.takewhile(lambda word: word not in (">", "|"), shlex.split(line, comments=True))
    )


CONSOLE = re.compile(r"^\$ (.+)$", re.MULTILINE)
SHOWN = [command for fence in fences() for command in fence.commands] + [
    command
    for page in PAGES
    for block in blocks(read(page), "console")
    for command in CONSOLE.findall(block)
]
COMMANDS = {
    found[1]: pytest.param(words_of(found[1]), id=found[1][:60])
    for command in SHOWN
    if (found := re.match(r"(?:[A-Z_]+=\S+ )*mergefront (.+)", command))
}
"""Of all fences, run or not: their words after `mergefront`."""
LINKS = [
    pytest.param(page, link, id=f"{page.name}-{link}")
    for page in PAGES
    for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", read(page))))
    if not link.startswith("http")
]
SECTIONS = dict(re.findall(r"^### ([a-z_]+)\n(.*?)(?=^##)", read(GUIDE), re.DOTALL | re.MULTILINE))
"""Of the guide: what it says of each scorer."""


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_loads(text, tmp_path):
    """A task, or a part of a search file: what it leaves out is filled in."""
    data = data_of(text)
    if "scorers" in data:
        TaskConfig.model_validate({"items": "items.jsonl", **data})
        return
    rest = data_of(REST)
    file = tmp_path / "search.yaml"
    file.write_text(dump_yaml({**rest, **data}), encoding="utf-8")
    load(file)


@pytest.mark.parametrize("words", COMMANDS.values())
def test_every_command_parses(words):
    """Commands, options and their values are those of the real command line; nothing is run."""
    from search.cli import app

    command, name = typer.main.get_command(app), "mergefront"
    while True:
        context = command.make_context(name, list(words))
        if not hasattr(command, "resolve_command"):
            return
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_leads_somewhere(page, link):
    path, _, heading = link.partition("#")
    target = (page.parent / path) if path else page
    assert target.exists(), link
    if heading:
        titles = re.findall(r"^#+ (.+)$", read(target), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert heading in anchors, link


def test_the_front_page_names_every_scorer():
    text = read(PAGES[0])
    assert set(SCORERS) <= set(re.findall(r"`(\w+)`", text))


def test_the_baselines_are_those_there_are():
    table = read(GUIDE).partition("| baseline | is |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([\w:]+)`", table)) == set(KINDS)
    default = SearchFile.model_fields["baselines"].get_default(call_default_factory=True)
    assert f"The default is `[{', '.join(default)}]`" in read(GUIDE)


def test_the_languages_are_as_many():
    assert f"knows {len(SCRIPTS)} codes" in read(GUIDE)


# --- Scorers -------------------------------------------------------------------------------------


def rows():
    """The table of scorers: its cells by scorer."""
    found = {}
    for line in read(GUIDE).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"\[`(\w+)`\]\(#\w+\)", cells[0]):
            found[match[1]] = cells[1:]
    return found


def first_scorer(name):
    """The scorer of a section's example."""
    refs = data_of(blocks(SECTIONS[name], "yaml")[0])["scorers"]
    ref = next(one for one in refs if one == name or name in one)
    return make_scorer(ref)


def test_every_scorer_has_its_row_and_its_section():
    assert set(rows()) == set(SCORERS) == set(SECTIONS)


@pytest.mark.parametrize("name", SCORERS)
def test_the_table_is_that_of_the_code(name):
    kind: type[Scorer] = resolve(SCORERS, name)
    tells, bounds, better, values, params, subs = rows()[name]
    # These are given by whatever holds the scorer, not by the user.
    fields = set(kind.Params.model_fields) - {"name"}
    fields -= {"task", "include"} if issubclass(kind, EngineScorer) else set()
    assert set(re.findall(r"`(\w+)`", params)) == fields
    assert tells == ("right" if kind.correctness else "language" if kind.speech else "")
    if name in ("python", "lm_eval"):
        return  # what they measure, the file says
    scorer = first_scorer(name)
    own = scorer.measures()[scorer.name]
    high = "up" if math.isinf(own.range[1]) else f"to {own.range[1]:g}"
    assert bounds == f"{own.range[0]:g} {high}"
    assert better == {"maximize": "higher", "minimize": "lower"}[own.direction]
    assert values == ("0 or 1" if own.binary else "graded")
    told = {key.partition(".")[2] for key in scorer.measures()} - {""}
    assert set(re.findall(r"`(\w+)`", subs)) == told


@pytest.mark.parametrize("name", [n for n in SECTIONS if blocks(SECTIONS[n], "json")])
def test_items_of_the_examples_have_what_their_scorers_need(name, tmp_path):
    load_task(SECTIONS[name], tmp_path)


def load_task(body, folder):
    """The task of a page's YAML block over the items of its JSON block."""
    (example, *_), (lines,) = blocks(body, "yaml"), blocks(body, "json")
    data = data_of(example)
    (folder / data["items"]).write_text(lines, encoding="utf-8")
    splits = {"dev": 1.0, "confirm": 0, "test": 0}
    task = Task.load("example", TaskConfig.model_validate({**data, "splits": splits}), folder)
    assert len(task.items("dev")) == len(lines.splitlines())
    return task


def test_columns_become_items_as_the_page_says(tmp_path):
    body = read(GUIDE).partition("### Items")[2].partition("Data sets of the")[0]
    (item,) = load_task(body, tmp_path).items("dev")
    row = json.loads(blocks(body, "json")[0])
    assert (item.id, item.answer) == (str(row["number"]), "7")
    assert item.messages[0]["content"].startswith(row["question"] + "\n")


def test_the_function_of_the_page_scores(tmp_path):
    (function,) = blocks(SECTIONS["python"], "python")
    (tmp_path / "my_metrics.py").write_text(function, encoding="utf-8")
    task = load_task(SECTIONS["python"], tmp_path)
    (scorer,), (item,) = task.scorers, task.items("dev")
    sample = Sample(item, Generation("a " * 80, 80, "stop"))
    assert (scorer.score(sample), scorer.extras(sample)) == (0.5, {"words": 80.0})


def test_numbers_of_the_guide_are_those_of_the_code():
    from objectives.statistics import estimate

    low = estimate([1.0] * 30, binary=True).low
    assert f"30 of 30 leaves [{low:.3f}".replace("0.", ".") in read(GUIDE)
    assert estimate([1.0] * 165 + [0.0] * 135, binary=True, side="lower").low >= 0.5


# --- Messages, parameters, the site --------------------------------------------------------------


def said():
    """All texts of the code, what is filled in left out."""
    import ast

    found = []
    for package in ("merge_core", "objectives", "search"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(read(path))):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(found)


def test_every_message_of_the_troubleshooting_is_one_of_the_code():
    texts = said()
    rows = re.findall(r"^\| `([^`]+)` \|", read(ROOT / "docs" / "troubleshooting.md"), re.MULTILINE)
    assert len(rows) > 25
    pieces = [(row, p.strip(" …")) for row in rows for p in row.split("…") if len(p.strip()) > 3]
    assert [(row, piece) for row, piece in pieces if piece not in texts] == []


def test_the_tables_of_parameters_are_the_declarations():
    import runpy

    written = runpy.run_path(str(ROOT / "docs" / "_site" / "parameters.py"))["filled"]
    text = read(ROOT / "docs" / "methods.md")
    assert written(text) == text, "run `python docs/_site/parameters.py`"
    assert set(re.findall(r"`(\w+)`", text)) >= set(METHODS)


def test_every_example_in_python_or_on_a_console_is_run():
    """By tests/docs/test_pages.py where the page says where it starts, or by the tests here."""
    elsewhere = {
        "objectives.md": "test_the_function_of_the_page_scores",
        "adding_a_method.md": "tests/docs/test_extending.py",
        "adding_a_scorer.md": "tests/objectives/test_adding_a_scorer.py",
        "adding_an_engine.md": "tests/docs/test_extending.py",
        "mlflow.md": "tests/docs/test_pages.py",
        "protocols.md": "tests/search/test_protocols.py",
    }
    for page in (ROOT / "docs").rglob("*.md"):
        text = read(page)
        if blocks(text, "python") or blocks(text, "console"):
            assert page.name in elsewhere or "\n<!-- starts in: " in text, page


def test_every_command_in_a_fence_is_run_or_says_why_not():
    """tests/docs/test_commands.py runs what is unmarked, and knows `mergefront` alone."""
    assert len(fences()) > 50
    for fence in fences():
        others = [one for one in fence.run() if not one.startswith("mergefront ")]
        assert others == [], f"{fence.page}: `<!-- not run: why -->` has to stand above {others}"
        stale = [mark for mark in fence.marks if not fence.marked(mark)]
        assert stale == [], f"{fence.page}: nothing begins with {stale}"
