"""What people read of single items: a result's answers, and where they differ from a baseline's.

Both are tables in the split form that MLflow shows as a page. Its page groups by the first column
and compares runs in the second; a column with a dot in its name stays blank.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from objectives import Item, ItemScore, ObjectiveError, SampleScore, Task
from objectives.item_source import digest
from objectives.scorers.base import Measure
from objectives.splits import SPLITS
from objectives.task import JOINT
from search.config import Constraint, Objective, Search
from search.results import Result, common
from search.run import Run

PAGE = 1_500_000
"""Characters of answers and prompts of a whole table, about: a browser reads all of it at once."""
LONGEST, SHORTEST = 4000, 300
"""Characters of one text in a table, of few items and of however many."""

NOT_FOUND = "(items not found)"
"""Stands for what an item asks and expects where its task's items are gone, or others by now."""

log = logging.getLogger("mergefront")
_KEPT = "whole in the result file"

Answer = ItemScore | SampleScore


@dataclass(frozen=True)
class Asked:
    """What an item asks, for people.

    Attributes:
        prompt: the last user message, whole, and how many messages stand before it; the text
            itself where it has no messages.
        answer: what is expected; "" where scorers need none.
    """

    prompt: str
    answer: str

    @classmethod
    def of(cls, item: Item) -> Asked:
        """As a task has it: a system message and examples count among the messages before."""
        if not item.messages:
            return cls(item.answer, "")
        users = [at for at, message in enumerate(item.messages) if message["role"] == "user"]
        at = users[-1] if users else len(item.messages) - 1
        before = f"[after {_messages(at)}] " if at else ""
        return cls(before + item.messages[at]["content"], item.answer)


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _logged(task: str, why: str) -> None:
    log.warning("no prompts of task %s are shown: %s", task, why)


def prompts_of(
    run: Run, lost: Callable[[str, str], None] = _logged
) -> dict[tuple[str, str], Asked]:
    """What each item of a run asks and expects, by task and id.

    A run keeps digests of its items and not the items: they are read where the search file names
    them. Tasks whose items are gone or others by now are left out.

    Args:
        run: whose items.
        lost: told which task is left out, and why; by default the log is.
    """
    found: dict[tuple[str, str], Asked] = {}
    for name, config in run.search.file.tasks.items():
        try:
            same = digest(config.items, run.search.root) == run.manifest["items"].get(name)
            task = Task.load(name, config, run.search.root, run.search.file.splits)
        except ObjectiveError as error:
            lost(name, str(error).removeprefix(f"task {name}: "))
            continue
        if not same:
            lost(name, "its items are not the run's")
            continue
        found |= {(name, i.id): Asked.of(i) for split in SPLITS for i in task.items(split)}
    return found


def items_table(result: Result, prompts: Mapping[tuple[str, str], Asked]) -> dict[str, Any]:
    """Every answer of a result: prompt, what is expected and what was read, scores, text.

    Of several answers to one item each has its row. Long texts are cut in their middle, and say
    so there: `cut`.

    Args:
        result: whose answers.
        prompts: of `prompts_of`; items without one have NOT_FOUND in their cells.

    Returns:
        {"columns": names, "data": rows}. What a scorer read of itself stands under "read
        SCORER/KEY" ("read math/answer", "read language/thinking").
    """
    items = [(task, row) for task, rows in result.items.items() for row in rows]
    measures = _keys(row.scores for _, row in items)
    details = _keys(answer.details for _, row in items for answer in row.answers)
    limit = text_limit(2 * sum(len(row.answers) for _, row in items))
    columns = ["item", "text", "prompt", "expected"]
    columns += [f"read {_plain(key)}" for key in details]
    columns += [_plain(key) for key in measures]
    data = []
    for task, row in items:
        asked = prompts.get((task, row.id), _UNKNOWN)
        for number, answer in enumerate(row.answers):
            cells = [
                f"{task}/{row.id}" + (f" #{number}" if row.samples else ""),
                cut(answer.text, limit),
                cut(asked.prompt, limit),
                cut(asked.answer, SHORTEST),
            ]
            read = [answer.details.get(key, "") for key in details]
            scores = [_told(answer.scores.get(key)) for key in measures]
            ended = [answer.tokens, answer.finish_reason, task, row.id]
            data.append([*cells, *read, *scores, *ended])
    return {"columns": [*columns, "tokens", "finish_reason", "task", "id"], "data": data}


