"""Whether confirmation tells the truth: demo searches against 2,048 items that no split has.

    python -m benchmarks.confirmation record FOLDER     # slow; goes on where it stopped
    python -m benchmarks.confirmation report FOLDER     # seconds; intervals by today's code

Every seed is a world of its own: models, sampler, items and further items are drawn anew.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measure import say
from merge_core import Recipe
from merge_core.yaml_io import write_atomic
from objectives import Estimate, Task
from search.config import Search, load
from search.confirm import Member, members_of
from search.demo import DemoError, ensure_trio, write_items
from search.front import gains, hypervolume
from search.results import Result, joint
from search.run import Run
from search.session import prepare
from search.session import run as run_search
from search.terminal import Progress as SearchProgress
from search.worker import Evaluator, Job

TASK = "math_th"
FURTHER = 2048
"""Further items: their scores are what claims and confirmations are held against."""


# --- Record --------------------------------------------------------------------------------------


def record(folder: Path, seeds: Sequence[int], trials: int, workers: int) -> None:
    """Train, search, confirm and score on further items; what is there is not made again."""
    for seed in seeds:
        place = folder / f"seed-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            _search(place, seed, trials, workers)
        except DemoError as error:  # a seed whose models learn too little makes no demo either
            say(f"seed {seed}: left out: {error}")
            continue
        _score_further(place, seed)
        say(f"seed {seed}: recorded")


def _search(place: Path, seed: int, trials: int, workers: int) -> None:
    """What `mergefront demo` does up to the confirmed front, unless that is there.

    Raises:
        DemoError: the seed's models cannot be trained.
    """
    file = place / "demo.yaml"
    if not file.exists():
        write_atomic(file, files("configs").joinpath("demo.yaml").read_text(encoding="utf-8"))
    if _run(place).confirmed.is_file():
        return
    say(f"seed {seed}: training")
    ensure_trio(place / "trio", seed=seed)
    if not (place / "items.jsonl").exists():
        write_items(place / "items.jsonl", seed=1234 + seed)  # of seed 0 as the demo's own
    given = [f"budget.trials={trials}", f"workers.count={workers}", f"sampler.seed={seed}"]
    with SearchProgress(Console(width=120)) as progress:
        found = run_search(prepare(load(file, given)), _run(place).folder, progress)
    if not found.members:
        raise SystemExit(found.problem or "stopped; the same command goes on")


def _score_further(place: Path, seed: int) -> None:
    """Score every confirmed member on the further items."""
    search = _searched(place)
    members = _recorded(place)
    if all(_further(place, member).is_file() for member in members):
        return
    _write_further(place, seed)
    prepared = prepare(search)
    config = search.file.tasks[TASK]
    # As a report task without splits, so that all lines are items of one split: test.
    config = config.model_copy(update={"items": "further.jsonl", "role": "report", "splits": None})
    tasks = {TASK: Task.load(TASK, config, place)}
    # One thread: on a busy machine two would mostly wait for each other.
    evaluator = Evaluator(replace(prepared.setup(), tasks=tasks))
    for member in members:
        path = _further(place, member)
        if not path.is_file():
            recipe = Recipe.parse(member["recipe"])
            job = Job(member["label"], recipe, member["fingerprint"], "test")
            result = evaluator.evaluate(job)
            result.save(path)
            spent = sum(result.seconds.values())
            say(f"seed {seed}: {member['label']} on further items in {spent:.0f} s")
    evaluator.close()


def _write_further(place: Path, seed: int) -> None:
    """Draw further items, none of which any split has."""
    path = place / "further.jsonl"
    if path.exists():
        return
    held = (place / "items.jsonl").read_text(encoding="utf-8").splitlines()
    known = {json.loads(line)["prompt"] for line in held}
    drawn = place / "drawn.jsonl"
    write_items(drawn, dev=0, confirm=0, test=FURTHER + len(known), seed=1_000_000 + seed)
    lines = drawn.read_text(encoding="utf-8").splitlines()
    new = [line for line in lines if json.loads(line)["prompt"] not in known]
    write_atomic(path, "".join(f"{line}\n" for line in new[:FURTHER]))
    drawn.unlink()


# --- Report --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """One score of one member, three times: on dev, confirm and further items.

    Attributes:
        confirmed: with the interval that holds together with all others of its seed.
        alone: the same score with an interval for itself.
        true: the score on further items, which has some noise of its own.
    """

    seed: int
    label: str
    measure: str
    claimed: Estimate
    confirmed: Estimate
    alone: Estimate
    true: Estimate

    @property
    def baseline(self) -> bool:
        """Whether nothing chose the member for its claim."""
        return not self.label.startswith("trial ")

    @property
    def holds(self) -> bool:
        """Whether the true score is in the simultaneous confirmed interval."""
        return _within(self.true, self.confirmed)

    @property
    def refuted(self) -> bool:
        """Whether the noise of the further items cannot be why it does not hold."""
        return self.true.high < self.confirmed.low or self.true.low > self.confirmed.high


@dataclass(frozen=True)
class Seed:
    """What one demo search claimed, what was confirmed, and what is true.

    Attributes:
        number: the seed.
        members: of the claimed front, as confirmed; baselines too.
        values: of all members, member by member.
        volumes: hypervolume of the confirmed trials by claimed, confirmed and true scores.
    """

    number: int
    members: Sequence[Member]
    values: Sequence[Value]
    volumes: tuple[float, float, float]


def report(folder: Path) -> None:
    """Print, and write to `report.md`, what the recorded scores say of the intervals.

    Raises:
        SystemExit: no seed is recorded yet.
    """
    places = sorted(folder.glob("seed-*"), key=lambda place: int(place.name.split("-")[1]))
    seeds = [_read(place) for place in places if _is_recorded(place)]
    if not seeds:
        raise SystemExit(f"{folder}: no seed is recorded whole; run: record {folder}")
    missing = [place.name for place in places if not _is_recorded(place)]
    lines = [
        *_summary(seeds),
        f"Not recorded: {', '.join(missing) or 'none'}.",
        "",
        *_by_seed(seeds),
        "",
        *_by_member(seeds),
    ]
    write_atomic(folder / "report.md", "".join(f"{line}\n" for line in lines))
    for line in lines:
        say(line)


def _is_recorded(place: Path) -> bool:
    if not (place / "demo.yaml").is_file() or not _run(place).confirmed.is_file():
        return False
    return all(_further(place, member).is_file() for member in _recorded(place))


def _read(place: Path) -> Seed:
    """Compute members anew from per-item scores, so that intervals are by today's code."""
    search, run, number = _searched(place), _run(place), int(place.name.split("-")[1])
    recipes, claimed, confirmed, true = {}, {}, {}, {}
    for row in _recorded(place):
        label, trial = row["label"], row["trial"]
        claimed[label] = Result.load(run.baseline(label) if trial is None else run.trial(trial))
        confirmed[label] = Result.load(run.held_out("confirm", row["fingerprint"]))
        true[label] = Result.load(_further(place, row))
        recipes[label] = Recipe.parse(row["recipe"])
    members = members_of(search, recipes, claimed, confirmed)
    values = []
    for member in members:
        told, again, further = (held[member.label] for held in (claimed, confirmed, true))
        scores = {
            o.name: (member.confirmed[o.name], *(r.estimate(o) for r in (told, again, further)))
            for o in search.objectives
        }
        scores["joint"] = (
            _there(member.joint),
            *(_there(joint(r)) for r in (told, again, further)),
        )
        for measure, (together, dev, alone, rest) in scores.items():
            values.append(Value(number, member.label, measure, dev, together, alone, rest))
    trials = [member for member in members if member.trial is not None]

    def volume(score: Callable[[Member, str], float]) -> float:
        rows = [[score(member, o.name) for o in search.objectives] for member in trials]
        return hypervolume([gains(row, search.objectives) for row in rows])

    truth = {(value.label, value.measure): value.true.value for value in values}
    volumes = (
        volume(lambda member, name: member.claimed[name].value),
        volume(lambda member, name: member.confirmed[name].value),
        volume(lambda member, name: truth[member.label, name]),
    )
    return Seed(number, members, values, volumes)


