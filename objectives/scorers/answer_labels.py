r"""The English that prompts ask for around an answer: `Answer:`, `**Final Answer:** \boxed{}`.

A solution in Thai that ends in "The final answer is \boxed{7}" does what its prompt says, and so
does a JSON object with the key "answer". Only these phrases and keys are overlooked, only where a
value follows them, and never where they are all that there is beside the value.
"""

from typing import Any

import regex

from objectives.scorers.languages import ENGLISHES, Expected
from objectives.scorers.prose import words

_LABEL = (
    r"(?:(?:so|thus|hence|therefore),?[ ])?(?:(?:the|my)[ ])?(?:(?:final|correct|best)[ ])?"
    r"(?:answer|result|solution|option|choice|ans)(?:[ ]is)?"
)
# Signs between the parts, as in `**Answer**: `, and line ends below a heading.
_SIGNS = r"[^\p{L}\p{N}\\$]{0,12}"
_VALUE = (
    r"(?=\p{N}|\$|\\[(\[]|\\(?:boxed|fbox|text|d?frac|sqrt|pi)\b|\p{Latin}(?![\p{L}\p{M}\p{N}]))"
)
_LINE = regex.compile(
    rf"^[^\p{{L}}\p{{N}}\n]{{0,12}}{_LABEL}(?:\b{_SIGNS}\s{_LABEL})?\b{_SIGNS}"
    rf"{_VALUE}(?P<value>[^\n]*)$",
    regex.IGNORECASE | regex.MULTILINE,
)
_LAST = regex.compile(
    rf"(?<!\p{{Latin}}){_LABEL}\b{_SIGNS}(?P<value>\$?\$?\\(?:boxed|fbox)\{{[^\n]{{0,200}}+)\s*\Z",
    regex.IGNORECASE,
)
_HOPE = regex.compile(r"I hope it is correct\.?\s*$")  # Minerva's prompt ends its answers so
_KEY = regex.compile(
    r'(?<=[{,]\s{0,20})"(?:(?:final[ _])?answer|result|reason|reasoning|explanation|solution|'
    r'steps?|thoughts?|thinking|response|output|translation|summary|label|unit)"(?=\s*:)'
)
_LATIN_WORD = regex.compile(r"\p{Latin}{2,}")


def without_labels(text: str, expected: Expected) -> str:
    """`text` without labels of answers, if something in the expected scripts stands beside them.

    What follows a label stays; if it has more than one Latin word it is a sentence, and the label
    stays too. Nothing is left out where English is expected.
    """
    if expected.language in ENGLISHES:
        return text
    if expected.letters.search(words(_unlabelled(text, keep_values=False))):
        text = _unlabelled(text, keep_values=True)
    return str(_KEY.sub("", text))


def _unlabelled(text: str, keep_values: bool) -> str:
    def unlabel(label: Any) -> str:
        value = _HOPE.sub("", label["value"])
        if len(_LATIN_WORD.findall(words(value))) > 1:
            return str(label[0])
        return str(value) if keep_values else ""

    return str(_LAST.sub(unlabel, _LINE.sub(unlabel, text)))
