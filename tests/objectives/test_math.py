import time

import pytest

from objectives.engines.base import Generation
from objectives.errors import ScorerError
from objectives.item import Item, content_digest
from objectives.scorers import make_scorer
from objectives.scorers.base import Sample
from objectives.scorers.final_answer import final_answer
from tests.objectives.math_cases import GROUPS
from tests.objectives.samples import sample


def asked(question, text, answer):
    messages = ({"role": "user", "content": question},)
    item = Item("i", messages, answer, {}, content_digest(messages, answer))
    return Sample(item, Generation(text, 1, "stop", False))


def test_every_script_of_decimal_digits_is_read():
    import sys
    import unicodedata

    zeros = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.decimal(chr(c), None) == 0]
    assert len(zeros) > 50
    for zero in zeros:
        text = "".join(chr(ord(zero) + int(digit)) for digit in "9081726354")
        assert final_answer(f"#### {text}") == "9081726354"


def test_plain_numbers_start_no_process(monkeypatch):
    from objectives.scorers import math

    monkeypatch.setattr(math, "shared_verifier", lambda: pytest.fail("asked the verifier"))
    scorer = make_scorer("math")
    for text in ("#### 7 ลูก ครับ", "#### 8", "", "#### ลูก", "\\boxed{7.0}", "#### 1/7"):
        scorer.score(sample(text, "7"))


@pytest.mark.timeout(60)
def test_a_hanging_answer_costs_its_limit_and_no_more():
    scorer = make_scorer({"math": {"time_limit": 1.0}})
    assert scorer.score(sample("\\boxed{\\sqrt{49}}", "7")) == 1.0  # started now
    start = time.monotonic()
    assert scorer.score(sample("\\boxed{9^{9^{9^9}}}", "\\sqrt{2}")) == 0.0
    assert time.monotonic() - start < 4.5  # the default limit is 5 s
    assert scorer.score(sample("\\boxed{\\sqrt{49}}", "7")) == 1.0  # alive again


def test_copying_an_expression_from_the_question_is_no_answer():
    scorer = make_scorer("math")
    question = "Expand $(x + 1)^2 - x$, and what is √49 or \\(3 \\times \\sqrt{8}\\)?"
    assert scorer.score(asked(question, "\\boxed{(x+1)^2 - x}", "x^2 + x + 1")) == 0.0
    assert scorer.score(asked(question, "\\boxed{3 × \\sqrt{8}}", "6\\sqrt{2}")) == 0.0
    question = "What is 2 · √8, 3 ⋅ √8 and √8 ÷ 3?"  # every symbol as answers have it
    for copied, expected in (
        ("2 \\cdot \\sqrt{8}", "4\\sqrt{2}"),
        ("3 ∙ √8", "6\\sqrt{2}"),
        ("\\sqrt{8} \\div 3", "\\frac{2\\sqrt{2}}{3}"),
    ):
        assert scorer.score(asked(question, f"\\boxed{{{copied}}}", expected)) == 0.0
        assert scorer.score(asked("?", f"\\boxed{{{copied}}}", expected)) == 1.0
    question = "Expand $(x + 1)^2 - x$."
    assert scorer.score(asked(question, "\\boxed{x(x+1) + 1}", "x^2 + x + 1")) == 1.0
    assert scorer.score(asked(question, "\\boxed{6\\sqrt2}", "6\\sqrt{2}")) == 1.0
    # What is expected word for word is right, whoever wrote it first; and so is a plain number.
    assert scorer.score(asked("Which is even, 7 or 8.0?", "\\boxed{8.0}", "8")) == 1.0
    assert scorer.score(asked("Is $2x$ or $3x$ larger?", "\\boxed{3x}", "3x")) == 1.0
    # A part of the question's expression is another expression.
    assert scorer.score(asked("Solve $2x + 1 + y$.", "\\boxed{2x + 1}", "1 + 2x")) == 1.0


def test_two_thousand_answers_take_less_than_a_second():
    scorer = make_scorer("math")
    think = "<think> " + "มี 5 ซื้อ 2 ดังนั้น 5 + 2 = 7 " * 40 + "</think> "
    work = "ขั้นแรก เขามีแอปเปิล ๕ ลูก แล้วซื้อเพิ่มอีก ๒ ลูก จะได้ $5 + 2 = 7$ ลูก\n" * 8
    ends = [
        "\\boxed{7}",
        "คำตอบคือ ๗ ลูก",
        "#### 7",
        "The answer is \\(8\\).",
        "\\boxed{\\text{7 ลูก}}",
    ]
    samples = [sample(think + work + ends[n % len(ends)], "7") for n in range(2048)]
    start = time.process_time()
    total = sum(map(scorer.score, samples))
    assert time.process_time() - start < 1.0
    assert total == 2048 - 409


def test_as_many_side_by_side_as_there_are_processes():
    assert make_scorer("math").parallel in (1, 2)
    assert make_scorer({"math": {"processes": 1}}).parallel == 1
    with pytest.raises(ScorerError, match="processes"):
        make_scorer({"math": {"processes": 0}})


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("", "missing"),
        (" $$ ", "holds no value"),
        ("\\boxed{}", "holds no value"),
        ("#### ", "holds no value"),
        ("...", "holds no value"),
        ("9" * 401, "longer than 400"),
        ("He has 3.\nThen 4 more.\nSo seven.", "several lines"),
        ("\\frac{1}{2", "braces"),
    ],
)
def test_an_item_whose_answer_nothing_can_match_is_refused(answer, what):
    with pytest.raises(ScorerError, match=what) as caught:
        make_scorer("math").check_item(asked("?", "", answer).item)
    assert "\n" not in str(caught.value)
    assert '"answer"' in str(caught.value)


def test_items_of_every_case_pass_and_their_own_answer_is_right():
    scorer = make_scorer("math")
    for answer in sorted({case[1] for cases in GROUPS.values() for case in cases}):
        item = asked("?", f"\\boxed{{{answer}}}", answer)
        scorer.check_item(item.item)
        if "####" not in answer:
            assert scorer.score(item) == 1.0, answer
    scorer.check_item(asked("?", "", "\\begin{pmatrix}1\\\\\n2\\end{pmatrix}").item)
