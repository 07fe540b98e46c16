"""A new search file from a run: its ranges narrowed to where the good trials lie.

Good trials are the front and those nearest to it, a fifth of the full, feasible ones in the end. A
new range holds every front member and the middle eight tenths of the good trials, and a tenth of
the old width beyond on either side; it never leaves the old range.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from merge_core.errors import MergeError
from merge_core.yaml_io import Where, parse_yaml, unknown, write_atomic
from search import confirm as confirming
from search import samplers
from search import study as studies
from search.config import Search, fixed_line, parse, with_frozen
from search.errors import ConfigError, ExportError, RunError
from search.front import front, knee
from search.ranges import Distribution, spelled
from search.rewrite import Text, flow
from search.run import Run, freeze
from search.standing import behind

FEWEST = 10
"""Trials with full scores: with fewer there is no telling what the good ones share."""
GOOD = 0.2
_MIDDLE = (0.1, 0.9)
_MARGIN = 0.1
_WORTH = 0.9  # of the old width: a range that would stay larger is left alone
_AT_AN_END = 0.01  # of the width
_BEYOND = 0.25  # of the width: how much wider a range should be whose end the front lies at


@dataclass(frozen=True)
class Seen:
    """The values of the parameters of one range, which may be several: anchors, groups.

    Attributes:
        names: the study's.
        distribution: what they were drawn from.
        front: the values of front members.
        good: those of all good trials, front members among them.
        tried: those of all trials.
        bounds: of what is legal: beyond them no range can go.
    """

    names: tuple[str, ...]
    distribution: Distribution
    front: tuple[Any, ...]
    good: tuple[Any, ...]
    tried: tuple[Any, ...]
    bounds: tuple[float, float]

    def narrowed(self) -> Distribution:
        """The distribution that good trials ask for, inside the old one."""
        old = self.distribution
        if len(self.good) < 5:
            return old
        if isinstance(old, CategoricalDistribution):
            kept = [c for c in old.choices if c in self.good or self.tried.count(c) < 3]
            return CategoricalDistribution(kept)
        if old.single():
            return old
        to, back = (math.log, math.exp) if old.log else (float, float)
        first, last = to(old.low), to(old.high)
        margin = _MARGIN * (last - first)
        middle = np.quantile([to(value) for value in self.good], _MIDDLE)
        low = min([float(middle[0]), *map(to, self.front)]) - margin
        high = max([float(middle[1]), *map(to, self.front)]) + margin
        if min(high, last) - max(low, first) > _WORTH * (last - first):
            return old
        return FloatDistribution(
            _outward(old, back(low), down=True) if low > first else old.low,
            _outward(old, back(high), down=False) if high < last else old.high,
            log=old.log,
            step=old.step,
        )

    def ends(self, frozen: Container[str] = ()) -> list[str]:
        """Which ends of the range the front lies at, if they can be moved and nothing is frozen."""
        old = self.distribution
        if any(name in frozen for name in self.names):
            return []
        if not isinstance(old, FloatDistribution) or old.single() or not self.front:
            return []
        to, back = (math.log, math.exp) if old.log else (float, float)
        first, last = to(old.low), to(old.high)
        width = last - first
        found = []
        for end, legal, sign, word in (
            (first, self.bounds[0], -1, "low"),
            (last, self.bounds[1], 1, "high"),
        ):
            count = sum(abs(to(value) - end) <= _AT_AN_END * width for value in self.front)
            beyond = back(end + sign * _BEYOND * width)
            beyond = max(beyond, legal) if sign < 0 else min(beyond, legal)
            if count and back(end) != legal:
                names = " to ".join(dict.fromkeys([self.names[0], self.names[-1]]))
                found.append(
                    f"the front lies at the {word} end of {names} ({back(end):g}, {count} of "
                    f"{len(self.front)} values): better ones may lie beyond; widen it, "
                    f"{word}: {_readable(beyond, width)}"
                )
        return found


def _outward(old: FloatDistribution, value: float, *, down: bool) -> float:
    """`value` away from the middle to a number of few digits, or of whole steps, in the range."""
    rounding = ROUND_FLOOR if down else ROUND_CEILING
    if old.step is not None:
        low, step = Decimal(str(old.low)), Decimal(str(old.step))
        count = ((Decimal(str(value)) - low) / step).to_integral_value(rounding)
        rounded = float(low + count * step)
    else:
        width = value if old.log else old.high - old.low
        unit = Decimal(1).scaleb(math.floor(math.log10(width / 10)))
        rounded = float((Decimal(str(value)) / unit).to_integral_value(rounding) * unit)
    return min(max(rounded, old.low), old.high)


def _readable(value: float, width: float) -> str:
    return f"{round(value, max(0, 2 - math.floor(math.log10(width)))):g}"


def seen(run: Run, trials: Mapping[int, FrozenTrial]) -> dict[Where, Seen]:
    """By place in the file: what the trials used of each range.

    Raises:
        RunError: too few trials with full scores hold the constraints.
    """
    search = run.search
    points = studies.points(trials, search)
    if len(points) < FEWEST:
        raise RunError(
            f"{run.folder}: {len(points)} trials with full scores hold the constraints; narrowing "
            f"wants {FEWEST} at least"
        )
    leads = behind(trials, search)
    ordered = sorted(points, key=lambda n: leads[n])
    members = front(points)
    good = list(dict.fromkeys([*members, *ordered[: math.ceil(GOOD * len(points))]]))
    names: dict[Where, list[str]] = {}
    for name, where in search.space.places().items():
        names.setdefault(where, []).append(name)
    distributions = search.space.distributions()

    def values(numbers: Sequence[int], where: Where) -> tuple[Any, ...]:
        params = [trials[n].params for n in numbers]
        return tuple(p[name] for p in params for name in names[where] if name in p)

    return {
        where: Seen(
            names=tuple(own),
            distribution=distributions[own[0]],
            front=values(members, where),
            good=values(good, where),
            tried=values(list(trials), where),
            bounds=_legal(search, where),
        )
        for where, own in names.items()
    }


def at_ends(run: Run) -> list[str]:
    """A line for each end of a range that the front lies at, where the range could be wider."""
    trials = studies.scored(studies.open_study(run, create=False))
    try:
        frozen = run.search.file.sampler.freeze
        return [line for one in seen(run, trials).values() for line in one.ends(frozen)]
    except RunError:  # too few trials to say anything
        return []


def _legal(search: Search, where: Where) -> tuple[float, float]:
    if where[-1] == "knee" or "ratio" in where:
        return 0.0, 1.0
    for method in search.space.methods:
        for key in where:
            if key in method.by_name:
                parameter = method.by_name[str(key)]
                return parameter.low, parameter.high
    return -math.inf, math.inf


# ---- the new file


def narrow(console: Console, run: Run, out: Path | None, given: Sequence[str]) -> Path:
    """Write the new search file, and say what it changes.

    Args:
        console: where to say it.
        run: finished, stopped, or going on.
        out: the file; default `<run>-narrow.yaml` beside the run's search file.
        given: NAME or NAME=VALUE of parameters to freeze.

    Raises:
        ConfigError: the file exists or cannot stand there, a frozen parameter does not fit,
            or the sampler cannot search what would be left.
        RunError: too few trials to narrow by.
    """
    root = run.search.root
    out = root / f"{run.name}-narrow.yaml" if out is None else out
    if out.resolve().parent != root:
        raise ConfigError(f"{out}: write it in {root}: its relative paths are relative to there")
    if out.exists():
        raise ConfigError(f"{out}: exists already; name another file with -o")
    trials = studies.scored(studies.open_study(run, create=False))
    source, search = _written(run)
    text = Text(source)
    ranges = _by_text(seen(run, trials), text)
    frozen = _frozen(run, trials, given)
    table = Table("parameter", "was", "now", "front", title_justify="left")
    table.title = f"{run.name}: ranges narrowed to the front and what is near it"
    planned: dict[str, Distribution] = {}
    for where, one in ranges.items():
        old, new = one.distribution, one.narrowed()
        if any(name in frozen for name in one.names):
            new = old
        if new != old and not _rewritten(text, where, new, out):
            new = old
        planned |= dict.fromkeys(one.names, new)
        values = {name: frozen[name] for name in one.names if name in frozen}
        now = ", ".join(
            f"frozen at {v:g}" if _real(v) else f"frozen at {v}" for v in values.values()
        )
        now = now or ("as it was" if new == old else spelled(new))
        table.add_row(escape("\n".join(one.names)), spelled(old), now, _spread(one.front))
    if frozen:
        _freeze(text, search, frozen)
    written = str(text)
    parsed = parse(parse_yaml(written, out))
    for name, distribution in parsed.space.distributions().items():
        assert distribution == planned[name], f"{name} became {distribution}"
    try:
        samplers.check(parsed)
    except ConfigError as error:
        raise ConfigError(f"{error}; nothing is written") from None
    try:
        write_atomic(out, written)
    except OSError as error:  # names a file of ours beside it
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    console.print(table)
    say = [line for one in ranges.values() for line in one.ends(frozen)]
    for line in [*say, f"wrote {out}; next: mergefront run {out} --from {run.folder}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return out


def _rewritten(text: Text, where: Where, new: Distribution, out: Path) -> bool:
    """Write a narrower range; False where the file does not hold it so that it can be."""
    changes: dict[str, Any] = (
        {"choices": list(new.choices)}
        if isinstance(new, CategoricalDistribution)
        else {"low": new.low, "high": new.high}
    )
    written = []
    for key, value in changes.items():
        node = text.node((*where, key))
        if node is None:  # merged in by <<
            return False
        written.append((node, value))
    if where == ("merge_method",):
        # A method may be the only one that has some parameter of the file.
        alone = Text(text.original)
        try:
            for node, value in written:
                alone.replace(node, value)
            parse(parse_yaml(str(alone), out))
        except ConfigError:
            return False
    for node, value in written:
        text.replace(node, value)
    return True


def _by_text(ranges: Mapping[Where, Seen], text: Text) -> dict[Where, Seen]:
    """Ranges that are written once, by an alias in the other places, as one."""
    found: dict[Where, Seen] = {}
    first: dict[int, Where] = {}
    for where, one in ranges.items():
        node = text.node(where)
        place = where if node is None else first.setdefault(id(node), where)
        if (held := found.get(place)) is None:
            found[place] = one
            continue
        found[place] = replace(
            held,
            names=held.names + one.names,
            front=held.front + one.front,
            good=held.good + one.good,
            tried=held.tried + one.tried,
        )
    return found


def _written(run: Run) -> tuple[str, Search]:
    """The text of the run's search file, with its comments where the file still says the same."""
    held = run.folder / "search.yaml"
    for path in (run.search.root / f"{run.name}.yaml", held):
        try:
            text = path.read_text(encoding="utf-8")
            search = parse(parse_yaml(text, run.search.path))
        except (OSError, ConfigError, MergeError):
            if path == held:
                raise
            continue
        if freeze(search) == freeze(run.search):
            return text, search
    raise AssertionError("a run's own copy says what the run does")