def _there(estimate: Estimate | None) -> Estimate:
    assert estimate is not None, "the demo's task tells both"
    return estimate


def _within(true: Estimate, interval: Estimate) -> bool:
    # A bound that is 1 may be stored as 1 - 1e-16.
    return interval.low - 1e-9 <= true.value <= interval.high + 1e-9


def _summary(seeds: Sequence[Seed]) -> list[str]:
    values = [value for seed in seeds for value in seed.values]
    groups = (
        [value for value in values if not value.baseline],
        [value for value in values if value.baseline],
        values,
    )
    numbers = ", ".join(str(seed.number) for seed in seeds)
    whole = sum(all(value.holds for value in seed.values) for seed in seeds)
    means = [math.fsum(seed.volumes[i] for seed in seeds) / len(seeds) for i in range(3)]
    rows: list[tuple[str, Callable[[Value], bool]]] = [
        ("in the simultaneous 95% intervals (confirmed)", lambda v: v.holds),
        ("outside by more than their own 95% interval", lambda v: v.refuted),
        ("in 95% intervals each for itself (confirmed)", lambda v: _within(v.true, v.alone)),
        ("in 95% intervals each for itself (claimed)", lambda v: _within(v.true, v.claimed)),
    ]
    lines = [
        f"Seeds {numbers}. True is the score on {FURTHER:,} further items, which has noise too.",
        "Means are of seeds, +- one standard error.",
        "",
        "| true scores | front members | baselines | all |",
        "|---|---|---|---|",
    ]
    for title, holds in rows:
        shares = " | ".join(_share(sum(map(holds, group)), len(group)) for group in groups)
        lines.append(f"| {title} | {shares} |")
    for measure in dict.fromkeys(value.measure for value in values):
        for kind in ("claimed", "confirmed"):
            errors = [
                [
                    (v.seed, getattr(v, kind).value - v.true.value)
                    for v in group
                    if v.measure == measure
                ]
                for group in groups
            ]
            means_of = " | ".join(_mean(pairs) for pairs in errors)
            lines.append(f"| mean {kind} - true: {measure} | {means_of} |")
    return [
        *lines,
        "",
        f"Seeds whose confirmed intervals all hold: {_share(whole, len(seeds))}.",
        "Mean hypervolume of the claimed front: "
        + ", ".join(f"{n} {m:.4f}" for n, m in zip(_VOLUMES, means, strict=True))
        + ".",
    ]


