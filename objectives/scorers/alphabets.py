"""Letters that a language never writes though its script has them: they tell short texts apart.

Detectors need a sentence; an alphabet needs one letter. Every second word or so of the neighbour
shows a letter of its own (Kazakh in Mongolian, Assamese in Bengali, Persian in Arabic), so twice
the share of words with such a letter estimates how much of the text is foreign.
"""

from functools import lru_cache

import regex

from objectives.scorers.languages import ENGLISHES, HANS, HANT, Expected

_ARABIC = "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيٱ"
_RUSSIAN = "абвгдежзийклмнопрстуфхцчшщъыьэюяё"
# Language: the letters of its alphabet within one script. Base letters only, marks are not asked.
_ALPHABET: dict[tuple[str, str], str] = {
    ("ar", "Arabic"): _ARABIC,
    # Old encodings leave Arabic kaf and yeh in Persian, so they are not held against it.
    ("fa", "Arabic"): _ARABIC.replace("ة", "").replace("إ", "").replace("ى", "") + "پچژگکیۀ",
    ("ur", "Arabic"): "ءآأؤئابپتٹثجچحخدڈذرڑزژسشصضطظعغفقکگلمنںوہۂۃھیےۓ",
    ("ug", "Arabic"): "ئابپتجچخدرزژسشغفقكڭگلمنھوۇۆۈۋېەىي",
    ("ckb", "Arabic"): "ئابپتجچحخدرڕزژسشعغفڤقکگلڵمنوۆھهەیێء",
    ("bn", "Bengali"): "অআইঈউঊঋঌএঐওঔকখগঘঙচছজঝঞটঠডঢণতথদধনপফবভমযরলশষসহড়ঢ়য়ৎৠৡঽ",
    ("as", "Bengali"): "অআইঈউঊঋএঐওঔকখগঘঙচছজঝঞটঠডঢণতথদধনপফবভমযৰলৱশষসহড়ঢ়য়ৎঽ",
    ("ru", "Cyrillic"): _RUSSIAN,
    ("mn", "Cyrillic"): _RUSSIAN + "өү",
    ("ky", "Cyrillic"): _RUSSIAN + "ңөү",
    ("kk", "Cyrillic"): _RUSSIAN + "әғқңөұүһі",
    ("tg", "Cyrillic"): _RUSSIAN + "ғӣқӯҳҷ",
    ("tt", "Cyrillic"): _RUSSIAN + "әөүҗңһ",
    ("ba", "Cyrillic"): _RUSSIAN + "әөүғҡңҙҫһ",
    ("be", "Cyrillic"): "абвгдежзійклмнопрстуўфхцчшыьэюяё",
    ("uk", "Cyrillic"): "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
    ("bg", "Cyrillic"): "абвгдежзийклмнопрстуфхцчшщъьюя",
    ("sr", "Cyrillic"): "абвгдђежзијклљмнњопрстћуфхцчџш",
    ("mk", "Cyrillic"): "абвгдѓежзѕијклљмнњопрстќуфхцчџш",
}
_WORD = regex.compile(r"[\p{L}\p{M}\u200c\u200d]+")
# Kanji alone, so many, is Chinese: Japanese sentences have kana.
_KANJI_ALONE = 8

# Words of English that no other language of Latin letters writes: what a reasoning model says when
# it forgets where it is. Only where the detector cannot help, below its length.
_ENGLISH_TEXT = """
about after all and answer answers apples are because been before bought buys cannot could does
each eggs eight eleven equals every final finds first five four from gets gives had has have
hence her his how know later left loses makes many maybe more nine only question result second
sells seven she should since six solution step ten than that the their them then there therefore
they think this three thus total twelve twenty two was we were what when where which who why
will with would you your
"""
ENGLISH_WORDS = frozenset(_ENGLISH_TEXT.split())
"""In lower case."""
# English words of the list that another language has too, by language.
_SHARED: dict[str, frozenset[str]] = {
    "af": frozenset(("was", "her", "second", "all", "is")),
    "de": frozenset(("was", "her", "all", "final", "total", "only")),
    "nl": frozenset(("was", "her", "all", "total", "we")),
    "fr": frozenset(("final", "total", "question", "second", "solution")),
    "es": frozenset(("final", "total", "has")),
    "pt": frozenset(("final", "total", "has")),
    "ca": frozenset(("final", "total", "has")),
    "it": frozenset(("ten", "all", "six")),
    "pl": frozenset(("ten",)),
    "cs": frozenset(("ten", "her")),
    "sk": frozenset(("ten",)),
    "da": frozenset(("her", "hence", "total", "second", "final")),
    "no": frozenset(("her", "total", "second")),
    "nb": frozenset(("her", "total")),
    "nn": frozenset(("her", "total")),
    "sv": frozenset(("her", "total", "all")),
    "tr": frozenset(("total", "her", "final")),
    "hi": frozenset(("the",)),
    "id": frozenset(("total", "final")),
    "ms": frozenset(("total", "final")),
    "min": frozenset(("total",)),
    "ro": frozenset(("total", "final")),
    "vi": frozenset(("four",)),
    "sq": frozenset(("her", "total")),
}


