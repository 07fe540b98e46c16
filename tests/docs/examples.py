"""Commands that the pages show in fences without output, and what is said of those not run.

A fence is of commands where it says `bash` or `sh`, or where a line begins as commands do. The
lines above it tell what the tests do not run of it: `<!-- not run: why -->` is all of it,
`<!-- not run, ui: why -->` what begins with `mergefront ui`. All else is run, and has to be a
`mergefront` command: `test_commands.py` runs it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "benchmarks").glob("*.md"))
_MARK = re.compile(r"<!-- not run(?:, ([^:]+))?: .+ -->")
_BEGINS = re.compile(
    r"^(?:\$ )?(?:\w+=\S+ )*(?:mergefront|make|python[\d.]*|pip|ray|export)(?: |$)"
)


class Fence(NamedTuple):
    """The commands of a fence, their comments left out, and its marks: "" is of all of them."""

    page: Path
    commands: list[str]
    marks: list[str]

    def marked(self, mark: str) -> list[str]:
        """What a mark keeps from being run."""
        begins = f"mergefront {mark}" if mark else ""
        return [command for command in self.commands if command.startswith(begins)]

    def run(self) -> list[str]:
        """The commands that no mark keeps from it."""
        left_out = {command for mark in self.marks for command in self.marked(mark)}
        return [command for command in self.commands if command not in left_out]


def fences() -> list[Fence]:
    """All of the pages' fences that are of commands."""
    return [Fence(page, *found) for page in PAGES for found in _read(page)]


def _read(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Of each such fence its commands and its marks."""
    kind, inside, above = None, [], []
    for line in page.read_text(encoding="utf-8").splitlines():
        if kind is None and line.startswith("```"):
            kind, inside = line[3:], []
        elif kind is None:
            above = [*above, line] if line.startswith("<!-- ") else []
        elif line != "```":
            inside.append(line)
        else:
            begun = kind in ("", "text") and any(map(_BEGINS.match, inside))
            if begun or kind in ("bash", "sh"):
                commands = [re.sub(r"(^|\s+)#.*", "", line) for line in inside]
                marks = [mark[1] or "" for line in above if (mark := _MARK.fullmatch(line))]
                yield [command for command in commands if command], marks
            kind, above = None, []
