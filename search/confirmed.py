"""What confirmation showed, in words and as a table: claimed beside confirmed, what fell off."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from merge_core.yaml_io import write_atomic
from search import confirm as confirming
from search import study as studies
from search.account import Account
from search.confirm import Member
from search.export import spelled
from search.front import Point, dominates, gains, hypervolume
from search.run import Run

NO_SCORE = "-"
"""In tables, in place of the scores of a merge that is broken."""


def confirmed_members(run: Run) -> list[Member]:
    """The confirmed members, with a note if the search has gone on since.

    Raises:
        RunError: nothing is confirmed yet, or the file is damaged.
    """
    members, then = confirming.load(run)
    now = len(studies.scored(studies.open_study(run, create=False)))
    if now != then:
        sys.stderr.write(
            f"note: confirmed after {then} trials, now there are {now}: "
            "`mergefront confirm` scores the new front\n"
        )
    return members


def findings(run: Run, members: Sequence[Member]) -> list[str]:
    """One line each: who stays on the front, who fell off it, how much was claimed too much."""
    search = run.search
    lines = left_out(run)
    for member in filter(broken, members):
        what = member.label if member.trial is not None else f"baseline {member.label}"
        lines.append(f"{what} is broken and could not be scored")
    members = [member for member in members if not broken(member)]
    trials = [member for member in members if member.trial is not None]
    for member in trials:
        if member.near and member.on_front:
            lines.append(
                f"{member.label} came onto the front: it was just behind it on the dev items"
            )
        elif member.behind is not None and not member.near:
            lines.append(
                f"{member.label} fell off: {member.behind} is at least as good in everything on"
                " held-out items"
            )
        elif member.equal_to is not None and member.feasible and not member.near:
            lines.append(f"{member.label} is equal to {member.equal_to} on held-out items")
        elif not member.feasible and not member.near:
            bounds = ", ".join(str(constraint) for constraint in search.constraints)
            lines.append(f"{member.label} does not hold {bounds} with 95%")
    points = {member.label: member.point(search) for member in members}
    for baseline in (m for m in members if m.trial is None and m.feasible):
        worse = [m.label for m in trials if dominates(points[baseline.label], points[m.label])]
        if worse:
            lines.append(f"baseline {baseline.label} is ahead of {', '.join(worse)}")
    for objective in search.objectives if trials else ():
        gaps = [
            objective.sign * (m.claimed[objective.name].value - m.confirmed[objective.name].value)
            for m in trials
        ]
        mean = math.fsum(gaps) / len(gaps)
        lines.append(
            f"{objective.name}: claimed {abs(mean):.3f} {'better' if mean >= 0 else 'worse'} than"
            f" confirmed on average, {max(gaps):+.3f} at most"
        )
    return lines


def left_out(run: Run) -> list[str]:
    """One line each: what the last confirmation could not score, and why.

    Raises:
        RunError: what it wrote is damaged.
    """
    failed = confirming.unconfirmed(run) if run.confirmed.is_file() else {}
    return [f"{label} could not be confirmed: {why}" for label, why in failed.items()]


def write_report(run: Run, members: Sequence[Member], account: Account) -> Path:
    """`confirmed.md` in the run folder, as Markdown; replaces the one before."""
    search = run.search
    names = [objective.name for objective in search.objectives]
    head = [f"{name} claimed | {name} confirmed" for name in names]
    both = any(member.joint is not None for member in members)
    columns = ["", *head, *(["right and in the language"] if both else []), "standing"]
    rows = [f"| {' | '.join(columns)} |", f"|{'---|' * (2 * len(names) + 2 + both)}"]
    for member in ordered(run, members):
        cells = [escape(member.label).replace("|", "\\|")]  # may hold a path of any spelling
        for name in names:
            cells += [f"{member.claimed[name].value:.3f}", spelled(member.confirmed[name])]
        if broken(member):
            cells[1:] = [NO_SCORE] * (2 * len(names))
        if both:
            cells.append(spelled(member.joint) if member.joint is not None else "")
        rows.append(f"| {' | '.join([*cells, standing(member)])} |")
    trials = [member for member in members if member.trial is not None]
    claimed = hypervolume([_claimed(run, member) for member in trials])
    held = hypervolume([member.point(search) for member in trials])
    scored = next((m for m in members if not broken(m)), members[0])
    counts = ", ".join(
        f"{name} on {scored.claimed[name].n} and {scored.confirmed[name].n}" for name in names
    )
    text = [
        f"# {run.name}: claimed and confirmed",
        "",
        f"After {account.trials} trials. Claimed: on the items that the search saw, where the best"
        f" of many looks better than it is; confirmed: on held-out items ({counts} items). All"
        " confirmed intervals hold at once with 95%.",
        "",
        *rows,
        "",
        *(f"- {line}" for line in findings(run, members)),
        f"- hypervolume of these trials: claimed {claimed:.4f}, confirmed {held:.4f}",
        "",
        "What the run took, over all its sessions:",
        "",
        *(f"- {line}" for line in account.lines()),
    ]
    path = run.folder / "confirmed.md"
    write_atomic(path, "\n".join(text) + "\n")
    return path


def ordered(run: Run, members: Sequence[Member]) -> list[Member]:
    """Trials before baselines, each best first objective first."""
    return sorted(members, key=lambda m: (m.trial is None, [-x for x in m.point(run.search)]))


def standing(member: Member) -> str:
    """Where confirmation left it."""
    if member.trial is None:
        return baseline_standing(broken=broken(member), feasible=member.feasible)
    if not member.feasible:
        return "broken" if broken(member) else "off: constraint"
    if member.equal_to is not None:
        return f"equal to {member.equal_to}"
    if member.near:
        return "front, was behind" if member.on_front else f"behind {member.behind}"
    return "front" if member.on_front else f"fell off: behind {member.behind}"


def baseline_standing(*, broken: bool, feasible: bool) -> str:
    """What a baseline is: its scores are shown beside those of trials, with what they lack."""
    if broken:
        return "baseline, broken"
    return "baseline" if feasible else "baseline, off: constraint"


def broken(member: Member) -> bool:
    """Whether its merge could not be scored: what it is told with is no score but the reference."""
    return any(estimate.n == 0 for estimate in member.confirmed.values())


def _claimed(run: Run, member: Member) -> Point:
    objectives = run.search.objectives
    return gains([member.claimed[o.name].value for o in objectives], objectives)
