"""Texts that are in a language and say nothing: the prompt once more, or one phrase for ever.

Both are measured on characters, so that scripts without spaces are treated like any other.
"""

from functools import lru_cache

import regex

from objectives.scorers.languages import count

_SPOKEN = regex.compile(r"[\p{L}\p{M}\p{N}]+")
_DENSE = regex.compile(r"[\p{Han}\p{Hangul}\p{Hiragana}\p{Katakana}]")

# Repetition: eight characters are a word or two; natural text seldom says them again.
_GRAM = 8
_SHORTEST = 40  # characters; below, refrains and lists are normal
_DISTINCT = 0.25  # four times the same thing
_TIMES = 3
_TAIL = 400  # characters; a shorter loop at the end of a long answer is a slip

# Copying, in letters and digits. A Han letter says about as much as two of an alphabet.
_RUN = 12
_COPY = 40
_COPY_AT_ANY_RATE = 300  # so much of a long prompt is a copy even without its end
_NEW = 0.05


def repeated(text: str) -> bool:
    """Whether `text` says the same thing over and over, as a whole or from some point to its end.

    It does if, of the runs of 8 characters in it, fewer than a quarter are distinct: in the whole,
    its last half, quarter, eighth and so on down to 400 characters; or if the whole is one part
    three times, to the letter (the alphabet, say). White space and letter case do not count; texts
    under 40 characters never repeat. Linear in the length of `text`.
    """
    text = " ".join(text.casefold().split())
    if len(text) < _SHORTEST:
        return False
    if _thrice(text.replace(" ", "")):
        return True
    grams = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    sizes = [len(grams)]
    while sizes[-1] // 2 >= _TAIL:
        sizes.append(sizes[-1] // 2)
    seen: set[str] = set()
    done = 0
    for size in reversed(sizes):  # from the end, so that each part is looked at once
        seen.update(grams[len(grams) - size : len(grams) - done])
        done = size
        if len(seen) < _DISTINCT * size:
            return True
    return False


def _thrice(text: str) -> bool:
    """Whether `text` is one part three times or more, the last of them perhaps broken off."""
    if len(text) < _TIMES:
        return False
    # A third of it stands again one part further on; where it does, the rest tells.
    third = len(text) // _TIMES
    part = text.find(text[: len(text) - 2 * third], 1)
    return 0 < part <= third and text.startswith(text[part:])


def new_parts(answer: str, prompt: str) -> str:
    """`answer` with everything blanked that stands in `prompt` too.

    A run of 12 letters and digits (6 where Han, Hangul or kana prevail) counts as standing there;
    spaces, punctuation and letter case do not count. Linear in both lengths.
    """
    spoken, said = _spoken(answer), _spoken(prompt)
    run = _run(spoken)
    known = {said[i : i + run] for i in range(len(said) - run + 1)}
    if known.isdisjoint(spoken[i : i + run] for i in range(len(spoken) - run + 1)):
        return answer
    places = [
        place
        for piece in _SPOKEN.finditer(_lower(answer))
        for place in range(piece.start(), piece.end())
    ]
    parts: list[str] = []
    end = 0  # everything before it is in `parts`, or known
    for i in range(len(spoken) - run + 1):
        if spoken[i : i + run] in known:
            if i > end:
                parts.append(answer[places[end] : places[i - 1] + 1])
            end = i + run
    if end < len(spoken):
        parts.append(answer[places[end] :])
    return " ".join(parts)


def copied(answer: str, prompt: str, new: int) -> bool:
    """Whether `answer` is `prompt` again; `new` counts its own letters of the expected language.

    It is if it has 40 letters and digits or more (20 of Han, Hangul or kana), if at most 5% of them
    are new (three are always allowed), and if it is at least half as long as the prompt and reaches
    its end, where the question stands, or has 300 letters and digits. So a short answer of the
    question's words is none, a span or an option quoted is none, and a restated story with its own
    end is none. Numbers and words of other scripts after a copy are not new: they do not make it an
    answer in the language. Half of the prompt or more with nothing at all beside it, not even a
    number, is a copy wherever it stands.
    """
    spoken, said = _spoken(answer), _spoken(prompt)
    run = _run(spoken)
    scale = run / _RUN
    if len(spoken) < _COPY * scale or len(said) < run:
        return False
    half = 2 * len(spoken) >= len(said)
    if half and not _SPOKEN.search(new_parts(answer, prompt)):
        return True
    whole = half and said[-run:] in spoken
    if not whole and len(spoken) < _COPY_AT_ANY_RATE * scale:
        return False
    return new <= max(3, _NEW * len(spoken))


@lru_cache(maxsize=64)
def _spoken(text: str) -> str:
    """The letters, marks and digits of `text`, in lower case."""
    return "".join(_SPOKEN.findall(_lower(text)))


def _lower(text: str) -> str:
    lower = text.lower()
    return lower if len(lower) == len(text) else text  # places must stay the same


def _run(spoken: str) -> int:
    return _RUN // 2 if 2 * count(_DENSE, spoken) > len(spoken) else _RUN
