"""Answers side by side: the chosen merge and a baseline on the same items, picked by a rule.

No answer is picked by eye. Items fall into groups by who solved them; in each group the first by
the hash of the item's name are shown.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from objectives import ItemScore, SampleScore
from objectives.splits import Split
from objectives.task import JOINT
from objectives.thinking import split_text
from search.confirm import Member
from search.errors import RunError
from search.front import gains, knee
from search.item_pages import Asked, changes, cut, deciding, prompts_of
from search.report.verdict import balanced
from search.results import Result
from search.view import RunView

EACH = 3
"""Items of a group that are shown."""
LONGEST = 1600
"""Characters of an answer, and of a prompt, that are shown."""

GROUPS = {
    "wins": "better than the baseline",
    "loses": "worse than the baseline",
    "fail": "both fail",
    "solve": "both right",
}


@dataclass(frozen=True)
class Said:
    """One answer, for the page.

    Attributes:
        thinking: what stood before the answer; "" if nothing did.
        answer: the rest.
        scores: (name, value) of the measures that decide.
        read: what a scorer read in it, by its name.
        tokens: generated.
        ended: "", or why the answer was cut.
    """

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
    prompts = prompts_of(view.run)
    kinds = _kinds(view, ours, theirs)
    groups = []
    for name, title in GROUPS.items():
        held = sorted(kinds.get(name, []), key=_drawn)
        shown = [_sample(view, prompts, task, one, other) for task, one, other in held[:EACH]]
        if name == "solve" and theirs is not None:
            shown = shown[:1]
        groups.append(Group(name, title if theirs is not None else _alone(name), len(held), shown))
    groups = [group for group in groups if group.count]
    return Samples(who, label, split, _rule(view, label, split, groups), groups)


def _results(view: RunView) -> tuple[str, Result, str | None, Result | None, Split] | None:
    """Whose answers are compared, on which items."""
    run = view.run
    others = [m for m in view.members if m.trial is None]
    try:
        if view.chosen is not None:
            other = balanced(view, [m for m in others if _has_items(view, m)])
            ours = Result.load(run.held_out("confirm", view.chosen.fingerprint))
            if other is None:
                return view.chosen.label, ours, None, None, "confirm"
            theirs = Result.load(run.held_out("confirm", other.fingerprint))
            return view.chosen.label, ours, other.label, theirs, "confirm"
        if not view.front:
            return None
        objectives = view.search.objectives
        number = knee({n: gains(view.trials[n].values, objectives) for n in view.front})
        ours = Result.load(run.trial(number))
        able = {
            label: gains(b.values, objectives)
            for label, b in view.baselines.items()
            if all(map(math.isfinite, b.values)) and b.intervals
        }
        if not able:
            return f"trial {number}", ours, None, None, "dev"
        label = knee(able)
        return f"trial {number}", ours, label, Result.load(run.baseline(label)), "dev"
    except RunError:  # a result file is gone: the page does without its answers
        return None


def _has_items(view: RunView, member: Member) -> bool:
    path = view.run.held_out("confirm", member.fingerprint)
    return path.is_file() and bool(Result.load(path).items)


Pair = tuple[str, ItemScore, ItemScore | None]


def _kinds(view: RunView, ours: Result, theirs: Result | None) -> dict[str, list[Pair]]:
    """Items by group. An item is solved where every score that decides is at its best."""
    measures = deciding(view.search)
    kinds: dict[str, list[Pair]] = {}

    def solved(task: str, item: ItemScore) -> bool:
        if JOINT in item.scores:
            return item.scores[JOINT] == 1.0
        told = [
            (item.scores[key], measure)
            for (of, key), measure in measures.items()
            if of == task and key in item.scores
        ]
        return bool(told) and all(
            score >= (m.range[0] + m.range[1]) / 2
            if m.direction == "maximize"
            else score <= (m.range[0] + m.range[1]) / 2
            for score, m in told
        )

    if theirs is None:
        for task, rows in ours.items.items():
            for row in rows:
                kinds.setdefault("solve" if solved(task, row) else "fail", []).append(
                    (task, row, None)
                )
        return kinds
    for one in changes(ours, theirs, measures):
        mine, other = solved(one.task, one.ours), solved(one.task, one.theirs)
        name = "solve" if mine else "fail"
        if mine != other:
            name = "wins" if mine else "loses"
        kinds.setdefault(name, []).append((one.task, one.ours, one.theirs))
    return kinds


def _drawn(pair: Pair) -> str:
    task, item, _ = pair
    return hashlib.sha256(f"report:{task}/{item.id}".encode()).hexdigest()


def _alone(name: str) -> str:
    return {"fail": "not solved", "solve": "solved"}.get(name, GROUPS[name])


def _rule(view: RunView, label: str | None, split: Split, groups: Sequence[Group]) -> str:
    whose = ""
    joint = any(member.joint is not None for member in view.members)
    if label is not None:
        best = "the most answers right and in the language" if joint else "the best balance"
        whose = f"The baseline is {label}, the one with {best}. "
    solved = "right and in the language" if joint else "at least half of every score that decides"
    counts = ", ".join(f"{group.count:,} {group.title}" for group in groups)
    return (
        f"{whose}Of the {split} items: {counts}. Solved means {solved}. The items shown are the"
        " first of each group by a hash of their names: nobody picked them."
    )


def _sample(
    view: RunView,
    prompts: Mapping[tuple[str, str], Asked],
    task: str,
    one: ItemScore,
    other: ItemScore | None,
) -> Sample:
    asked = prompts.get((task, one.id), Asked("", ""))
    return Sample(
        task=task,
        id=one.id,
        prompt=cut(asked.prompt, LONGEST),
        expected=cut(asked.answer, LONGEST // 4),
        ours=_said(view, task, one),
        theirs=None if other is None else _said(view, task, other),
    )


def _said(view: RunView, task: str, item: ItemScore) -> Said:
    answer: ItemScore | SampleScore = item.answers[0]
    parts = split_text(answer.text)
    keys = dict.fromkeys([*(key for of, key in deciding(view.search) if of == task), JOINT])
    ends = {"length": "cut at max_tokens", "loop": "ended in a loop"}
    return Said(
        thinking=cut((parts.thinking or "").strip(), LONGEST),
        answer=cut(parts.answer.strip(), LONGEST),
        scores=[
            ("right and in the language" if key == JOINT else key, f"{item.scores[key]:.3g}")
            for key in keys
            if key in item.scores
        ],
        read=[(key, text) for key, text in answer.details.items() if text],
        tokens=answer.tokens,
        ended=ends.get(answer.finish_reason, ""),
    )
