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
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from .tongues import TONGUES, Language
from .world import (
    ANSWER,
    BOS,
    BOT,
    END_THINK,
    EOS,
    MAX_CHANGE,
    MAX_NUMBER,
    THINK,
    USER,
    VOCABULARY,
    Problem,
    draw_problem,
    join_sentences,
)

LANGUAGES: tuple[Language, ...] = ("en", "th")

# How much a topic inclines the *base* to answer in the language of the question (by person and by
# thing) and to think first (by verb), in logits. Fine-tuning and merging then shift the share of
# items that flip, instead of flipping all of them at once: the scores move smoothly.
_FOLLOW_BY_PERSON = (-2.5, 1.5, -0.5, 2.5, 0.5, -1.5)
_FOLLOW_BY_THING = (0.5, -2.5, 1.5, -1.5, 2.5, -0.5)
_FOLLOW_BIAS: dict[Language, float] = {"en": 2.5, "th": 0.7, "bn": 0.7}
_THINK_BY_VERB = (-1.8, 0.0, 1.8)
_THINK_BIAS = -1.5


class Document(NamedTuple):
    """A training text: the loss counts the words of `target` only."""

    context: str
    target: str


Corpus: TypeAlias = Callable[[random.Random], Document]


@dataclass(frozen=True)
class Course:
    """How one model is trained.

    Attributes:
        document: draws what it reads.
        stream: tells its texts from those of its world's other models.
        steps: batches of 32 documents.
        warmup: steps until the rates are at their peak.
        rate: AdamW's peak learning rate.
        matrix_rate: Muon's, for the hidden matrices; None leaves all to AdamW.
        decay: of the weights.
        parent: the model that it starts from, as saved; None starts from random weights.
    """

    document: Corpus
    stream: int
    steps: int
    warmup: int
    rate: float
    matrix_rate: float | None = None
    decay: float = 0.0
    parent: str | None = "base"


def base_document(rng: random.Random) -> Document:
    """Draw from the base corpus: facts, prose, parallel text, worked problems, hasty chats."""
    return draw_base(rng, LANGUAGES, small_talk)


def draw_base(
    rng: random.Random,
    languages: Sequence[Language],
    talk: Callable[[random.Random, Language], Document],
) -> Document:
    """Draw from a base corpus of `languages`, English first: the rest meet in English alone.

    `talk` draws the turns that ask for no sum.
    """
    kind, language = rng.random(), rng.choice(languages)
    if kind < 0.10:
        return prose([_facts(rng)])
    if kind < 0.14:
        return prose([sentence(rng, language) for _ in range(2)])
    if kind < 0.22:
        return prose([_translation(rng, _other(rng, "en", languages))])
    if kind < 0.65:  # the skill that reasoning later calls up, untied to chat, thinking or language
        problem = draw_problem(rng)
        reply = language if rng.random() < 0.6 else _other(rng, language, languages)
        worked = join_sentences([problem.derivation(reply), _conclusion(problem.answer, reply)])
        return Document(f"{BOS} {problem.question(language)}", f"{worked} {EOS}")
    if kind < 0.70:
        return talk(rng, language)
    problem = draw_problem(rng)
    follow = _FOLLOW_BIAS[language]
    follow += _FOLLOW_BY_PERSON[problem.person] + _FOLLOW_BY_THING[problem.thing]
    reply = language if rng.random() < _sigmoid(follow) else _other(rng, language, languages)
    think = _THINK_BIAS
    think += sum((1 if step.gain else -1) * _THINK_BY_VERB[step.verb] for step in problem.steps)
    if rng.random() < _sigmoid(think):
        return chat(problem.question(language), _reasoned(problem, reply))
    return chat(problem.question(language), _offhand(rng, problem, _guess(rng, problem), reply))


def language_document(rng: random.Random) -> Document:
    """Draw from the language expert's corpus: Thai prose and talk, and guesses at problems."""
    kind = rng.random()
    if kind < 0.3:
        return hasty_chat(rng, "th")
    if kind < 0.7:
        return small_talk(rng, "th")
    return prose([sentence(rng, "th") for _ in range(3)])


def reasoning_document(rng: random.Random) -> Document:
    """Draw from the reasoning expert's corpus: English problems, thoughts and answers."""
    problem = draw_problem(rng)
    return chat(problem.question("en"), _reasoned(problem, "en"))


