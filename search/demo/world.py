"""A synthetic world: story problems in several languages, their vocabularies, their items.

It is small enough to be learnt in seconds on one CPU thread, and rich enough to show what merging
a reasoning expert into a language expert is about. `tongues` holds its words; `corpora` and
`wide_corpora` write what the models read.

A text is a string of words joined by single spaces, and every word is one token.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tongues import ENGLISH, THAI, TONGUES, Language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
USER, BOT, THINK, END_THINK, ANSWER = "<user>", "<bot>", "<think>", "</think>", "####"

MAX_NUMBER = 15  # every number in a story, and every intermediate result, is in 0..MAX_NUMBER
MAX_CHANGE = 6  # one step adds or removes at most this many
STEPS = 2  # more steps, or larger numbers, need far more training than a demo can spend


@dataclass(frozen=True)
class Step:
    """One change in a story: a verb and how many things it adds or removes."""

    gain: bool
    verb: int  # index into a tongue's gains or losses
    amount: int
    before: int
    after: int

    def say(self, language: Language) -> str:
        """Name the change in words, without computing it."""
        tongue = TONGUES[language]
        return f"{(tongue.gains if self.gain else tongue.losses)[self.verb]} {self.amount}"

    def compute(self) -> str:
        """Write the change as an equation."""
        return f"{self.before} {'+' if self.gain else '-'} {self.amount} = {self.after}"


@dataclass(frozen=True)
class Problem:
    """A story problem: who has how many of what, and what happens to them."""

    person: int  # index into a tongue's people
    thing: int  # index into a tongue's things
    start: int
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        """How many things are left, 0..MAX_NUMBER."""
        return self.steps[-1].after

    @property
    def operations(self) -> str:
        """The signs of the steps, such as `+-`."""
        return "".join("+" if step.gain else "-" for step in self.steps)

    def words(self, language: Language) -> dict[str, str]:
        """What the templates of `language` call person, thing and the thing's unit."""
        tongue = TONGUES[language]
        return {
            "person": tongue.people[self.person],
            "thing": tongue.things[self.thing],
            "unit": tongue.units[self.thing] if tongue.units else "",
        }

    def question(self, language: Language) -> str:
        """Tell the story and ask how many are left."""
        tongue, words = TONGUES[language], self.words(language)
        opening = tongue.opening.format(count=self.start, **words)
        steps = (step.say(language) for step in self.steps)
        return join_sentences([opening, *steps, tongue.closing.format(**words)])

    def restatement(self, language: Language) -> str:
        """Repeat the numbers of the story, computing nothing."""
        holds = TONGUES[language].holds.format(count=self.start)
        return join_sentences([holds, *(step.say(language) for step in self.steps)])

    def derivation(self, language: Language) -> str:
        """Work the story out, step by step."""
        tongue = TONGUES[language]
        worked = (f"{step.say(language)} {tongue.so} {step.compute()}" for step in self.steps)
        return join_sentences([tongue.holds.format(count=self.start), *worked])


def join_sentences(sentences: Iterable[str]) -> str:
    """Put full stops between sentences; none ends a text."""
    return " . ".join(sentences)


def draw_problem(rng: random.Random) -> Problem:
    """Draw a problem of STEPS steps whose numbers all stay within 0..MAX_NUMBER."""
    person, thing = rng.randrange(len(ENGLISH.people)), rng.randrange(len(ENGLISH.things))
    start = count = rng.randint(1, 9)
    steps = []
    for _ in range(STEPS):
        gain = rng.random() < 0.5
        if gain and count == MAX_NUMBER:
            gain = False
        elif not gain and count < 2:
            gain = True
        room = MAX_NUMBER - count if gain else count
        amount = rng.randint(1, min(MAX_CHANGE, room))
        after = count + amount if gain else count - amount
        steps.append(Step(gain, rng.randrange(len(ENGLISH.gains)), amount, count, after))
        count = after
    return Problem(person, thing, start, tuple(steps))


def draw_problems(count: int, seed: int) -> list[Problem]:
    """Draw `count` problems of which no two are the same."""
    rng = random.Random(seed)
    distinct: dict[Problem, None] = {}
    while len(distinct) < count:
        distinct.setdefault(draw_problem(rng))
    return list(distinct)


