import math
import pickle
import subprocess
import sys
import types

import pytest

from objectives import score_task
from objectives.engines import ScriptedConfig
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import ScorerError
from objectives.scorers import make_scorer
from objectives.task import Task, TaskConfig
from tests.objectives.samples import sample

METRICS = """
import helpers, sys
from objectives.scorers.base import Scorer

def share(sample, of="a", **more):
    return helpers.count(sample.generation.text, of) / max(1, len(sample.generation.text))

def right(sample):
    return sample.generation.text == sample.item.answer

def parts(sample):
    text = sample.generation.text
    return {"score": len(text), **({"vowels": helpers.count(text, "a")} if text else {})}

def odd(sample, value=None):
    return eval(value)

def fails(sample):
    raise RuntimeError("no\\nluck")

def leaves(sample):
    sys.exit(3)

async def later(sample):
    return 1.0

def many(sample):
    yield 1.0

class Waits:
    async def __call__(self, sample):
        return 1.0

waits = Waits()

class Half(Scorer):
    name = "half"

class Fails(Scorer):
    name = "fails"
    def __init__(self, **params):
        super().__init__(**params)
        raise OSError("no file")
    def score(self, sample):
        return 0.0

class Later(Scorer):
    name = "later"
    async def score(self, sample):
        return 0.0

class Shout(Scorer):
    name = "shout"
    binary = True
    def score(self, sample):
        return float(sample.generation.text.isupper())

class Chosen(Scorer):
    name = "chosen"
    reads = "likelihoods"
    def score(self, sample):
        return 0.0

constant = 3
"""
HELPERS = "WHO = {who!r}\ndef count(text, of):\n    return text.count(of)\n"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "one")


def write(root, who="one", metrics=METRICS):
    root.mkdir()
    (root / "metrics.py").write_text(metrics)
    (root / "helpers.py").write_text(HELPERS.format(who=who))
    return root


def made(root, function, **params):
    ref = {"python": {"function": f"metrics:{function}"} | params}
    return make_scorer(ref).bound("items.jsonl", root)


def test_a_function_beside_the_file(folder):
    path = list(sys.path)
    scorer = made(folder, "share")
    scorer.check()
    assert scorer.name == "share"
    assert scorer.score(sample("aabb")) == 0.5
    assert made(folder, "share", args={"of": "b"}, name="b_share").score(sample("bbba")) == 0.75
    assert not {"metrics", "helpers"} & sys.modules.keys()
    assert sys.path == path


def test_the_short_form_is_the_long_one():
    short = make_scorer("python:tests.objectives.samples:wordiness")
    long = make_scorer({"python": {"function": "tests.objectives.samples:wordiness"}})
    assert short.params == long.params
    short.check()
    assert short.score(sample("one two")) == 0.2


def test_two_folders_have_two_modules(tmp_path):
    says = "import helpers\ndef who(sample):\n    return float(helpers.WHO == {!r})\n"
    for who in ("one", "two"):
        write(tmp_path / who, who, says.format(who))
    for who in ("one", "two", "one"):
        assert made(tmp_path / who, "who").score(sample("x")) == 1.0


def test_a_neighbour_is_not_taken_for_another_module(folder, monkeypatch):
    other = types.ModuleType("helpers")
    monkeypatch.setitem(sys.modules, "helpers", other)
    assert made(folder, "share").score(sample("aabb")) == 0.5
    assert sys.modules["helpers"] is other


