"""The report's tables: what was confirmed, searched, spent and met, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel

from objectives import make_scorer
from objectives.splits import SPLITS
from search.amounts import amount, many
from search.budget import until
from search.comparison import DELTAS, Told, noise
from search.confirm import Member
from search.confirmed import NO_SCORE, broken, findings, ordered, standing
from search.errors import ConfigError, RunError
from search.export import short, spelled
from search.incidents import POLICIES, Kind
from search.ranges import spelled as spelled_range
from search.secrets import without_password
from search.view import RunView, TrialView

MOST_ROWS = 12
"""Lines of single failures that are shown; all are in run.log and incidents.jsonl."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        heads: of its columns.
        rows: of texts; the first of each names the row.
        marked: indices of rows that stand out.
        quiet: indices of rows that step back.
        words: indices of columns that hold words and not numbers, beside the first.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    quiet: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset()


# ---- what was confirmed


def confirmed(view: RunView) -> tuple[Table, list[str]] | None:
    """Claimed beside confirmed, and what it shows in words; None before the confirmation."""
    if not view.members:
        return None
    names = [objective.name for objective in view.search.objectives]
    both = any(member.joint is not None for member in view.members)
    heads = [""]
    for name in names:
        heads += [f"{name}, claimed", f"{name}, confirmed"]
    heads += ["right and in the language"] if both else []
    members = ordered(view.run, view.members)
    rows = []
    for member in members:
        cells = [member.label]
        for name in names:
            told = [short(member.claimed[name]), spelled(member.confirmed[name])]
            cells += [NO_SCORE, NO_SCORE] if broken(member) else told
        if both:
            cells.append("" if member.joint is None else spelled(member.joint))
        rows.append([*cells, _standing(view, member)])
    chosen = None if view.chosen is None else view.chosen.label
    table = Table(
        [*heads, "standing"],
        rows,
        marked=frozenset(i for i, m in enumerate(members) if m.label == chosen),
        quiet=frozenset(i for i, m in enumerate(members) if m.trial is None),
        words=frozenset([len(heads)]),
    )
    return table, findings(view.run, view.members)


def _standing(view: RunView, member: Member) -> str:
    told = standing(member)
    if view.chosen is not None and member.label == view.chosen.label:
        return f"{told}; chosen"
    return told


# ---- how sure it is


def told_apart(view: RunView) -> tuple[list[Told], Table] | None:
    """What the dev items can tell; None where too few trials are scored, or a result is gone."""
    try:
        found = noise(view.run)
    except (ConfigError, RunError):
        return None
    heads = ["score", "dev items", "error of one", "error of a difference", "smallest told"]
    rows = [
        [
            told.score,
            f"{told.n:,}",
            f"{told.standard_error:.3f}",
            f"{told.paired_error:.3f}",
            "nothing" if told.smallest is None else f"{told.smallest:.3f}",
            *(f"{told.items[delta]:,}" for delta in DELTAS),
        ]
        for told in found
    ]
    return found, Table([*heads, *(f"items for {delta:g}" for delta in DELTAS)], rows)


def certainty(view: RunView, found: Sequence[Told]) -> list[str]:
    """What the intervals mean, and what they cannot tell."""
    lines = []
    if view.members:
        counts = ", ".join(
            f"{name} on {estimate.n:,}" for name, estimate in view.members[0].confirmed.items()
        )
        lines.append(
            f"Confirmed scores are of held-out items ({counts}), which no trial was chosen by. The"
            f" intervals of all {len(view.members)} merges and models in the table hold at once"
            " with 95%, so the best of them may be looked for."
        )
    if view.chosen is not None:
        lines.append(
            "A difference to a baseline is paired: the same items, so that hard and easy ones"
            " cancel. Each has a 95% interval of its own. The chosen merge was picked by these"
            " items among the confirmed, which favours it a little."
        )
    if view.test is not None:
        lines.append(
            "The test items were asked once, of the chosen merge alone: nothing was picked by them."
        )
    for told in found:
        if told.smallest is None:
            lines.append(f"{told.score}: {told.n:,} dev items tell no two merges apart.")
    apart = [f"{told.score} {told.smallest:.3f}" for told in found if told.smallest is not None]
    if apart:
        lines.append(
            "What the dev items tell apart in 4 of 5 cases are true differences of at least:"
            f" {', '.join(apart)}. Which of two closer merges the search ranked first is luck."
        )
    return lines


