"""`docs/cli.md`, from the commands: `python -m search.cli_reference > docs/cli.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from search.cli import TOPICS, app

_HEAD = """\
# Commands

<!-- Made by `python -m search.cli_reference > docs/cli.md`; a test compares them. -->

`mergefront --help` and `mergefront COMMAND --help` say the same. What you can mend is one line on
standard error and exit code 2; a search that was stopped ends with 130, one that exported nothing
with 1.

- **Completion**: `mergefront --install-completion` for bash, zsh and fish; it knows commands,
  options, run folders, and the trials and baselines of a run.
- **Colours** go with `--no-color` before the command, `NO_COLOR=1`, `TERM=dumb`, and where the
  output is no terminal. Where the encoding or `TERM` has no braille, plots are ASCII.
- **Without a terminal** (nohup, CI) `run` prints one line an event, and a summary every three
  minutes.
"""


def reference() -> str:
    """The page, as Markdown."""
    root: Any = get_command(app)
    parts = [_HEAD]
    for topic in TOPICS:
        parts.append(f"## {topic}\n")
        for words, command in _commands(root, topic):
            parts.append(_section(words, command))
    return "\n".join(parts)


def _commands(root: Any, topic: str) -> Iterator[tuple[str, Any]]:
    for name, command in root.commands.items():
        if command.rich_help_panel != topic:
            continue
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


def _section(words: str, command: Any) -> str:
    paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    examples = [p.removeprefix("Example: ") for p in paragraphs if p.startswith("Example: ")]
    told = [p for p in paragraphs if p and not p.startswith("Example: ")]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    names = " ".join(p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)
    lines = [f"### {words}\n", *(f"{_plain(p)}\n" for p in told)]
    lines += ["```bash", *examples, "```\n"]
    lines.append(f"    mergefront {words} [OPTIONS] {names}".rstrip() + "\n")
    rows = [(f"`{p.name.upper()}`", p) for p in arguments]
    rows += [(", ".join(f"`{o}`" for o in (*p.opts, *p.secondary_opts)), p) for p in options]
    if rows:
        lines += ["| argument, option | what it is |", "|---|---|"]
        lines += [f"| {name} | {_cell(p)} |" for name, p in rows]
    return "\n".join(lines) + "\n"


def _cell(parameter: Any) -> str:
    told = _plain(parameter.help or "")
    given = parameter.default
    plain = isinstance(given, str | int | float) and not isinstance(given, bool)
    if (plain or hasattr(given, "parts")) and "default" not in told:
        told += f"; default `{given}`"
    return told.replace("|", "\\|").lstrip("; ")


def _plain(text: str) -> str:
    """Without the markup of terminals."""
    return re.sub(r"\[/?(bold|dim|italic)\]", "", text)


if __name__ == "__main__":
    sys.stdout.write(reference())