def test_a_folder_that_python_knows_is_imported_as_ever(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import metrics

    try:
        assert made(folder, "share").score(sample("aabb")) == 0.5
        assert sys.modules["metrics"] is metrics
    finally:
        del sys.modules["metrics"], sys.modules["helpers"]


def test_names_that_are_taken_elsewhere(tmp_path):
    """A folder's `json.py` is meant when it is named, and nobody else's."""
    import json

    root = tmp_path / "root"
    (root / "search").mkdir(parents=True)
    (root / "json.py").write_text("def half(sample):\n    return 0.5\n")
    (root / "time.py").write_text("def half(sample):\n    return 0.5\n")
    (root / "search" / "__init__.py").write_text("")
    (root / "search" / "mine.py").write_text("from . import halves\ndef f(s): return halves.X\n")
    (root / "search" / "halves.py").write_text("X = 0.5\n")
    for path in ("json:half", "search.mine:f"):
        scorer = make_scorer(f"python:{path}").bound("items.jsonl", root)
        assert scorer.score(sample("x")) == 0.5
    assert sys.modules["json"] is json
    with pytest.raises(ScorerError, match="Python has a module time of its own; rename"):
        make_scorer("python:time:half").bound("items.jsonl", root).check()
    assert make_scorer("python:statistics:mean").bound("items.jsonl", root).check() is None


def test_travels_to_workers(folder):
    scorer = made(folder, "share", args={"of": "x"})
    assert pickle.loads(pickle.dumps(scorer)).score(sample("xx")) == 1.0
    (folder / "scorer.pickle").write_bytes(pickle.dumps(scorer))
    code = (
        "import pickle, sys; from pathlib import Path;"
        "from tests.objectives.samples import sample;"
        "print(pickle.loads(Path(sys.argv[1]).read_bytes()).score(sample('x-')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder / "scorer.pickle")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert run.stdout == "0.5\n"


def test_bools_numbers_and_sub_scores(folder):
    right = made(folder, "right", binary=True)
    assert [right.score(sample(text)) for text in ("7", "8")] == [1.0, 0.0]
    parts = made(folder, "parts", range=[0, math.inf], extras={"vowels": [0, 99]})
    assert parts.score(sample("banana")) == 6.0
    assert parts.extras(sample("banana")) == {"vowels": 3.0}
    assert parts.extras(sample("")) == {}
    assert not parts.measures()["parts.vowels"].always
    assert parts.measures()["parts"].range == (0.0, math.inf)
    for value in ("True", "__import__('numpy').float32(1)", "__import__('torch').tensor(1.0)"):
        assert made(folder, "odd", args={"value": value}).score(sample("x")) == 1.0


def test_a_scorer_class_is_made_with_its_arguments(folder):
    scorer = made(folder, "Shout", binary=True, name="loud")
    scorer.check()
    assert scorer.score(sample("YES")) == 1.0
    with pytest.raises(ScorerError, match=r"write range: \[0, 1\], .* binary: true"):
        made(folder, "Shout").check()
    with pytest.raises(ScorerError, match="reads likelihoods"):
        made(folder, "Chosen").check()
    with pytest.raises(ScorerError, match="unknown parameter 'x'"):
        made(folder, "Shout", binary=True, args={"x": 1}).check()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("metric:share", "no module 'metric' in .*one nor among the installed ones"),
        ("metrics:shares", "metrics has no 'shares'; did you mean 'share'"),
        ("metrics:constant", "metrics:constant is of type int; name a function"),
        ("broken:f", "importing broken failed: SyntaxError"),
        ("needy:f", "needy needs 'no_such_package'; install it"),
        ("raises:f", "importing raises failed: ZeroDivisionError"),
        ("empty:f", "empty has no 'f'"),
        ("ends:f", "importing ends failed: SystemExit: 3"),
        ("package.nothing:f", "no module 'package'"),
    ],
)
def test_what_cannot_be_found_is_one_clear_line(folder, path, message):
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "needy.py").write_text("import no_such_package\n")
    (folder / "raises.py").write_text("1 / 0\n")
    (folder / "empty.py").write_text("")
    (folder / "ends.py").write_text("import sys\nsys.exit(3)\n")
    scorer = make_scorer(f"python:{path}").bound("items.jsonl", folder)
    with pytest.raises(ScorerError, match=message) as caught:
        scorer.check()
    assert "\n" not in str(caught.value)
    assert str(folder) not in sys.path


def test_arguments_are_checked_before_anything_runs(folder):
    with pytest.raises(ScorerError, match="metrics:right cannot be called with a sample and of"):
        made(folder, "right", args={"of": "a"}).check()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("later", "metrics:later is an async function; write a plain function"),
        ("many", "metrics:many is a generator; write a plain function"),
        ("waits", "metrics:waits is an async function"),
        ("Later", "metrics:Later is an async function"),
        ("Half", "metrics:Half cannot be made with no args: TypeError: .*abstract"),
        ("Fails", "metrics:Fails cannot be made with no args: OSError: no file"),
    ],
)
def test_what_gives_no_number_is_refused_at_check(folder, function, message):
    with pytest.raises(ScorerError, match=message) as caught:
        made(folder, function).check()
    assert "\n" not in str(caught.value)


LATE = """
import pickle
from dataclasses import dataclass

class Kept:
    pass

def who(sample):
    import late_helper
    from lib import inner

    @dataclass
    class Point:
        x: "int" = 1

    assert type(pickle.loads(pickle.dumps(Kept()))) is Kept
    assert pickle.loads(pickle.dumps(late_helper.Told())).who == {who!r} == inner.WHO
    return Point().x
"""


def test_modules_are_whole_when_their_functions_are_called(tmp_path, monkeypatch):
    """Classes are pickled and dataclasses made at call time, neighbours imported late."""
    taken = types.ModuleType("late_helper")
    monkeypatch.setitem(sys.modules, "late_helper", taken)
    before, path = set(sys.modules), list(sys.path)
    for who in ("one", "two"):
        write(tmp_path / who, who, LATE.format(who=who))
        (tmp_path / who / "late_helper.py").write_text(f"class Told:\n    who = {who!r}\n")
        (tmp_path / who / "lib").mkdir()
        (tmp_path / who / "lib" / "__init__.py").write_text("")
        (tmp_path / who / "lib" / "inner.py").write_text(f"WHO = {who!r}\n")
    for who in ("one", "two", "one"):
        assert made(tmp_path / who, "who").score(sample("x")) == 1.0
    assert sys.modules["late_helper"] is taken
    assert not {"metrics", "lib", "lib.inner"} & (set(sys.modules) - before)
    assert sys.path == path


