"""How languages say "the answer is": the words behind which a text states its final answer."""

import re
import unicodedata

from objectives.scorers.answer_text import CURRENCY

# Colons of the scripts, the visargas that are typed for one, arrows, and a dash before a space.
_MARK = "(?:->|=>|→|⇒|[:=ঃଃःઃಃഃఃඃ៖᠄]|-\\s)"
_VALUE = rf"(?=\s*(?:[-{CURRENCY}\d]|\\[(\[]))"
# Behind a word for "answer": a few words, none of which denies it.
_GAP = r"(?:(?!{denied})[^\d\n:=.,]){{0,60}}?"
_THAI = _GAP.format(denied="ไม่|ผิด")
_LAO = _GAP.format(denied="ບໍ່|ຜິດ")
_KHMER = _GAP.format(denied="មិន|ខុស")
_BURMESE = _GAP.format(denied="မဟုတ်|မမှန်|မှား")

# (the word for "answer", the words that link a value to it, whether a number right behind states
# it too). White space may stand anywhere in the unspaced scripts, whose words some tokenizers part.
_ANSWERS: tuple[tuple[str, str, bool], ...] = (
    (
        r"(?<!wrong )(?<!incorrect )(?:final\s+)?answer",
        r"(?:\s{1,9}(?:to|of|for)\s[^\n.:=\d]{1,60}?(?:\d{1,3})?)?(?:[\s,]{1,9}(?:therefore|thus|hence|then|so),?)?"
        r"\s{1,9}(?:is|(?:should|must|will|would|has\s+to)\s+be|comes\s+(?:out\s+)?to|equals)",
        False,
    ),
    (r"final\s+answer", "", False),
    (
        r"คำ\s*ตอบ(?:\s?(?:ของ)?\s?(?:โจทย์)?\s?ข้อ\s?(?:ที่)?\s?\d{1,3})?",
        rf"{_THAI}(?:คือ|เป็น|เท่า\s*กับ)",
        True,
    ),
    (
        r"(?:(?<![^\s.,:;*\"(])|(?<=จึง)|(?<=ขอ)|(?<=นั้น))ตอบ(?:\s*ว่า|\s*ข้อ(?=\s*\(?[A-Jก-ฮ\d]))?",
        r"(?<=ข้อ)|(?<=ว่า)|(?=\s+\(?[A-Jก-ฮ]\)?(?![^\s.]))",
        True,
    ),
    (r"(?:উত্তর|জবাব)(?:টি|টা)?", r"\s*(?:হলো|হল|হচ্ছে|হবে|হয়|দাঁড়ায়)", True),
    (r"ଉତ୍ତର(?:ଟି)?", r"\s*(?:ହେଉଛି|ହେଲା|ହେବ)", True),
    (r"(?:விடை|பதில்)", r"\s*(?:என்பது|ஆனது)", True),
    (r"(?:సమాధానం|జవాబు)", r"\s*(?:ఏమిటంటే|అనేది)", True),
    (r"(?:དྲིས་)?ལན་?", r"\s*ནི་?", False),
    (r"(?:хариулт|хариу)", r"\s*(?:нь|бол)", True),
    (r"ᠬᠠᠷᠢᠭᠤᠯᠲᠠ", r"\s*(?:ᠨᠢ|ᠪᠣᠯ)", True),
    (r"جاۋاب(?:ى)?", r"\s*(?:شۇكى|دېگەن)", True),
    (
        r"(?:الإجابة|الجواب|الاجابة)(?:\s+(?:النهائية|النهائي|الصحيحة|الصحيح))?",
        r"\s*(?:هي|هو)",
        True,
    ),
    (
        r"(?:پاسخ|جواب)(?:\s*(?:نهایی|درست|صحیح))?",
        r"\s*(?:برابر|عبارت)\s*(?:است\s*)?(?:با|از)",
        True,
    ),
    (r"(?:उत्तर|जवाब)", r"\s*(?:है|होगा)", True),
    (r"જવાબ", r"\s*છે", True),
    (r"ಉತ್ತರ", r"\s*ಎಂದರೆ", True),
    (r"ഉത്തരം", r"\s*എന്നത്", True),
    (r"答案", r"(?:\s*(?:应该|應該|就|应|應))?\s*(?:是|为|為|等于|等於)", True),
    (r"(?:答え|正解)", r"\s*(?:は|が)", True),
    (r"(?:정답|답)", r"\s*(?:은|이|으로는)", True),
    (r"ចម្លើយ", rf"{_KHMER}(?:គឺ|ស្មើ)", True),
    (r"ຄຳຕອບ", rf"{_LAO}(?:ແມ່ນ|ຄື|ເທົ່າກັບ)", True),
    (r"အဖြေ", rf"{_BURMESE}(?:မှာ|သည်|က)", True),
    (r"පිළිතුර", r"\s*(?:වන්නේ|නම්)", True),
    (
        r"(?:đáp\s+án|đáp\s+số|câu\s+trả\s+lời)(?:\s+(?:đúng|cuối\s+cùng))?",
        r"\s+(?:sẽ\s+)?là",
        True,
    ),
    (r"jawaban(?:nya)?(?:\s+(?:yang\s+benar|akhir|akhirnya))?", r"\s+(?:adalah|ialah)", True),
    (
        r"(?:respuesta|resposta)(?:\s+(?:correcta|correta|final))?",
        r"\s+(?:es|é|sería|seria)",
        False,
    ),
    (r"réponse(?:\s+(?:correcte|finale|exacte))?", r"\s+(?:est|serait)", False),
    (r"antwort", r"\s+(?:ist|lautet|beträgt|wäre)", False),
    (r"ответ(?:ом)?", r"\s+(?:будет|есть|является|равен)", True),
)


