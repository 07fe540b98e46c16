"""What a run adds to the card of its merge: how it was chosen, what it scored, beside what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_core.card import Found, Score, code, md, table
from merge_core.references import HUB_ID
from merge_core.versions import spelled_versions
from objectives import Estimate
from objectives.item_source import DatasetItems, LmEvalItems
from objectives.scorers import make_scorer
from objectives.scorers.language import Language
from search.config import Objective
from search.confirm import Member, load
from search.export import spelled, tested
from search.ledger import Session, sessions
from search.results import Result, joint, reported
from search.run import Run

_PICKED = "the balanced one of the confirmed front (its knee)"


@dataclass(frozen=True)
class Chosen:
    """A confirmed member, and why this one.

    Attributes:
        run: whose.
        member: the one.
        members: all confirmed ones.
        pick: as `search.confirm.choose` takes it; "" where a recipe was given.
        bounds: that were required besides the search's constraints, as `search.export.required`
            takes them.
        nearest: no confirmed member holds them all; this one misses the constraints least.
    """

    run: Run
    member: Member
    members: Sequence[Member]
    pick: str = ""
    bounds: Sequence[str] = ()
    nearest: bool = False


def found_in(chosen: Chosen) -> Found:
    """What the run knows of its merge, for the card."""
    run, member = chosen.run, chosen.member
    test = tested(run, member)
    held = _result(run, member)
    sections = [
        ("How it was chosen", _how(chosen)),
        ("Scores", _scores(chosen, test)),
        ("Constraints", _constraints(run, member, held)),
    ]
    # By its number: a member that other bounds or a longer search would pick is another merge.
    pick = f"--pick trial:{member.trial}" + ("" if member.feasible else " --best-effort")
    return Found(
        scores=tuple(_indexed(run, member, test)),
        languages=_languages(run),
        sections=tuple((title, text) for title, text in sections if text),
        scored_with=tuple(_versions(sessions(run))),
        commands=(f"mergefront export runs/{run.name} {pick} --model OUT  # of the search",),
        limits=(
            "Scores are of the items that were asked. The held-out ones are from the same sources "
            "as those that the search saw; other questions may tell otherwise.",
            "Intervals hold the chance of having drawn these items, no more.",
        ),
    )


def _versions(held: Sequence[Session]) -> list[str]:
    """With which versions the run's sessions scored: a line each time that they were others."""
    found: list[tuple[str, str]] = []
    for session in held:
        told = spelled_versions(session.versions) or "not kept"
        if not found or found[-1][1] != told:
            found.append((session.began[:10], told))
    if len(found) == 1:
        return [found[0][1]]
    return [f"{told} (sessions from {day} on)" for day, told in found]


def _how(chosen: Chosen) -> str:
    run, member = chosen.run, chosen.member
    search = run.search
    tasks = search.file.tasks
    confirmed = next(iter(member.confirmed.values()))
    trials = [m for m in chosen.members if m.trial is not None]
    near = sum(m.near for m in trials)
    behind = f", {near} just behind it" if near else ""
    text = (
        f"Run {code(run.name)} scored {load(run)[1]} recipes (sampler "
        f"{code(search.file.sampler.name)}). {len(trials) - near} trials of its front{behind} and "
        f"{len(chosen.members) - len(trials)} baselines were scored again on held-out items "
        f"({confirmed.n} for {md(next(iter(member.confirmed)))}), with intervals that hold for all "
        f"of them at once. This is {md(member.label)}: {_why(chosen)}.\n\n"
    )
    rows = [
        [md(o.name), o.direction, ", ".join(code("/".join(part)) for part in o.parts)]
        for o in search.objectives
    ]
    text += table(["objective", "direction", "mean of"], rows) + "\n"
    root = search.root
    rows = [[md(name), md(_items(task.items, root)), task.role] for name, task in tasks.items()]
    return text + table(["task", "items", "role"], rows)


def _why(chosen: Chosen) -> str:
    """Why this member, as a part of a sentence."""
    if not chosen.pick:
        return "its recipe was asked for"
    if chosen.pick.startswith("trial:"):
        return f"asked for as {code(chosen.pick)}"
    bounds = ", ".join(map(code, chosen.bounds))
    if chosen.nearest:
        besides = f" and {bounds}" if bounds else ""
        return (
            f"the one that misses the constraints least, for no confirmed one holds them{besides} "
            "with 95% confidence"
        )
    why = _PICKED if chosen.pick == "knee" else f"asked for as {code(chosen.pick)}"
    return f"{why}, of those that hold {bounds} with 95% confidence" if bounds else why


