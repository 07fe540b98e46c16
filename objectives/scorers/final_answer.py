r"""Finding the final answer in a text.

A final answer is, in this order: the last complete `\boxed{}`; what follows the last `####`; what
follows the last "the answer is" (see `answer_phrases`); the only number of a text that holds
just one. Anything else is no answer: the last of several numbers is a guess, not a statement.

Just one place of a text is read, so that writing several answers earns nothing; and where that
place offers several in one breath (`\boxed{1} or \boxed{2}`, `#### 1 #### 2`, "3 or 4") they are
one answer of several members, which no single number equals.
"""

import re
import unicodedata

from objectives.scorers.answer_phrases import ends_of_phrases, without_phrase
from objectives.scorers.answer_text import (
    CURRENCY,
    MAX_LENGTH,
    clean,
    fold,
    join_thousands,
)
from objectives.scorers.plain_number import changes_value, plain_number

MAX_TEXT = 32_768
"""Characters read, from the end: a final answer stands there, and endless loops cost no time."""
_LONE_TEXT = 2_000  # a single number in a longer text is no statement
_MAX_BOXES = 64

# **42**, `42`, __42__ and *42* without the marks; 3**2, 2 * 3 and a_1 have none.
_EMPHASIS = re.compile(
    r"(?<![0-9a-zA-Z)\]}])(?:(?<!\*)(?=\*)|(?<!_)(?=_)|(?<!`)(?=`))"
    r"(\*\*\*?|__|`{1,2}|(?<![\d)}\]]\s)\*)(?![\s*_`])([^*`\n]{1,400}?)(?<!\s)\1"
    r"(?![0-9a-zA-Z])(?:(?<=\*)(?!\*)|(?<=_)(?!_)|(?<=`)(?!`))"
)
_BOXED = re.compile(r"\\(?:f?boxed|fbox)\s*\{")
_EITHER = (
    r"or|หรือ|অথবা|বা|କିମ୍ବା|ବା|அல்லது|లేదా|ཡང་ན|эсвэл|буюу|ياكى|أو|یا|या|અથવા|ಅಥವಾ|അല്ലെങ്കിൽ|"
    r"或者|或|または|또는|ឬ|ຫຼື|သို့မဟုတ်|hoặc|atau|ou|oder|или"
)
_BOTH = r"and|และ|এবং|ଏବଂ|மற்றும்|మరియు|དང|ба|ۋە|و|और|અને|ಮತ್ತು|和|និង|ແລະ|và|dan|et|und|и"
_JOINING = unicodedata.normalize("NFC", f"{_EITHER}|{_BOTH}")
_VALUE_NEXT = rf"(?=\s*(?:[-+\\({{{CURRENCY}\d]|[a-zA-Z]\s*(?:=|$)))"
_OR = re.compile(
    rf"(?:,?\s*\\(?:text|mbox|textrm)\s*\{{\s*(?:{_JOINING})\s*\}}\s*|"
    rf"(?<=[\s\w)}}\]$]),?\s*(?<![a-zA-Z])(?:{_JOINING}){_VALUE_NEXT}\s*)",
    re.IGNORECASE,
)
# Between two boxes or two marks that are one list: nothing, signs, or "or".
_JOINT = re.compile(rf"(?:[\s,;/|&$.*()]|\\[()\[\]]|\\text\{{|\}}|{_JOINING})*", re.IGNORECASE)

# A sentence ends here: a full stop before white space (decimals have a digit there), or the marks
# of the other scripts.
_SENTENCE_END = re.compile(
    r"(?<!\bRs)(?<!\bTk)(?<!\bRp)(?<!\bapprox)(?<!\bNo)[.!?](?=\s|$)|</answer\b|[。！？।॥།។؟۔]"
)
# `####` states an answer when a value follows; before a word it may be a heading, and so it may
# before a number with a point and a word ("#### 2. Add them").
_HASHES = re.compile(
    rf"####[\s:=*]*(?=[{CURRENCY}+\-.\d\\(\[{{]|[A-Ja-jx]\b)(?!\d+[.)]\s+(?:[^\W\d_]))"
)
_VALUE = r"-?\d+(?:\.\d+)?(?:/\d+)?(?:\s*\\?%)?"
_NUMBER = re.compile(rf"(?<![\w.^*/+\-(]){_VALUE}(?![\w^*/+(])")
_OR_VALUE = re.compile(
    rf"(?:[\s$,]|\\\))*(?:{unicodedata.normalize('NFC', _EITHER)})(?:[\s$]|\\\()*({_VALUE})",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_a-zA-Z]|[^\W\d_]{2}")  # of two letters, or of a script but Latin