def _statement(noun: str, link: str, bare: bool) -> str:
    ways = [link, rf"\s*{_MARK}", *([_VALUE] if bare else []), r"[ \t]*(?P<heading>\n)"]
    return f"(?:{noun})(?:{'|'.join(ways)})"


_PHRASE = re.compile(
    unicodedata.normalize(
        "NFC",
        "|".join(
            ["<answer>"]
            + [
                _statement(*answer).replace("(?P<heading>", f"(?P<heading{number}>")
                for number, answer in enumerate(_ANSWERS)
            ]
        ),
    ),
    re.IGNORECASE,
)
_BEFORE_HEADING = re.compile(r"[#>*\s]*[^\d.:=,!?।。]{0,30}")
_OPENING = re.compile(
    r"(?:(?:so|thus|therefore|hence|the|our|my|correct|ดังนั้น)[\s,]+)*", re.IGNORECASE
)
# Below a heading stands the answer itself, or a choice; else it was the heading of a solution.
_BELOW_HEADING = re.compile(r"\s*(?:[^\n]*\d|\\|\(?[A-J]\)?[.)]?\s*(?:\n|$))")


def ends_of_phrases(text: str) -> list[int]:
    """Where the values start that `text`, with its digits folded, calls its answer; in order."""
    return [match.end() for match in _PHRASE.finditer(text) if _is_statement(match, text)]


def _is_statement(match: re.Match[str], text: str) -> bool:
    """Whether a match is one; the word alone on a line is, where an answer stands below."""
    if match.lastgroup is None:
        return True
    start = text.rfind("\n", max(0, match.start() - 60), match.start()) + 1
    before = _BEFORE_HEADING.fullmatch(text, start, match.start())
    return before is not None and _BELOW_HEADING.match(text, match.end()) is not None


def without_phrase(text: str) -> str:
    """`text` without the words before its value, where it starts with them."""
    match = _PHRASE.match(text, _OPENING.match(text).end())  # type: ignore[union-attr]
    return text[match.end() :] if match and match.lastgroup is None else text
