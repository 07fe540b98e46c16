"""Answers side by side: the chosen merge and a baseline on the same items, picked by a rule.

No answer is picked by eye. Items fall into groups by who solved them; in each group the first by
the hash of the item's name are shown.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from objectives import ItemScore
from objectives.scorers.base import Measure
from objectives.splits import SPLITS, Split
from objectives.task import JOINT
from objectives.thinking import split_text
from search.errors import RunError
from search.front import gains, knee
from search.item_pages import NOT_FOUND, Asked, cut, deciding, first_different, prompts_of
from search.results import Result
from search.view import RunView

EACH = 3
"""Items of a group that are shown."""
LONGEST = 1600
"""Characters of an answer, and of a prompt, that are shown."""

GROUPS = {
    "wins": "solved here and not by the baseline",
    "loses": "solved by the baseline alone",
    "fail": "solved by neither",
    "solve": "solved by both",
}


@dataclass(frozen=True)
class Said:
    """One answer, for the page.

    Attributes:
        which: "answer 2 of 4"; "" of a single one.
        thinking: what stood before the answer; "" if nothing did.
        answer: the rest.
        scores: (name, value) of the measures that decide; of several answers the name has the mean.
        read: what a scorer read in it, by its name.
        tokens: generated.
        ended: "", or why the answer was cut.
    """

    which: str
    thinking: str
    answer: str
    scores: list[tuple[str, str]]
    read: list[tuple[str, str]]
    tokens: int
    ended: str


@dataclass(frozen=True)
class Sample:
    """One item with the answers to it: first the merge's, then the baseline's if there is one."""

    task: str
    id: str
    prompt: str
    expected: str
    ours: Said
    theirs: Said | None


@dataclass(frozen=True)
class Group:
    """Items of one kind: how many there are, and those that are shown."""

    name: str
    title: str
    count: int
    shown: list[Sample]


@dataclass(frozen=True)
class Samples:
    """What is shown, and by which rule.

    Attributes:
        ours, theirs: whose answers; theirs is None without baselines.
        split: of the items.
        rule: in words.
        groups: in the order of `GROUPS`.
    """

    ours: str
    theirs: str | None
    split: Split
    rule: str
    groups: list[Group]


def samples(view: RunView) -> Samples | None:
    """Of the chosen merge, else of the balanced one of the front; None if there is none."""
    found = _results(view)
    if found is None:
        return None
    who, ours, label, theirs, split = found
    lost: dict[str, str] = {}
    prompts = prompts_of(view.run, lost.__setitem__)
    kinds = _kinds(view, ours, theirs)
    groups = []
    for name, title in GROUPS.items():
        held = sorted(kinds.get(name, []), key=_drawn)
        shown = [_sample(view, prompts, task, one, other) for task, one, other in held[:EACH]]
        if name == "solve" and theirs is not None:
            shown = shown[:1]
        groups.append(Group(name, title if theirs is not None else _alone(name), len(held), shown))
    groups = [group for group in groups if group.count]
    rule = " ".join([_rule(view, ours, label, split, groups), *_lost(view, ours, lost)])
    return Samples(who, label, split, rule, groups)


def _results(view: RunView) -> tuple[str, Result, str | None, Result | None, Split] | None:
    """Whose answers are compared, on which items: the baseline is the one that solves most."""
    run = view.run
    try:
        if view.chosen is not None:
            ours = Result.load(run.held_out("confirm", view.chosen.fingerprint))
            others = {
                member.label: Result.load(run.held_out("confirm", member.fingerprint))
                for member in view.members
                if member.trial is None
            }
            who, split = view.chosen.label, SPLITS[1]
        elif view.front:
            objectives = view.search.objectives
            number = knee({n: gains(view.trials[n].values, objectives) for n in view.front})
            ours = Result.load(run.trial(number))
            others = {label: Result.load(run.baseline(label)) for label in view.baselines}
            who, split = f"trial {number}", SPLITS[0]
        else:
            return None
    except RunError:  # a result file is gone: the page does without answers
        return None
    count = {
        label: sum(
            _solved(view, task, row.scores) is True
            for task, rows in _tasks(view, result).items()
            for row in rows
        )
        for label, result in others.items()
        if any(result.items.values())
    }
    label = max(count, key=lambda name: count[name], default=None)
    return who, ours, label, None if label is None else others[label], split


Pair = tuple[str, ItemScore, ItemScore | None]


def _tasks(view: RunView, result: Result) -> dict[str, Sequence[ItemScore]]:
    """The items of tasks that objectives are made of, by task."""
    names = {task for objective in view.search.objectives for task, _ in objective.parts}
    return {task: rows for task, rows in result.items.items() if task in names}


def _solved(view: RunView, task: str, scores: Mapping[str, float]) -> bool | None:
    """Right and in the language where that is told, else the better half of what decides.

    An item's scores are means over its answers, so that it is right only if all of them are. None
    where nothing tells: scores without bounds, such as perplexity, have no half.
    """
    if JOINT in scores:
        return scores[JOINT] == 1.0
    told = [
        (scores[key], measure)
        for (of, key), measure in deciding(view.search).items()
        if of == task and key in scores and _bounded(measure)
    ]
    if not told:
        return None
    return all(
        (score >= sum(m.range) / 2) if m.direction == "maximize" else (score <= sum(m.range) / 2)
        for score, m in told
    )


def _bounded(measure: Measure) -> bool:
    return all(math.isfinite(bound) for bound in measure.range)


def _kinds(view: RunView, ours: Result, theirs: Result | None) -> dict[str, list[Pair]]:
    """Items by group."""
    kinds: dict[str, list[Pair]] = {}
    for task, rows in _tasks(view, ours).items():
        others = {} if theirs is None else {row.id: row for row in theirs.items.get(task, ())}
        for row in rows:
            other = others.get(row.id)
            if theirs is not None and other is None:  # a race stopped ours or theirs
                continue
            mine = _solved(view, task, row.scores)
            if mine is None:
                continue
            name = "solve" if mine else "fail"
            if other is not None and _solved(view, task, other.scores) != mine:
                name = "wins" if mine else "loses"
            kinds.setdefault(name, []).append((task, row, other))
    return kinds


def _drawn(pair: Pair) -> str:
    task, item, _ = pair
    return hashlib.sha256(f"report:{task}/{item.id}".encode()).hexdigest()


def _alone(name: str) -> str:
    return {"fail": "not solved", "solve": "solved"}.get(name, GROUPS[name])


def _rule(
    view: RunView, ours: Result, label: str | None, split: Split, groups: Sequence[Group]
) -> str:
    free = [f"{of}/{key}" for (of, key), m in deciding(view.search).items() if not _bounded(m)]
    gone = f"{', '.join(free)}: without bounds, and so not part of it." if free else ""
    if not groups:
        return f"No answers are shown, as nothing tells which items are solved. {gone}".rstrip()
    held = {group.name: group.count for group in groups}
    most = f"{held.get('loses', 0) + held.get('solve', 0):,} of {sum(held.values()):,}"
    whose = "" if label is None else f" The baseline is {label}, which solves most: {most}."
    items = [item for rows in _tasks(view, ours).values() for item in rows]
    joint = [JOINT in item.scores for item in items]
    half = "in the better half of the range of every score that decides"
    counts = ", ".join(f"{group.count:,} {group.title}" for group in groups)
    return (
        f"Of the {split} items: {counts}. {_solving(items, joint, half)}{_which(items, label)}"
        f"{f' {gone}' if gone else ''}{whose}"
        " Shown are the first of each group by a hash of their names: nobody picked them."
    )


def _solving(items: Sequence[ItemScore], joint: Sequence[bool], half: str) -> str:
    """What makes an item solved."""
    both, numbers = "right and in the language", {len(item.answers) for item in items}
    if numbers == {1}:
        told = f"{both}; where that is not told, {half}" if any(joint) else half
        return f"An item is solved by an answer that is {both if all(joint) else told}."
    count = f"all {numbers.pop()} answers" if len(numbers) == 1 else "all its answers"
    told = f"by {count} being {both}" if any(joint) else f"by the mean of {count} being {half}"
    if any(joint) and not all(joint):
        told += f"; where that is not told, by their mean being {half}"
    return f"An item is solved {told}."


def _which(items: Sequence[ItemScore], label: str | None) -> str:
    """Which of several answers to an item is shown."""
    if all(len(item.answers) == 1 for item in items):
        return ""
    first = "in which the two differ" if label is not None else "that is not right"
    return f" Of its answers the first {first} stands here, with the means of all in brackets."


def _lost(view: RunView, ours: Result, lost: Mapping[str, str]) -> list[str]:
    """Whose questions cannot be shown, and why."""
    return [
        f"What {task} asks and expects is not shown: {lost[task].rstrip('.')}."
        for task in _tasks(view, ours)
        if task in lost
    ]


def _sample(
    view: RunView,
    prompts: Mapping[tuple[str, str], Asked],
    task: str,
    one: ItemScore,
    other: ItemScore | None,
) -> Sample:
    asked = prompts.get((task, one.id), Asked(NOT_FOUND, NOT_FOUND))
    at = _telling(view, task, one, other)
    return Sample(
        task=task,
        id=one.id,
        prompt=cut(asked.prompt, LONGEST),
        expected=cut(asked.answer, LONGEST // 4),
        ours=_said(view, task, one, at),
        theirs=None if other is None else _said(view, task, other, at),
    )


def _telling(view: RunView, task: str, one: ItemScore, other: ItemScore | None) -> int:
    """Which of several answers is shown.

    The first that one of the two solved alone, else the first whose scores differ; where there is
    nothing to compare with, the first that is not solved.
    """
    right = [_solved(view, task, answer.scores) for answer in one.answers]
    if other is None:
        return next((at for at, told in enumerate(right) if told is False), 0)
    theirs = [_solved(view, task, answer.scores) for answer in other.answers]
    pairs = enumerate(zip(right, theirs, strict=False))
    keys = [key for of, key in deciding(view.search) if of == task]
    return next((at for at, (a, b) in pairs if a != b), first_different(one, other, keys))


def _said(view: RunView, task: str, item: ItemScore, at: int) -> Said:
    count = len(item.answers)
    at = min(at, count - 1)
    answer = item.answers[at]
    parts = split_text(answer.text)
    keys = dict.fromkeys([*(key for of, key in deciding(view.search) if of == task), JOINT])
    ends = {"length": "cut at max_tokens", "loop": "ended in a loop"}
    scores = []
    for key in keys:
        if key in answer.scores:
            name = "right and in the language" if key == JOINT else key
            mean = f" (mean of {count}: {item.scores[key]:.3g})" if count > 1 else ""
            scores.append((f"{name}{mean}", f"{answer.scores[key]:.3g}"))
    return Said(
        which=f"answer {at + 1} of {count}" if count > 1 else "",
        thinking=cut((parts.thinking or "").strip(), LONGEST),
        answer=cut(parts.answer.strip(), LONGEST),
        scores=scores,
        # What a scorer read that decides nothing would only be in the way.
        read=[(k, text) for k, text in answer.details.items() if text and k.split(".")[0] in keys],
        tokens=answer.tokens,
        ended=ends.get(answer.finish_reason, ""),
    )
