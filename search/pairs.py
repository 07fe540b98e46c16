"""Two results of a run on the same items, by the labels that users know them by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from merge_core.yaml_io import unknown
from objectives.splits import Split
from search import study as studies
from search.errors import ConfigError
from search.results import Result
from search.run import Run


@dataclass(frozen=True)
class Pair:
    """Two results with the items that are to be compared.

    Attributes:
        split: whose items they are.
        a, b: the results.
        note: which of the two were asked a part of the items only, in words; "" for neither.
    """

    split: Split
    a: Result
    b: Result
    note: str = ""


def pair_of(run: Run, a: str, b: str, split: Split | None = None) -> Pair:
    """Two trials or baselines of a run: "12", "trial:12", or a baseline's label.

    Without a split it is the confirming items if both were asked them, else the dev items; of
    those, where a race stopped one of the two, the items that both were asked.

    Raises:
        ConfigError: one of them is unknown, failed, or was not asked these items.
    """
    one, other = _dev(run, a), _dev(run, b)
    if split is None:
        held = all(run.held_out("confirm", r.fingerprint).is_file() for r in (one, other))
        split = "confirm" if held else "dev"
    if split != "dev":
        one, other = _held_out(run, a, one, split), _held_out(run, b, other, split)
    note = _stopped(a, one, b, other)
    if note:
        one, other = _shared(one, other), _shared(other, one)
    return Pair(split, one, other, note)


def _stopped(a: str, one: Result, b: str, other: Result) -> str:
    """Which of the two were asked a part of the dev items only, in words; "" for neither."""
    found = [
        f"{called(label)} was stopped after {stopped.asked} of {stopped.of} items"
        for label, result in ((a, one), (b, other))
        if (stopped := result.stopped) is not None and not stopped.audited
    ]
    return f"{' and '.join(found)}: both are compared on what both answered" if found else ""


def _shared(one: Result, other: Result) -> Result:
    """`one` with the items that `other` was asked too."""
    asked = {task: {item.id for item in items} for task, items in other.items.items()}
    items = {
        task: [item for item in items if item.id in asked.get(task, ())]
        for task, items in one.items.items()
    }
    return replace(one, items=items)


def _dev(run: Run, label: str) -> Result:
    """The result of a trial or a baseline on the dev items."""
    number = _number(label)
    path = run.baseline(label)
    if number.isdecimal() and len(number) < 10:
        trials = studies.open_study(run, create=False).get_trials(deepcopy=False)
        told = trials[int(number)].user_attrs if int(number) < len(trials) else {}
        path = run.trial(int(told.get(studies.DUPLICATE_OF, number)))
    if not path.is_file():
        if number.isdecimal():
            scored = sorted(studies.scored(studies.open_study(run, create=False)))
            raise ConfigError(
                f"{run.folder}: no result of trial {number}; there are {len(scored)} trials"
                + (f", up to {scored[-1]}" if scored else "")
            )
        labels = [*run.search.file.baselines, *(f"expert:{n}" for n in run.search.space.names)]
        there = [one for one in dict.fromkeys(labels) if run.baseline(one).is_file()]
        raise ConfigError(unknown("trial or baseline", label, [*there, "12", "trial:12"]))
    result = Result.load(path)
    if result.fault is not None:
        raise ConfigError(f"{label}: its merge could not be scored: {result.fault}")
    return result


def _number(label: str) -> str:
    """Of a trial, however it was typed; of a baseline, no number."""
    return label.removeprefix("trial").lstrip(": ")


def called(label: str) -> str:
    """What a label names, for people: "trial 12", or a baseline's label."""
    number = _number(label)
    return f"trial {number}" if number.isdecimal() else label


def _held_out(run: Run, label: str, result: Result, split: Split) -> Result:
    path = run.held_out(split, result.fingerprint)
    if not path.is_file():
        raise ConfigError(
            f"{label}: not scored on the {split} items; --split dev compares what the search saw"
        )
    return Result.load(path)
