import time

import pytest

from objectives.scorers import make_scorer
from objectives.scorers.final_answer import final_answer
from tests.objectives.math_cases import GROUPS
from tests.objectives.samples import sample

CASES = [
    pytest.param(*case, id=f"{group}-{number}")
    for group, cases in GROUPS.items()
    for number, case in enumerate(cases)
]


@pytest.fixture(scope="module")
def scorer():
    return make_scorer("math")


@pytest.mark.parametrize(("text", "answer", "score"), CASES)
def test_score(scorer, text, answer, score):
    assert scorer.score(sample(text, answer)) == score, final_answer(text)


def test_the_table_is_a_table():
    assert len(CASES) >= 150
    assert len({case.values[:2] for case in CASES}) == len(CASES)
    assert {case.values[2] for case in CASES} == {0, 1}


@pytest.mark.parametrize("number", range(len(GROUPS["big"])))
def test_big_answers_cost_little(scorer, number):
    scorer.score(sample("\\boxed{2^{1/2}}", "\\sqrt{2}"))  # the verifier has started
    text, answer, _ = GROUPS["big"][number]
    start = time.process_time()
    scorer.score(sample(text, answer))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "big"])
def test_thinking_before_and_words_around_change_nothing(scorer, group):
    for text, answer, score in GROUPS[group]:
        if not score or "think" in text or "\\boxed" not in text:
            continue
        dressed = f"<think> \\boxed{{1234}} or 5 </think>\nSo we find:\n\n$${text}$$\n"
        assert scorer.score(sample(dressed, answer)) == 1.0, dressed
