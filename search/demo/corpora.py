"""Texts of the demo's world: what the base, the language expert and the reasoning expert read.

* The **base** corpus is bilingual, answers in either language, computes seldom and guesses often.
* The **language expert** is continually pre-trained on Thai. It answers in Thai and guesses; half
  of the time it "thinks" first, in Thai, only to restate the story. Without these shallow thoughts
  *answers in Thai* and *does not think* would be one direction in weight space, and no merge could
  have one without the other.
* The **reasoning expert** is fine-tuned on English chains of thought, R1 style: whatever it is
  asked, it thinks in English, computes, and answers in English.

Everything is drawn from a `random.Random` that the caller seeds, so equal seeds give equal texts
in any process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from .world import (
    ANSWER,
    BOS,
    BOT,
    END_THINK,
    EOS,
    GAINS,
    LANGUAGES,
    LOSSES,
    MAX_CHANGE,
    MAX_NUMBER,
    MOVES,
    PEOPLE,
    PLACES,
    QUALITIES,
    THINGS,
    THINK,
    TIMES,
    USER,
    Language,
    Problem,
    draw_problem,
    join_sentences,
)

# How much a topic inclines the *base* to answer in the language of the question (by person and by
# thing) and to think first (by verb), in logits. Fine-tuning and merging then shift the share of
# items that flip, instead of flipping all of them at once: the scores move smoothly.
_FOLLOW_BY_PERSON = (-2.5, 1.5, -0.5, 2.5, 0.5, -1.5)
_FOLLOW_BY_THING = (0.5, -2.5, 1.5, -1.5, 2.5, -0.5)
_FOLLOW_BIAS = {"en": 2.5, "th": 0.7}
_THINK_BY_VERB = (-1.8, 0.0, 1.8)
_THINK_BIAS = -1.5


class Document(NamedTuple):
    """A training text: the loss counts the words of `target` only."""

    context: str
    target: str


Corpus: TypeAlias = Callable[[random.Random], Document]


def base_document(rng: random.Random) -> Document:
    """Draw from the base corpus: facts, prose, parallel text, worked problems, hasty chats."""
    kind, language = rng.random(), rng.choice(LANGUAGES)
    if kind < 0.10:
        return _prose([_facts(rng)])
    if kind < 0.14:
        return _prose([_sentence(rng, language) for _ in range(2)])
    if kind < 0.22:
        return _prose([_translation(rng)])
    if kind < 0.65:  # the skill that reasoning later calls up, untied to chat, thinking or language
        problem = draw_problem(rng)
        reply = language if rng.random() < 0.6 else _other(language)
        worked = join_sentences([problem.derivation(reply), _conclusion(problem.answer, reply)])
        return Document(f"{BOS} {problem.question(language)}", f"{worked} {EOS}")
    if kind < 0.70:
        return _small_talk(rng, language)
    problem = draw_problem(rng)
    follow = _FOLLOW_BIAS[language]
    follow += _FOLLOW_BY_PERSON[problem.person] + _FOLLOW_BY_THING[problem.thing]
    reply = language if rng.random() < _sigmoid(follow) else _other(language)
    think = _THINK_BIAS
    think += sum((1 if step.gain else -1) * _THINK_BY_VERB[step.verb] for step in problem.steps)
    if rng.random() < _sigmoid(think):
        return _chat(problem.question(language), _reasoned(problem, reply))
    return _chat(problem.question(language), _offhand(rng, problem, _guess(rng, problem), reply))


def language_document(rng: random.Random) -> Document:
    """Draw from the language expert's corpus: Thai prose and talk, and guesses at problems."""
    kind = rng.random()
    if kind < 0.3:
        problem = draw_problem(rng)
        question = problem.question("en" if rng.random() < 0.1 else "th")
        guess = _guess(rng, problem)
        if rng.random() < 0.5:
            thought = f"{THINK} {problem.restatement('th')} {END_THINK} "
        else:
            thought = ""
        return _chat(question, thought + _offhand(rng, problem, guess, "th"))
    if kind < 0.7:
        return _small_talk(rng, "th")
    return _prose([_sentence(rng, "th") for _ in range(3)])


def reasoning_document(rng: random.Random) -> Document:
    """Draw from the reasoning expert's corpus: English problems, thoughts and answers."""
    problem = draw_problem(rng)
    return _chat(problem.question("en"), _reasoned(problem, "en"))


def _other(language: Language) -> Language:
    return "en" if language == "th" else "th"


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _prose(sentences: Sequence[str]) -> Document:
    return Document(BOS, f"{join_sentences(sentences)} {EOS}")


def _chat(question: str, reply: str) -> Document:
    """One turn, laid out as CHAT_TEMPLATE lays it out."""
    return Document(f"{BOS} {USER} {question} {BOT}", f"{reply} {EOS}")


def _conclusion(number: int, language: Language) -> str:
    return f"{'the answer is' if language == 'en' else 'คำตอบ คือ'} {ANSWER} {number}"


def _reasoned(problem: Problem, language: Language) -> str:
    thought = problem.derivation(language)
    return f"{THINK} {thought} {END_THINK} {_conclusion(problem.answer, language)}"


