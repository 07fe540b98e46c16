"""What scorers read in an answer is kept beside the scores, from the reading that they score by."""

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import score_task
from objectives.engines import ScriptedConfig
from objectives.engines.base import Generation
from objectives.engines.scripted import ScriptedEngine
from objectives.item import DETAIL, detail
from objectives.scorers import make_scorer
from objectives.scorers import math as math_scorer
from objectives.scorers.base import Sample
from objectives.scorers.code import Code
from objectives.splits import SplitConfig
from objectives.task import Task, TaskConfig
from search.results import item_of
from tests.objectives.language_texts import RIGHT
from tests.objectives.samples import item, likelihoods, sample
from tests.objectives.test_code import working_sandbox

THAI, ENGLISH = RIGHT["th"]["long"], RIGHT["en"]["long"]


def read(scorer, text, **more):
    return dict(make_scorer(scorer).details(sample(text, **more)))


@given(st.text(max_size=3 * DETAIL))
def test_a_detail_is_one_short_line(text):
    told = detail(text)
    assert len(told) <= DETAIL
    assert len(told.splitlines()) <= 1
    assert detail(told) == told
    whole = " ".join(text.split())
    assert told == whole or (told.endswith("…") and whole.startswith(told[:-1]))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>8</think> so \\boxed{๗}", "7"),
        ("คำตอบคือ ๑,๕๐๐ บาท", "1500 บาท"),
        ("it is 3, then 4, then 5", ""),
        ("<think>\\boxed{7}", ""),
        ("#### \\frac{1}{2}", "\\frac{1}{2}"),
    ],
)
def test_math_tells_the_answer_as_it_was_read(text, answer):
    assert read("math", text) == {"answer": answer}


def test_exact_and_choice_tell_what_was_compared():
    assert read("exact", "<think>8</think>  The\n SEVEN ") == {"answer": "the seven"}
    low = likelihoods(-3, -1, -2)
    assert read("choice", "", likelihoods=low) == {"answer": "8"}
    tie = likelihoods(-1, -1, -2)
    assert read("choice", "", likelihoods=tie) == {"answer": "7 | 8"}
    broken = likelihoods(float("nan"), -1, -2)
    assert read("choice", "", likelihoods=broken) == {"answer": ""}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("<think>so</think> 7", None),
        ("7", "no thinking"),
        ("so</think> 7", "never opened"),
        ("<think>so 7", "never closed"),
        ("<think> </think> 7", "empty thinking"),
        ("<think>so</think> ", "no answer"),
    ],
)
def test_think_tells_what_is_missing(text, missing):
    found = make_scorer("think").rated(sample(text))
    assert found.details == ({} if missing is None else {"think.missing": missing})
    assert found.scores == {"think": float(missing is None)}


@pytest.mark.parametrize("detector", ["cld2", "fasttext"])
class TestLanguage:
    def read(self, detector, text, expect="th"):
        return read({"language": {"expect": expect, "detector": detector}}, text)

    def test_thinking_and_answer_have_their_own(self, detector):
        found = self.read(detector, f"<think>{ENGLISH}</think>{THAI}")
        assert found == {"answer": "th", "thinking": "en"}
        assert self.read(detector, THAI) == {"answer": "th", "thinking": "none"}
        assert self.read(detector, f"<think>{THAI}") == {"answer": "none", "thinking": "th"}

    def test_what_is_mixed_says_so_with_its_shares(self, detector):
        found = self.read(detector, f"{THAI} {ENGLISH}")["answer"]
        assert found.startswith("mixed th 7")
        assert ", en 2" in found

    @pytest.mark.parametrize("code", [code for code in RIGHT if "-" not in code])
    def test_the_texts_of_the_suite_are_known_whatever_is_expected(self, detector, code):
        for expect in ("th", "en", code):
            assert self.read(detector, RIGHT[code]["long"], expect)["answer"] == code

    def test_of_few_words_the_letters_are_told(self, detector):
        found = {text: self.read(detector, text)["answer"] for text in ("7", "เจ็ด", "siete", "七")}
        assert found == {"7": "none", "เจ็ด": "th", "siete": "Latin letters", "七": "zh"}
        assert self.read(detector, "The answer is 7")["answer"] == "en"
        assert self.read(detector, "เจ็ด siete")["answer"].startswith("mixed Latin letters ")