# ---- what was searched


def searched(view: RunView) -> dict[str, Table]:
    """Models, tasks, space and settings, by heading."""
    search, file = view.search, view.search.file
    models = [("base", file.base_model)] if file.base_model else []
    models += [(n, model.model) for n, model in zip(search.space.names, file.models, strict=True)]
    digests = view.run.manifest["roles"]
    tasks = []
    for name, task in file.tasks.items():
        splits = task.splits or file.splits
        tasks.append(
            [
                name if task.role == "search" else f"{name} (reported only)",
                _items(task.items),
                *(f"{getattr(splits, split):g}" for split in SPLITS),
                f"{task.samples}",
                ", ".join(make_scorer(reference).name for reference in task.scorers),
            ]
        )
    space = search.space.distributions()
    return {
        "Models": Table(
            ["", "where", "sha256 begins"],
            [[name, without_password(place), digests[name][:16]] for name, place in models],
            words=frozenset([1, 2]),
        ),
        "Tasks": Table(
            ["", "items", *SPLITS, "answers an item", "scorers"],
            tasks,
            words=frozenset([1, 6]),
        ),
        f"Space: {many(len(space), 'parameter')}": _space(view),
        "Settings": Table(["", ""], _settings(view), words=frozenset([1])),
    }


def _items(source: object) -> str:
    if isinstance(source, str):
        return source
    data = source.model_dump(exclude_none=True) if isinstance(source, BaseModel) else {}
    return ", ".join(f"{key} {value}" for key, value in data.items() if value)


def _space(view: RunView) -> Table:
    """Each parameter: its range, where the front lies, what the chosen merge has."""
    frozen = view.search.file.sampler.freeze
    chosen = None if view.chosen is None else view.trials[view.chosen.trial or 0]
    heads = ["", "range", "on the front", *([] if chosen is None else ["chosen"])]
    rows = []
    for name, one in view.search.space.distributions().items():
        values = [view.trials[n].params[name] for n in view.front if name in view.trials[n].params]
        cells = [name, f"frozen at {frozen[name]}" if name in frozen else spelled_range(one)]
        cells.append(_spread(values))
        if chosen is not None:
            cells.append(_value(chosen.params[name]) if name in chosen.params else "")
        rows.append(cells)
    return Table(heads, rows, words=frozenset([1]))


def _spread(values: Sequence[object]) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if not values or len(numbers) < len(values):
        return ", ".join(dict.fromkeys(map(str, values)))
    low, high = _value(min(numbers)), _value(max(numbers))
    return low if low == high else f"{low} to {high}"


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _settings(view: RunView) -> list[list[str]]:
    search, file = view.search, view.search.file
    racing = file.racing
    told = {
        "merge method": " or ".join(method.name for method in search.space.methods),
        "objectives": "; ".join(
            f"{o.name}: {o.direction} {', '.join('/'.join(part) for part in o.parts)}"
            for o in search.objectives
        ),
        "constraints": ", ".join(map(str, search.constraints)) or "none",
        "baselines": ", ".join(view.baselines) or ", ".join(file.baselines) or "none",
        "until": until(file.budget),
        "sampler": f"{file.sampler.name}, seed {file.sampler.seed}",
        "racing": f"a trial stops once it is behind the front with {racing.level:.0%} confidence"
        if racing.enabled
        else "off",
        "engine": search.engine.kind,
        "drop masks": f"seed {file.seed}",
    }
    return [[name, value] for name, value in told.items()]


# ---- what it cost


