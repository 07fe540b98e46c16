"""Optuna's samplers, by the name that a search file gives, and what each of them can take.

`sampler: {name: tpe, seed: 0, options: {n_startup_trials: 20}, freeze: {reasoning.density: 0.3}}`.
Whatever a sampler would stumble over in the middle of a search is refused when the file is read.
docs/samplers.md has the facts as a table.

A new sampler is a file and a line in `SAMPLERS`: its class takes `seed` and the options by name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler

from merge_core.errors import RecipeError
from merge_core.yaml_io import one_line, parse_yaml, unknown
from search.errors import ConfigError
from search.sampler_classes import GP_DEFAULTS, GP_TRIALS, TPE_DEFAULTS

if TYPE_CHECKING:
    from search.config import Search
    from search.ehvi import Scale

_SCOUTED = 4
"""Fewer trials than so many times the scouts are a search without any."""

GRID_POINTS = 100_000
"""Optuna's grid is a list in memory, read at each ask."""


@dataclass(frozen=True)
class Option:
    """What a constructor takes: its type, and the least value of a number."""

    type: type
    least: float | None = None

    def refuse(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = {
            bool: isinstance(value, bool),
            int: whole,
            float: whole or isinstance(value, float),
            str: isinstance(value, str),
        }[self.type]
        if not fits:
            called = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
            return f"is {called[self.type]}, not {value!r}"
        if self.least is not None and not value >= self.least:
            return f"is at least {self.least:g}, not {value:g}"
        return None


_STARTUP = Option(int, 1)
_GENETIC = {
    "population_size": Option(int, 2),
    "mutation_prob": Option(float, 0),
    "crossover_prob": Option(float, 0),
    "swapping_prob": Option(float, 0),
}


@dataclass(frozen=True)
class Kind:
    """A sampler that a file may name.

    Attributes:
        target: "module:attribute", resolved at use.
        options: what a file may set, by name.
        defaults: what we set where the file does not.
        objectives: how many it takes at most; None for any number.
        choices: whether it takes `choices`.
        conditional: whether it takes parameters that only some methods have.
        infinite: whether it takes a range without steps.
        freezes: whether it goes on when a parameter is frozen between two sessions.
        sequence: whether it walks one sequence, which a moving seed would begin anew.
        constrained: whether constraints guide its proposals.
    """

    target: str
    options: Mapping[str, Option] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    objectives: int | None = None
    choices: bool = True
    conditional: bool = False
    infinite: bool = True
    freezes: bool = True
    sequence: bool = False
    constrained: bool = False

    @property
    def alias(self) -> str:
        """The name of its class."""
        return self.target.partition(":")[2]

    def load(self) -> Callable[..., BaseSampler]:
        """Its class."""
        module, _, attribute = self.target.partition(":")
        found: Callable[..., BaseSampler] = getattr(import_module(module), attribute)
        return found

    def start(self, options: Mapping[str, Any]) -> int:
        """How many trials it proposes before it has learned anything, with these options."""
        taken = signature(self.load()).parameters
        for name in ("n_startup_trials", "population_size"):
            if name in taken:
                return int({**self.defaults, **options}.get(name, taken[name].default))
        return 0


SAMPLERS: dict[str, Kind] = {
    "auto": Kind(
        "search.sampler_classes:Auto",
        {"gp_trials": Option(int, 0), "n_startup_trials": _STARTUP},
        conditional=True,
        constrained=True,
    ),
    "random": Kind("optuna.samplers:RandomSampler", conditional=True),
    "gp": Kind(
        "optuna.samplers:GPSampler",
        {"n_startup_trials": _STARTUP, "deterministic_objective": Option(bool)},
        GP_DEFAULTS,
        constrained=True,
    ),
    "tpe": Kind(
        "optuna.samplers:TPESampler",
        {
            "n_startup_trials": _STARTUP,
            "n_ei_candidates": Option(int, 1),
            "multivariate": Option(bool),
            "group": Option(bool),
            "constant_liar": Option(bool),
        },
        TPE_DEFAULTS,
        conditional=True,
        constrained=True,
    ),
    "nsga2": Kind("optuna.samplers:NSGAIISampler", _GENETIC, constrained=True),
    "nsga3": Kind(
        "optuna.samplers:NSGAIIISampler",
        {**_GENETIC, "dividing_parameter": Option(int, 1)},
        constrained=True,
    ),
    "cmaes": Kind(
        "optuna.samplers:CmaEsSampler",
        {
            "n_startup_trials": _STARTUP,
            "popsize": Option(int, 4),
            "use_separable_cma": Option(bool),
            "with_margin": Option(bool),
            "lr_adapt": Option(bool),
        },
        {"warn_independent_sampling": False},
        objectives=1,
        choices=False,
        freezes=False,
    ),
    "qmc": Kind(
        "optuna.samplers:QMCSampler",
        {"qmc_type": Option(str), "scramble": Option(bool)},
        # Not scrambled, its first point is the low end of every range.
        {"scramble": True, "warn_independent_sampling": False},
        sequence=True,
    ),
    "grid": Kind("search.sampler_classes:GridSampler", infinite=False, sequence=True),
    "bruteforce": Kind(
        "search.sampler_classes:BruteForceSampler",
        {"avoid_premature_stop": Option(bool)},
        conditional=True,
        infinite=False,
    ),
}


def named(name: str) -> str:
    """The name in `SAMPLERS` of what a file names, by our name or the class's.

    Raises:
        ValueError: there is none.
    """
    aliases = {kind.alias: key for key, kind in SAMPLERS.items()}
    if name not in SAMPLERS and name not in aliases:
        raise ValueError(unknown("sampler", name, SAMPLERS))
    return aliases.get(name, name)


def make_sampler(
    search: Search, finished: int, hurried: Callable[[], bool] | None = None
) -> BaseSampler:
    """The sampler that the file asks for.

    Sampler state is not stored; the seed moves on with the number of trials, so that a resumed
    search does not propose its first recipes again.

    Args:
        search: whose file it is.
        finished: trials so far.
        hurried: tells whether workers wait for proposals, for `auto`.
    """
    entry = search.file.sampler
    kind = SAMPLERS[entry.name]
    given = {**kind.defaults, **entry.options}
    if entry.name == "auto":
        given |= {"scales": _scales(search) if _numeric(search) else None, "hurried": hurried}
    if entry.name in ("auto", "tpe"):
        given.setdefault("group", _dynamic(search) != ())
    if entry.name == "grid":
        given["search_space"] = {name: _listed(d) for name, d in _free(search).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = kind.load()(seed=entry.seed + (0 if kind.sequence else finished), **given)
    return _freezing(sampler, search)


def scouts(search: Search) -> int:
    """How many trials have to end before a model proposes that can learn from rough scores.

    0 where none does, where races are off, and where that would be much of the whole search.
    """
    entry, racing, trials = search.file.sampler, search.file.racing, search.file.budget.trials
    if not (racing.enabled and racing.scouts and "ehvi" in proposers(search)):
        return 0
    start = SAMPLERS[entry.name].start(entry.options)
    return 0 if trials is not None and trials < _SCOUTED * start else start


def proposers(search: Search) -> dict[str, int | None]:
    """Who proposes, and before which trial that ends (None: never).

    By the names in `SAMPLERS`; `ehvi` is the Gaussian process of `auto`.
    """
    entry = search.file.sampler
    if entry.name != "auto":
        return {entry.name: None}
    upto = entry.options.get("gp_trials", GP_TRIALS) if _numeric(search) else 0
    trials = search.file.budget.trials
    if upto and trials is not None and trials <= upto:
        return {"ehvi": None}
    return {"ehvi": upto, "tpe": None} if upto else {"tpe": None}


def random_sampler(search: Search, finished: int) -> BaseSampler:
    """Draws at random, but for what is frozen: the way out when proposals repeat themselves."""
    return _freezing(RandomSampler(seed=search.file.sampler.seed + finished), search)


def _freezing(sampler: BaseSampler, search: Search) -> BaseSampler:
    freeze = search.file.sampler.freeze
    if not freeze:
        return sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PartialFixedSampler(dict(freeze), sampler)


# ---- what is known when a file is read


def check(search: Search) -> None:
    """Refuse what the file's sampler would stumble over later.

    Raises:
        ConfigError: an option, a frozen value or the sampler does not fit; begins with its place.
    """
    entry = search.file.sampler
    kind = SAMPLERS[entry.name]
    for name, value in entry.options.items():
        where = ("sampler", "options", name)
        if not kind.options:
            raise search.fault(where, f"sampler {entry.name} takes no options, so no '{name}'")
        if name not in kind.options:
            what = unknown(f"option of sampler {entry.name}", name, kind.options)
            raise search.fault(where, what)
        if (wrong := kind.options[name].refuse(value)) is not None:
            raise search.fault(where, f"{name} {wrong}")
    _check_frozen(search)
    if (misfit := _misfit(search, kind)) is not None:
        raise search.fault(("sampler",), f"sampler {entry.name} {misfit}")
    try:
        make_sampler(search, 0)
    except ValueError as error:
        message = one_line(error).replace("`", "")
        raise search.fault(("sampler", "options"), f"sampler {entry.name}: {message}") from None


def notes(search: Search) -> list[str]:
    """What may surprise in how the sampler takes this search, one line each."""
    entry = search.file.sampler
    found = []
    if search.constraints and not SAMPLERS[entry.name].constrained:
        found.append(
            f"sampler {entry.name} proposes without regard to constraints; "
            "auto, gp, tpe and nsga2 look for recipes that hold them"
        )
    return found


def freeze(search: Search, given: Sequence[str]) -> Search:
    """`search` with parameters frozen as typed: NAME=VALUE, on top of the file's own.

    Raises:
        ConfigError: one of them is none, or does not fit; begins with what was typed.
    """
    frozen: dict[str, Any] = dict(search.file.sampler.freeze)
    typed = " ".join(f"--freeze {text}" for text in given)
    for text in given:
        name, equals, value = text.rpartition("=")
        if not equals or not name:
            raise ConfigError(f"--freeze {text}: write NAME=VALUE, as in reasoning.density=0.3")
        try:
            frozen[name] = parse_yaml(value, Path("value")).data
        except RecipeError:
            raise ConfigError(f"--freeze {text}: {value!r} is no value") from None
    data = search.file.sampler.model_dump(exclude_unset=True) | {"freeze": frozen}
    return search.with_value("sampler", data, typed)


def _check_frozen(search: Search) -> None:
    freeze = search.file.sampler.freeze
    known = search.space.distributions()
    for name, value in freeze.items():
        where = ("sampler", "freeze", name)
        if name not in known:
            raise search.fault(where, unknown("parameter", name, known))
        if (wrong := _outside(value, known[name])) is not None:
            raise search.fault(where, f"{name} {wrong}")
    if freeze and not _free(search):
        raise search.fault(("sampler", "freeze"), "every parameter is frozen: nothing to search")


def _outside(value: Any, distribution: BaseDistribution) -> str | None:
    """Why a parameter cannot have `value`, or None."""
    if isinstance(distribution, CategoricalDistribution):
        if any(type(value) is type(c) and value == c for c in distribution.choices):
            return None
        return f"is one of {', '.join(map(str, distribution.choices))}, not {value!r}"
    assert isinstance(distribution, FloatDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"is a number, not {value!r}"
    low, high, step = distribution.low, distribution.high, distribution.step
    if not low <= value <= high:
        return f"goes from {low:g} to {high:g}: {value:g} lies outside"
    if not distribution._contains(float(value)):
        return f"goes from {low:g} to {high:g} in steps of {step:g}: {value:g} is none of them"
    return None


def _misfit(search: Search, kind: Kind) -> str | None:
    """Why the sampler cannot search this file's space, or None."""
    free = _free(search)
    count = len(search.objectives)
    if kind.objectives is not None and count > kind.objectives:
        return f"takes one objective, and the file has {count}; use auto, gp, tpe or nsga2"
    if not kind.freezes and search.file.sampler.freeze:
        return (
            "cannot go on with fewer dimensions; put the value in place of the range "
            "and start another run with --new, or use auto, gp or tpe"
        )
    if not kind.choices:
        for name, distribution in free.items():
            if isinstance(distribution, CategoricalDistribution):
                return f"takes ranges only, and {name} has choices; use auto, gp or tpe"
    if not kind.conditional and (some := _dynamic(search)):
        return f"takes no parameter that only some methods have, as {some[0]}; use auto or tpe"
    if not kind.infinite:
        for name, distribution in free.items():
            if isinstance(distribution, FloatDistribution) and distribution.step is None:
                return f"needs a step for every range, and {name} has none"
    if kind.alias == "GridSampler":
        points = math.prod(len(_listed(distribution)) for distribution in free.values())
        if points > GRID_POINTS:
            return (
                f"would list {points:,} points, more than {GRID_POINTS:,}; "
                "use bruteforce, which lists none, or larger steps"
            )
    return None


def _free(search: Search) -> dict[str, BaseDistribution]:
    """The parameters that are not frozen and have more than one value."""
    return {
        name: distribution
        for name, distribution in search.space.distributions().items()
        if name not in search.file.sampler.freeze and not distribution.single()
    }


def _dynamic(search: Search) -> tuple[str, ...]:
    """The parameters that some methods of the space have and others do not."""
    asked = []
    for method in search.space.methods:
        names: list[str] = []

        def suggest(
            name: str,
            distribution: BaseDistribution,
            chosen: str = method.name,
            names: list[str] = names,
        ) -> Any:
            if name == "merge_method":
                return chosen
            names.append(name)
            if isinstance(distribution, CategoricalDistribution):
                return distribution.choices[0]
            assert isinstance(distribution, FloatDistribution)
            return distribution.low

        search.space.recipe(suggest)
        asked.append(names)
    return tuple(
        name
        for name in dict.fromkeys(name for names in asked for name in names)
        if not all(name in names for names in asked)
    )


def _numeric(search: Search) -> bool:
    """Whether the Gaussian process models all of the space: no choices, nothing conditional."""
    return not _dynamic(search) and all(
        isinstance(distribution, FloatDistribution) for distribution in _free(search).values()
    )


def _scales(search: Search) -> tuple[Scale, ...]:
    """How the Gaussian process sees the objectives."""
    from search.ehvi import Scale

    found = []
    for objective in search.objectives:
        ends = zip(*(measure.range for measure in objective.measures), strict=True)
        low, high = (math.fsum(end) / len(end) for end in ends)
        name, sign = objective.name, objective.sign
        found.append(Scale(name, sign, objective.reference, low, high))
    return tuple(found)


def _listed(distribution: BaseDistribution) -> list[Any]:
    """All values of a range with steps, as Optuna counts them, or of choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution)
    assert distribution.step is not None
    low, high, step = (
        Decimal(str(n)) for n in (distribution.low, distribution.high, distribution.step)
    )
    return [float(low + step * i) for i in range(int((high - low) / step) + 1)]
