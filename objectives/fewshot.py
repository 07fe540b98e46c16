"""Solved examples that stand before every item of a task."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from objectives.copies import Entry
from objectives.engines.base import Message
from objectives.errors import TaskError
from objectives.item_file import Line
from objectives.item_source import ItemsConfig
from objectives.splits import shuffled


class FewShot(BaseModel):
    """Solved examples that stand before every item, as turns of the chat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(gt=0, le=64, description="how many")
    items: ItemsConfig | None = Field(
        None,
        description="where from; unset: the task's own items, of split `fewshot` or any that serves"
        " nothing else",
    )
    seed: int = Field(0, description="of the choice among items without a `split` column")


def drawn(fewshot: FewShot, pool: Sequence[Entry]) -> list[Entry]:
    """The examples out of those that may be one; fewer than asked for where there are no more."""
    return shuffled(pool, fewshot.seed, "fewshot")[: fewshot.count]


def check_not_asked(pool: Sequence[Entry], asked: Sequence[Entry]) -> None:
    """Refuse an example that is asked as well.

    Raises:
        TaskError: where it is asked.
    """
    keys = {key for entry in pool for key in entry.keys}
    for entry in asked:
        if keys.intersection(entry.keys):
            raise TaskError(
                f"{entry.line.where}: is among the few-shot examples too; remove it from one"
            )


def solved(line: Line) -> tuple[Message, ...]:
    """An example with its worked solution, if it has one, else its answer.

    Its own system message is left out: an item's or the task's stands before all examples.

    Raises:
        TaskError: it cannot be an example.
    """
    turns = line.messages
    if turns and turns[0]["role"] == "system":
        turns = turns[1:]
    if not turns:
        raise TaskError(
            f'{line.where}: a few-shot example needs a "prompt" or "messages" to ask; add one'
        )
    if any(turn["role"] == "system" for turn in turns):
        raise TaskError(
            f"{line.where}: a few-shot example has a system message in mid-chat; remove it"
        )
    if turns[-1]["role"] == "assistant":
        raise TaskError(
            f"{line.where}: a few-shot example ends with the assistant; give what it says as"
            ' "answer" or "solution"'
        )
    solution = line.fields.get("solution", line.answer)
    if not isinstance(solution, str) or not solution.strip():
        raise TaskError(f'{line.where}: a few-shot example needs "solution" or "answer"; add it')
    return (*turns, {"role": "assistant", "content": solution})