def _frozen(run: Run, trials: Mapping[int, FrozenTrial], given: Sequence[str]) -> dict[str, Any]:
    """The run's frozen parameters, and those given."""
    if not given:
        return dict(run.search.file.sampler.freeze)
    known = run.search.space.distributions()
    fixed = run.search.space.fixed()
    typed = []
    for text in given:
        if "=" in text:
            typed.append(text)
        elif text in fixed:
            raise ConfigError(f"--freeze {text}: {fixed_line(text, fixed)}")
        elif text in known:
            typed.append(f"{text}={flow(_usual(run, trials, text))}")
        else:
            raise ConfigError(f"--freeze {text}: {unknown('parameter', text, known)}")
    return dict(with_frozen(run.search, typed).file.sampler.freeze)


def _usual(run: Run, trials: Mapping[int, FrozenTrial], name: str) -> Any:
    """What the knee has of a parameter: the confirmed one, where there is one."""
    points = studies.points(trials, run.search)
    number = knee({n: points[n] for n in front(points)})
    if run.confirmed.is_file():
        try:
            chosen = confirming.choose(run.search, confirming.load(run)[0]).trial
            number = number if chosen is None else chosen
        except ExportError:  # none holds the constraints: the claimed knee stands
            pass
    if name not in trials[number].params:
        raise ConfigError(f"--freeze {name}: trial {number}, the knee, has none; give NAME=VALUE")
    value = trials[number].params[name]
    distribution = trials[number].distributions[name]
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)
    return value


def _freeze(text: Text, search: Search, frozen: Mapping[str, Any]) -> None:
    sampler = text.node(("sampler",))
    if sampler is None:
        text.put((), "sampler", {"freeze": frozen})
    elif isinstance(sampler.value, str):
        text.replace(sampler, {"name": search.file.sampler.name, "freeze": frozen})
    else:
        text.put(("sampler",), "freeze", frozen)


def _spread(values: Sequence[Any]) -> str:
    if not values:
        return "none"
    if not all(map(_real, values)):
        return escape(" | ".join(dict.fromkeys(map(str, values))))
    return f"{min(values):.3g} to {max(values):.3g}"


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