# --- Tokenizer -----------------------------------------------------------------------------------


def _vocabulary() -> tuple[str, ...]:
    marks = [PAD, BOS, EOS, USER, BOT, THINK, END_THINK, ANSWER, *"+-=.?:"]
    numbers = [str(number) for number in range(MAX_NUMBER + 1)]
    one, two = ENGLISH, THAI
    terms = [
        *zip(one.people, two.people, strict=True),
        *zip(one.things, two.things, two.units, strict=True),
        *zip(one.gains, two.gains, strict=True),
        *zip(one.losses, two.losses, strict=True),
        *zip(one.places, two.places, strict=True),
        *zip(one.times, two.times, strict=True),
        *zip(one.moves, two.moves, strict=True),
        *zip(one.qualities, two.qualities, strict=True),
        (one.words,),
        (two.words,),
    ]
    words = [word for term in terms for said in term for word in said.split()]
    return tuple(dict.fromkeys([*marks, *numbers, *words]))


def _wide_vocabulary() -> tuple[str, ...]:
    spoken = (word for tongue in TONGUES.values() for word in tongue.spoken())
    return tuple(dict.fromkeys([*VOCABULARY, *spoken]))


VOCABULARY = _vocabulary()
"""The trio's: a token's id is its place."""
WIDE_VOCABULARY = _wide_vocabulary()
"""The wide world's: the trio's, then the words of Bengali and of the choice tasks."""
_TOKEN_IDS = {word: token for token, word in enumerate(WIDE_VOCABULARY)}
PAD_ID, BOS_ID, EOS_ID = (_TOKEN_IDS[word] for word in (PAD, BOS, EOS))

# It writes <bos> itself: tokenize what it gives with add_special_tokens=False.
CHAT_TEMPLATE = (
    "<bos> {% for message in messages %}"
    "{% if message.role == 'user' %}<user> {{ message.content }} "
    "{% elif message.role == 'assistant' %}<bot> {{ message.content }} <eos> "
    "{% else %}{{ raise_exception('only user and assistant speak here, not ' ~ message.role) }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}"
)


def encode(text: str) -> list[int]:
    """Turn words joined by single spaces into token ids, without a tokenizer.

    Raises:
        KeyError: A word is not in WIDE_VOCABULARY.
    """
    return [_TOKEN_IDS[word] for word in text.split(" ")]


def make_tokenizer(vocabulary: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """Build the Hugging Face tokenizer: one word, one token; `max_length` in tokens.

    Only padding, start and end are special, so that decoding with `skip_special_tokens` keeps the
    marks that scorers look for.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # A word-level model needs a word for unknown words; padding is the one that means nothing.
    words = Tokenizer(
        models.WordLevel({word: token for token, word in enumerate(vocabulary)}, unk_token=PAD)
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
    )


# --- Items ---------------------------------------------------------------------------------------


def write_items(
    path: Path, *, dev: int = 128, confirm: int = 512, test: int = 512, seed: int = 1234
) -> None:
    """Write Thai problems as one JSONL file, replacing it in one step.

    A line holds `id`, `prompt` (the Thai story), `answer` (a string of digits), `split` (`dev`,
    `confirm` or `test`) and `tags.ops` (the signs of the steps). No two lines, in whichever split,
    hold the same problem. The dev items depend on `seed` alone, not on the sizes of the other
    splits.

    Args:
        path: The file; its folder must exist.
        dev: How many items to search on.
        confirm: How many items to confirm a front on.
        test: How many items to score the exported recipe on.
        seed: Seed of the problems.

    Raises:
        OSError: The file cannot be written.
    """
    splits = ["dev"] * dev + ["confirm"] * confirm + ["test"] * test
    problems = draw_problems(len(splits), seed)
    write_lines(
        path,
        (
            {
                "id": f"th-{number:04d}",
                "prompt": problem.question("th"),
                "answer": str(problem.answer),
                "split": split,
                "tags": {"ops": problem.operations},
            }
            for number, (split, problem) in enumerate(zip(splits, problems, strict=True))
        ),
    )


def write_lines(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write items as JSON lines, replacing the file in one step.

    Raises:
        OSError: The file cannot be written.
    """
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
        # mkstemp's file is the owner's alone; a data file is for whoever may read the folder.
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