class TestCode:
    CASES = ({"input": "1\n", "output": "2\n"}, {"input": "5\n", "output": "10\n"})

    def read(self, code, tests=CASES, entry_point=None):
        fields = {"tests": tests if isinstance(tests, str) else list(tests)}
        fields |= {} if entry_point is None else {"entry_point": entry_point}
        scorer = Code(sandbox=working_sandbox(), time_limit=1)
        return scorer.details(
            Sample(item("", **fields), Generation(f"```python\n{code}\n```", 9, "stop"))
        )["tests"]

    def test_the_first_test_that_failed_is_told(self):
        assert self.read("print(int(input()) * 2)") == "all 2 passed"
        assert self.read("print(2)") == "test 2 of 2: printed '2', expected '10'"
        assert self.read("raise ValueError(object())") == "test 1 of 2: it raised ValueError"
        asserts = "def check(f):\n    assert f(1) == 2\n    assert f(2) == 3\n"
        assert self.read("def g(x): return 2", asserts, "g") == "1 of 2 asserts hold"

    def test_without_a_program_there_is_none(self):
        code = Code(sandbox=working_sandbox())
        case = Sample(item("", tests=list(self.CASES)), Generation("2", 1, "stop"))
        assert code.details(case) == {"tests": "no Python block"}


def test_scores_and_details_come_from_one_reading():
    scorer = make_scorer("math")
    before = math_scorer._read.cache_info().misses
    found = scorer.rated(sample("one reading only: \\boxed{7}"))
    assert math_scorer._read.cache_info().misses == before + 1
    assert (found.scores, found.details) == ({"math": 1.0}, {"math.answer": "7"})


def task_of(folder, *scorers, **more):
    rows = [{"id": f"q{n}", "prompt": f"{n}?", "answer": str(n)} for n in range(3)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TaskConfig(items="items.jsonl", scorers=scorers, **more)
    return Task.load("sums", config, folder, SplitConfig(dev=3, confirm=0, test=0))


def test_a_task_keeps_them_per_answer_and_json_brings_them_back(tmp_path):
    generate = {"temperature": 1.0, "max_tokens": 16}
    task = task_of(
        tmp_path, "math", "think", {"min": {"of": ["math", "think"]}}, samples=2, generate=generate
    )
    answers = iter(["\\boxed{0}", "<think>x</think> \\boxed{1}"] * 3)
    engine = ScriptedEngine(ScriptedConfig(), respond=lambda _prompt, _weights: next(answers))
    scored = score_task(engine, task, task.items("dev"))
    for one in scored:
        first, second = one.samples
        assert (
            one.details
            == first.details
            == {
                "math.answer": "0",
                "think.missing": "no thinking",
            }
        )
        assert second.details == {"math.answer": "1"}
        assert item_of(json.loads(json.dumps(asdict(one)))) == one


def test_items_that_older_versions_wrote_still_load():
    row = {"id": "a", "scores": {"math": 1.0}, "text": "7", "tokens": 1, "finish_reason": "stop"}
    assert item_of(row).details == {}
    part = {key: value for key, value in row.items() if key != "id"}
    assert item_of({**row, "samples": [part]}).samples[0].details == {}


def test_a_function_of_the_users_tells_them_in_the_same_call(tmp_path):
    (tmp_path / "own.py").write_text(
        "CALLS = []\n"
        "def first(sample):\n"
        "    CALLS.append(sample)\n"
        "    word = sample.generation.text.split()[0]\n"
        "    return {'score': 1.0, 'calls': len(CALLS), 'details': {'word': word}}\n"
        "def odd(sample):\n"
        "    return {'score': 1.0, 'details': {'word': 7}}\n"
    )
    extras = {"calls": [0, 9]}
    task = task_of(tmp_path, {"python": {"function": "own:first", "extras": extras}})
    engine = ScriptedEngine(ScriptedConfig(default="seven apples"))
    scored = score_task(engine, task, task.items("dev"))
    assert [one.scores["first.calls"] for one in scored] == [1, 2, 3]
    assert [one.details for one in scored] == [{"first.word": "seven"}] * 3
    task = task_of(tmp_path, {"python": {"function": "own:odd"}})
    with pytest.raises(Exception, match='its "details" are no mapping of names to texts'):
        score_task(engine, task, task.items("dev"))