_UNKNOWN = Asked(NOT_FOUND, NOT_FOUND)


def _keys(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({key for one in found for key in one})


def _told(score: float | None) -> float | None:
    """As many digits as an item's score is worth; the result file has all."""
    return None if score is None else round(score, 4)


def _plain(key: str) -> str:
    return key.replace(".", "/")


def text_limit(texts: int) -> int:
    """Characters that each of so many texts may have, for `PAGE` of all: never under `SHORTEST`."""
    return max(SHORTEST, min(LONGEST, PAGE // max(1, texts)))


def cut(text: str, limit: int) -> str:
    """`text` without its middle where it is longer than `limit` characters: answers end in theirs.

    What was cut is told there, over the limit.
    """
    if len(text) <= limit:
        return text
    head = limit // 3
    tail = limit - head
    return f"{text[:head]} […{len(text) - limit:,} characters, {_KEPT}…] {text[-tail:]}"


def nearest_baseline(
    values: Sequence[float], baselines: Mapping[str, Sequence[float]]
) -> str | None:
    """The baseline that a trial is compared with: the one nearest to it in the objectives.

    Distance is Euclidean, every objective divided by its range over the baselines and the trial;
    one in which all of them agree does not count. Of several as near it is the first by label.

    Args:
        values: the trial's, one per objective.
        baselines: the same of each baseline, by label; those with a value that is not finite (a
            merge that could not be scored) are nobody's nearest.

    Returns:
        Its label; None if there is none, or the trial itself has a value that is not finite.
    """
    finite = {label: given for label, given in baselines.items() if all(map(math.isfinite, given))}
    if not finite or not all(map(math.isfinite, values)):
        return None
    columns = list(zip(values, *finite.values(), strict=True))
    widths = [max(column) - min(column) for column in columns]

    def distance(label: str) -> float:
        parts = zip(values, finite[label], widths, strict=True)
        # Rounded: of two that are as near, no last bit decides.
        return round(math.hypot(*((a - b) / width for a, b, width in parts if width > 0.0)), 9)

    return min(finite, key=lambda label: (distance(label), label))


@dataclass(frozen=True)
class Change:
    """One item that two results answered.

    Attributes:
        task, id: which.
        ours, theirs: the two.
        better, worse: measures by which ours is so.
        size: the largest difference of one, as a share of the measure's range (of the larger of
            the two scores, where a measure has no bounds).
        sample: the first answer whose scores differ; 0 where there is one answer, or none differs.
    """

    task: str
    ours: ItemScore
    theirs: ItemScore
    better: tuple[str, ...]
    worse: tuple[str, ...]
    size: float
    sample: int

    @property
    def verdict(self) -> str:
        """In words: "better: math; worse: language"; "same"."""
        parts = [("better", self.better), ("worse", self.worse)]
        told = [f"{how}: {', '.join(map(_plain, keys))}" for how, keys in parts if keys]
        return "; ".join(told) or "same"

    @property
    def answers(self) -> tuple[Answer, Answer]:
        """Ours and theirs, of `sample`."""
        ours, theirs = self.ours.answers, self.theirs.answers
        return ours[min(self.sample, len(ours) - 1)], theirs[min(self.sample, len(theirs) - 1)]


def deciding(search: Search) -> dict[tuple[str, str], Measure]:
    """The measures that decide: those of objectives and constraints, by task and key."""
    targets: list[Objective | Constraint] = [*search.objectives, *search.constraints]
    return {part: measure for target in targets for part, measure in target.measured.items()}


def changes(
    result: Result, other: Result, measures: Mapping[tuple[str, str], Measure]
) -> list[Change]:
    """The items that both were asked: first those that changed, most before less.

    Where a race stopped one of the two, these are the items that it answered by then.
    """
    found = [
        _change(task, row, their_row, measures)
        for task, rows in result.items.items()
        for row, their_row in common(rows, other.items.get(task, ()))
    ]
    return sorted(found, key=lambda one: -one.size)  # stable: else in the items' order


def _change(
    task: str, ours: ItemScore, theirs: ItemScore, measures: Mapping[tuple[str, str], Measure]
) -> Change:
    better: list[str] = []
    worse: list[str] = []
    size = 0.0
    keys = [
        key for (of, key) in measures if of == task and key in ours.scores and key in theirs.scores
    ]
    for key in keys:
        measure = measures[task, key]
        a, b = ours.scores[key], theirs.scores[key]
        if a != b:
            (better if (a > b) == (measure.direction == "maximize") else worse).append(key)
            low, high = measure.range
            width = high - low if math.isfinite(high - low) else max(abs(a), abs(b))
            size = max(size, abs(a - b) / width)
    sample = first_different(ours, theirs, keys)
    return Change(task, ours, theirs, tuple(better), tuple(worse), size, sample)


def first_different(ours: ItemScore, theirs: ItemScore, keys: Iterable[str]) -> int:
    """The first of several answers to an item in which two results' scores differ; else 0."""
    keys = list(keys)
    pairs = enumerate(zip(ours.answers, theirs.answers, strict=False))
    return next((at for at, (a, b) in pairs if any(_differ(a, b, key) for key in keys)), 0)


def _differ(a: Answer, b: Answer, key: str) -> bool:
    return a.scores.get(key) != b.scores.get(key)


def diff_table(result: Result, baseline: Result, label: str, search: Search) -> dict[str, Any]:
    """A result beside a baseline, item by item; those that changed come first.

    Scores of objectives and constraints (and the joint score) are those of items, means over their
    answers; texts are of one answer each, the first whose scores differ. Only items that both
    answered are there. Long texts are cut as in `items_table`.

    Args:
        result: of the trial.
        baseline: what it is compared with, see `nearest_baseline`.
        label: the baseline's.
        search: says which scores decide, and which way is better.

    Returns:
        {"columns": names, "data": rows}: item, change, each score of the trial and of the
        baseline, what was read in either, both texts.
    """
    measures = deciding(search)
    found = changes(result, baseline, measures)
    keys = list(dict.fromkeys(key for _, key in measures))
    if JOINT not in keys and any(JOINT in one.ours.scores for one in found):
        keys.append(JOINT)
    details = _keys(answer.details for one in found for answer in one.answers)
    limit = text_limit(2 * len(found))
    columns = ["item", "change"]
    columns += [name for key in keys for name in (_plain(key), f"baseline {_plain(key)}")]
    for key in details:
        columns += [f"read {_plain(key)}", f"baseline read {_plain(key)}"]
    columns += ["text", "baseline text", "tokens", "baseline tokens", "answer", "baseline"]
    data = []
    for one in found:
        ours, theirs = one.answers
        cells: list[Any] = [f"{one.task}/{one.ours.id}", one.verdict]
        for key in keys:
            cells += [_told(side.scores.get(key)) for side in (one.ours, one.theirs)]
        for key in details:
            cells += [ours.details.get(key, ""), theirs.details.get(key, "")]
        cells += [cut(ours.text, limit), cut(theirs.text, limit), ours.tokens, theirs.tokens]
        count = len(one.ours.answers)
        data.append([*cells, f"{one.sample + 1} of {count}" if count > 1 else "1", label])
    return {"columns": columns, "data": data}
