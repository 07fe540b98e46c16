import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives import score_task
from objectives.engines import ScriptedConfig, TransformersConfig, make_engine
from objectives.engines.base import ChatSettings, Generation, Likelihood
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import make_scorer
from objectives.scorers.base import Sample
from objectives.scorers.choice import right_choice
from objectives.task import Task, TaskConfig
from tests.objectives.samples import item, likelihoods, sample

PLAIN = ChatSettings(template=False)


def chosen(ref, logprobs, answer="b", choices=("a", "b", "c"), tokens=1):
    case = item(answer, choices=list(choices))
    given = likelihoods(*logprobs, tokens=tokens)
    scorer = make_scorer(ref)
    scorer.check_item(case)
    case = Sample(case, Generation("", 0, "stop"), given)
    return scorer.score(case), scorer.extras(case)["probability"]


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ((-2, -1, -3), 1),
        ((-1, -2, -3), 0),
        ((-1, -1, -3), 0),  # a tie with the right one
        ((-2, -2, -2), 0),  # a model that says the same of everything
        ((-2, -1, -math.inf), 1),
        ((-2, -math.inf, -3), 0),
        ((-math.inf,) * 3, 0),
        ((math.nan, -1, -3), 0),
        ((-2, math.nan, -3), 0),
        ((math.nan,) * 3, 0),
        ((0.0, 0.0, 0.0), 0),
        ((-1 - 2**-40, -1, -3), 1),
    ],
)
def test_the_right_one_has_to_be_likelier_than_all(logprobs, expected):
    assert chosen("choice", logprobs)[0] == expected


def test_probability_is_the_share_of_the_right_one():
    assert chosen("choice", (math.log(0.1), math.log(0.3), math.log(0.1)))[1] == pytest.approx(0.6)
    assert chosen("choice", (-1000, -1000, -1000))[1] == pytest.approx(1 / 3)
    assert chosen("choice", (-math.inf,) * 3)[1] == 0.0
    assert chosen("choice", (math.nan, -1, -2))[1] == 0.0
    assert chosen("choice", (-2, -math.inf, -1))[1] == 0.0


@given(
    st.lists(st.floats(-500, 0), min_size=2, max_size=6).flatmap(
        lambda xs: st.tuples(st.just(xs), st.integers(0, len(xs) - 1))
    )
)
def test_score_and_probability_agree(case):
    logprobs, right = case
    choices = [f"c{i}" for i in range(len(logprobs))]
    score, share = chosen("choice", logprobs, choices[right], choices)
    assert 0 <= share <= 1
    others = logprobs[:right] + logprobs[right + 1 :]
    assert score == (logprobs[right] > max(others))
    assert share >= 0.5 or score == 0 or len(logprobs) > 2
    if share > 0.5:
        assert score == 1


def test_lengths_are_taken_out():
    """ "no" is likelier than a long right choice, but not per character, byte or token."""
    choices = ("no", "ไม่เป็นไรครับ")
    logprobs = (-4.0, -10.0)
    assert chosen("choice", logprobs, choices[1], choices)[0] == 0
    for unit in ("characters", "bytes"):
        ref = {"choice": {"normalize": unit}}
        assert chosen(ref, logprobs, choices[1], choices)[0] == 1
    ref = {"choice": {"normalize": "characters"}}
    length = [len(choice) for choice in choices]
    shares = [math.exp(x / n) for x, n in zip(logprobs, length, strict=True)]
    share = chosen(ref, logprobs, choices[1], choices)[1]
    assert share == pytest.approx(shares[1] / sum(shares))
    # A Thai character is three bytes: a choice in English gains by counting bytes.
    assert chosen({"choice": {"normalize": "bytes"}}, (-4, -60), "no", choices)[0] == 0
    case = item("b", choices=["a", "b"])
    given = (Likelihood(-4, 1, False), Likelihood(-6, 3, False))
    scored = Sample(case, Generation("", 0, "stop"), given)
    assert make_scorer({"choice": {"normalize": "tokens"}}).score(scored) == 1
    assert make_scorer("choice").score(scored) == 0


def test_what_is_common_anyway_is_taken_out():
    ref = {"choice": {"normalize": "calibrated"}}
    asked, neutral = (-1.0, -3.0, -9.0), (-0.5, -6.0, -9.0)
    assert chosen("choice", asked)[0] == 0
    assert chosen(ref, asked + neutral)[0] == 1
    share = chosen(ref, asked + neutral)[1]
    gains = [math.exp(a - b) for a, b in zip(asked, neutral, strict=True)]
    assert share == pytest.approx(gains[1] / sum(gains))
    # "impossible after the neutral question" is no merit
    assert chosen(ref, (-1, -3, -9, -0.5, -math.inf, -9))[0] == 0


@pytest.mark.parametrize(
    ("answer", "choices", "place"),
    [
        ("b", ["a", "b"], 1),
        ("Bangkok", ["Paris", "Bangkok"], 1),
        (" Bangkok ", ["Paris", "Bangkok"], 1),
        ("B", ["Paris", "Bangkok"], 1),
        ("b", ["Paris", "Bangkok"], 1),
        ("1", ["Paris", "Bangkok"], 1),
        ("0", ["Paris", "Bangkok"], 0),
        ("1", ["1", "2", "3"], 0),  # the text of a choice goes first
        ("2", ["1", "2", "3"], 1),
        ("B", ["C", "A", "B"], 2),
        ("0", ["10", "20", "30"], 0),
    ],
)
def test_answers_name_choices(answer, choices, place):
    assert right_choice(item(answer, choices=choices)) == place