_INLINE = re.compile(r"\$(?P<a>[^$]+)\$|\\\((?P<b>.+?)\\\)")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_THEN_WORDS = re.compile(
    rf"(?P<value>[{CURRENCY}]?\s*{_VALUE})[,;]?\s+\(?"
    rf"(?!(?:to|maybe|perhaps|possibly|either|otherwise|alternatively|{_JOINING}|"
    r"ถึง)\b)(?:[^\W\d_a-zA-Z]|[a-zA-Z]{2})",
    re.IGNORECASE,
)
# "Not 7" and "more than 7" do not state 7.
_DENIED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|unless|between)\b|n['’]t\b|"
    r"\b(?:less|more|greater|fewer|larger|smaller|bigger|other|rather)\s+than\b|"
    r"\bat\s+(?:least|most)\b|\b(?:twice|thrice|double|triple|half|square root|square|cube)\b"
    r"(?:\s+of)?\s*$|"
    r"(?:\b(?:minus|negative)|ลบ)\s*$|"
    r"ไม่ใช่|ไม่เท่ากับ|น้อยกว่า|มากกว่า|ليس|أقل من|أكثر من|不是|不等于|小于|大于|नहीं|அல்ல|కాదు|ନୁହେଁ|"
    r"\bбиш\b|ئەمەس|아니|ではな|じゃな|មិនមែន|ບໍ່ແມ່ນ|မဟုတ်|không phải|\bbukan\b|\bnicht\b|\bне\b",
    re.IGNORECASE,
)
# "3 hours 20 minutes", "5 km 300 m": neither number is the value. Words that tell why, or out of
# how many, do not make one value of two.
_COMPOUND = re.compile(
    r"\s*(?!(?:of|from|not|because|since|as|if|so|for|with|in|at|per|after|before|when|while)\b|"
    r"ไม่|จาก|เพราะ|ใน|ต่อ|โดย|เนื่อง|ซึ่ง|ดังนั้น|不|因|从|從)"
    rf"[^\s\d,;:.()=+*/^<>{{}}\\-]{{1,24}}\s*(?:(?:{_BOTH})\s*)?\d+(?:\.\d+)?\s*[^\W\d_]"
)
_EQUAL_TO = re.compile(
    r"=|เท่า\s*กับ|\bequals?\b(?:\s+to\b)?|\bwhich\s+(?:is|gives|makes)\b|\b(?:gives|makes)\b|"
    r"等于|等於|সমান|समान|சமம்|సమానం"
)
_SUM = re.compile(r"[\d.()+\-*/^][\d.\s()+\-*/^]*$")
# Step 1, problem 7: which one it is, not how many.
_ORDINAL_BEFORE = re.compile(
    r"(?:\b(?:step|problem|question|part|exercise|example|equation|figure|chapter|stage|phase|bước|câu|"
    r"langkah|soal|paso|problema|étape|schritt|aufgabe|шаг|задача|алхам|бодлого)|"
    r"(?:ขั้น\s*ตอน|ขั้น|ข้อ|โจทย์)\s*(?:ที่)?|(?:ตอน|บท|หน้า|ส่วน|ครั้ง|วัน)\s*ที่|ধাপ|প্রশ্ন|সমস্যা|"
    r"ପଦକ୍ଷେପ|ସୋପାନ|ପ୍ରଶ୍ନ|(?<!\S)படி|கேள்வி|దశ|ప్రశ్న|(?:གོམ་པ|རིམ་པ|དྲི་བ)་?|باسقۇچ|قەدەم|سوئال|"
    r"الخطوة|خطوة|السؤال|المسألة|مرحله|سوال|चरण|प्रश्न|પગલું|ಹಂತ|ഘട്ടം|步骤|步驟|问题|問題|第|题|題|ステップ|"
    r"단계|문제|ជំហាន|ទី|ຂັ້ນຕອນ|ທີ|အဆင့်|පියවර)[ \t]*#?$|#$",
    re.IGNORECASE,
)
_ORDINAL_AFTER = re.compile(r"\s*(?:단계|번째|番目|[.-]?р\b|st\b|nd\b|rd\b|th\b)")
# "1. First we think", which a text that starts to list its thoughts begins with.
_NUMBERING = re.compile(r"[ \t#*]*\d{1,2}[.)][ \t]+[^\W\d_]")
# "Option 3", and words that name a number in a box; others could deny or change it.
_NUMBERED = re.compile(r"^(?:option|choice|ข้อ|选项|選項)\s*(?=\d)", re.IGNORECASE)
_CHOICE = re.compile(r"(?:\([A-J]\)|[A-J]\))\s+\S")
_LETTER = re.compile(r"\(?[A-J]\)?")
_LABEL = re.compile(
    rf"^(?:(?:จำนวน|ทั้ง\s*หมด|รวม|เหลือ|ราคา|ประมาณ|เท่า\s*กับ|เป็น\s*เงิน|คือ|มี|ได้|total|about|"
    rf"approximately|equals|মোট|প্রায়|ମୋଟ|மொத்தம்|మొత్తం|कुल|нийт|བསྡོམས|总共|总计|共|一共|約|约|合計|총|약|jumlah|"
    rf"tổng)\s*(?:of\s+|:\s*)?)+(?=[-{CURRENCY}\d])",
    re.IGNORECASE,
)
_ASKS = re.compile(r"[^.!\n।။။]*[?？؟]")