def test_packages_without_an_init_are_each_folders_own(tmp_path):
    says = "from lib import inner\ndef who(sample):\n    return float(inner.WHO == {!r})\n"
    for who in ("one", "two"):
        write(tmp_path / who, who, says.format(who))
        (tmp_path / who / "lib").mkdir()
        (tmp_path / who / "lib" / "inner.py").write_text(f"WHO = {who!r}\n")
    for who in ("one", "two", "one"):
        assert made(tmp_path / who, "who").score(sample("x")) == 1.0


def test_its_files_are_the_module_and_what_it_imports_of_its_folder(folder):
    (folder / "pack" / "deep").mkdir(parents=True)
    (folder / "pack" / "__init__.py").write_text("from .deep import leaf as twig")
    (folder / "pack" / "deep" / "leaf.py").write_text("from .. import other\nimport metrics")
    (folder / "pack" / "other.py").write_text("import json, torch")
    (folder / "unused.py").write_text("")
    (folder / "broken.py").write_text("import (")
    (folder / "helpers.py").write_text("def late():\n    import pack, broken\n")

    def names(path):
        files = make_scorer(f"python:{path}").bound("items.jsonl", folder).files()
        return [file.relative_to(folder).as_posix() for file in files]

    assert names("metrics:share") == [
        "broken.py",
        "helpers.py",
        "metrics.py",
        "pack/__init__.py",
        "pack/deep/leaf.py",
        "pack/other.py",
    ]
    assert names("pack.deep.leaf:f") == names("metrics:share")
    assert names("unused:f") == ["unused.py"]
    assert names("statistics:mean") == []


@pytest.mark.parametrize(
    ("function", "value", "message"),
    [
        ("fails", None, "metrics:fails on item 'i': RuntimeError: no luck"),
        ("leaves", None, "metrics:leaves on item 'i': SystemExit: 3"),
        ("odd", "None", "score is None, not a number"),
        ("odd", "'1'", "score is of type str, not a number"),
        ("odd", "[1]", "score is of type list, not a number"),
        ("odd", "1.5", r"score is 1.5, outside its range \[0, 1\]"),
        ("odd", "float('nan')", "score is nan, outside"),
        ("odd", "float('inf')", "score is inf, outside"),
        ("odd", "{}", 'its mapping has no "score"'),
        ("odd", "{'score': 1, 'scare': 1}", "undeclared 'scare'; did you mean 'score'"),
        ("odd", "{'score': 1, 5: 1}", "undeclared 5; choose one of score"),
        ("odd", "1 / 0", "ZeroDivisionError: division by zero"),
        ("odd", "10 ** 400", "not a number"),
    ],
)
def test_a_function_that_fails_is_named_with_the_item(folder, function, value, message):
    args = {} if value is None else {"value": value}
    with pytest.raises(ScorerError, match=message) as caught:
        made(folder, function, args=args).score(sample("x"))
    assert "\n" not in str(caught.value)
    assert f"metrics:{function} on item 'i'" in str(caught.value)


def test_binary_is_a_promise(folder):
    with pytest.raises(ScorerError, match=r"score is 0\.5, but it is declared binary"):
        made(folder, "odd", args={"value": "0.5"}, binary=True).score(sample("x"))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("python", "parameter 'function' is missing"),
        ("python:", "function: write package.module:function, not"),
        ("python:metrics", "function: write package.module:function, not"),
        ("python:metrics:a.b", "function: write package.module:function, not"),
        ("pyton:metrics:a", "unknown scorer 'pyton:metrics:a'; did you mean 'python'|choose one"),
        ({"python": {"function": "m:f", "range": [1, 0]}}, "a range is .least, most., got .1, 0."),
        ({"python": {"function": "m:f", "direction": "up"}}, "direction has to be 'maximize' or"),
        ({"python": {"function": "m:f", "extra": 1}}, "did you mean 'extras'"),
    ],
)
def test_a_wrong_reference_is_one_clear_line(ref, message):
    with pytest.raises(ScorerError, match=message) as caught:
        make_scorer(ref)
    assert "\n" not in str(caught.value)


def test_the_whole_way(folder):
    """Beside built-in scorers, from the task file's folder, combined with them."""
    lines = [
        '{"id": "a", "prompt": "p", "answer": "aa"}',
        '{"id": "b", "prompt": "q", "answer": "b"}',
    ]
    (folder / "items.jsonl").write_text("\n".join(lines))
    scorers = ["exact", "python:metrics:share", {"all": {"of": ["exact", "share"]}}]
    config = TaskConfig(items="items.jsonl", scorers=scorers, role="report")
    task = pickle.loads(pickle.dumps(Task.load("t", config, folder)))
    engine = ScriptedEngine(ScriptedConfig(default="aa"))
    assert [one.scores for one in score_task(engine, task, task.items("test"))] == [
        {"exact": 1.0, "share": 1.0, "all": 1.0},
        {"exact": 0.0, "share": 1.0, "all": 0.0},
    ]