@pytest.mark.parametrize(
    ("answer", "fields", "message"),
    [
        (
            "x",
            {"choices": ["a", "b"]},
            r"'x' names none of 2 .*\(A to B\) or its number \(0 to 1\)",
        ),
        ("2", {"choices": ["Paris", "Bangkok"]}, "'2' names none"),
        ("", {"choices": ["a", "b"]}, "names none"),
        ("๑", {"choices": ["a", "b"]}, "names none"),
        ("C", {"choices": ["Paris", "Bangkok"]}, "names none"),
        ("9" * 5000, {"choices": ["a", "b"]}, "names none"),
        ("a", {}, '"choices" is missing'),
        ("a", {"choises": ["a", "b"]}, "did you mean 'choises'"),
        ("a", {"choices": "ab"}, "two or more different texts"),
        ("a", {"choices": ["a"]}, "two or more different texts"),
        ("a", {"choices": ["a", "a "]}, "two or more different texts"),
        ("a", {"choices": ["a", ""]}, "two or more different texts"),
        ("1", {"choices": [1, 2]}, "two or more different texts"),
    ],
)
def test_a_bad_item_is_one_clear_line(answer, fields, message):
    with pytest.raises(ScorerError, match=message) as caught:
        make_scorer("choice").check_item(item(answer, **fields))
    assert "\n" not in str(caught.value)


def test_letters_end_somewhere():
    case = item("1", choices=[f"c{i}" for i in range(27)])
    make_scorer("choice").check_item(case)
    with pytest.raises(ScorerError, match="more than letters"):
        make_scorer({"choice": {"present": "letters"}}).check_item(case)


def asked(ref, chat, messages=({"role": "user", "content": "2 + 2 = ?"},)):
    case = Item("i", messages, "4", {}, "", {"choices": ["3", "4"]})
    return [
        ("|".join(m["content"] for m in one.messages), one.text)
        for one in make_scorer(ref).continuations(case, chat)
    ]


def test_what_is_asked():
    q = "2 + 2 = ?"
    assert asked("choice", ChatSettings()) == [(q, "3"), (q, "4")]
    assert asked("choice", PLAIN) == [(q, " 3"), (q, " 4")]
    assert asked({"choice": {"prefix": ""}}, PLAIN) == [(q, "3"), (q, "4")]
    assert asked({"choice": {"prefix": "\n"}}, ChatSettings()) == [(q, "\n3"), (q, "\n4")]
    closed = ChatSettings(prefill="</think>\n\n")
    assert asked("choice", closed) == [(q, "3"), (q, "4")]
    assert asked("choice", ChatSettings(prefill="So:")) == [(q, " 3"), (q, " 4")]
    ended = ({"role": "user", "content": "2 + 2 =\n"},)
    assert asked("choice", PLAIN, ended) == [("2 + 2 =\n", "3"), ("2 + 2 =\n", "4")]
    letters = f"{q}\nA. 3\nB. 4\nAnswer:"
    assert asked({"choice": {"present": "letters"}}, PLAIN) == [(letters, " A"), (letters, " B")]
    no_cue = {"choice": {"present": "letters", "cue": ""}}
    listed = f"{q}\nA. 3\nB. 4"
    assert asked(no_cue, ChatSettings()) == [(listed, "A"), (listed, "B")]


def test_what_is_asked_neutrally():
    system = ({"role": "system", "content": "s"}, {"role": "user", "content": "q"})
    ref = {"choice": {"normalize": "calibrated"}}
    assert asked(ref, ChatSettings(), system) == [
        ("s|q", "3"),
        ("s|q", "4"),
        ("s|N/A", "3"),
        ("s|N/A", "4"),
    ]
    ref = {"choice": {"normalize": "calibrated", "neutral": "?", "present": "letters"}}
    assert asked(ref, ChatSettings())[2:] == [
        ("?\nA. 3\nB. 4\nAnswer:", "A"),
        ("?\nA. 3\nB. 4\nAnswer:", "B"),
    ]


def test_the_whole_way(tmp_path, tiny):
    """From lines of a file to scores; letters and texts name the same right ones."""
    lines = [
        {"id": str(i), "prompt": f"w{i} ?", "choices": ["w1 w2", f"{i}", "ลูก"], "answer": "B"}
        for i in range(6)
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    refs = [
        "choice",
        {"choice": {"name": "pmi", "normalize": "calibrated"}},
        {"choice": {"name": "per_token", "normalize": "tokens"}},
        {"perplexity": {"prefix": " "}},
    ]
    config = TaskConfig(items="items.jsonl", scorers=refs, role="report")
    task = Task.load("t", config, tmp_path)
    assert not task.generates

    def judge(request, _weights):
        neutral = request.messages[-1]["content"] == "N/A"
        words = len(request.text.split())
        return Likelihood(-words * (4.0 if neutral else 2.0), words, False)

    engine = ScriptedEngine(ScriptedConfig(), judge=judge)
    for one in score_task(engine, task, task.items("test")):
        # the long choice is common, and gains most by the question
        assert (one.scores["choice"], one.scores["pmi"], one.scores["per_token"]) == (0, 0, 0)
        assert one.scores["choice.probability"] == pytest.approx(1 / (2 + math.exp(-2)))
        assert one.scores["perplexity"] == pytest.approx(math.exp(2.0))
    with make_engine(TransformersConfig(device="cpu"), tiny) as live:
        scores = score_task(live, task, task.items("test"))
    assert {one.scores.keys() == task.measures.keys() for one in scores} == {True}
    assert len({one.scores["choice.probability"] for one in scores}) == 6


def test_a_sample_of_the_suite_is_not_right_by_itself():
    assert make_scorer("choice").score(sample("7")) == 0
    assert make_scorer("choice").score(sample("", likelihoods=likelihoods(-1, -2, -3))) == 1