def spent(view: RunView) -> tuple[list[tuple[str, str]], Table]:
    """Large numbers for the eye, and the account by stage."""
    account = view.account
    tiles = [(f"{account.trials:,}", "trials"), (_count(account.tokens), "tokens generated")]
    if account.seconds:
        tiles.append((_duration(account.seconds), f"in {many(account.sessions, 'session')}"))
    if account.gpu_hours:
        tiles.append((amount(account.gpu_hours), "GPU-hours"))
    elif account.worker_hours:
        tiles.append((amount(account.worker_hours), "worker-hours"))
    if account.cost is not None:
        tiles.append((f"{account.cost:,.2f}", "cost at the price given"))
    if account.busy is not None:
        tiles.append((f"{account.busy:.0%}", "of the workers' time busy"))
    if account.saved:
        told = account.stages["search"].tokens + account.saved
        tiles.append((f"{account.saved / told:.0%}", "of the trials' tokens saved by racing"))
    names = {"search": "trials", "baselines": "baselines", "confirm": "confirming", "test": "test"}
    rows = [
        [
            names[stage],
            f"{one.merges:,}",
            f"{one.tokens:,}",
            *(_duration(one.seconds.get(what, 0.0)) for what in ("load", "generate")),
        ]
        for stage, one in account.stages.items()
        if one.merges
    ]
    return tiles, Table(["", "merges", "tokens", "merging", "answering"], rows)


def _count(number: int) -> str:
    """`1.2 million`, `593,969`."""
    return f"{number / 1e6:,.1f} million" if number >= 1e6 else f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def growth(view: RunView) -> str:
    """Whether the search still found better ones when it ended, in a sentence; "" if too short."""
    steps = view.steps
    if len(steps) < 8 or steps[-1].volume <= 0.0:
        return ""
    then = steps[3 * len(steps) // 4 - 1]
    gain = (steps[-1].volume - then.volume) / steps[-1].volume
    late = len(steps) - then.finished
    grew = f"{gain:.1%}" if gain >= 0.0005 else "nothing"
    told = f"The last {late:,} trials grew the hypervolume of the claimed front by {grew}: it "
    return told + ("has levelled off." if gain < 0.005 else "still grew when they ended.")


# ---- what failed


def failures(view: RunView) -> tuple[list[str], Table | None]:
    """What went wrong, in words, and the single cases, newest first."""
    account = view.account
    lines = []
    for name, count in account.faults.items():
        if name == Kind.NON_FINITE:  # told as broken merges
            continue
        policy = POLICIES[Kind(name)]
        lines.append(f"{count:,} x {name}: {policy.what}.")
    faulty = [t for t in view.trials.values() if t.state == "fault"]
    failed = [t for t in view.trials.values() if t.state == "failed"]
    if faulty:
        lines.append(
            f"{many(len(faulty), 'merge')} came out broken and could not be scored: the recipe's"
            " own fault, told to the sampler as the worst."
        )
    if failed:
        lines.append(
            f"{many(len(failed), 'trial')} could not be done by any worker, and"
            f" {'does' if len(failed) == 1 else 'do'} not count."
        )
    if account.duplicates:
        lines.append(
            f"{many(account.duplicates, 'proposal')} were recipes seen before, and cost nothing."
        )
    if account.audited:
        lines.append(
            f"Racing was checked on {many(account.audited, 'stopped trial')}, scored in full all"
            f" the same: {account.misjudged} of them would be on the front."
        )
    met = {row["where"].partition(" on ")[0] for row in view.incidents}
    alone = [t for t in (*faulty, *failed) if t in faulty or f"trial {t.number}" not in met]
    cases = [(t.ended or t.began, _case(t), t.why) for t in alone]
    cases += [
        (_moment(row["at"]), f"{row['kind']}, {row['where']}", row["message"])
        for row in view.incidents
        if row["kind"] != Kind.NON_FINITE
    ]
    cases.sort(reverse=True)
    if not cases:
        return lines, None
    if len(cases) > MOST_ROWS:
        lines.append(f"Below are the newest {MOST_ROWS} of {len(cases):,} cases.")
    rows = [[clock(at), what, why] for at, what, why in cases[:MOST_ROWS]]
    return lines, Table(["when", "what", "why"], rows, words=frozenset([1, 2]))


def _case(trial: TrialView) -> str:
    return f"trial {trial.number}: {'broken merge' if trial.state == 'fault' else 'not done'}"


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def clock(seconds: float) -> str:
    """A moment as text, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
