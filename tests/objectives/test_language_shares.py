"""How much a text in two languages scores: labels, names and terms, sentences of English."""

import random

import pytest

from objectives.score import JOINT_LANGUAGE
from objectives.scorers.languages import read_expected
from objectives.scorers.script_share import script_share, weight
from tests.objectives.language_suite import ENGLISH, YES, judge, share
from tests.objectives.language_texts import NEAR, RIGHT

DETECTORS = ["cld2", "fasttext"]

# --- Labels of answers ---------------------------------------------------------------------------

SOLUTIONS = {
    "th": "ราคารวม 3 × 45 = 135 บาท เงินทอน 200 − 135 = 65 บาท",
    "bn": "ধাপ ১: ৫ × ৩ = ১৫\nধাপ ২: ১৫ − ৪ = ১১",
    "bo": "དང་པོ་ 5 × 3 = 15 དེ་ནས་ 15 - 4 = 11 ཡིན།",
    "ug": "ئاۋۋال 5 × 3 = 15 ئاندىن 15 - 4 = 11 بولىدۇ.",
    "te": "మొత్తం 5 × 3 = 15 మిగిలినవి 15 - 4 = 11",
    "mn-Cyrl": "Нийт 5 × 3 = 15 тул үлдсэн нь 15 - 4 = 11",
    "zh": "一共 5 × 3 = 15，剩下 15 - 4 = 11",
    "id": "Semuanya ada 5 × 3 = 15 butir telur, jadi yang tersisa adalah 15 - 4 = 11 butir telur",
}
ENDINGS = [
    "\n\n**Final Answer:** \\boxed{11}",
    "\n\nFinal Answer: \\boxed{11}",
    "\n\nThe final answer is $\\boxed{11}$",
    "\n\nThe final answer is $\\boxed{11}$.",
    " The final answer is $\\boxed{11}$.",
    "\n\nThe answer is 11.",
    "\n\nSo the answer is \\boxed{\\frac{1}{2}}",
    "\n\nTherefore, the final answer is: \\(11\\)",
    "\nAnswer: 11",
    "\n**Answer:** 11",
    "\n**Answer**: $11$",
    "\n**Answer**\n\n11",
    "\n### Final Answer\n\n\\[ \\boxed{11} \\]",
    "\nANSWER: B",
    "\nAnswer: (B)",
    "\n> Answer: $11$",
    "\nFinal Answer: The final answer is $11$. I hope it is correct.",
    "\n\n**Final Answer**\n\nThe final answer is $\\boxed{11}$.",
    "\n\n✅ **Answer: 11**",
    "\n\nThe correct option is (B).",
    "\n\nFinal answer: x = 11",
    "\r\n\r\nAnswer: 11\r\n",
    "\n#### 11",
]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("code", SOLUTIONS)
def test_the_label_that_a_prompt_asks_for_costs_nothing(code, ending):
    for detector in DETECTORS:
        assert judge(SOLUTIONS[code] + ending, code, detector=detector)[""] == 1.0


def test_keys_of_json_cost_nothing():
    text = '{"answer": "15 ผล", "reason": "12 ลบ 5 บวก 8 เท่ากับ 15"}'
    assert share(text, "th") == 1.0
    assert share(text.replace("reason", "because she had"), "th") < 0.55
    assert share(f'{{"answer": "{ENGLISH}", "reason": "{YES}"}}', "th") <= 0.1


@pytest.mark.parametrize(
    "text",
    [
        "The final answer is \\boxed{7}",  # nothing beside the label
        "Answer: 7",
        "the answer is #### 5 ฟอง ครับ",
        f"{YES}\nThe answer is 7 because she had five apples",  # a sentence behind it
        f"{YES}\nThe answer that she wants to hear is 7",  # a sentence before it
        f"{YES}\nAnswer: {ENGLISH}",
        f"{YES}\nAnswer: a fair answer is a very long answer",
        f"{YES}\n" + "The answer is 7 and my answer is final\n" * 3,
        f"{YES}\n**Answer**\n\n{ENGLISH}",
        f"{YES}\n{ENGLISH}\n\nThe final answer is \\boxed{{7}}",
        f"{YES} {ENGLISH}, so the final answer is \\boxed{{7}}",
        f"{YES}\nThe final answer is \\boxed{{{ENGLISH}}}",
        f"{YES}\nThe final answer is $\\text{{{ENGLISH}}}$",
        f'{{"answer": "{ENGLISH}"}} {YES}',
    ],
)
def test_no_english_hides_behind_a_label(text):
    assert judge(text, "th")[""] <= 0.4


def test_labels_are_english_where_english_is_expected():
    for ending in ENDINGS[:8]:
        assert share(f"She had five apples and bought six.{ending}", "en") == 1.0
        assert share(SOLUTIONS["th"] + ending, "en") <= 0.6


# --- Names and terms -----------------------------------------------------------------------------

