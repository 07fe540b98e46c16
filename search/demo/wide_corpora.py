"""Texts of the wide world: English, Thai and Bengali, for one reasoning and two language experts.

As in `corpora`, with Bengali beside Thai and two more kinds of talk, which the choice tasks ask
for: what is a sentence about, and how many of two sentences' things are there. The base knows
them in English and guesses in the other two languages; a language expert reads them in its own.

Three models are trained as the merges' rivals are: fine-tuned for reasoning, with the reasoning
expert's texts and steps, *after* continued pre-training on Thai, on Bengali, or on both.

One continued pre-training on Thai goes on and on, checkpoint after checkpoint, each with a rival
that was fine-tuned from it: the amount of continued pre-training is what experiments vary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from .corpora import (
    Course,
    Document,
    chat,
    draw_base,
    hasty_chat,
    labelled_sentence,
    prose,
    reasoning_document,
    sentence,
)
from .tongues import TONGUES, Language
from .world import MAX_NUMBER, WIDE_VOCABULARY

LANGUAGES: tuple[Language, ...] = ("en", "th", "bn")

_KNOWN_TO_BASE = 0.2  # share of right answers to Thai and Bengali choice talk in the base's texts


class Question(NamedTuple):
    """A question of a choice task: the right reply and others."""

    prompt: str
    right: str
    wrong: Sequence[str]


def base_document(rng: random.Random) -> Document:
    """Draw from the base corpus."""
    if rng.random() < 0.05:
        return _base_talk(rng, rng.choice(LANGUAGES))
    return draw_base(rng, LANGUAGES, _base_talk)


def thai_document(rng: random.Random) -> Document:
    """Draw from the Thai expert's corpus."""
    return _native(rng, "th")


def bengali_document(rng: random.Random) -> Document:
    """Draw from the Bengali expert's corpus."""
    return _native(rng, "bn")


def both_document(rng: random.Random) -> Document:
    """Draw from the corpus of one expert in both languages."""
    return _native(rng, rng.choice(LANGUAGES[1:]))


def _native(rng: random.Random, language: Language) -> Document:
    kind = rng.random()
    if kind < 0.15:  # as continued pre-training replays some of what came before
        return base_document(rng)
    if kind < 0.45:
        return hasty_chat(rng, language)
    if kind < 0.95:
        question = rng.choice(QUESTIONS)(rng, language)
        return chat(question.prompt, question.right)
    return prose([sentence(rng, language) for _ in range(3)])


def _base_talk(rng: random.Random, language: Language) -> Document:
    """A question of the choice tasks; outside English mostly with any of its replies."""
    question = rng.choice(QUESTIONS)(rng, language)
    if language == "en" or rng.random() < _KNOWN_TO_BASE:
        return chat(question.prompt, question.right)
    return chat(question.prompt, rng.choice([question.right, *question.wrong]))


def topic_question(rng: random.Random, language: Language) -> Question:
    """Classification: what is a sentence about?"""
    tongue = TONGUES[language]
    said, kind = labelled_sentence(rng, language)
    wrong = [label for label in tongue.kinds if label != tongue.kinds[kind]]
    return Question(tongue.kind.format(sentence=said), tongue.kinds[kind], wrong)


def count_question(rng: random.Random, language: Language) -> Question:
    """Reading comprehension: two sentences, and how many one of them tells of."""
    tongue = TONGUES[language]
    one, two = rng.sample(tongue.people, 2)
    thing = rng.randrange(len(tongue.things))
    words = {
        "person": two,
        "thing": tongue.things[thing],
        "unit": tongue.units[thing] if tongue.units else "",
    }
    counts = rng.sample(range(1, MAX_NUMBER + 1), 4)
    told = [
        tongue.moved.format(
            time=rng.choice(tongue.times),
            person=one,
            move=rng.choice(tongue.moves),
            place=rng.choice(tongue.places),
        ),
        tongue.owned.format(count=counts[0], quality=rng.choice(tongue.qualities), **words),
    ]
    rng.shuffle(told)
    right, *wrong = (tongue.counted.format(count=count, **words) for count in counts)
    prompt = tongue.count.format(first=told[0], second=told[1], **words)
    return Question(prompt, right, wrong)


def reply_question(rng: random.Random, language: Language) -> Question:
    """Response selection: which reply fits? The others would fit other questions."""
    tongue = TONGUES[language]
    one, two = rng.sample(tongue.things, 2)
    words = {
        "person": rng.choice(tongue.people),
        "place": rng.choice(tongue.places),
        "time": rng.choice(tongue.times),
        "move": rng.choice(tongue.moves),
        "verb": rng.choice(tongue.gains + tongue.losses),
        "thing": one,
        "one": one,
        "two": two,
    }
    turns = [
        (tongue.wish, tongue.wished),
        (tongue.where, tongue.there),
        (tongue.who, tongue.did),
    ]
    prompt, right = turns.pop(rng.randrange(len(turns)))
    wrong = [*(reply.format(**words) for _, reply in turns), rng.choice(tongue.welcomes)]
    return Question(prompt.format(**words), right.format(**words), wrong)


QUESTIONS: tuple[Callable[[random.Random, Language], Question], ...] = (
    topic_question,
    count_question,
    reply_question,
)
COURSES: dict[str, Course] = {
    "base": Course(base_document, 0, 850, 20, 5e-3, matrix_rate=0.013, decay=0.01, parent=None),
    "thai": Course(thai_document, 1, 90, 5, 1e-3),
    "bengali": Course(bengali_document, 2, 90, 5, 1e-3),
    "both": Course(both_document, 3, 135, 5, 1e-3),
    "reasoning": Course(reasoning_document, 4, 40, 5, 2e-3),
    "thai_sft": Course(reasoning_document, 4, 40, 5, 2e-3, parent="thai"),
    "bengali_sft": Course(reasoning_document, 4, 40, 5, 2e-3, parent="bengali"),
    "both_sft": Course(reasoning_document, 4, 40, 5, 2e-3, parent="both"),
}
CHECKPOINTS = (10, 30, 90, 200, 400)
"""Steps of continued pre-training on Thai after which the series keeps a model, `ct_10` and on."""
for _stream, (_before, _steps) in enumerate(pairwise((0, *CHECKPOINTS)), start=5):
    # Each goes on from the one before, its rates falling at its end as if it were the last.
    _parent = f"ct_{_before}" if _before else "base"
    COURSES[f"ct_{_steps}"] = Course(
        thai_document, _stream, _steps - _before, 5, 1e-3, parent=_parent
    )
    COURSES[f"ct_{_steps}_sft"] = replace(COURSES["reasoning"], parent=f"ct_{_steps}")
WORDS = WIDE_VOCABULARY
CHECKED: tuple[Language, ...] = ("th", "bn")
"""Languages in which the reasoning expert's problems are checked."""
