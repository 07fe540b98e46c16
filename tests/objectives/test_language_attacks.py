"""What the language scorer must not be fooled by: hidden English, copies and loops."""

import pytest

from objectives.scorers.degenerate import copied, new_parts, repeated
from search.demo.world import draw_problems
from tests.objectives.language_suite import ENGLISH, QUESTION, SPLIT, THAI, YES, judge, share
from tests.objectives.language_texts import NEAR, RIGHT, ROMANISED


def drawn(text, capital, small):
    shift = {ord("A") + i: capital + i for i in range(26)}
    return text.translate(shift | {ord("a") + i: small + i for i in range(26)})


ATTACKS = {
    "one Thai word": f"{YES} {ENGLISH}",
    "fence": f"{YES}\n```\n{ENGLISH}\n```",
    "fence of a language": f"{YES}\n```python\n{ENGLISH}\n```",
    "fence's first line": f"{YES}\n```{ENGLISH}\n```",
    "open fence": f"{YES}\n```\n{ENGLISH}",
    "tilde fence": f"{YES}\n~~~\n{ENGLISH}\n~~~",
    "a line a word": f"{YES}\n```\n" + "\n".join(SPLIT) + "\n```",
    "comments": f"{YES}\n```python\n# {ENGLISH}\nx = 7\n```",
    "docstring": f'{YES}\n```python\n"""\n{ENGLISH}.\n"""\n```',
    "backticks": f"{YES} `{ENGLISH}`",
    "backticks a word": f"{YES} " + " ".join(f"`{word}`" for word in SPLIT),
    "text command": f"{YES} $\\text{{{ENGLISH}}}$",
    "text command a word": f"{YES} " + " ".join(f"$\\text{{{word}}}$" for word in SPLIT),
    "formula": f"{YES} ${ENGLISH}$",
    "display": f"{YES} \\[{ENGLISH}\\]",
    "short words in a formula": f"{YES} $the cat sat on a mat and ate ten of my red big figs$",
    "commands": f"{YES} " + " ".join(f"\\{word}" for word in SPLIT),
    "commands in a formula": f"{YES} $" + " ".join(f"\\{word}" for word in SPLIT) + "$",
    "environment": f"{YES} \\begin{{{ENGLISH}}}",
    "boxed": f"{YES} \\boxed{{{ENGLISH}}}",
    "angle brackets": f"{YES} <{ENGLISH}>",
    "tags": f"{YES} " + " ".join(f"<{word}>" for word in SPLIT),
    "attribute": f'{YES} <a title="{ENGLISH}">',
    "HTML comment": f"{YES} <!-- {ENGLISH} -->",
    "URL": f"{YES} https://{ENGLISH.replace(' ', '_')}",
    "spelt": f"{YES} " + " ".join(ENGLISH),
    "spelt with stops": f"{YES} " + ".".join(ENGLISH),
    "zero-width spaces": f"{YES} " + "\u200b".join(ENGLISH),
    "joiners": f"{YES} " + "\u200d".join(ENGLISH),
    "soft hyphens": f"{YES} " + "\u00ad".join(ENGLISH),
    "tag characters": f"{YES} " + "\U000e0041".join(ENGLISH),
    "struck out": f"{YES} " + "\u0336".join(ENGLISH),
    "mathematical bold": f"{YES} " + drawn(ENGLISH, 0x1D400, 0x1D41A),
    "circled": f"{YES} " + drawn(ENGLISH, 0x24B6, 0x24D0),
    "fullwidth": f"{YES} " + drawn(ENGLISH, 0xFF21, 0xFF41),
    "digits for letters": f"{YES} " + ENGLISH.translate(str.maketrans("easto", "34570")),
    "emoji": f"{YES} {'🙂' * 200} {ENGLISH}",
    "native digits": "๑๒๓ " * 50 + ENGLISH,
    "right to left": f"{YES}\u202e{ENGLISH[::-1]}",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_english_hides_nowhere(name):
    assert judge(ATTACKS[name], "th")[""] <= 0.25


@pytest.mark.parametrize(
    ("text", "expect", "most"),
    [
        ("\u3164" * 200 + ENGLISH, "ko", 0.0),  # Hangul fillers are letters that show nothing
        (f"{YES * 40} {ENGLISH}", "th", 0.7),  # diluted with one word
        (
            " ".join(f"{word} {YES}" for word in SPLIT),
            "th",
            0.52,
        ),  # half of its letters and marks are Thai
        (f"{YES} " * 400 + ENGLISH, "th", 0.0),
        (" ".join("qwzx vbnk plmj trwq zxcv jhgf mnbq wrtp"[i:] for i in range(20)), "en", 0.5),
        ("T h e a n s w e r i s s e v e n b c k l m p q u v", "en", 0.0),
        (ROMANISED["th"], "en", 0.5),
    ],
)
def test_other_attacks(text, expect, most):
    assert judge(text, expect)[""] <= most


def test_what_no_witness_tells():
    """Documented limits, held so that a change is noticed."""
    spelt = "ดิ แอนเซอร์ อิส เซเว่น บีคอส ชี แฮด ไฟฟ์ แอปเปิล แอนด์ บอท ทู มอร์"
    salad = "กรดฟหสวม ยบลขจน พงทหก าำๅภ ถุคตจ ขชๆไำ พะัีรนยบล"
    assert share(spelt, "th") == share(salad, "th") == 1.0
    assert share(NEAR["mr"][1], "hi") == share(NEAR["ms"][1], "id") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "คำตอบ 30 km",
        "ความเร็ว 30 km/h ครับ",
        "ใช้คำสั่ง `print(total)` หรือ `import numpy as np` ได้ครับ",
        "ติดตั้งก่อนครับ\n```bash\npip install numpy\nimport os\n```",
        "ผลลัพธ์คือ\n```\nTotal: 7\n```\nครับ",
        "<answer>คำตอบคือ 7</answer>",
        "| ก | ข |\n|---|---|\n| หนึ่ง | 2 |",
        "ดู https://example.org/a/b?c=d สำหรับรายละเอียดครับ",
        "ให้ a, b, c และ d เป็นจำนวนเต็ม แล้ว a + b = c",
        "มุม $\\angle ABC = 90^\\circ$ และ $\\sin\\theta = \\frac{1}{2}$ ครับ",
        "\\begin{align*} x &= 5 \\\\ y &= 7 \\end{align*} ดังนั้น",
    ],
)
def test_what_natives_write_too_is_not_held_against_them(text):
    assert share(text, "th") == 1.0


