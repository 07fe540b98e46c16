"""A new method and a new engine: the pages' files are run as they stand, with their suites."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from safetensors.torch import load_file

import merge_core.methods
import objectives.engines.config
from merge_core.methods import METHODS, get_method
from objectives.engines import make_engine
from tests.merge_core.method_suite import NAMES, Case, bits, cases
from tests.objectives.conftest import tiny, tiny_other  # noqa: F401 - fixtures of the suite
from tests.objectives.engine_suite import (
    PROMPTS,
    SHORT,
    DictSource,
    ReadingEngineSuite,  # noqa: F401 - of the page's suite
)

ROOT = Path(__file__).parents[2]
EXAMPLES = settings(max_examples=12, suppress_health_check=list(HealthCheck))


def blocks(page, kind):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def patched(text, diffs):
    """`text` with diffs applied; each has to fit in exactly one place."""
    for diff in diffs:
        lines = diff.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if not line.startswith("+"))
        new = "".join(line[1:] for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, f"the diff does not fit:\n{diff}"
        text = text.replace(old, new)
    return text


def module(name, text, monkeypatch):
    """`text` as a module that can be imported by its name until the test ends."""
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(text, f"{name}.py", "exec"), made.__dict__)
    return made


def line_of(diff):
    """Name and place of the table line that a diff adds."""
    (found,) = re.findall(r'^\+    "(\w+)": "([\w.]+:\w+)",$', diff, re.MULTILINE)
    return found


# --- A method ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trimmed():
    (source,), (diff,) = (blocks("adding_a_method.md", kind) for kind in ("python", "diff"))
    patched(Path(merge_core.methods.__file__).read_text(encoding="utf-8"), [diff])
    name, place = line_of(diff)
    with pytest.MonkeyPatch.context() as monkeypatch:
        module(place.partition(":")[0], source, monkeypatch)
        monkeypatch.setitem(METHODS, name, place)
        yield name
    get_method.cache_clear()


@EXAMPLES
@given(data=st.data())
def test_the_method_s_executor_equals_the_reference(trimmed, data):
    with Case(*data.draw(cases(trimmed))) as case:
        expected = case.expected()
        for name in NAMES:
            np.testing.assert_array_equal(bits(case.plan.tensor(name)), bits(expected[name]))


@EXAMPLES
@given(data=st.data())
def test_slices_of_the_method_equal_the_whole(trimmed, data):
    with Case(*data.draw(cases(trimmed, max_experts=2))) as case:
        for name in NAMES:
            whole = case.plan.tensor(name).reshape(-1)
            cut = data.draw(st.integers(0, whole.numel()))
            parts = [case.plan.elements(name, 0, cut), case.plan.elements(name, cut, whole.numel())]
            np.testing.assert_array_equal(np.concatenate([bits(p) for p in parts]), bits(whole))


@EXAMPLES
@given(data=st.data())
def test_untrimmed_the_method_is_task_arithmetic(trimmed, data):
    raw, base, experts = data.draw(cases(trimmed, max_experts=2))
    for model in raw["models"]:
        model["parameters"].pop("density")
    raw["parameters"].pop("scope", None)
    plain = {**raw, "merge_method": "task_arithmetic"}
    with Case(raw, base, experts) as one, Case(plain, base, experts) as other:
        for name in NAMES:
            np.testing.assert_array_equal(
                bits(one.plan.tensor(name)), bits(other.plan.tensor(name))
            )


# --- An engine -----------------------------------------------------------------------------------

ENGINE, SUITE = blocks("adding_an_engine.md", "python")
DIFFS = blocks("adding_an_engine.md", "diff")
CONFIG = patched(
    Path(objectives.engines.config.__file__).read_text(encoding="utf-8"),
    DIFFS,
)


class PlainConfig:
    """What the page's test calls: the class that its diff adds."""

    def __new__(cls):
        made = types.ModuleType("patched_config")
        sys.modules[made.__name__] = made  # pydantic looks its annotations up there
        try:
            exec(compile(CONFIG, "config.py", "exec"), made.__dict__)
            adapter = TypeAdapter(made.EngineConfig)
            assert adapter.validate_python({"kind": "scripted", "default": "x"}).devices == 1
            return adapter.validate_python({"kind": "plain"})
        finally:
            del sys.modules[made.__name__]


@pytest.fixture(scope="module", autouse=True)
def the_engine():
    """The page's file as a module, its line in the table."""
    name, place = line_of(DIFFS[0])
    with pytest.MonkeyPatch.context() as monkeypatch:
        module(place.partition(":")[0], ENGINE, monkeypatch)
        monkeypatch.setitem(objectives.engines.config.ENGINES, name, place)
        yield


exec(compile(SUITE, "adding_an_engine.md", "exec"))


def test_the_engine_starts_from_a_skeleton(tiny, tmp_path):  # noqa: F811
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with make_engine(PlainConfig(), tiny) as whole, make_engine(PlainConfig(), tmp_path) as bare:
        bare.load(DictSource(load_file(tiny / "model.safetensors")))
        assert bare.generate(PROMPTS, SHORT) == whole.generate(PROMPTS, SHORT)
