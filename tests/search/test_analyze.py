"""`mergefront analyze` on small real checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from merge_core import MergePlan, Recipe
from merge_core.analysis import analyze
from search.figures.analysis import SharePlot
from tests.merge_core.conftest import SHAPES

RECIPE = """\
merge_method: ties_sv
base_model: models/base
models:
  - {model: models/thai, name: language, parameters: {weight: 0.5, density: 0.5}}
  - {model: models/r1, name: reasoning, parameters: {weight: 0.5, density: 0.4, slack: 0.3}}
"""


@pytest.fixture
def workplace(workplace) -> Path:
    (workplace / "recipe.yaml").write_text(RECIPE)
    return workplace


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_table_has_a_line_for_each_expert_of_each_row(workplace, mergefront):
    before = files(workplace)
    rows = {
        "layer": ["before", "0", "1", "2", "after", "model"],
        "module": ["embedding", "self_attn", "mlp", "norm", "model"],
        "tensor": [*sorted(SHAPES), "model"],
        "model": ["model"],
    }
    for by, names in rows.items():
        ended = mergefront("analyze", "recipe.yaml", "--by", by)
        assert (ended.code, ended.err) == (0, "")
        lines = [line.replace("│", " ").split() for line in ended.out.splitlines() if "│" in line]
        own = [line for line in lines if "language" in line]
        assert [line[0] for line in own] == names
        assert len(lines) == 2 * len(names)
        assert own[-1][-3] == "50.0%"  # trimmed
    assert files(workplace) == before


def test_json_holds_all_counts_whatever_the_table_shows(workplace, mergefront):
    ended = mergefront("analyze", "recipe.yaml", "--by", "model", "--json", "out.json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("wrote out.json\n")
    data = json.loads(Path("out.json").read_text())
    recipe = Recipe.parse(data["recipe"])
    expected = analyze(MergePlan(recipe, tally=True)).plain()
    assert {key: data[key] for key in expected} == expected
    assert [row["name"] for row in data["tensors"]] == sorted(SHAPES)
    assert data["model"]["entries"] == sum(int(np.prod(shape)) for shape in SHAPES.values())


def test_json_on_standard_output_is_alone_there(workplace, mergefront):
    recipe = RECIPE.replace("ties_sv", "ties").replace("0.4, slack: 0.3", "0.333")
    Path("kit.yml").write_text(recipe + "out_dtype: float32\n")
    ended = mergefront("analyze", "kit.yml", "--json", "-")
    assert ended.code == 0
    assert json.loads(ended.out)["merge_method"] == "ties"
    assert ended.err.startswith("note: ")
    assert not Path("-").exists()


@pytest.mark.parametrize("by", ["model", "layer", "module", "tensor"])
def test_plots_are_written(by, workplace, mergefront):
    page, picture = Path("shares.html"), Path("shares.png")
    for file in (page, picture):
        ended = mergefront("analyze", "recipe.yaml", "--by", by, "--plot", file)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.endswith(f"wrote {file}\n")
    text = page.read_text(encoding="utf-8")
    assert len(text) > 1_000_000  # plotly is inside: no network is needed to read it
    assert '<script src="http' not in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not [path for path in files(workplace) if Path(path).name.startswith(".")]


def test_bars_add_up_to_one(workplace):
    recipe = Recipe.load(Path("recipe.yaml"))
    found = analyze(MergePlan(recipe, tally=True))
    for by in ("layer", "tensor"):
        plot = SharePlot(found, by, "title")
        figure = plot._html()
        bars = [trace for trace in figure.data if trace.type == "bar"]
        lines = [trace for trace in figure.data if trace.type == "scatter"]
        assert {bar.name for bar in bars} >= {"retained", "restored by slack", "lost", "trimmed"}
        for axis in {bar.yaxis for bar in bars}:
            heights = [np.array(bar.y) for bar in bars if bar.yaxis == axis]
            np.testing.assert_allclose(sum(heights), 1.0)
        labels = [row.name for row in found.rows(by)]
        assert all(list(trace.x) == labels for trace in figure.data)
        assert [list(line.y) for line in lines] == [
            [row.conflict_share for row in found.rows(by)]
        ] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "modul"], "unknown --by 'modul'; did you mean 'module'?"),
        (["--plot", "shares.pdf"], "--plot shares.pdf: name a .html or .png file"),
        (["--plot", "no/such.html"], "--plot no/such.html: name a file in a folder that exists"),
        (["--json", "."], "--json .: name a file in a folder that exists"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_read(
    arguments, message, workplace, mergefront
):
    shutil.rmtree("models")
    ended = mergefront("analyze", "recipe.yaml", *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == f"mergefront: {message}\n"


def test_bad_recipes_are_one_line(workplace, mergefront):
    large = RECIPE.replace("weight: 0.5, density: 0.5", "weight: 1.0e38, density: 0.5")
    large += "dtype: float16\nparameters: {normalize: false}\n"
    for name, text, message in (
        ("gone.yaml", None, "gone.yaml"),
        ("odd.yaml", RECIPE.replace("density", "dnsity"), "did you mean 'density'?"),
        ("where.yaml", RECIPE.replace("models/r1", "models/r2"), "models/r2"),
        ("large.yaml", large, "not finite"),
    ):
        if text is not None:
            Path(name).write_text(text)
        ended = mergefront("analyze", name, "--json", "-")
        assert ended.code == 2, name
        assert ended.out == ""
        assert message in ended.err
        assert ended.err.startswith("mergefront: ")
        assert ended.err.count("\n") == 1


def test_names_with_brackets_are_no_markup(workplace, mergefront):
    Path("models/r1").rename("models/[red]r1")
    Path("a [bold].yaml").write_text(RECIPE.replace("models/r1", '"models/[red]r1"'))
    ended = mergefront("analyze", "a [bold].yaml", "--plot", "p [bold].html")
    assert ended.code == 0, ended.err
    assert "wrote p [bold].html" in ended.out