def _scores(chosen: Chosen, test: Result | None) -> str:
    search, member = chosen.run.search, chosen.member
    names = [o.name for o in search.objectives]
    both = any(m.joint is not None for m in chosen.members)
    rows = []
    if test is not None:
        told = [_cell(test.estimate(o)) for o in search.objectives]
        right = joint(test)
        told += [] if not both else [_cell(right) if right is not None else ""]
        rows.append(["**this merge**, test items, scored once", *told])
    others = [m for m in chosen.members if m.trial is None]
    for one in (member, *others):
        label = "**this merge**, held-out items" if one is member else f"{md(one.label)}, held-out"
        told = [_cell(one.confirmed[name]) for name in names]
        told += [] if not both else [_cell(one.joint) if one.joint is not None else ""]
        rows.append([label, *told])
    told = [_cell(member.claimed[name]) for name in names]
    rows.append(["this merge, on the items it was searched on", *told, *([""] if both else [])])
    header = ["", *map(md, names), *(["right and in the language"] if both else [])]
    text = "Means with 95% intervals, and how many items.\n\n" + table(header, rows)
    text += (
        "\nThe last line is what the search claimed: it is optimistic, for the merge was chosen by "
        "it.\n"
    )
    if test is not None and (more := reported(search, test)):
        rows = [
            [md(f"{task}/{key}"), _cell(estimate)]
            for task, scores in more.items()
            for key, estimate in scores.items()
        ]
        text += "\nMeasured and not searched on:\n\n" + table(["score", "test items"], rows)
    return text


def _constraints(run: Run, member: Member, held: Result | None) -> str:
    if not run.search.constraints:
        return ""
    text = ""
    if not member.feasible:
        text = "**Best effort:** it does not hold all constraints with 95% confidence.\n\n"
    rows = []
    for constraint in run.search.constraints:
        mean, holds = "", ""
        if held is not None:
            mean = f"{held.estimate(constraint).value:.3f}"
            holds = "yes" if held.holds(constraint, confirmed=True) else "no"
        rows.append([md(constraint), mean, holds])
    return text + table(["constraint", "held-out mean", "holds with 95% confidence"], rows)


def _indexed(run: Run, member: Member, test: Result | None) -> list[Score]:
    """The best that is known of each objective: never what was only claimed."""
    found = []
    for objective in run.search.objectives:
        estimate = member.confirmed[objective.name]
        split = "held-out"
        if test is not None:
            estimate, split = test.estimate(objective), "test"
        names = list(dict.fromkeys(task for task, _ in objective.parts))
        root, items = run.search.root, [run.search.file.tasks[name].items for name in names]
        told = [f"{name} ({_items(i, root)})" for name, i in zip(names, items, strict=True)]
        found.append(
            Score(
                name=objective.name,
                metric=_metric(objective),
                dataset=", ".join(told),
                dataset_id=_dataset(items[0], root) or names[0],
                split=split,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                n=estimate.n,
            )
        )
    return found


def _metric(objective: Objective) -> str:
    return " + ".join(dict.fromkeys(measure for _, measure in objective.parts))


def _result(run: Run, member: Member) -> Result | None:
    path = run.held_out("confirm", member.fingerprint)
    return Result.load(path) if path.is_file() else None


def _languages(run: Run) -> tuple[str, ...]:
    """What the language scorers of the tasks expect."""
    codes: list[str] = []
    for task in run.search.file.tasks.values():
        for reference in task.scorers:
            if (reference if isinstance(reference, str) else next(iter(reference))) != "language":
                continue  # others may need what is not installed here
            scorer = make_scorer(reference)
            if isinstance(scorer, Language):  # "prompt" and tags name none: no code of the hub's
                codes.append(scorer.params.expect)
    return tuple(dict.fromkeys(codes))


def _items(items: Any, root: Path) -> str:
    """What a task's items are, without a place on this machine."""
    if isinstance(items, LmEvalItems):
        return f"lm-evaluation-harness: {items.lm_eval}"
    if isinstance(items, DatasetItems):
        subset = f", {items.subset}" if items.subset else ""
        return f"{_dataset(items, root) or _name(Path(items.dataset))}{subset}, {items.split}"
    return _name(Path(str(items)))


def _dataset(items: Any, root: Path) -> str | None:
    """The hub id of a task's items, if they are a data set there."""
    if not isinstance(items, DatasetItems) or items.dataset.startswith((".", "/", "~")):
        return None
    # A path that is gone looks like one, too: only a name that the hub takes is shown to others.
    hub = "/" not in items.dataset or HUB_ID.fullmatch(items.dataset)
    return items.dataset if hub and not (root / items.dataset).exists() else None


def _name(path: Path) -> str:
    return path.name


def _cell(estimate: Estimate) -> str:
    return f"{md(spelled(estimate))} (n = {estimate.n})"
