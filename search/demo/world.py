"""A synthetic bilingual world: story problems in English and Thai, their words, their items.

The world is small enough to be learnt in seconds on one CPU thread, and rich enough to show what
merging a reasoning expert into a language expert is about. `corpora` writes what the models read.

A text is a string of words joined by single spaces, and every word is one token.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Language = Literal["en", "th"]
LANGUAGES: tuple[Language, Language] = ("en", "th")

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
USER, BOT, THINK, END_THINK, ANSWER = "<user>", "<bot>", "<think>", "</think>", "####"

MAX_NUMBER = 15  # every number in a story, and every intermediate result, is in 0..MAX_NUMBER
MAX_CHANGE = 6  # one step adds or removes at most this many
STEPS = 2  # more steps, or larger numbers, need far more training than a demo can spend


class Term(NamedTuple):
    """One notion, as said in each language."""

    en: str
    th: str


class Thing(NamedTuple):
    """Something that can be counted; Thai counts it in a unit of its own."""

    en: str
    th: str
    unit: str


PEOPLE = (
    Term("tom", "สมชาย"),
    Term("mary", "มาลี"),
    Term("john", "วิชัย"),
    Term("anna", "อรุณ"),
    Term("ben", "สุดา"),
    Term("sara", "นิด"),
)
THINGS = (
    Thing("apples", "แอปเปิล", "ลูก"),
    Thing("books", "หนังสือ", "เล่ม"),
    Thing("eggs", "ไข่", "ฟอง"),
    Thing("pens", "ปากกา", "ด้าม"),
    Thing("cakes", "ขนม", "ชิ้น"),
    Thing("hats", "หมวก", "ใบ"),
)
GAINS = (Term("buys", "ซื้อ"), Term("finds", "เจอ"), Term("makes", "ทำ"))
LOSSES = (Term("loses", "เสีย"), Term("sells", "ขาย"), Term("gives", "ให้"))
PLACES = (
    Term("market", "ตลาด"),
    Term("school", "โรงเรียน"),
    Term("home", "บ้าน"),
    Term("park", "สวน"),
    Term("sea", "ทะเล"),
)
TIMES = (Term("today", "วันนี้"), Term("yesterday", "เมื่อวาน"), Term("now", "ตอนนี้"))
MOVES = (Term("goes to", "ไป ที่"), Term("is at", "อยู่ ที่"), Term("comes from", "มา จาก"))
QUALITIES = (
    Term("good", "ดี"),
    Term("big", "ใหญ่"),
    Term("small", "เล็ก"),
    Term("new", "ใหม่"),
    Term("red", "แดง"),
)
# Function words. A few occur in no corpus, as in any real vocabulary.
ENGLISH_WORDS = (
    "then gets has how many are left start with so the answer is likes and hello thank you i can "
    "help sure what does want where okay about maybe think who of course welcome a"
)
THAI_WORDS = (
    "แล้ว ได้ มี เหลือ กี่ เริ่ม จาก ดังนั้น คำตอบ คือ ชอบ และ สวัสดี ขอบคุณ ครับ ค่ะ ช่วย แน่นอน อะไร อยาก "
    "ที่ไหน ประมาณ น่าจะ คิดว่า ใคร ยินดี เป็น ของ นะ"
)


@dataclass(frozen=True)
class Step:
    """One change in a story: a verb and how many things it adds or removes."""

    gain: bool
    verb: int  # index into GAINS or LOSSES
    amount: int
    before: int
    after: int

    def say(self, language: Language) -> str:
        """Name the change in words, without computing it."""
        verb = (GAINS if self.gain else LOSSES)[self.verb]
        return f"{getattr(verb, language)} {self.amount}"

    def compute(self) -> str:
        """Write the change as an equation."""
        return f"{self.before} {'+' if self.gain else '-'} {self.amount} = {self.after}"


@dataclass(frozen=True)
class Problem:
    """A story problem: who has how many of what, and what happens to them."""

    person: int  # index into PEOPLE
    thing: int  # index into THINGS
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

    def question(self, language: Language) -> str:
        """Tell the story and ask how many are left."""
        person, thing = getattr(PEOPLE[self.person], language), THINGS[self.thing]
        if language == "en":
            opening, closing = f"{person} has {self.start} {thing.en}", "how many left ?"
        else:
            opening = f"{person} มี {thing.th} {self.start} {thing.unit}"
            closing = f"เหลือ กี่ {thing.unit} ?"
        return join_sentences([opening, *(step.say(language) for step in self.steps), closing])

    def restatement(self, language: Language) -> str:
        """Repeat the numbers of the story, computing nothing."""
        opening = f"{'has' if language == 'en' else 'มี'} {self.start}"
        return join_sentences([opening, *(step.say(language) for step in self.steps)])

    def derivation(self, language: Language) -> str:
        """Work the story out, step by step."""
        opening, so = ("has", "so") if language == "en" else ("มี", "ดังนั้น")
        worked = (f"{step.say(language)} {so} {step.compute()}" for step in self.steps)
        return join_sentences([f"{opening} {self.start}", *worked])


def join_sentences(sentences: Iterable[str]) -> str:
    """Put full stops between sentences; none ends a text."""
    return " . ".join(sentences)


def draw_problem(rng: random.Random) -> Problem:
    """Draw a problem of STEPS steps whose numbers all stay within 0..MAX_NUMBER."""
    person, thing = rng.randrange(len(PEOPLE)), rng.randrange(len(THINGS))
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
        steps.append(Step(gain, rng.randrange(len(GAINS)), amount, count, after))
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
    terms: list[tuple[str, ...]] = [*PEOPLE, *THINGS, *GAINS, *LOSSES, *PLACES, *TIMES]
    terms += [*MOVES, *QUALITIES, (ENGLISH_WORDS,), (THAI_WORDS,)]
    marks = [PAD, BOS, EOS, USER, BOT, THINK, END_THINK, ANSWER, *"+-=.?:"]
    numbers = [str(number) for number in range(MAX_NUMBER + 1)]
    words = [word for term in terms for said in term for word in said.split()]
    return tuple(dict.fromkeys([*marks, *numbers, *words]))


VOCABULARY = _vocabulary()
_TOKEN_IDS = {word: token for token, word in enumerate(VOCABULARY)}
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
        KeyError: A word is not in VOCABULARY.
    """
    return [_TOKEN_IDS[word] for word in text.split(" ")]


def make_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Build the Hugging Face tokenizer: one word, one token; `max_length` in tokens.

    Only padding, start and end are special, so that decoding with `skip_special_tokens` keeps the
    marks that scorers look for.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # A word-level model needs a word for unknown words; padding is the one that means nothing.
    words = Tokenizer(models.WordLevel(dict(_TOKEN_IDS), unk_token=PAD))
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
    lines = []
    for number, (split, problem) in enumerate(
        zip(splits, draw_problems(len(splits), seed), strict=True)
    ):
        item = {
            "id": f"th-{number:04d}",
            "prompt": problem.question("th"),
            "answer": str(problem.answer),
            "split": split,
            "tags": {"ops": problem.operations},
        }
        lines.append(json.dumps(item, ensure_ascii=False) + "\n")
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
        # mkstemp's file is the owner's alone; a data file is for whoever may read the folder.
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
