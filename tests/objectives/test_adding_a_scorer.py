"""A new scorer is one file and one line: the page's example is run as it stands."""

import re
import sys
import types
from pathlib import Path

import pytest

import objectives
from objectives.scorers import SCORERS, make_scorer
from tests.objectives.samples import sample
from tests.objectives.scorer_suite import ScorerSuite

ROOT = Path(objectives.__file__).parents[1]
PAGE = (ROOT / "docs" / "adding_a_scorer.md").read_text(encoding="utf-8")


def block(kind):
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return found


class TestTheExample(ScorerSuite):
    @pytest.fixture
    def scorer(self, monkeypatch):
        """The file's text as a module, the diff's added line in the table."""
        (line,) = re.findall(r'^\+    "(\w+)": "([\w.]+):(\w+)",$', block("diff"), re.MULTILINE)
        name, module, attribute = line
        made = types.ModuleType(module)
        monkeypatch.setitem(sys.modules, module, made)
        exec(compile(block("python"), f"{module}.py", "exec"), made.__dict__)
        monkeypatch.setitem(SCORERS, name, f"{module}:{attribute}")
        (ref,) = re.findall(r'`"contains": (\{.*?\}\})`', PAGE)
        return make_scorer(eval(ref))

    def test_it_does_what_it_says(self, scorer):
        assert scorer.score(sample("<think>8</think> it is 7")) == 1.0
        assert scorer.score(sample("<think>7</think> it is 8")) == 0.0
        assert scorer.score(sample("no " * 20 + "7")) == 0.0
        assert scorer.extras(sample("7 it is")) == {"early": 1.0}
        assert scorer.details(sample("<think>8</think> it is 7")) == {"start": "it is 7"}


def test_the_diff_is_of_the_table_as_it_is():
    """Its other lines are lines of the table, side by side."""
    text = (ROOT / "objectives" / "scorers" / "__init__.py").read_text(encoding="utf-8")
    kept = [line[1:] for line in block("diff").splitlines() if not line.startswith("+")]
    assert "\n".join(kept) in text


def test_exact_is_one_file_and_one_line():
    """Whoever takes `exact.py` and its line away takes all of it away."""
    mentions = []
    for package in ("objectives", "search", "merge_core"):
        for path in (ROOT / package).rglob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            mentions += [(path.name, x.strip()) for x in lines if re.search(r"scorers\.exact", x)]
    assert mentions == [("__init__.py", '"exact": "objectives.scorers.exact:Exact",')]
