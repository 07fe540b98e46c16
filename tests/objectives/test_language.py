import pytest

from objectives.scorers import language, make_scorer
from objectives.scorers.languages import SCRIPTS, read_expected
from objectives.scorers.prose import words
from tests.objectives.samples import sample

# "The answer is seven, because she had five apples and bought two more", or near it.
TEXTS = {
    "th": "คำตอบคือเจ็ดลูกครับ เพราะสมชายมีไข่ห้าฟองแล้วซื้อเพิ่มอีกสองฟอง",
    "ta": "பதில் ஏழு ஆகும் ஏனெனில் அவளிடம் ஐந்து ஆப்பிள்கள் இருந்தன",
    "te": "సమాధానం ఏడు ఎందుకంటే ఆమె దగ్గర ఐదు ఆపిల్స్ ఉన్నాయి",
    "or": "ଉତ୍ତର ହେଉଛି ସାତ କାରଣ ତାଙ୍କ ପାଖରେ ପାଞ୍ଚଟି ସେଓ ଥିଲା",
    "bn": "উত্তর হলো সাত কারণ তার কাছে পাঁচটি আপেল ছিল এবং সে আরও দুটি কিনেছে",
    "bo": "ལན་ནི་བདུན་རེད། གང་ཡིན་ཞེ་ན་ཁོང་ལ་ཀུ་ཤུ་ལྔ་ཡོད།",
    "ug": "جاۋاب يەتتە، چۈنكى ئۇنىڭدا بەش ئالما بار ئىدى",
    "mn": "Хариулт нь долоо, учир нь түүнд таван алим байсан бөгөөд дахин хоёрыг худалдаж авсан",
    "mn-Mong": "ᠬᠠᠷᠢᠭᠤᠯᠲᠠ ᠨᠢ ᠳᠣᠯᠣᠭᠠ ᠪᠣᠯᠤᠨ᠎ᠠ",
    "zh": "答案是七个，因为她有五个苹果，又买了两个，所以一共有七个苹果可以吃",
    "zh-Hant": "答案是七個，因為她有五個蘋果，又買了兩個，所以一共有七個蘋果可以吃",
    "ja": "答えは七です。なぜなら彼女はリンゴを五つ持っていて、さらに二つ買ったからです。",
    "ko": "답은 일곱입니다 왜냐하면 그녀는 사과 다섯 개를 가지고 있었기 때문입니다",
    "ar": "الجواب هو سبعة لأن لديها خمس تفاحات ثم اشترت اثنتين",
    "en": "The answer is seven because she had five apples and then bought two more",
    "hi": "उत्तर सात है क्योंकि उसके पास पाँच सेब थे और उसने दो और खरीदे",
    "km": "ចម្លើយគឺប្រាំពីរ ពីព្រោះនាងមានផ្លែប៉ោមប្រាំ",
    "lo": "ຄຳຕອບແມ່ນເຈັດ ເພາະວ່າລາວມີໝາກໂປມຫ້າໜ່ວຍ",
    "my": "အဖြေမှာ ခုနစ် ဖြစ်သည် အကြောင်းမှာ သူမတွင် ပန်းသီး ငါးလုံးရှိသည်",
    "si": "පිළිතුර හත වන්නේ ඇයට ඇපල් පහක් තිබූ බැවිනි",
    "id": "Jawabannya adalah tujuh karena dia memiliki lima apel lalu membeli dua lagi",
}
ROMANISED = {
    "te": "samadhanam edu endukante ame daggara aidu apples unnayi mariyu inka rendu konnadi",
    "th": "khamtop khue chet luk khrap phro somchai mi khai ha fong laeo sue phoem",
    "bn": "uttor holo saat karon tar kache pachti apel chilo ebong se aro duti kineche",
    "zh": "da an shi qi ge yin wei ta you wu ge ping guo you mai le liang ge",
}


def share(text, expect):
    return language.share(text, read_expected(expect))


def base(code):
    return code.split("-")[0]