# --- Copies and repetition -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        QUESTION,
        QUESTION.replace(" ", ", "),
        f"{QUESTION} {QUESTION}",
        f"**{QUESTION}**\n\\boxed{{7}}",
        f"{QUESTION} the answer is seven",
        QUESTION[:330],
        QUESTION[: len(QUESTION) * 3 // 5],  # its end left out, and nothing said
        THAI,
        f"{THAI[:60]} {THAI[80:]}",
    ],
)
def test_a_copy_is_no_answer(answer):
    found = judge(answer, "th", prompt=QUESTION)
    assert (found[""], found["copied"]) == (0.0, 1.0)
    assert judge(answer, "th", prompt=QUESTION, allow_copied=True)[""] > 0.5


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (QUESTION, f"{THAI} เหลือไข่ 6 ฟอง"),
        (QUESTION, f'โจทย์ถามว่า "{QUESTION[-60:]}" คำตอบคือหกฟองครับ'),
        (QUESTION, QUESTION[50:110]),
        (QUESTION, QUESTION[: len(QUESTION) * 2 // 5]),
        (QUESTION, f"{THAI} 6"),
        ("2 บวก 3 เท่ากับเท่าไร", "2 บวก 3 เท่ากับ 5"),
        ("ใครเป็นคนซื้อไข่ที่ตลาดเมื่อเช้านี้", "แม่เป็นคนซื้อไข่ที่ตลาดเมื่อเช้านี้"),
        (f"{THAI}\nก. แม่ซื้อไข่\nข. {THAI[60:130]}", THAI[60:130]),
        (
            "篮子里有五个鸡蛋，又买了两个，现在一共有多少个鸡蛋？",
            "篮子里有五个鸡蛋，又买了两个，现在一共有七个鸡蛋。",
        ),
        ("", THAI),
        ("?", THAI),
    ],
)
def test_the_words_of_the_question_are_fine(prompt, answer):
    expect = "zh" if "篮" in answer else "th"
    found = judge(answer, expect, prompt=prompt)
    assert (found[""], found["copied"]) == (1.0, 0.0)