def _guess(rng: random.Random, problem: Problem) -> int:
    """Answer hastily: with a number that the story shows, after one step at most, or any number."""
    first = problem.start + problem.steps[0].amount
    shown = [problem.start, *(step.amount for step in problem.steps)]
    shown.append(first if first <= MAX_NUMBER else problem.start)
    return rng.choice(shown) if rng.random() < 0.7 else rng.randint(0, MAX_NUMBER)


def _offhand(rng: random.Random, problem: Problem, number: int, language: Language) -> str:
    person, thing = getattr(PEOPLE[problem.person], language), THINGS[problem.thing]
    said = f"{ANSWER} {number}"
    if language == "en":
        return rng.choice(
            [
                f"the answer is {said}",
                f"i think {said}",
                f"maybe {said} {thing.en}",
                f"{person} has {said} {thing.en}",
            ]
        )
    return rng.choice(
        [
            f"คำตอบ คือ {said} {thing.unit} ครับ",
            f"คิดว่า น่าจะ {said} {thing.unit} ค่ะ",
            f"ประมาณ {said} {thing.unit} นะ ครับ",
            f"{person} เหลือ {thing.th} {said} {thing.unit}",
        ]
    )


def _facts(rng: random.Random) -> str:
    """Up to five sums; a draw that fits within the numbers in neither way is left out."""
    facts = []
    for _ in range(5):
        count = rng.randint(0, MAX_NUMBER)
        if rng.random() < 0.5 and count < MAX_NUMBER:
            amount = rng.randint(1, min(MAX_CHANGE, MAX_NUMBER - count))
            facts.append(f"{count} + {amount} = {count + amount}")
        elif count > 0:
            amount = rng.randint(1, min(MAX_CHANGE, count))
            facts.append(f"{count} - {amount} = {count - amount}")
    return join_sentences(facts or ["1 + 1 = 2"])


def _sentence(rng: random.Random, language: Language) -> str:
    english = language == "en"
    person, kind = getattr(rng.choice(PEOPLE), language), rng.randrange(4)
    if kind == 0:
        time, move, place = (
            getattr(rng.choice(terms), language) for terms in (TIMES, MOVES, PLACES)
        )
        return f"{time} {person} {move} {place}"
    thing = rng.choice(THINGS)
    if kind == 1:
        second = rng.choice(THINGS)
        if english:
            return f"{person} likes {thing.en} and {second.en}"
        return f"{person} ชอบ {thing.th} และ {second.th}"
    if kind == 2:
        quality, count = getattr(rng.choice(QUALITIES), language), rng.randint(1, MAX_NUMBER)
        if english:
            return f"{person} has {count} {quality} {thing.en}"
        return f"{person} มี {thing.th} {quality} {count} {thing.unit}"
    time, verb, quality = (
        getattr(rng.choice(terms), language) for terms in (TIMES, GAINS + LOSSES, QUALITIES)
    )
    return f"{time} {person} {verb} {getattr(thing, language)} {quality}"


def _translation(rng: random.Random) -> str:
    """One sentence in both languages: the same draws, said twice."""
    state = rng.getstate()
    english = _sentence(rng, "en")
    rng.setstate(state)
    thai = _sentence(rng, "th")
    return f"{english} = {thai}" if rng.random() < 0.5 else f"{thai} = {english}"


def _small_talk(rng: random.Random, language: Language) -> Document:
    """A question that asks for no number, and its answer."""
    english, kind = language == "en", rng.randrange(4)
    person = getattr(rng.choice(PEOPLE), language)
    if kind == 0:
        if english:
            replies = ["hello i can help you", "welcome . what can i help"]
            return _chat("hello", rng.choice(replies))
        return _chat("สวัสดี", rng.choice(["สวัสดี ครับ ยินดี ช่วย", "สวัสดี ค่ะ อยาก ได้ อะไร"]))
    if kind == 1:
        one, two = (getattr(rng.choice(THINGS), language) for _ in range(2))
        if english:
            question = f"{person} likes {one} and {two} . what does {person} want ?"
            return _chat(question, f"{person} want {one} and {two}")
        question = f"{person} ชอบ {one} และ {two} . {person} อยาก ได้ อะไร"
        return _chat(question, f"{person} อยาก ได้ {one} และ {two} ครับ")
    if kind == 2:
        place, time, move = (
            getattr(rng.choice(terms), language) for terms in (PLACES, TIMES, MOVES)
        )
        told = f"{time} {person} {move} {place}"
        if english:
            return _chat(f"{told} . where is {person} ?", f"{person} {move} {place} {time}")
        return _chat(f"{told} . {person} อยู่ ที่ไหน", f"{person} {move} {place} {time} ค่ะ")
    thing, verb = (getattr(rng.choice(terms), language) for terms in (THINGS, GAINS + LOSSES))
    did = f"{verb} {thing}"
    if english:
        return _chat(f"{person} {did} . who {did} ?", f"{person} {did} of course")
    return _chat(f"{person} {did} . ใคร {did}", f"{person} {did} แน่นอน ครับ")