NOTHING_WRONG = {"switch": 0.0, "switch_rate": 0.0, "copied": 0.0, "repeated": 0.0}


def scores(text, expect, **more):
    scorer = make_scorer({"language": {"expect": expect}})
    case = sample(text, **more)
    return {"": scorer.score(case)} | scorer.extras(case)


@pytest.mark.parametrize("code", TEXTS)
def test_the_right_language_scores_high(code):
    assert share(TEXTS[code], base(code)) >= 0.95


@pytest.mark.parametrize("code", TEXTS)
def test_every_other_language_scores_low(code):
    for other in {base(c) for c in TEXTS} - {base(code)}:
        assert share(TEXTS[code], other) <= 0.05, other


@pytest.mark.parametrize("code", ROMANISED)
def test_romanised_scores_nothing(code):
    assert share(ROMANISED[code], code) == 0.0


@pytest.mark.parametrize(
    "text", ["", " \n", "7", "๗ ๘", "1 + 2 = 3 !", "$x$", "\\frac{1}{2}", "🙂"]
)
@pytest.mark.parametrize("expect", ["th", "en", "zh"])
def test_no_words_no_language(text, expect):
    assert share(text, expect) == 0.0


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("คำตอบ คือ 5", "th"),
        ("ประมาณ #### 7 ลูก นะ ครับ", "th"),
        ("คำตอบ คือ #### 7 ลูก ครับ", "th"),
        ("คำตอบคือ $\\frac{x}{2} = 5$ บาท", "th"),
        ("ให้ x เป็น 5 แล้ว y = 7 ครับ", "th"),
        ("ดังนั้น \\boxed{5} และ `print(5)` ครับ\n```python\nfor apple in apples: pass\n```", "th"),
        ("หาก \\begin{align} x &= 5 \\end{align} แล้ว", "th"),
        ("উত্তর ৫", "bn"),
        ("答えは 5 です", "ja"),
        ("ラーメン", "ja"),
        ("答案是五", "zh"),
        ("the answer is #### 7", "en"),
        ("maybe 7", "en"),
    ],
)
def test_short_answers_are_judged_by_script(text, expect):
    assert share(text, expect) == 1.0


def test_mixtures_lie_between():
    mixed = "คำตอบคือเจ็ด because she had five apples and bought two more of them today"
    thai, english = share(mixed, "th"), share(mixed, "en")
    assert 0.05 < thai < 0.5
    assert 0.3 < english < 0.95
    assert scores(mixed, "th")["switch"] == 1.0
    assert scores(TEXTS["th"], "th")["switch"] == 0.0
    assert scores(TEXTS["en"], "th")["switch"] == 0.0


def test_thinking_is_scored_apart():
    text = f"<think> {TEXTS['en']} </think> คำตอบ คือ 7"
    assert scores(text, "th") == {"": 1.0, "thinking": 0.0} | NOTHING_WRONG
    text = f"<think> {TEXTS['th']} </think> the answer is 7"
    assert scores(text, "th") == {"": 0.0, "thinking": 1.0} | NOTHING_WRONG
    assert "thinking" not in scores("คำตอบ คือ 7", "th")
    assert scores(f"<think> {TEXTS['th']}", "th") == {"": 0.0, "thinking": 1.0} | NOTHING_WRONG
    assert scores(TEXTS["th"], "th", thinking_open=True)[""] == 0.0


def test_no_language_hides_in_formulas():
    assert "because" in words("คำตอบ $\\text{because she had apples}$")
    assert share("คำตอบ $\\text{because she had five apples and bought more}$", "th") < 0.5


def test_two_scripts_of_one_language_both_count():
    both = TEXTS["mn"] + TEXTS["mn-Mong"]
    assert language.script_share(both, read_expected("mn")) == 1.0
    assert 0.3 < language.script_share(both, read_expected("mn-Cyrl")) < 0.9


def test_every_language_of_the_table_works():
    for code in SCRIPTS:
        assert share("the", code) in (0.0, 1.0)
    assert {base(code) for code in TEXTS} <= SCRIPTS.keys()