def final_answer(text: str) -> str | None:
    """The final answer stated in `text`, digits folded and dressing removed; None if there is none.

    `text` is what follows the thinking. Several answers given in one breath come as one list,
    with commas between.
    """
    text = _plain(fold(text[-MAX_TEXT:]))
    candidate = _last_boxed(text)
    if candidate is not None:
        candidate = _unnamed(candidate)
    if candidate is None:
        candidate = _after_marker(text)
    if candidate is None:
        candidate = _lone_value(text)
    if candidate is None or len(candidate) > MAX_LENGTH:
        return None
    return clean(candidate) or None


def _plain(text: str) -> str:
    """`text` without emphasis, also of one kind in another."""
    for _ in range(2 if re.search(r"[*`]|__", text) else 0):
        text = _EMPHASIS.sub(r"\2", text)
    return text


def alternatives(text: str) -> list[str]:
    """The members of a cleaned answer such as "7 or 8" or "1, 2"; brackets keep theirs."""
    text = _OR.sub(", ", text)
    if "," not in text and ";" not in text:
        return [text]
    parts = [""]
    depth = 0
    for char in text:
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if char in ",;" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in (clean(part) for part in parts) if part]


def _last_boxed(text: str) -> str | None:
    r"""Content of the last complete \boxed{...}, with those before it that it is a list with."""
    found: list[tuple[int, int, str]] = []
    for match in reversed(list(_BOXED.finditer(text))[-_MAX_BOXES:]):
        start, end = match.span()
        close = _closing(text, end)
        if close is None:
            continue
        if not clean(text[end : min(close, end + MAX_LENGTH)]):
            continue  # empty
        apart = [box for box in found if box[0] > close]  # without those inside this one
        if apart and _JOINT.fullmatch(text, close + 1, apart[-1][0]) is None:
            break
        found = [*apart, (start, close, text[end:close])]
    if not found:
        return None
    members = [content for *_, content in reversed(found)]
    other = _OR_VALUE.match(text, found[0][1] + 1)  # "\boxed{7} or 8"
    return ", ".join(dict.fromkeys([*members, other[1]] if other else members))


def _closing(text: str, start: int) -> int | None:
    r"""Where the brace opened before `start` closes; \{ and \} do not count."""
    depth = 1
    at = start
    # Bounded: thousands of unclosed boxes must not cost the square of their number.
    while at < min(len(text), start + 2 * MAX_LENGTH):
        char = text[at]
        if char == "\\":
            at += 1
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return at
        at += 1
    return None


def _after_marker(text: str) -> str | None:
    """What the last `####`, else the last "the answer is", states; None without either."""
    marks = list(_HASHES.finditer(text))
    if marks:
        return _hashed(text, marks)
    said = ends_of_phrases(text)
    if said:
        return _statement(text[said[-1] : said[-1] + 4 * MAX_LENGTH])
    _, hashes, after = text.rpartition("####")
    return _statement(after[: 4 * MAX_LENGTH]) if hashes else None


