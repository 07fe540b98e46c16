"""The page itself: facts and figures put into the template, escaped and without passwords."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from merge_core.yaml_io import write_atomic
from search.comparison import signed
from search.export import short, spelled
from search.figures import Figure, figures, incident
from search.incidents import Kind
from search.report.gaps import gaps
from search.report.headline import Standing, headline
from search.report.samples import samples
from search.report.sections import (
    certainty,
    clock,
    confirmed,
    failures,
    growth,
    searched,
    spent,
    told_apart,
)
from search.report.steps import advice, commands, recipes, versions
from search.report.verdict import against
from search.secrets import redacted
from search.status import State
from search.view import RunView

NAME = "report.html"
"""Of the report in a run folder."""


def write(
    view: RunView,
    standing: Standing,
    path: Path | None = None,
    failed: Callable[[str, Exception], None] | None = None,
) -> Path:
    """Write a run's report, atomically; its path.

    Args:
        view: of the run, in any state: running, stopped, failed, finished.
        standing: whether somebody works on it.
        failed: told which figure could not be drawn and why, and the rest is; None: it is raised.
        path: the file; default `report.html` in the run folder.

    Raises:
        RunError, StorageError: what the run holds is damaged.
        OSError: the file cannot be written.
    """
    path = view.run.folder / NAME if path is None else path
    write_atomic(path, page(view, standing, failed))
    return path


def draw(view: RunView, *, stopped: bool = False, why: str = "") -> None:
    """`write` into the run's folder, at the end of a session.

    What goes wrong is an incident: it must not cost the night's result.

    Args:
        view: of the run, with or without scored trials.
        stopped: by the user.
        why: the error that the session ended with, as `Live.why` has it; "" for none.
    """
    state: State = "failed" if why else "stopped" if stopped else "finished"
    try:
        write(view, Standing(state, time.time(), why=why), failed=incident(view))
    except Exception as error:  # noqa: BLE001 (whatever it is: the results are what counts)
        told = f"{type(error).__name__}: {error}"
        view.run.incidents.record(Kind.NOT_DRAWN, NAME, told)


def page(
    view: RunView,
    standing: Standing,
    failed: Callable[[str, Exception], None] | None = None,
) -> str:
    """The report of a run as HTML that needs nothing but itself.

    Raises:
        RunError, StorageError: as `write`.
    """
    from plotly.offline import get_plotlyjs

    found = against(view)
    noise = told_apart(view)
    told = noise[0] if noise is not None else []
    tiles, account = spent(view)
    recipe, not_mergekit = recipes(view)
    drawn = figures(view, failed)
    shown = samples(view)
    by_name = {figure.name: figure for figure in drawn}
    empty = gaps(view, by_name, answers=shown is not None)
    plots = _plots(drawn)
    scripts = [f"{get_plotlyjs()}\n"] if drawn else []
    scripts.append(_resource("page.js"))
    facts = {
        "name": view.name,
        "headline": headline(view, standing, found),
        "against": found,
        "members": len(view.members),
        "confirmed": confirmed(view),
        "certainty": certainty(view, told),
        "noise": None if noise is None else noise[1],
        "searched": searched(view),
        "tiles": tiles,
        "account": account,
        "rows": view.account.rows(),
        "growth": growth(view),
        "figures": by_name,
        "gaps": empty,
        "parameters": bool({"importance", "slices"} & {*by_name, *empty}),
        "plots": plots,
        "samples": shown,
        "failures": failures(view),
        "advice": advice(view, standing, told),
        "commands": commands(view, mergekit=not not_mergekit),
        "recipe": recipe,
        "not_mergekit": not_mergekit,
        "versions": versions(view),
        "several": any(one.workers > 1 for one in view.sessions),
        "text": view.search.text,
        "written": clock(datetime.now(UTC).timestamp()),
        "span": _span(view.sessions[0].began if view.sessions else "", standing.at),
        "style": Markup(_resource("page.css")),
        "scripts": [Markup(script) for script in scripts],
        "allowed": " ".join(_hash(script) for script in scripts),
    }
    return _environment().get_template("page.html").render(facts)


def _environment() -> Environment:
    """Everything that is put in is escaped, and passwords are hidden before."""

    def safe(value: Any) -> Any:
        hide = isinstance(value, str) and not isinstance(value, Markup)
        return redacted(value) if hide else value

    environment = Environment(
        loader=DictLoader({"page.html": _resource("page.html")}),
        autoescape=True,
        finalize=safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "spelled": spelled,
        "signed": signed,
        "short": short,
    }
    return environment


def _resource(name: str) -> str:
    return files("search.report").joinpath(name).read_text(encoding="utf-8")


def _plots(drawn: list[Figure]) -> Markup:
    """What plotly draws, by name, as JSON that can stand in a page."""
    data = {figure.name: json.loads(figure.html().to_json()) for figure in drawn}
    text = redacted(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _hash(script: str) -> str:
    """By which the page's own scripts are allowed, and no other."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _span(began: str, at: float) -> str:
    """When the run was worked on."""
    if not began:
        return clock(at)
    return f"{clock(datetime.fromisoformat(began).timestamp())} to {clock(at)}"
