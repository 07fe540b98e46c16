"""What a run has spent, over all its sessions: merges, tokens, seconds, hours, money.

Taken from what the run folder and the study hold, so that a killed driver is accounted for too.
What a worker did for a job that it did not finish is in the hours, not in tokens and merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search import study as studies
from search.amounts import amount
from search.front import front, gains
from search.ledger import Session
from search.results import Result
from search.run import Run

HELD_OUT = ("confirm", "test")
STAGES = ("search", "baselines", *HELD_OUT)
"""What merges are scored for: trials, baselines on the dev items, and the held-out items."""


@dataclass(frozen=True)
class Spent:
    """What one stage took.

    Attributes:
        merges: scored.
        tokens: generated.
        seconds: of workers, by what they did: "load" and "generate".
    """

    merges: int = 0
    tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Iterable[tuple[int, Mapping[str, float]]]) -> Spent:
        """The sum over merges of (tokens, seconds)."""
        merges, tokens, seconds = 0, 0, dict[str, float]()
        for some, took in parts:
            merges, tokens = merges + 1, tokens + some
            for what, spent in took.items():
                seconds[what] = seconds.get(what, 0.0) + spent
        return cls(merges, tokens, seconds)


@dataclass(frozen=True)
class Account:
    """What a run has spent.

    Attributes:
        full: trials scored on all dev items, merges at fault included.
        partial: trials stopped by racing.
        taken: trials told with scores of a baseline or of an earlier run.
        duplicates: trials told with the scores of an earlier one.
        failed: trials that no worker could do; those never begun are none.
        stages: what each of STAGES took.
        saved: tokens that the stopped trials did not generate: their missing items times their
            own tokens per item. An estimate.
        audited: stopped trials that were scored on all items all the same, unseen by the search.
        misjudged: how many of those would be on the front.
        sessions: how often the run was started.
        seconds: for how long it held its workers.
        worker_hours: the same, times the workers.
        gpu_hours: the same, times the GPUs of each; 0 where workers claim none.
        cost: the price of the GPU-hours, of the worker-hours without GPUs; None without a price.
        faults: how often each kind happened (`search.incidents`), of those that did.
    """

    full: int
    partial: int
    taken: int
    duplicates: int
    failed: int
    stages: Mapping[str, Spent]
    saved: int
    audited: int
    misjudged: int
    sessions: int
    seconds: float
    worker_hours: float
    gpu_hours: float
    cost: float | None
    faults: Mapping[str, int]

    @classmethod
    def of(cls, run: Run, study: optuna.Study, sessions: Sequence[Session]) -> Account:
        """The account of a run as its folder and study stand now.

        Raises:
            RunError: a result is damaged.
        """
        told = study.get_trials(deepcopy=False)
        scored = studies.scored(study)
        own = studies.paid(scored)
        stopped = {n: t for n, t in own.items() if studies.PARTIAL in t.user_attrs}
        audited = [number for number, trial in stopped.items() if _audited(trial)]
        folders = {"baselines": run.folder / "baselines"}
        folders |= {split: run.folder / split for split in HELD_OUT}
        stages = {"search": Spent.total(_attributes(trial) for trial in own.values())}
        stages |= {name: Spent.total(_results(folder)) for name, folder in folders.items()}
        price = run.search.file.budget.gpu_hour_price
        return cls(
            full=len(own) - len(stopped),
            partial=len(stopped),
            taken=len(scored) - len(own),
            duplicates=sum(studies.DUPLICATE_OF in trial.user_attrs for trial in told),
            failed=sum(map(studies.failed, told)),
            stages=stages,
            saved=sum(_saved(trial) for trial in stopped.values() if not _audited(trial)),
            audited=len(audited),
            misjudged=_misjudged(run, scored, audited),
            sessions=len(sessions),
            seconds=sum(session.seconds for session in sessions),
            worker_hours=sum(session.worker_hours for session in sessions),
            gpu_hours=sum(session.priced_hours for session in sessions if session.gpus),
            cost=None if price is None else price * sum(s.priced_hours for s in sessions),
            faults=run.incidents.counts,
        )

    @property
    def trials(self) -> int:
        """Those that count against the budget."""
        return self.full + self.partial

    @property
    def tokens(self) -> int:
        """Generated in all."""
        return sum(spent.tokens for spent in self.stages.values())

    @property
    def busy(self) -> float | None:
        """Share of the workers' time in which they merged or answered; None if it is not known.

        It is not where they worked longer than they are known to have been held: earlier sessions
        were of a version that kept no hours.
        """
        worked = sum(sum(spent.seconds.values()) for spent in self.stages.values())
        held = 3600.0 * self.worker_hours
        return worked / held if held and worked <= held else None

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "tokens": self.tokens, "busy": self.busy}

    def metrics(self) -> dict[str, float]:
        """As MLflow's metrics of the whole search."""
        found = {f"tokens_{name}": float(spent.tokens) for name, spent in self.stages.items()}
        found |= {"worker_hours": self.worker_hours, "gpu_hours": self.gpu_hours}
        found |= {"trials_full": float(self.full), "trials_partial": float(self.partial)}
        found |= {"tokens_saved": float(self.saved)}
        found |= {"busy": self.busy} if self.busy is not None else {}
        found |= {f"faults_{kind}": float(count) for kind, count in self.faults.items()}
        return found | ({"cost": self.cost} if self.cost is not None else {})

    def rows(self) -> dict[str, str]:
        """For people, by what is told."""
        counts = [(self.full, "full"), (self.partial, "stopped early"), (self.taken, "taken over")]
        counts += [(self.duplicates, "duplicate"), (self.failed, "failed")]
        parts = ", ".join(f"{name} {s.tokens:,}" for name, s in self.stages.items() if s.merges)
        rows = {
            "trials": ", ".join(f"{n} {what}" for n, what in counts if n or what == "full"),
            "tokens": f"{self.tokens:,} ({parts or 'none yet'})",
        }
        if self.partial:
            rows["saved"] = f"about {self.saved:,} tokens, by stopping trials early"
        if self.audited:
            rows["audited"] = (
                f"{self.audited} stopped trials were scored in full all the same;"
                f" {self.misjudged} of them would be on the front"
            )
        if self.faults:
            rows["faults"] = ", ".join(f"{n} {kind}" for kind, n in self.faults.items())
        took = {
            name: " + ".join(f"{spent:,.1f} {what}" for what, spent in stage.seconds.items())
            for name, stage in self.stages.items()
            if stage.seconds
        }
        if took:
            rows["seconds"] = "of workers: " + ", ".join(f"{k} {v}" for k, v in took.items())
        if self.worker_hours:
            used = (self.gpu_hours, "GPU") if self.gpu_hours else (self.worker_hours, "worker")
            cost = "" if self.cost is None else f", {self.cost:,.2f} at the price given"
            many = f" in {self.sessions} sessions" if self.sessions > 1 else ""
            busy = (
                "without sessions before hours were counted"
                if self.busy is None
                else f"workers busy {self.busy:.0%} of them"
            )
            rows["held"] = (
                f"{amount(used[0])} {used[1]}-hours{cost}; {self.seconds:,.0f} s{many}, {busy}"
            )
        return rows

    def lines(self) -> list[str]:
        """The same, one thing a line."""
        return [f"{what}: {told}" for what, told in self.rows().items()]