def _hashed(text: str, marks: list[re.Match[str]]) -> str:
    """The last `####` answer, with those it is a list with: `#### 1 #### 2`."""
    marks = marks[-_MAX_BOXES:]
    line_start = text.rfind("\n", 0, marks[-1].start()) + 1
    stated = [_statement(text[marks[-1].end() :])]
    for mark, after in zip(marks[-2::-1], marks[:0:-1], strict=True):
        between = text[mark.end() : after.start()]
        if mark.start() < line_start and plain_number(clean(between[:MAX_LENGTH])) is None:
            break
        stated.append(_statement(between))
    return ", ".join(dict.fromkeys(clean(one) for one in reversed(stated)))


def _statement(text: str) -> str:
    """The value at the start of `text`: of its first line, and of that the first sentence."""
    text = text.lstrip(" \t:=*\n\r")[: MAX_LENGTH * 2]  # it may stand on the next line
    if text.startswith(("\\[", "$$")):
        close = text.find("\\]" if text.startswith("\\[") else "$$", 2)
        return text[2:close] if close > 0 else text[2:]
    line = text.partition("\n")[0]
    inline = _INLINE.match(line)
    if inline and not _WORD.search(_COMMAND.sub("", inline["a"] or inline["b"])):
        if _OR.match(line, inline.end()) is None:
            return inline["a"] or inline["b"]
        line = re.sub(r"[$]|\\[()]", " ", line)  # "$1$ or $2$"
    end = _SENTENCE_END.search(line)
    line = _NUMBERED.sub("", clean(line[: end.start()] if end and end.start() > 0 else line))
    if plain_number(line) is not None or _CHOICE.match(line):
        return line
    if _OR.search(line):
        return line
    # "7 because 3 + 4 = 7", "18 eggs out of 20": the value comes first, words follow.
    first = _THEN_WORDS.match(line)
    words = line[first.end("value") :] if first else ""
    if first and not changes_value(words) and _COMPOUND.match(words) is None:
        return first["value"]
    # "5 + 2 = 7", "42 times 2, which is 84": the value comes last.
    equals = list(_EQUAL_TO.finditer(line))
    value = clean(line[equals[-1].end() :]) if equals else ""
    if plain_number(value) is not None:
        sides = line[: equals[-1].start()], line[equals[-1].end() :]
        if equals[-1][0] != "=" or _WORD.search(_COMMAND.sub("", sides[0])) is None:
            return line if equals[-1][0] == "=" else value
        sum_ = _SUM.search(sides[0])  # what the words end in must be equal too
        return f"{sum_[0].strip()} = {value}" if sum_ and re.search(r"\d", sum_[0]) else value
    return _only_number(line) or line


def _unnamed(content: str) -> str:
    r"""What a box holds, without words that call it the answer: \boxed{\text{Answer: 42}}."""
    cleaned = clean(content)
    bare = _LABEL.sub("", without_phrase(cleaned).lstrip(" :=*"), count=1)
    named = plain_number(clean(bare)) is not None or _LETTER.fullmatch(bare) is not None
    return bare if named and bare != cleaned else content


def _lone_value(text: str) -> str | None:
    """A text that states nothing but one value, or holds just one number; else None."""
    if len(text) > _LONE_TEXT:
        return None
    cleaned = clean(text) if len(text) <= MAX_LENGTH else ""
    if plain_number(cleaned) is not None and _NUMBERING.match(text) is None:
        return cleaned
    number = _only_number(join_thousands(text))
    if number is not None:
        return number
    # A formula alone; with words beside it, it would be a guess which of its parts is meant.
    return None if _WORD.search(_COMMAND.sub("", cleaned)) else cleaned


def _only_number(text: str) -> str | None:
    """The number of a text of words and one number; None when there are more, or no words."""
    found = list(_NUMBER.finditer(text))
    if len(found) != 1 or "\\" in text:
        return None
    start, end = found[0].span()
    if _ORDINAL_BEFORE.search(text, 0, start) or _ORDINAL_AFTER.match(text, end):
        return None
    if _NUMBERING.match(text, text.rfind("\n", 0, start) + 1):
        return None
    rest = text[:start] + " " + text[end:]
    if re.search(r"\d", rest) or not _WORD.search(rest):
        return None
    if _DENIED.search(text[:start]) or _ASKS.match(text, end) or changes_value(text[end:]):
        return None
    return found[0][0]