_VOLUMES = ("claimed", "confirmed", "true")


def _by_seed(seeds: Sequence[Seed]) -> list[str]:
    lines = [
        "| seed | trials confirmed | still on the front | values that hold |"
        " hypervolume: claimed | confirmed | true |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed in seeds:
        trials = [member for member in seed.members if member.trial is not None]
        held = sum(value.holds for value in seed.values)
        cells = [
            *(str(seed.number), str(len(trials)), str(sum(m.on_front for m in trials))),
            f"{held} of {len(seed.values)}",
            *(f"{volume:.4f}" for volume in seed.volumes),
        ]
        lines.append(_row(cells))
    return lines


def _by_member(seeds: Sequence[Seed]) -> list[str]:
    measures = list(dict.fromkeys(value.measure for seed in seeds for value in seed.values))
    heads = [f"{m}: claimed | confirmed | true" for m in measures]
    lines = [
        "`!`: the confirmed interval does not hold; `f`: on the confirmed front.",
        "",
        _row(["seed", "member", *heads]),
        _row(["---"] * (2 + 3 * len(measures))),
    ]
    for seed in seeds:
        for member in seed.members:
            cells = [str(seed.number), f"{member.label}{' f' if member.on_front else ''}"]
            for value in seed.values:
                if value.label == member.label:
                    both = value.confirmed
                    cells += [
                        f"{value.claimed.value:.3f}",
                        f"{both.value:.3f} [{both.low:.3f}, {both.high:.3f}]",
                        f"{value.true.value:.3f}{'' if value.holds else ' !'}",
                    ]
            lines.append(_row(cells))
    return lines


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({count / of:.1%})"


def _mean(pairs: Iterable[tuple[int, float]]) -> str:
    """The mean of the seeds' mean errors and its standard error (one seed has none)."""
    by_seed: dict[int, list[float]] = {}
    for seed, error in pairs:
        by_seed.setdefault(seed, []).append(error)
    means = [math.fsum(errors) / len(errors) for errors in by_seed.values()]
    mean = math.fsum(means) / len(means)
    if len(means) == 1:
        return f"{mean:+.4f}"
    spread = math.sqrt(math.fsum((m - mean) ** 2 for m in means) / (len(means) - 1))
    return f"{mean:+.4f} +- {spread / math.sqrt(len(means)):.4f}"


# --- Places --------------------------------------------------------------------------------------


def _searched(place: Path) -> Search:
    return load(place / "demo.yaml")


def _run(place: Path) -> Run:
    """The run folder, for its places alone: no run need be there, nor one of today's code."""
    return Run(place / "run", _searched(place))


def _recorded(place: Path) -> list[dict[str, Any]]:
    """Label, fingerprint and recipe of every confirmed member."""
    data = json.loads(_run(place).confirmed.read_text(encoding="utf-8"))
    members: list[dict[str, Any]] = data["members"]
    return members


def _further(place: Path, member: dict[str, Any]) -> Path:
    return place / "further" / f"{member['fingerprint']}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Record or report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.confirmation", description=__doc__)
    parser.add_argument("what", choices=["record", "report"])
    parser.add_argument("folder", type=Path, help="of the recording")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    parser.add_argument("--trials", type=int, default=60, help="of each search")
    parser.add_argument("--workers", type=int, default=2, help="of each search")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute()
    if options.what == "record":
        record(folder, range(options.seeds), options.trials, options.workers)
    else:
        report(folder)


if __name__ == "__main__":
    main()
