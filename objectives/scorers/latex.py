r"""What may be asked of the verifier: one expression of known parts, and nothing it could misread.

math-verify is made to find answers in texts: given anything it cannot parse, it looks for a part
that it can (`8 \foo{{ 7` is 7 to it). Here the answer is already found, so whatever is not plainly
an expression is wrong instead.
"""

import re

from objectives.scorers.answer_text import fold, latex_symbols
from objectives.scorers.plain_number import changes_value

_COMMANDS = re.compile(
    "[dtc]?frac|sqrt|pi|infty|cdot|times|div|pm|mp|[lg]e|[lg]eq|[lg]eqslant|neq?|lt|gt|in|notin|"
    "cup|cap|setminus|emptyset|mathbb|log|ln|lg|exp|(?:arc)?(?:sin|cos|tan)|cot|sec|csc|sinh|cosh|"
    "tanh|[aA]lpha|[bB]eta|[gG]amma|[dD]elta|(?:var)?epsilon|zeta|eta|(?:var)?theta|Theta|iota|"
    "kappa|[lL]ambda|mu|nu|[xX]i|Pi|rho|[sS]igma|tau|[uU]psilon|(?:var)?phi|Phi|chi|[pP]si|[oO]mega|"
    "circ|overline|bar|mid|[lr]?vert|[lr]floor|[lr]ceil|begin|end|[{}%\\\\ |]"
)
# Left to do: allowed only where the expected answer has them too, as in 2^{10} - 10!.
_UNDONE_COMMANDS = re.compile("int|sum|prod|lim|min|max|gcd|lcm|[bp]?mod|[dt]?binom|det|sup|inf")
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)", re.DOTALL)
_ALLOWED = re.compile(r"[0-9a-zA-Z\s+\-*/^_=<>()\[\]{}|,.:'!&%]*")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[pbvBV]?matrix\}")
_WORD = re.compile(r"[a-zA-Z]{4,}")
_BINARY = re.compile(
    r"(?<=[\d)}\]!])\s*(?:[+\-*/]|\\(?:times|cdot|div)\b)\s*(?=[\d(\\{.])|"
    r"(?<=[\d)}])\s*(?=\()|(?<=\))\s*(?=[\d\\])"
)
_SUBSCRIPT = re.compile(r"_\s*\{?\s*(\d+)")
_BASE = re.compile(r"_\s*(?:\d|\{\s*\d+\s*\})(?=\s)")  # \log_2 3 are not two numbers in a row
_DEEPEST = 20  # brackets in brackets: parsing takes exponential time
# Rows of numbers, which it adds up or runs together; and powers that only cost memory.
_NO_VALUE = re.compile(r"\d\s+\d|\d[eE][-+]?\d|\^\s*\{?[-+]?\d{7}|\d{100}")
# Words behind an expression; two Latin letters may be a product, so those are listed.
_UNIT = re.compile(
    r"(?<=[\w)}])\s+(?:(?:(?:[cmk]m|mm|ft|in|mi|yd|kg|m|cubic|square|sq|[a-zA-Z]{4,}|"
    r"[^\W\d_a-zA-Z][^\x00-\x7f]*)[ .]*)+)(?:\^\s*\{?[23]\}?)?$"
)
_DELIMITER = re.compile(r"\\[()\[\]]|\\(?:left|right)(?![a-zA-Z])")
_GUARDED = ("!", ":", "'", "&", "|")


def askable(text: str, gold: str) -> bool:
    """Whether `text` is an expression that the verifier would read as a whole.

    Operations that compute (sums, limits, factorials) pass only where `gold` has them.
    """
    rest = _ENVIRONMENT.sub(" ", text)
    for command in _COMMAND.findall(rest):
        if _COMMANDS.fullmatch(command):
            continue
        if _UNDONE_COMMANDS.fullmatch(command) is None or "\\" + command not in gold:
            return False
    if "%" in rest.replace("\\%", ""):
        return False  # a comment, to LaTeX
    if _NO_VALUE.search(_BASE.sub("", rest)) or _depth(rest) > _DEEPEST:
        return False
    rest = _COMMAND.sub(" ", rest)
    if _ALLOWED.fullmatch(rest) is None or rest.count("{") != rest.count("}"):
        return False
    if any(sign in text and sign not in gold for sign in _GUARDED):
        return False
    return all(word in gold for word in _WORD.findall(rest))


def _depth(text: str) -> int:
    deepest = depth = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    return deepest


def without_unit(text: str, other: str) -> str:
    """`text` without words behind it, unless `other` has the same."""
    match = _UNIT.search(text)
    if match is None or "\\begin" in text or match[0].strip() in other or changes_value(match[0]):
        return text
    return text[: match.start()]


def left_undone(answer: str, gold: str) -> bool:
    """Whether `answer`, expected to be the number `gold`, is a computation not carried out.

    5 + 2 is a question; roots, powers and the like are ways to write a number.
    """
    return _BINARY.search(answer) is not None and _BINARY.search(gold) is None


def same_form(answer: str, gold: str) -> bool:
    r"""Whether two expressions are of kinds that can be equal at all.

    The verifier takes the pair (1, 2) for the set \{1, 2\}, and forgets the base of 101_2.
    """
    if _SUBSCRIPT.findall(answer) and _SUBSCRIPT.findall(answer) != _SUBSCRIPT.findall(gold):
        return False
    is_set, wants_set = ("\\{" in text for text in (answer, gold))
    is_pair, wants_pair = (text[:1] in "([" and "," in text for text in (answer, gold))
    return not (is_set and wants_pair and not wants_set) and not (
        is_pair and wants_set and not is_set
    )


def echoed(answer: str, question: str) -> bool:
    """Whether `answer` stands in the question as a whole expression: copying is not solving."""
    signs = [re.escape(char) for char in answer if not char.isspace()]
    if len(signs) < 2:
        return False
    pattern = (
        r"(?<![\w^+\-*/\\({\[.])(?<![+\-*/^]\s)"
        + r"\s*".join(signs)
        + r"(?!\s*[+\-*/^]|[\w}\])]|\.\d)"
    )
    question = _DELIMITER.sub(" $ ", latex_symbols(fold(question)))
    return re.search(pattern, question) is not None