# Answers that natives write, and the least they must score.
NATIVE = [
    (
        "th",
        "นี่คือขั้นตอนการติดตั้ง Python และ Visual Studio Code:\n\n"
        "1. **ดาวน์โหลด Python** จากเว็บไซต์ python.org\n"
        "2. **ติดตั้ง VS Code** แล้วเปิด Extension Marketplace\n"
        "3. สร้าง virtual environment ด้วยคำสั่ง `python -m venv .venv`\n"
        "4. ติดตั้ง library เช่น NumPy, Pandas, Matplotlib และ Scikit-learn\n\n"
        "หากมีปัญหา ให้ตรวจสอบ PATH ของระบบ",
        0.7,
    ),
    (
        "th",
        "| ภาษา | จุดเด่น | ตัวอย่าง |\n|---|---|---|\n"
        "| Python | เรียนง่าย | Data Science, AI |\n"
        "| JavaScript | ทำเว็บไซต์ | React, Vue, Node.js |\n"
        "| Java | ระบบองค์กร | Spring Boot |\n"
        "| C++ | ความเร็วสูง | Game Engine |",
        0.7,
    ),
    (
        "th",
        "1. **ดาวน์โหลด Python** จากเว็บไซต์ python.org\n"
        "2. **ติดตั้ง VS Code** แล้วเปิด Extension Marketplace\n"
        "3. ติดตั้ง library เช่น NumPy, Pandas และ Scikit-learn\n"
        "4. เขียนโปรแกรมแรกของคุณแล้วรันด้วยปุ่ม Run",
        0.75,
    ),
    ("th", "ให้ $x$ เป็นราคาของปากกา จะได้ $2x + 3y = 50$ และ $\\text{Total} = 50$", 0.8),
    (
        "bn",
        "1. **নিয়মিত অনুশীলন করুন** – প্রতিদিন অন্তত ৩০ মিনিট কোড লিখুন।\n"
        "2. **প্রকল্প তৈরি করুন** – যেমন একটি To-Do List বা Calculator অ্যাপ।\n"
        "3. **GitHub** ব্যবহার করে আপনার কোড সংরক্ষণ করুন।",
        0.85,
    ),
    ("bo", "ང་ཚོས་ Python བེད་སྤྱད་ནས་ལས་རིམ་འབྲི་དགོས། དེ་ནས་ GitHub ནང་ཉར་ཚགས་བྱེད་དགོས།", 0.85),
    ("ug", "ئۇيغۇر تىلىدا پروگرامما يېزىش ئۈچۈن Python ئىشلىتىمىز. بۇ تىل ئاسان ۋە كۈچلۈك.", 0.95),
]


@pytest.mark.parametrize(("code", "text", "least"), NATIVE)
def test_names_and_terms_cost_a_third(code, text, least):
    for detector in DETECTORS:
        assert share(text, code, detector) >= least


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("SUSAN HAS TWELVE APPLES ครับ GIVES FIVE AWAY TOM BUYS EIGHT", 0.2),
        ("Susan Has Twelve Apples And Gives Five To Tom ครับ", 0.2),
        ("ครับ susan gives apples ครับ tom buys pears ครับ then market closes", 0.25),
        ("เราต้อง calculate total ก่อน แล้ว subtract cost ออก จะได้ profit", 0.5),
        ("ฉัน think ว่า need เพิ่ม apples อีก two ลูก", 0.6),
        (f"{NATIVE[0][1]}\n\n{ENGLISH}. {ENGLISH}.", 0.45),
        ("ก" + "่" * 300 + ENGLISH, 0.1),  # marks upon marks
    ],
)
def test_sentences_are_no_names(text, most):
    assert share(text, "th") <= most


# --- Mixtures ------------------------------------------------------------------------------------

PARALLEL = {code: kinds["long"] for code, kinds in RIGHT.items() if code != "en"}
PARALLEL |= {code: NEAR[code][0] for code in ("as", "hi", "ne", "mr", "fa", "ur", "kk", "ko")}
EN = RIGHT["en"]["long"]
THAI_TEXT = (
    "ใน ตอน เช้า ใน ตะกร้า ของ แม่ มี ไข่ อยู่ ห้า ฟอง จาก นั้น แม่ เดิน ไป ตลาด และ ซื้อ เพิ่ม อีก สอง ฟอง "
    "ระหว่าง ทาง กลับ บ้าน ไข่ แตก ไป หนึ่ง ฟอง เพราะ ถนน ขรุขระ ดังนั้น เรา ต้อง บวก จำนวน ที่ ซื้อ มา"
)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("code", PARALLEL)
def test_half_in_english_is_about_half_in_any_script(code, detector):
    both = f"{PARALLEL[code]}\n{EN}"
    assert 0.33 <= share(both, code, detector) <= 0.56
    assert 0.4 <= share(both, "en", detector) <= 0.67
    third = f"{PARALLEL[code]}\n{EN[: len(EN) // 3]}"
    assert share(third, code, detector) < JOINT_LANGUAGE


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(("english", "most"), [(40, 0.65), (60, 0.45), (80, 0.2)])
def test_so_many_words_of_english_count(english, most, detector):
    """`english` of 100 words are English; in order, and shuffled."""
    thai = (THAI_TEXT.split() * 3)[: 100 - english]
    foreign = (EN.split() * 2)[:english]
    shuffled = [*thai, *foreign]
    random.Random(0).shuffle(shuffled)
    for text in (" ".join([*thai, *foreign]), " ".join(shuffled)):
        assert share(text, "th", detector) <= most


def test_what_letters_and_marks_weigh():
    assert [weight(text) for text in ("abc", "กำ้", "答案", "かな", "개", "é1 !", "")] == [
        3.0, 3.0, 6.0, 4.0, 2.0, 1.0, 0.0
    ]  # fmt: skip
    thai = read_expected("th")
    assert script_share("กขค are", thai) == pytest.approx(1 / 2)
    assert script_share("กขค Abc", thai) == pytest.approx(3 / 4)
    assert script_share("กขค Abc are", thai) == pytest.approx(1 / 3)
    assert script_share("กขคง กขคง กขคง abc", thai) == pytest.approx(12 / 13)
    assert script_share("กขคง abcdef", thai) == pytest.approx(4 / (4 + 6 - 2 / 3))
    assert script_share("答 are", read_expected("zh")) == pytest.approx(1 / 2)
    assert script_share("答 are", read_expected("en")) == pytest.approx(1 / 2)
