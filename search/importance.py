"""How much each parameter matters for each objective, and which of them could be frozen.

PED-ANOVA (Watanabe et al., IJCAI 2023; for conditional spaces Optuna's condPED-ANOVA): how
different the values of a parameter are among the best fifth of the trials from those among all of
them. It needs no model of the scores and takes conditional spaces. Its limits: it sees one
parameter at a time, so two that only matter together look idle; and a parameter that the sampler
hardly varied looks idle, too. What it says of noise is told beside it: the same figure with scores
dealt to the trials at random, which a parameter that matters has to exceed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, multimode
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from search import study as studies
from search.config import Search
from search.errors import RunError
from search.front import gains
from search.run import Run
from search.standing import behind

FEWEST = 25
"""Trials: PED-ANOVA wants five in the best fifth."""
BEST = 0.2
FRONT = "front"
"""The column of coming close to the front, beside those of the objectives."""
_DEALS = 40
_ABOVE = 0.95


@dataclass(frozen=True)
class Importance:
    """What is known of one parameter.

    Attributes:
        name: the study's.
        shares: of what can be explained, by column: an objective, or coming close to the front.
        noise: the share that it would reach by chance in 1 of 20 cases, by column.
        best: where the middle half of the best fifth lies, by column: (low, median, high), or of
            choices the most frequent one.
        frozen: whether the file holds it at one value.
    """

    name: str
    shares: dict[str, float]
    noise: dict[str, float]
    best: dict[str, Any]
    frozen: bool

    def matters(self, column: str) -> bool:
        """Whether it explains more than chance does."""
        return self.shares[column] > self.noise[column]

    @property
    def idle(self) -> bool:
        """Whether nothing shows that it matters for anything."""
        return not self.frozen and not any(map(self.matters, self.shares))


def importances(run: Run) -> list[Importance]:
    """Of every parameter, most important for the front first.

    Raises:
        RunError: too few trials have finished.
    """
    trials = studies.scored(studies.open_study(run, create=False))
    if len(trials) < FEWEST:
        raise RunError(
            f"{run.folder}: {len(trials)} finished trials tell little of what matters; "
            f"go on to {FEWEST} at least"
        )
    return of_trials(trials, run.search)


def of_trials(trials: Mapping[int, FrozenTrial], search: Search) -> list[Importance]:
    """The same of trials that are scored (`search.study.scored`), at least FEWEST of them."""
    objectives = search.objectives
    losses = {
        objective.name: {n: -gains(t.values, objectives)[i] for n, t in trials.items()}
        for i, objective in enumerate(objectives)
    }
    losses[FRONT] = behind(trials, search)
    names = [n for n in search.space.distributions() if any(n in t.params for t in trials.values())]
    plain = _plain(trials)
    found = {column: _shares(plain, names, values) for column, values in losses.items()}
    frozen = search.file.sampler.freeze
    return sorted(
        (
            Importance(
                name=name,
                shares={column: shares[name] for column, (shares, _) in found.items()},
                noise={column: noise[name] for column, (_, noise) in found.items()},
                best={column: _best(trials, name, values) for column, values in losses.items()},
                frozen=name in frozen or search.space.distributions()[name].single(),
            )
            for name in names
        ),
        key=lambda one: -one.shares[FRONT],
    )


def _plain(trials: Mapping[int, FrozenTrial]) -> optuna.Study:
    """A study of the trials' parameters alone, numbered anew in their order."""
    study = optuna.create_study()
    study.add_trials(
        optuna.trial.create_trial(params=t.params, distributions=t.distributions, value=0.0)
        for t in trials.values()
    )
    return study


def _shares(
    study: optuna.Study, names: Sequence[str], losses: Mapping[int, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Each parameter's share of the divergence, and what it is with losses dealt at random.

    `losses` are in the order of the study's trials.
    """
    # Here, because it brings scikit-learn, a second to import, and most commands ask nothing of it.
    from optuna.importance import PedAnovaImportanceEvaluator

    evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST)

    def raw(values: Sequence[float]) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it minimizes; that a method was tried once
            return evaluator.evaluate(study, list(names), target=lambda t: values[t.number])

    told = list(losses.values())
    real = raw(told)
    total = sum(real.values()) or 1.0
    random = np.random.default_rng(0)
    dealt = [raw(list(random.permutation(told))) for _ in range(_DEALS)]
    noise = {n: float(np.quantile([deal[n] for deal in dealt], _ABOVE)) for n in names}
    return {n: real[n] / total for n in names}, {n: noise[n] / total for n in names}


def _best(trials: Mapping[int, FrozenTrial], name: str, losses: Mapping[int, float]) -> Any:
    """Where a parameter lies in the best fifth of the trials that have it."""
    having = sorted((n for n, t in trials.items() if name in t.params), key=lambda n: losses[n])
    values = [trials[n].params[name] for n in having[: max(5, round(BEST * len(having)))]]
    distribution: BaseDistribution = trials[having[0]].distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        return multimode(values)[0]
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(median(values)), float(high)


def hints(found: Sequence[Importance], run: Run) -> list[str]:
    """What could be frozen, and how."""
    idle = [one for one in found if one.idle]
    if not idle:
        return ["every parameter matters for something; none is to be frozen"]
    typed = " ".join(f"--freeze {one.name}" for one in idle)
    return [
        f"no sign that it matters: {', '.join(one.name for one in idle)} (two that only matter "
        "together look like this, too)",
        f"to search on with the knee's values of them: mergefront narrow {run.folder} {typed}",
    ]


def print_importances(console: Console, run: Run) -> None:
    """As a table: shares by column, and where the best trials lie."""
    found = importances(run)
    columns = list(found[0].shares) if found else []
    table = Table(
        title=f"{run.name}: what decides whether a trial is in the best fifth (PED-ANOVA; "
        "~ is no more than chance)",
        title_justify="left",
    )
    table.add_column("parameter", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
        table.add_column("best at" if column != FRONT else "near it")
    for one in found:
        cells = [escape(one.name) + (" (frozen)" if one.frozen else "")]
        for column in columns:
            cells.append(f"{'' if one.matters(column) else '~ '}{one.shares[column]:.0%}")
            cells.append(escape(_spelled(one.best[column])))
        table.add_row(*cells)
    console.print(table)
    for line in hints(found, run):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def as_json(found: Sequence[Importance], run: Run) -> dict[str, Any]:
    """The same as JSON data."""
    return {
        "run": str(run.folder),
        "evaluator": "PED-ANOVA",
        "best": BEST,
        "parameters": [
            {
                "name": one.name,
                "frozen": one.frozen,
                "importance": one.shares,
                "chance": one.noise,
                "best": {
                    c: dict(zip(("low", "median", "high"), b, strict=True))
                    if isinstance(b, tuple)
                    else b
                    for c, b in one.best.items()
                },
            }
            for one in found
        ],
        "idle": [one.name for one in found if one.idle],
    }


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.3g} to {value[2]:.3g}"
    return str(value).lower() if isinstance(value, bool) else _number(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
