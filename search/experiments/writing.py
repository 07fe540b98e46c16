"""Files of an experiment's outcome: JSON, CSV, a picture, a page that works offline, and a text."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from merge_core.yaml_io import write_atomic
from search.experiments.base import Experiment
from search.experiments.lab import Lab
from search.experiments.outcome import Outcome, table
from search.figures.figure import Figure
from search.figures.interactive import page, section
from search.figures.picture import write_png
from search.results import finite

PNG, HTML, TEXT, JSON = "plot.png", "plot.html", "report.md", "results.json"
VALUES, DIFFERENCES = "values.csv", "differences.csv"


@dataclass(frozen=True)
class How:
    """How an outcome came about, for its text.

    Attributes:
        command: what repeats it.
        quick: a first look at few items and points.
        seed: of the models and of everything random.
        own: on models of the user's own, not on the experiment's small world.
    """

    command: str
    quick: bool
    seed: int
    own: bool = False


def write(experiment: Experiment[Any], outcome: Outcome, lab: Lab, how: How) -> list[Path]:
    """Write all files into the lab's folder; their paths, the text first.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = lab.folder
    paths = [folder / name for name in (TEXT, PNG, HTML, JSON, VALUES, DIFFERENCES)]
    text, png, html, data, values, differences = paths
    write_atomic(text, _text(experiment, outcome, lab, how))
    caption = " ".join(outcome.findings[:2])
    figure = Figure(experiment.name, _title(experiment), caption, outcome.chart)
    write_png(figure.png(), png)
    write_atomic(html, page(experiment.name, [section(figure.title, figure.caption, figure.chart)]))
    plain = {
        "experiment": experiment.name,
        **asdict(how),
        "file": str(lab.asked.search.path),
        "items": _items(lab),
        "findings": list(outcome.findings),
        "notes": list(outcome.notes),
        "values": [asdict(value) for value in outcome.values],
        "differences": [{**asdict(d), "sign": d.sign} for d in outcome.differences],
    }
    write_atomic(data, json.dumps(finite(plain), indent=1, ensure_ascii=False) + "\n")
    write_atomic(values, _csv([asdict(value) for value in outcome.values]))
    rows = [{**asdict(d), "sign": d.sign} for d in outcome.differences]
    write_atomic(differences, _csv(rows))
    return paths


def _text(experiment: Experiment[Any], outcome: Outcome, lab: Lab, how: How) -> str:
    small = "" if how.own else experiment.miniature
    limits = f"{small} {experiment.limits}".strip()
    lines = [f"# {_title(experiment)}", ""]
    if how.quick:
        lines += ["**A quick look: few items, few points. It says little.**", ""]
    lines += ["## What was asked", "", experiment.question, "", "## What was found here", ""]
    lines += [f"- {finding}" for finding in outcome.findings]
    lines += ["", f"![{experiment.summary}]({PNG})", ""]
    for score in dict.fromkeys(value.score for value in outcome.values):
        lines.append(table(outcome.values, score))
    lines += [
        "Brackets are 95% intervals over items; a number without them was counted, not sampled. "
        "Differences are paired by item, and those of one sentence hold together with 95%: ahead "
        "and behind mean that the interval leaves out 0. So two merges can be told apart although "
        "their own intervals overlap.",
        "",
        *(f"{note}\n" for note in outcome.notes),
        *("## What the papers say", "", experiment.paper, ""),
        *("## What this cannot tell", "", limits, ""),
        *("## How", "", f"    {how.command}", ""),
    ]
    search = lab.asked.search
    asked = ", ".join(
        f"{name} {counts['dev']} dev, {counts['confirm']} confirm"
        for name, counts in _items(lab).items()
    )
    lines += [
        f"Models: `{search.path.name}` in the folder; seed {how.seed}. Items: {asked}; settings are"
        " chosen on dev items, all else is scored on confirm items. "
        f"mergefront {version('mergefront')}, torch {version('torch')}, "
        f"engine {search.engine.kind}.",
    ]
    return "\n".join(lines) + "\n"


def _title(experiment: Experiment[Any]) -> str:
    return f"{experiment.summary[0].upper()}{experiment.summary[1:]}"


def _items(lab: Lab) -> dict[str, dict[str, int]]:
    return {
        name: {"dev": len(task.items("dev")), "confirm": len(task.items("confirm"))}
        for name, task in lab.asked.tasks.items()
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    """Rows with their estimates spread over columns."""
    flat = []
    for row in rows:
        given = row.pop("estimate")
        flat.append({**row, **finite(given)})
    if not flat:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()
