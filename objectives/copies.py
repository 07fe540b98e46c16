"""What a line is known by: the same problem may stand in another task, in other words.

Searched in one task and confirmed in another it would confirm nothing, whatever template, spelling
of the answer, order of choices or (where `splits.by` names it) language it stands in.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from objectives.errors import TaskError
from objectives.item import content_digest
from objectives.item_file import WAYS, Line, parse


@dataclass(frozen=True)
class Entry:
    """A line among the others of its source.

    Attributes:
        line: what stands there.
        id: the line's, made unique where a data set repeats one.
        rank: hashes that decide its place in a shuffle: of the content before `fields` are
            applied, so that two tasks over one file have one order.
        keys: hashes by which it is known to other tasks: of the row before `fields` are applied,
            and of the question alone.
    """

    line: Line
    id: str
    rank: tuple[str, str]
    keys: tuple[str, ...]


def entries(lines: Sequence[Line], *, judged: bool, remote: bool) -> list[Entry]:
    """The lines, told apart.

    A question may stand once, because a copy of a searched item among the confirming ones would
    make the confirmation worthless. It may stand again with a different set of choices, or, where
    nothing tells right from wrong (not `judged`), with another answer. What is `remote` cannot be
    mended by its user: later copies are left out, and a repeated id gets a number.

    Raises:
        TaskError: an id or a question is there twice in a file.
    """
    ids = _unique_ids(lines, remote)
    alike: dict[str, list[Line]] = {}
    for line in lines:
        alike.setdefault(_question(line), []).append(line)
    first: dict[str, Line] = {}
    kept: list[tuple[Line, str, str]] = []
    for line, own in zip(lines, ids, strict=True):
        question = _question(line)
        if len(alike[question]) > 1:
            question = hash_of("question", question, _variant(line, alike[question], judged))
        held = first.setdefault(question, line)
        if held is line:
            kept.append((line, own, question))
        elif not remote:
            same = _content(line) == _content(held)
            what = "same content as" if same else "asks the same as"
            raise TaskError(
                f"{line.where}: {what} {held.where}, which would leak between splits; remove one"
            )
    rows = Counter(_row(line.row) for line, _, _ in kept)
    found = []
    for line, own, question in kept:
        row = _row(line.row)
        key = row if rows[row] == 1 else hash_of("row", row, line.id)
        found.append(Entry(line, own, (_content_before(line), key), (key, question)))
    return found


def hash_of(*parts: Any) -> str:
    """32 hex digits of SHA-256 over what JSON can hold, and dates; the same in every process."""
    text = json.dumps(parts, sort_keys=True, default=spelled)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _unique_ids(lines: Sequence[Line], remote: bool) -> list[str]:
    used: dict[str, str] = {}
    ids = []
    for line in lines:
        own, number = line.id, 1
        if own in used and not remote:
            raise TaskError(f"{line.where}: id {own!r} was used in {used[own]}; make ids unique")
        while own in used:
            number += 1
            own = f"{line.id}#{number}"
        used[own] = line.where
        ids.append(own)
    return ids


def _question(line: Line) -> str:
    """Hash of the messages, or of a text that is scored whole, white space aside."""
    said = [[m["role"], _plain(m["content"])] for m in line.messages]
    return hash_of("question", said or _plain(line.answer))


def _variant(line: Line, alike: Sequence[Line], judged: bool) -> Any:
    """What sets a line apart from others with its question."""
    given = [one.choices for one in alike]
    if line.choices is not None and None not in given:
        return sorted(map(_plain, line.choices))
    if given.count(None) == len(given) and not judged:
        return _plain(line.answer)
    return None


def _plain(text: str) -> str:
    return " ".join(text.split())


def _content(line: Line) -> str:
    return content_digest(line.messages, line.answer, line.choices)


def _content_before(line: Line) -> str:
    """Content of the row as it stands, if it is an item by itself; else the row's hash."""
    read = {key: line.row[key] for key in (*WAYS, "answer", "choices") if key in line.row}
    try:
        return _content(parse({**read, "id": "any"}, line.where))
    except TaskError:
        return _row(line.row)


def _row(row: Mapping[str, Any]) -> str:
    """Hash of a row; its id and split do not count, unless there is nothing else."""
    said = {key: value for key, value in row.items() if key not in ("id", "split")}
    return hash_of("row", said or dict(row))


def spelled(value: Any) -> str:
    """A value that JSON lacks; of pictures and the like no more than their kind."""
    if isinstance(value, bytes | date | time | timedelta | Decimal):
        return str(value)
    return type(value).__name__
