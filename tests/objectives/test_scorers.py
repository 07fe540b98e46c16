import pytest

from objectives.errors import ScorerError
from objectives.scorers import SCORERS, make_scorer
from objectives.scorers.base import Scorer, split_thinking
from objectives.tables import did_you_mean, resolve
from tests.objectives.samples import sample
from tests.objectives.scorer_suite import ScorerSuite

JUDGE = {"url": "http://localhost:1", "model": "m"}
REFS = {
    "all": {"all": {"of": ["math"]}},
    "choice": "choice",
    "exact": "exact",
    "language": {"language": {"expect": "th"}},
    "length_penalty": {"length_penalty": {"of": ["math"], "free": 10, "limit": 20}},
    "lm_eval": {"lm_eval": {"metrics": ["acc", "word_perplexity"]}},
    "math": "math",
    "mean": {"mean": {"of": ["math", "language"]}},
    "min": {"min": {"of": ["math", "language"]}},
    "perplexity": "perplexity",
    "python": "python:tests.objectives.samples:wordiness",
    "think": {"think": None},
}
"""A working reference to every scorer that needs nothing but itself."""

ELSEWHERE = {
    "code": "tests.objectives.test_code:TestSuite",  # needs a sandbox
    "judge": "tests.objectives.test_judge:TestSuite",  # needs a server
    "lm_eval": "tests.objectives.test_lm_eval:TestLmEval",  # tasks with data, as well as here
}
"""Where the suite runs over scorers that need more."""


class TestEveryScorer(ScorerSuite):
    @pytest.fixture(params=sorted(SCORERS.keys() - (ELSEWHERE.keys() - REFS.keys())))
    def scorer(self, request):
        assert request.param in REFS, f"add a reference to {request.param!r} to REFS of this file"
        return make_scorer(REFS[request.param])


def test_every_scorer_has_been_through_the_suite():
    assert REFS.keys() <= SCORERS.keys()
    for name in SCORERS.keys() & ELSEWHERE.keys():
        suite = resolve(ELSEWHERE, name)
        assert issubclass(suite, ScorerSuite)
        assert suite.__name__.startswith("Test")


def test_every_table_entry_resolves():
    assert list(SCORERS) == sorted(SCORERS)
    for name in SCORERS:
        scorer = resolve(SCORERS, name)
        assert issubclass(scorer, Scorer)
        assert scorer.name == name


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("maths", "unknown scorer 'maths'; did you mean 'math'"),
        ({"language": {"expect": "the"}}, "unknown language 'the'; did you mean 'te'|'th'"),
        ({"language": {"expects": "th"}}, "unknown parameter 'expects'|'expect' is missing"),
        ("language", "scorer language: parameter 'expect' is missing"),
        ({"math": {"time_limit": 0}}, "scorer math: time_limit has to be more than 0.*, not 0"),
        ({"think": {"x": 1}}, "unknown parameter 'x'; choose one of name"),
        ({"math": [1]}, "parameters are a mapping"),
        ({"math": {"time_limit": "x"}}, "math: time_limit has to be a number, not 'x'$"),
        ({"math": {"name": "9 x"}}, "math: name may hold letters, digits, - and _ only, not '9 x'"),
        ({"min": {"of": "math"}}, "min: of has to be a list, not 'math'$"),
        ({"judge": JUDGE | {"cache": 3}}, "cache has to be true or false or text, not 3$"),
        ({"judge": JUDGE | {"scale": [1]}}, r"judge: scale has too few values, \[1\]$"),
        ({"judge": JUDGE | {"scale": [1, 2, 3]}}, r"scale has too many values, not \[1, 2, 3\]$"),
        ({"language": {"expect": "TH"}}, "unknown language 'TH'; did you mean 'th'"),
        (
            {"lm_eval": {"metrics": ["acc"], "chat": {"templat": True}}},
            "unknown parameter 'chat.templat'; did you mean 'template'",
        ),
        ({"math": {}, "think": {}}, "got math, think; list each apart"),
        ({}, "got nothing"),
    ],
)
def test_a_wrong_reference_is_one_clear_line(ref, message):
    with pytest.raises(ScorerError, match=message) as caught:
        make_scorer(ref)
    assert "\n" not in str(caught.value)


def test_a_hint_is_short():
    with pytest.raises(ScorerError, match="unknown language 'english'; choose one of aa, ") as no:
        make_scorer({"language": {"expect": "english"}})
    assert str(no.value).endswith(", ...")
    assert str(no.value).count(",") == 20
    assert did_you_mean("ACC", ["acc", "f1"]) == "did you mean 'acc'?"
    assert did_you_mean("LANGUGE", ["language", "math"]) == "did you mean 'language'?"
    assert did_you_mean("xyz", ["b", "a"]) == "choose one of a, b"


@pytest.mark.parametrize(
    ("text", "thinking_open", "thinking", "answer", "closed", "opened"),
    [
        ("just 7", False, None, "just 7", False, False),
        ("<think>a</think>7", False, "a", "7", True, True),
        ("a</think>7", True, "a", "7", True, True),
        ("a</think>7", False, "a", "7", True, False),
        ("<think>a</think>7", True, "a", "7", True, True),
        ("<think>a", False, "a", "", False, True),
        ("a", True, "a", "", False, True),
        ("<think>a</think>b<think>c", False, "a</think>bc", "", False, True),
        ("<think>a</think>b<think>c</think>7", False, "abc", "7", True, True),
        ("<thinking>a</thinking>7", False, "a", "7", True, True),
        ("<thought>a</thought>7", False, "a", "7", True, True),
        ("hm <think>a</think>7", False, "hm a", "7", True, True),
        ("</think>7", False, "", "7", True, False),
    ],
)
def test_thinking_is_taken_apart(text, thinking_open, thinking, answer, closed, opened):
    parts = split_thinking(sample(text, thinking_open=thinking_open).generation)
    assert parts.answer == answer
    assert (parts.closed, parts.opened) == (closed, opened)
    if thinking is not None:
        thinking = thinking.replace("</think>", "")
    assert parts.thinking == thinking


@pytest.mark.parametrize(
    ("text", "thinking_open", "expected"),
    [
        ("<think> 5 + 2 </think> 7", False, 1),
        ("5 + 2 </think> 7", True, 1),
        ("5 + 2 </think> 7", False, 0),
        ("<think> </think> 7", False, 0),
        ("<think> 5 </think> ", False, 0),
        ("<think> 5", False, 0),
        ("7", False, 0),
        ("7 <think> 5 </think>", False, 0),
    ],
)
def test_think(text, thinking_open, expected):
    assert make_scorer("think").score(sample(text, thinking_open=thinking_open)) == expected


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (" กรุงเทพ \n", "กรุงเทพ", 1),
        ("<think>x</think> New  York", "new york", 1),
        ("caf\u0065\u0301", "caf\u00e9", 1),
        ("Bangkok.", "Bangkok", 0),
        ("<think> Bangkok", "Bangkok", 0),
    ],
)
def test_exact(text, answer, expected):
    assert make_scorer("exact").score(sample(text, answer)) == expected