def _attributes(trial: FrozenTrial) -> tuple[int, Mapping[str, float]]:
    return int(trial.user_attrs.get("tokens", 0)), trial.user_attrs.get("seconds", {})


def _results(folder: Path) -> Iterable[tuple[int, Mapping[str, float]]]:
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        result = Result.load(path)
        yield result.tokens, result.seconds


def _audited(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs[studies.PARTIAL]["audited"])


def _saved(trial: FrozenTrial) -> int:
    """Tokens that a stopped trial would have generated for its missing items."""
    partial = trial.user_attrs[studies.PARTIAL]
    asked, of = int(partial["items"]), int(partial["of"])
    return round(int(trial.user_attrs["tokens"]) * (of - asked) / max(1, asked))


def _misjudged(run: Run, scored: Mapping[int, FrozenTrial], audited: Sequence[int]) -> int:
    """How many of the audited trials should have gone on, by the scores of all their items.

    Those that hold the constraints, and no front member is at least as good in everything.
    """
    search = run.search
    points = studies.points(scored, search)  # of trials that were not stopped
    errors = 0
    for number in audited:
        result = Result.load(run.trial(number))
        if all(result.holds(constraint, confirmed=False) for constraint in search.constraints):
            values = [result.estimate(objective).value for objective in search.objectives]
            # Of equal points the first is on the front: the audited one comes last.
            errors += number in front({**points, number: gains(values, search.objectives)})
    return errors
