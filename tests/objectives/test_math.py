import os
import time

import pytest

from objectives.scorers import make_scorer
from objectives.scorers.final_answer import final_answer
from objectives.scorers.verifier import Verifier, shared_verifier
from tests.objectives.samples import sample

RIGHT = [
    # the demo world: words between spaces
    ("<think> มี 5 . ซื้อ 2 ดังนั้น 5 + 2 = 7 </think> คำตอบ คือ #### 7 ลูก ครับ", "7"),
    ("ประมาณ #### 7 ลูก นะ ครับ", "7"),
    ("the answer is #### 7", "7"),
    ("สมชาย เหลือ แอปเปิล #### 7 ลูก", "7"),
    ("tom has #### 7 apples", "7"),
    # native digits
    ("คำตอบคือ ๑๘ บาท", "18"),
    ("উত্তর হলো ১৮", "18"),
    ("ଉତ୍ତର ହେଉଛି ୧୮", "18"),
    ("பதில்: ௧௮", "18"),
    ("సమాధానం: ౧౮", "18"),
    ("ལན་ནི་ ༡༨ །", "18"),
    ("Хариулт нь ᠑᠘", "18"),
    ("الجواب هو ١٨", "18"),
    ("उत्तर है १८।", "18"),
    ("ចម្លើយគឺ ១៨", "18"),
    ("答案是１８。", "18"),
    ("الجواب هو ٣٫٥", "3.5"),
    ("\\boxed{๑,๐๐๐}", "1000"),
    ("#### 18", "๑๘"),
    # dressing
    ("\\boxed{7}", "7"),
    ("first \\boxed{3}, then \\boxed{7}.", "7"),
    ("\\boxed{\\frac{1}{2}}", "0.5"),
    ("\\boxed{\\text{18 บาท}}", "18"),
    ("\\boxed{\\text{๑๘}}", "18"),
    ("\\boxed{7\\text{ apples}}", "7"),
    ("The answer is \\(\\boxed{\\{1, 2\\}}\\)", "\\{2,1\\}"),
    ("The final answer is **$18$**.", "18"),
    ("Final Answer: $\\frac{1}{2}$", "1/2"),
    ("#### Solution\nThe answer is 7.", "7"),
    ("#### Step 2: add 5\nThe answer is 7.", "7"),
    ("The answer is:\n\\[\n7\n\\]", "7"),
    ("The answer is 7 because 3 + 4 = 7.", "7"),
    ("The answer is 7 out of 12.", "7"),
    ("คำตอบคือ 5 + 2 = 7 ลูก", "7"),
    ("The answer is x = 7.", "7"),
    ("The answer is $\\frac{3}{4}$ of the cake", "0.75"),
    ("คำตอบคือ \\(7\\) ลูก", "7"),
    ("The answer is $7, not $8", "7"),
    ("the answer is 5km.", "5"),
    ("답은 7입니다.", "7"),
    ("答えは7個です。", "7"),
    ("\\boxed{x = 7}", "7"),
    ("The answer is approximately 7 apples", "7"),
    ("18 บาท", "18"),
    ("There are 18 eggs left.", "18"),
    ("7", "7"),
    ("-5", "-5"),
    ("so \\boxed{7} and \\boxed{", "7"),
    # spellings of one number
    ("#### 1,000", "1000"),
    ("#### 1000.0", "1,000"),
    ("#### 1{,}000", "1000"),
    ("#### 1\\,000", "1000"),
    ("#### 1 000", "1000"),
    ("#### ₹1,00,000", "100000"),
    ("#### $1,234,567.50", "1234567.5"),
    ("#### −5", "-5"),
    ("#### 1/2", "0.5"),
    ("#### 3\\frac{1}{2}", "3.5"),
    ("#### 3 1/2", "7/2"),
    ("#### 50%", "50\\%"),
    ("#### 50%", "0.5"),
    ("#### 50", "50%"),
    ("#### 50 percent", "50%"),
    ("#### 3 million dollars", "3000000"),
    ("#### 3 ล้าน บาท", "3,000,000"),
    ("#### 3万", "30000"),
    ("#### 18", "Each has 9, so 2 * 9 = 18. #### 18"),
    # for the verifier
    ("\\boxed{\\sqrt{49}}", "7"),
    ("\\boxed{2x + 1}", "1 + 2x"),
    ("\\boxed{(1, 2)}", "(1,2)"),
    ("\\boxed{2^{1/2}}", "\\sqrt{2}"),
    ("\\sqrt{49}", "7"),
    # choices
    ("The answer is (A).", "A"),
    ("the answer is (b)", "(B)"),
    ("\\boxed{\\text{C}}", "C"),
    ("The answer is A) five apples", "A"),
]
WRONG = [
    ("#### 8", "7"),
    ("#### 17", "7"),
    ("#### 7.5", "7"),
    ("#### -7", "7"),
    ("#### 70", "7"),
    ("<think> 7", "7"),
    ("<think> \\boxed{7}", "7"),
    ("<think> the answer is 7 </think> the answer is 8", "7"),
    ("<think> #### 7 </think>", "7"),
    ("", "7"),
    ("####", "7"),
    ("#### ลูก ครับ", "7"),
    ("\\boxed{}", "7"),
    ("\\boxed{7", "7"),
    ("3 + 4 is 8 or 7", "7"),
    ("12 and 7", "7"),
    ("#### 3x", "3"),
    ("#### 7^2", "7"),
    ("#### 7 + 1", "7"),
    ("#### 7/0", "7"),
    ("#### 3 million", "3"),
    ("#### 1,000", "1"),
    ("\\boxed{1,2}", "12"),
    ("#### 5%", "50%"),
    ("The answer is (A).", "B"),
    ("The answer is a dog", "A"),
    ("\\boxed{\\sqrt{50}}", "7"),
    ("\\boxed{\\undefined{{}", "7"),
    ("\\boxed{7, 8}", "7"),
    ("The answer is 18 or 20", "18"),
    ("The answer is 18 or 20", "20"),
    ("#### 7:30", "7"),
]


@pytest.fixture(scope="module")
def scorer():
    return make_scorer("math")


@pytest.mark.parametrize(("text", "answer"), RIGHT)
def test_right(scorer, text, answer):
    assert scorer.score(sample(text, answer)) == 1.0, final_answer(text)


@pytest.mark.parametrize(("text", "answer"), WRONG)
def test_wrong(scorer, text, answer):
    assert scorer.score(sample(text, answer)) == 0.0, final_answer(text)


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
    assert time.monotonic() - start < 3.0
    assert scorer.score(sample("\\boxed{\\sqrt{49}}", "7")) == 1.0  # alive again


@pytest.mark.timeout(60)
def test_a_child_that_hangs_is_killed():
    verifier = Verifier()
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        first = verifier._child
        start = time.monotonic()
        assert not verifier.equal("\\sqrt{2}", "9^{9^{9^9}}", 0.3)
        assert time.monotonic() - start < 1.0
        assert first.poll() is not None
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
    finally:
        verifier.close()


@pytest.mark.timeout(60)
def test_a_child_that_dies_is_replaced():
    verifier = Verifier()
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        first = verifier._child
        os.kill(first.pid, 9)
        first.wait()
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        assert verifier._child is not first
    finally:
        verifier.close()
    assert verifier._child is None


def test_one_verifier_a_process():
    assert shared_verifier() is shared_verifier()