def foreign_letters(text: str, expected: Expected) -> float:
    """The estimated share of `text`, in [0, 1], in another language of the expected script.

    By the alphabet alone; 0 for languages whose alphabet is not listed.
    """
    if expected.scripts == ("Han",) or expected.language == "ja":
        return _foreign_han(text, expected)
    alphabets = [_alphabet(expected.language, script) for script in expected.scripts]
    found = [alphabet for alphabet in alphabets if alphabet is not None]
    if not found:
        return 0.0
    words = _WORD.findall(text)
    tainted = [word for word in words if any(pattern.search(word) for pattern in found)]
    if not tainted:
        return 0.0
    by_letters = sum(map(len, tainted)) / sum(map(len, words))
    return min(1.0, 2 * max(by_letters, len(tainted) / len(words)))


def english_words(text: str, language: str) -> float:
    """The share of letters of `text` in words that are English and nothing else; 0 in English."""
    if language in ENGLISHES:
        return 0.0
    known = ENGLISH_WORDS - _SHARED.get(language, frozenset())
    words = [word.lower() for word in _WORD.findall(text)]
    letters = sum(map(len, words))
    return sum(len(word) for word in words if word in known) / letters if letters else 0.0


@lru_cache
def _alphabet(language: str, script: str) -> "regex.Pattern[str] | None":
    """Finds a letter of `script` outside the alphabet of `language`."""
    letters = _ALPHABET.get((language, script))
    if letters is None:
        return None
    base = "".join(sorted(set(letters + letters.upper())))
    # Presentation forms are drawn shapes of letters, not letters of some other language.
    return regex.compile(rf"[[\p{{L}}&&\p{{{script}}}]--[{base}]--[\uFB50-\uFEFC]]", regex.V1)


def _foreign_han(text: str, expected: Expected) -> float:
    """Of Han letters: kana in Chinese, no kana in Japanese, the other way of writing."""
    letters = kana = 0
    other = 0
    for letter in text:
        if "\u3041" <= letter <= "\u30ff":
            kana += 1
        elif "\u3400" <= letter <= "\u9fff":
            letters += 1
            other += _only_elsewhere(letter, expected)
    if letters + kana == 0:
        return 0.0
    if expected.language == "ja":
        if kana == 0 and letters >= _KANJI_ALONE:
            return 1.0
        return min(1.0, 4 * other / (letters + kana))
    # A Japanese sentence has about as many kana as Han letters, and the Han are Japanese with them.
    return min(1.0, 2 * kana / (letters + kana) + 4 * other / (letters + kana))


@lru_cache(maxsize=30_000)
def _only_elsewhere(letter: str, expected: Expected) -> bool:
    """Whether a Han letter is of a way of writing that is not the expected one.

    National character sets know: GB 2312 has the simplified, Big5 the traditional, JIS Japan's.
    """
    if expected.language == "ja":
        return not _has("shift_jis", letter) and (_has("gb2312", letter) or _has("big5", letter))
    if expected.variant == HANS:
        return _has("big5", letter) and not _has("gb2312", letter)
    if expected.variant == HANT:
        return _has("gb2312", letter) and not _has("big5", letter)
    return False


def _has(codec: str, letter: str) -> bool:
    try:
        letter.encode(codec)
    except UnicodeEncodeError:
        return False
    return True