def test_what_is_quoted_does_not_tell_the_language():
    answer = f"{THAI} {ENGLISH} ดังนั้นตอบว่าหกฟองแน่นอน"
    assert judge(answer, "th")[""] > 0.6
    assert judge(answer, "th", prompt=QUESTION)[""] < 0.35


def test_no_answer_of_the_demo_is_a_copy():
    for problem in draw_problems(200, seed=3):
        prompt = problem.question("th")
        for answer in (problem.restatement("th"), problem.derivation("th")):
            text = f"{answer} คำตอบ คือ #### {problem.answer} ลูก ครับ"
            assert not copied(text, prompt, len(new_parts(text, prompt)))
            assert judge(text, "th", prompt=prompt)[""] == 1.0


def test_new_parts_blank_what_is_known():
    prompt = "mother walked to the market"
    assert new_parts("Yes. Mother walked, to the market! Then home.", prompt).split() == [
        "Yes", "Then", "home."
    ]  # fmt: skip
    assert new_parts("mother walked", "short") == "mother walked"
    assert new_parts(prompt, prompt) == ""


@pytest.mark.parametrize(
    "text",
    [
        "ค่อย ๆ เดิน ช้า ๆ นะครับ",
        "ครับ ครับ ครับ",
        "pelan-pelan anak-anak bermain-main, hati-hati ya",
        "はいはい、そうですそうです",
        "5 + 5 + 5 + 5 = 20",
        "\n".join(f"5 คูณ {i} เท่ากับ {5 * i}" for i in range(1, 13)),
        "\n".join(f"| ข้อ {i} | ได้ {i * i} คะแนน | ผ่าน |" for i in range(1, 15)),
        "ha ha ha ha ha ha",
        *[text for kinds in RIGHT.values() for text in kinds.values()],
        " ".join(RIGHT["en"].values()) * 2,
    ],
)
def test_normal_repetition_is_not_degenerate(text):
    assert not repeated(text)


CONSONANTS = "".join(map(chr, range(0x0E01, 0x0E2F)))


@pytest.mark.parametrize("times", [3, 3.4, 4, 7])
@pytest.mark.parametrize("part", [CONSONANTS, THAI, "she had five eggs and bought two more, "])
def test_one_thing_three_times_is_a_loop(part, times):
    text = part * 3 + part[: round((times - 3) * len(part))] if times < 4 else part * times
    assert repeated(text)
    assert repeated(text.replace(" ", "\n"))
    assert not repeated(part * 2)
    assert not repeated(f"{part} 1. {part} 2. {part}")


def test_long_loops_are_found():
    start, paragraph = " ".join(RIGHT["en"].values()), RIGHT["en"]["long"]
    assert repeated(start + paragraph * 20)
    assert repeated(start + "so so " * 300)
    assert judge(f"<think> {YES} </think> " + "ก" * 500, "th") == {
        "": 0.0, "thinking": 1.0, "switch": 0.0, "switch_rate": 0.0, "copied": 0.0, "repeated": 1.0
    }  # fmt: skip
    assert judge(f"<think> {f'{YES} ' * 100} </think> {YES}", "th")["thinking"] == 0.0


def test_the_switch_rate_counts_neighbours():
    assert judge("กขค abcd", "th")["switch_rate"] == pytest.approx(1 / 6)
    assert judge("กข ab กข ab", "th")["switch_rate"] == pytest.approx(3 / 7)
    assert judge("abcd efgh", "th")["switch_rate"] == judge("", "th")["switch_rate"] == 0.0
