"""The description of a search's own run in MLflow: what was found, what failed, what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from merge_core.card import code, md, table
from objectives import Estimate
from search.amounts import many
from search.confirmed import NO_SCORE, broken, findings, ordered, standing
from search.export import spelled, test_items
from search.mlflow_view import ALL, FRONT, key_for, view_link
from search.status import State
from search.view import Interval, RunView

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""
LONGEST_NOTE = 8000
"""Characters of a tag that MLflow keeps."""
END = "*Written by mergefront while the search goes on. What you write below this line stays.*"
_GAP = "\u00a0"
_ROWS = 20  # of a table: the figures and `mergefront front` have all
_LINES = 6  # of one kind
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)+")  # of an absolute path, but for its name


def note_of(view: RunView, experiment: str, state: State = "finished", why: str = "") -> str:
    """The description of a run as it stands, as Markdown.

    Args:
        view: of the run.
        experiment: its id in MLflow, for links to the saved views.
        state: whether it goes on, or how its last session ended.
        why: more of that: what it failed with.
    """
    ended = _ended(view, state, why)
    parts = [_head(view, experiment, ended), _found(view), _failed(view), _next(view)]
    parts.append(_reading(view))
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part)))


def above(note: str, held: str, end: str = END) -> str:
    """`note` over what people wrote below the last one, cut to the lines that MLflow keeps.

    Args:
        note: as it stands now.
        held: what MLflow has.
        end: the line between the two.
    """
    _, mark, written = held.partition(end)
    below = written if mark or not held else f"\n\n{held}"
    room = LONGEST_NOTE - len(below) - len(end) - 2
    if len(note) > room:
        note = note[: max(0, room)].rpartition("\n")[0]
    return f"{note}\n\n{end}{below}"


def _ended(view: RunView, state: State, why: str) -> str:
    """That it goes on, or what ended it early, with a space behind; "" if it came to its end."""
    match state:
        case "running":
            return "It goes on. "
        case "stopped":
            return "**Stopped before its end.** The same `mergefront run` goes on with it. "
        case "failed":
            told = _public(view, why).rstrip(".") or "see run.log"
            return f"**Ended with an error**: {md(told)}. "
        case "dead":
            return "**Its driver was killed.** The same `mergefront run` goes on with it. "
    return ""


def _public(view: RunView, text: str) -> str:
    """What was said, without the folders of this machine: a server shows this to others."""
    for folder in (view.run.folder, view.search.root):
        text = text.replace(f"{folder}/", "").replace(str(folder), folder.name)
    return _FOLDERS.sub("", text)


def _head(view: RunView, experiment: str, ended: str) -> Iterator[str]:
    """What MLflow shows before one asks for more: how it stands, where to look, what it is."""
    search, file = view.search, view.search.file
    models = ", ".join(code(entry.model) for entry in file.models)
    on = f" onto {code(file.base_model)}" if file.base_model else ""
    links = [view_link("", experiment, key_for(view.run, key)) for key in (FRONT, ALL)]
    yield ended + _standing(view)
    yield ""
    yield (
        f"Open **[the front]({links[0]})** or [all trials]({links[1]}). "
        f"A search over merges of {models}{on}: "
        f"{many(len(search.space.distributions()), 'parameter')}, "
        f"{many(len(search.objectives), 'objective')}."
    )


def _standing(view: RunView) -> str:
    """How far it is, in a sentence or two."""
    finished = view.account.trials
    if not finished:
        return "No trial has finished yet."
    front = f"{finished} trials, {len(view.front)} on the front"
    if view.chosen is not None:
        scores = (f"{md(name)} {spelled(e)}" for name, e in view.chosen.confirmed.items())
        return f"**{md(view.chosen.label)} is exported: {', '.join(scores)}**, confirmed. {front}."
    if view.members:
        return f"**Confirmed, but nothing is exported: {md(view.problem)}.** {front}."
    return f"**{front}, not confirmed yet**: its scores are claims."


def _found(view: RunView) -> Iterator[str]:
    names = [objective.name for objective in view.search.objectives]
    if view.members:
        yield "### Found"
        yield ""
        both = any(member.joint is not None for member in view.members)
        heads = [""]
        for name in names:
            heads += [f"{md(name)}: claimed", "confirmed [95%]"]
        heads += ["right and in the language"] if both else []
        rows = []
        for member in ordered(view.run, view.members)[:_ROWS]:
            exported = view.chosen is not None and member.label == view.chosen.label
            label, where = md(member.label), spaced(md(standing(member)))
            cells = [spaced(f"**{label}**" if exported else label)]
            for name in names:
                scores = [f"{member.claimed[name].value:.3f}", _whole(member.confirmed[name])]
                cells += [NO_SCORE, NO_SCORE] if broken(member) else scores
            if both:
                cells.append(_whole(member.joint) if member.joint is not None else "")
            rows.append([*cells, "**exported**" if exported else where])
        yield from _table([*heads, "standing"], rows)
        yield from _more(len(view.members) - _ROWS)
        if view.test is not None and view.chosen is not None:
            scored = {o.name: view.test.estimate(o) for o in view.search.objectives}
            told = ", ".join(f"{md(name)} {spelled(e)}" for name, e in scored.items())
            yield ""
            yield f"{md(view.chosen.label)} on {md(test_items(scored))}, scored once: **{told}**."
        yield ""
        yield from _bullets([md(line) for line in findings(view.run, view.members)])
    elif view.front:
        yield "### The front so far (claimed)"
        yield ""
        shown = [(f"trial {number}", view.trials[number]) for number in view.front[:_ROWS]]
        rows = [_row(label, names, trial.values, trial.intervals) for label, trial in shown]
        rows += [
            _row(f"baseline {label}", names, baseline.values, baseline.intervals)
            for label, baseline in islice(view.able.items(), _ROWS)
        ]
        yield from _table(["", *(f"{md(name)} [95%]" for name in names)], rows)
        yield from _more(len(view.front) - _ROWS)


def _failed(view: RunView) -> Iterator[str]:
    told = [
        f"trial {t.number}: "
        + (md(_public(view, t.why)) if t.why else "no worker could do it; see `run.log`")
        for t in view.trials.values()
        if t.state in ("failed", "fault")
    ]
    told += [
        f"baseline {md(label)}: {md(_public(view, baseline.why))}"
        for label, baseline in view.baselines.items()
        if baseline.broken
    ]
    if view.account.faults:
        counts = ", ".join(f"{count} {kind}" for kind, count in view.account.faults.items())
        told.insert(0, f"incidents: {counts} (`mergefront status` names the newest)")
    if told:
        yield "### Failed"
        yield ""
        yield from _bullets(told)


def _next(view: RunView) -> Iterator[str]:
    run, where = _typed(view)
    yield "### Next"
    yield ""
    yield f"Typed in the folder {where}:"
    yield ""
    if view.chosen is not None:
        yield f"- `mergefront report {run}`: the whole story, with sample answers side by side"
        yield f"- `mergefront merge {run}/recipe.yaml OUT`: the checkpoint of {view.chosen.label}"
        yield f"- `mergefront export {run} --pick trial:N`: the recipe of another member"
        yield f"- `mergefront register {run} NAME --alias champion`: a version in the registry"
    elif view.members:
        yield f"- search on with a larger budget, or `mergefront export {run} --best-effort`"
    elif view.front:
        yield f"- `mergefront confirm {run}`: the front again, on held-out items"
    if view.front or view.members:
        yield f"- `mergefront narrow {run}`: a new search file, narrowed to where the good ones lie"
    if view.chosen is None:
        yield f"- `mergefront status {run}`: how far it is, what it took so far"


def _typed(view: RunView) -> tuple[str, str]:
    """The run as its commands name it, and the folder that they are typed in, in words.

    Of where that folder is nothing is said: a server shows this to others.
    """
    folder, root = view.run.folder, view.search.root.resolve()
    if folder.is_relative_to(root):
        return shlex.quote(folder.relative_to(root).as_posix()), "of the search file"
    return shlex.quote(view.name), f"that holds the run's, {code(view.name)}"


def _reading(view: RunView) -> Iterator[str]:
    search, file = view.search, view.search.file
    yield "### Reading the columns"
    yield ""
    rows = []
    for objective in search.objectives:
        parts = ", ".join("/".join(part) for part in objective.parts)
        better = "higher" if objective.direction == "maximize" else "lower"
        rows.append([md(objective.name), spaced(md(parts)), better])
    yield from _table(["objective", "is the mean of", "better"], rows)
    yield ""
    yield (
        "- Blue is the front, grey the other trials, orange the baselines. `NAME_low` and "
        "`NAME_high` are an objective's 95% interval, `NAME_n` its items. A trial that was "
        "stopped early has an estimate, and no interval."
    )
    yield (
        "- The best of many scores is optimistic: `confirmed_` columns are of items held out from "
        "the search, `test_` of items that only the exported recipe has seen."
    )
    if any(trial.joint is not None for trial in view.trials.values()):
        yield "- `joint` is the share of answers right and in the language."
    if file.tracking.retained:
        yield "- `retained/NAME` is the share of an expert's differences that is in the merge."
    yield (
        "- A trial's `items.json` has its answers, `beside_baseline.json` what changed against the "
        "baseline nearest to it (tag `beside`)."
    )


def _row(
    label: str, names: Sequence[str], values: Sequence[float], intervals: Mapping[str, Interval]
) -> list[str]:
    cells = [spaced(md(label))]
    for name, value in zip(names, values, strict=True):
        low, high, _ = intervals.get(name, (None, None, 0))
        sure = "" if low is None else f"{_GAP}[{low:.3f},{_GAP}{high:.3f}]"
        cells.append(f"{value:.3f}{sure}")
    return cells


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from table(heads, rows).splitlines()


def _bullets(lines: Sequence[str]) -> Iterator[str]:
    yield from (f"- {line}" for line in lines[:_LINES])
    if len(lines) > _LINES:
        yield f"- and {len(lines) - _LINES} more"


def _more(count: int) -> Iterable[str]:
    return ["", f"and {count} more: `front.html` draws all"] if count > 0 else []


def spaced(cell: str) -> str:
    """A table's cell that stands off the next: MLflow leaves no room between them."""
    return cell + _GAP


def _whole(estimate: Estimate) -> str:
    """An estimate that is not broken over lines."""
    return spelled(estimate).replace(" ", _GAP)