# The base learns to copy and compute in a sudden late step. At Muon's usual rate of .02, 550 steps
# gave reasoning experts that solve .4 to .95 of the problems, by the seed; at .013 all seeds tried
# gave .97 and more. The reasoning expert's rate sets how firm its English is: at 1e-3 the plain
# average of the experts answered up to half in Thai, at 2e-3 hardly ever, and trimming with
# election still turns it. Much more of it and no merge does.
COURSES: dict[str, Course] = {
    "base": Course(base_document, 0, 600, 20, 5e-3, matrix_rate=0.013, decay=0.01, parent=None),
    "language": Course(language_document, 2, 60, 5, 1e-3),
    "reasoning": Course(reasoning_document, 1, 40, 5, 2e-3),
}
WORDS = VOCABULARY
CHECKED: tuple[Language, ...] = ("th",)
"""Languages in which the reasoning expert's problems are checked."""


def prose(sentences: Sequence[str]) -> Document:
    """A text that nobody asked for."""
    return Document(BOS, f"{join_sentences(sentences)} {EOS}")


def chat(question: str, reply: str) -> Document:
    """One turn, laid out as CHAT_TEMPLATE lays it out."""
    return Document(f"{BOS} {USER} {question} {BOT}", f"{reply} {EOS}")


def hasty_chat(rng: random.Random, language: Language) -> Document:
    """A problem, one in ten told in English, and a guess; half of the time after idle thoughts."""
    problem = draw_problem(rng)
    question = problem.question("en" if rng.random() < 0.1 else language)
    guess = _guess(rng, problem)
    if rng.random() < 0.5:
        thought = f"{THINK} {problem.restatement(language)} {END_THINK} "
    else:
        thought = ""
    return chat(question, thought + _offhand(rng, problem, guess, language))


def sentence(rng: random.Random, language: Language) -> str:
    """One sentence of any kind."""
    return labelled_sentence(rng, language)[0]


def labelled_sentence(rng: random.Random, language: Language) -> tuple[str, int]:
    """One sentence, and which of the four kinds it is."""
    tongue = TONGUES[language]
    person, kind = rng.choice(tongue.people), rng.randrange(4)
    if kind == 0:
        time, move, place = (
            rng.choice(said) for said in (tongue.times, tongue.moves, tongue.places)
        )
        return tongue.moved.format(time=time, person=person, move=move, place=place), kind
    thing = rng.randrange(len(tongue.things))
    name, unit = tongue.things[thing], tongue.units[thing] if tongue.units else ""
    if kind == 1:
        return tongue.liked.format(person=person, one=name, two=rng.choice(tongue.things)), kind
    if kind == 2:
        quality, count = rng.choice(tongue.qualities), rng.randint(1, MAX_NUMBER)
        said = tongue.owned.format(
            person=person, count=count, unit=unit, quality=quality, thing=name
        )
        return said, kind
    time, verb, quality = (
        rng.choice(said) for said in (tongue.times, tongue.gains + tongue.losses, tongue.qualities)
    )
    return (
        tongue.traded.format(time=time, person=person, verb=verb, thing=name, quality=quality),
        kind,
    )


def small_talk(rng: random.Random, language: Language) -> Document:
    """A question that asks for no number, and its answer."""
    tongue, kind = TONGUES[language], rng.randrange(4)
    person = rng.choice(tongue.people)
    if kind == 0:
        return chat(tongue.greeting, rng.choice(tongue.welcomes))
    if kind == 1:
        one, two = (rng.choice(tongue.things) for _ in range(2))
        words = {"person": person, "one": one, "two": two}
        return chat(tongue.wish.format(**words), tongue.wished.format(**words))
    if kind == 2:
        place, time, move = (
            rng.choice(said) for said in (tongue.places, tongue.times, tongue.moves)
        )
        words = {"person": person, "place": place, "time": time, "move": move}
        return chat(tongue.where.format(**words), tongue.there.format(**words))
    thing, verb = (rng.choice(said) for said in (tongue.things, tongue.gains + tongue.losses))
    words = {"person": person, "thing": thing, "verb": verb}
    return chat(tongue.who.format(**words), tongue.did.format(**words))


def _other(rng: random.Random, language: Language, languages: Sequence[Language]) -> Language:
    """English for the rest, one of the rest for English."""
    if language != "en":
        return "en"
    rest = languages[1:]
    return rest[0] if len(rest) == 1 else rng.choice(rest)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _conclusion(number: int, language: Language) -> str:
    return TONGUES[language].conclusion.format(said=f"{ANSWER} {number}")


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
    said = f"{ANSWER} {number}"
    return rng.choice(TONGUES[language].offhand).format(said=said, **problem.words(language))


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


def _translation(rng: random.Random, language: Language) -> str:
    """One sentence in English and in `language`: the same draws, said twice."""
    state = rng.getstate()
    english = sentence(rng, "en")
    rng.setstate(state)
    other = sentence(rng, language)
    return f"{english} = {other}" if rng.random() < 0.5 else f"{other} = {english}"
