"""Vocabularies that differ, aligned by token string: which rows of all sources belong together.

Rows of tokens that base has are merged by arithmetic, wherever an expert keeps them. Everything
else lies outside the arithmetic: the one owner's bits are copied, several owners' are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from merge_core.checkpoint import EMBEDDINGS, HEAD, Checkpoint
from merge_core.errors import VocabularyError
from merge_core.tokenizers import Tokenizer, extended, named

HEADS = (HEAD, "lm_head.bias", "embed_out.weight")
"""Ends of the names of what gives each token its logit."""

Owners = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the rows of the vocabulary tensors of all sources correspond, by token string.

    Sources are counted base first (if any), then the experts in recipe order; a recipe without
    base takes its first expert's vocabulary for base's.

    Attributes:
        core: base's rows that carry a token, ascending: those that are merged by arithmetic.
        rows: for each expert [len(core)] its row of each core token, -1 where it lacks the token
            (its difference is zero there); None: the rows are base's.
        output: [rows of the merge] the position in `core`, or -1 - x for `extras[x]`.
        extras: rows outside the arithmetic, by owners (source, its row). One owner's bits are
            copied; of several the normalized linear merge with the experts' weights is taken.
        source: the source whose tokenizer files and chat template the merge takes.
        ids: token strings to rows of the merge.
        tokenizer: the merge's tokenizer.json, where no source has it.
        lines: what `report` says.
    """

    core: npt.NDArray[np.int64]
    rows: tuple[npt.NDArray[np.int64] | None, ...]
    output: npt.NDArray[np.int64]
    extras: tuple[Owners, ...]
    source: int
    ids: Mapping[str, int]
    tokenizer: Mapping[str, Any] | None
    lines: tuple[str, ...]

    def report(self) -> list[str]:
        """Lines for people: the merge's vocabulary, and what each expert's differs in."""
        return list(self.lines)

    def renumbered(self, row: int) -> int | None:
        """The merge's id of the token that base has at `row`; None where the merge lacks it."""
        if self.source == 0:
            return row
        place = int(np.searchsorted(self.core, row))
        if place == len(self.core) or self.core[place] != row:
            return None
        found = np.flatnonzero(self.output == place)
        return int(found[0]) if len(found) else None


def vocabulary_tensors(names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that have a row for each token: input embeddings, heads and their biases."""
    return frozenset(name for name in names if name.endswith((*EMBEDDINGS, *HEADS)))


def align(
    base: Checkpoint | None,
    experts: Sequence[Checkpoint],
    tokenizer_source: str,
    names: Sequence[str],
) -> Alignment | None:
    """Align the experts' vocabularies to base's; None where all are the same, row by row.

    Sources without a tokenizer.json (weights alone) are taken to share base's vocabulary, if they
    have as many rows.

    Args:
        base: None for a recipe without one: the first expert plays its part.
        experts: in recipe order.
        tokenizer_source: "base", "union" or "model:<name>".
        names: of the experts.

    Raises:
        VocabularyError: the vocabularies cannot be told by token; files and tokens are named.
        CheckpointError: a tokenizer file cannot be read.
    """
    sources = [*([base] if base is not None else []), *experts]
    labels = [*(["base"] if base is not None else []), *names]
    read: dict[Path, Tokenizer | None] = {}
    for source in sources:
        if source.tokenizer_path not in read:
            read[source.tokenizer_path] = Tokenizer.read(source.tokenizer_path)
    found = [read[source.tokenizer_path] for source in sources]
    counts = [_row_counts(source) for source in sources]
    present = [tokenizer for tokenizer in found if tokenizer is not None]
    if all(c == counts[0] for c in counts) and all(t.ids == present[0].ids for t in present):
        return None
    rows = [_row_count(source) for source in sources]
    parts = [
        _Part(label, source, _shared(source, tokenizer, found[0], count, rows[0]), count)
        for label, source, tokenizer, count in zip(labels, sources, found, rows, strict=True)
    ]
    template = parts[0].tokenizer
    for part in parts:
        part.tokenizer.check(part.rows, f"{part.source.path} ({_first(part.source)})")
        if part.tokenizer.kind != template.kind:
            raise VocabularyError(
                f"{part.tokenizer.file}: is a {part.tokenizer.kind} tokenizer, {template.file} a "
                f"{template.kind} one: their tokens cannot be compared by string"
            )
    return _align(parts, len(experts), tokenizer_source, names)


@dataclass(frozen=True, eq=False)
class _Part:
    """One source: its label, checkpoint, tokenizer and number of rows."""

    label: str
    source: Checkpoint
    tokenizer: Tokenizer
    rows: int

    @property
    def ids(self) -> Mapping[str, int]:
        return self.tokenizer.ids


def _align(
    parts: Sequence[_Part], experts: int, tokenizer_source: str, names: Sequence[str]
) -> Alignment:
    template = parts[0]
    core_tokens = sorted(template.ids, key=template.ids.__getitem__)
    core = np.array([template.ids[token] for token in core_tokens], dtype=np.int64)
    place = {token: index for index, token in enumerate(core_tokens)}
    rows = []
    for part in parts[-experts:]:
        own = np.array([part.ids.get(token, -1) for token in core_tokens], dtype=np.int64)
        rows.append(None if np.array_equal(own, core) else own)

    source, ids, count, built = _output(parts, tokenizer_source, names)
    owner = parts[source]
    by_row = {row: token for token, row in ids.items()}
    output = np.empty(count, dtype=np.int64)
    extras: list[Owners] = []
    for row in range(count):
        token = by_row.get(row)
        if token in place:
            output[row] = place[token]
            continue
        output[row] = -1 - len(extras)
        if token is None:  # padding, or a hole
            extras.append(((source, row),))
        else:
            extras.append(tuple((i, p.ids[token]) for i, p in enumerate(parts) if token in p.ids))
    return Alignment(
        core=core,
        rows=tuple(rows),
        output=output,
        extras=tuple(extras),
        source=source,
        ids=ids,
        tokenizer=built,
        lines=tuple(_lines(parts, experts, owner, ids, count, built)),
    )


def _output(
    parts: Sequence[_Part], tokenizer_source: str, names: Sequence[str]
) -> tuple[int, Mapping[str, int], int, Mapping[str, Any] | None]:
    """Whose vocabulary the merge takes, its ids, its number of rows, and what had to be built."""
    template = parts[0]
    if tokenizer_source == "base":
        return 0, template.ids, template.rows, None
    if tokenizer_source.startswith("model:"):
        expert = names.index(tokenizer_source.removeprefix("model:"))
        index = len(parts) - len(names) + expert
        # One without tokenizer files shares base's.
        source = 0 if parts[index].tokenizer is template.tokenizer else index
        return source, parts[index].ids, parts[source].rows, None
    for index, part in enumerate(parts):
        if all(other.ids.keys() <= part.ids.keys() for other in parts):
            return index, part.ids, part.rows, None
    ids = dict(template.ids)
    free = sorted(set(range(template.rows)) - set(ids.values()), reverse=True)
    count = template.rows
    for part in parts[1:]:
        for token in sorted(part.ids, key=part.ids.__getitem__):
            if token not in ids:
                ids[token] = free.pop() if free else count
                count = max(count, ids[token] + 1)
    others = list(dict.fromkeys(part.tokenizer for part in parts[1:]))
    return 0, ids, count, extended(template.tokenizer, others, ids)


def _row_counts(source: Checkpoint) -> frozenset[int]:
    names = vocabulary_tensors(source.specs)
    return frozenset(source.specs[name].shape[0] for name in names if source.specs[name].shape)


def _row_count(source: Checkpoint) -> int:
    counts = _row_counts(source)
    if not counts:
        raise VocabularyError(
            f"{source.path}: the vocabularies of the sources differ, and which tensor holds a row "
            f"a token is not known (looked for names that end in {', '.join(EMBEDDINGS)})"
        )
    if len(counts) > 1:
        shown = ", ".join(
            f"{name} has {source.specs[name].shape[0]}"
            for name in sorted(vocabulary_tensors(source.specs))
        )
        raise VocabularyError(
            f"{source.path}: its vocabulary tensors have different numbers of rows ({shown})"
        )
    return next(iter(counts))


def _first(source: Checkpoint) -> str:
    return min(vocabulary_tensors(source.specs))


def _shared(
    source: Checkpoint, own: Tokenizer | None, base: Tokenizer | None, rows: int, expected: int
) -> Tokenizer:
    """The tokenizer of `source`: its own, or base's where it has none."""
    if own is not None:
        return own
    if base is None:
        raise VocabularyError(
            f"{source.path}: has no tokenizer.json, and those of the other sources differ from "
            "each other or in their rows: put its tokenizer there"
        )
    if rows != expected:
        raise VocabularyError(
            f"{source.path}: has no tokenizer.json, and its {_first(source)} has {rows} rows where "
            f"{base.file.parent} has {expected}: which tokens they are is not known; put its "
            "tokenizer there"
        )
    return base


def _lines(
    parts: Sequence[_Part],
    experts: int,
    owner: _Part,
    ids: Mapping[str, int],
    count: int,
    built: Mapping[str, Any] | None,
) -> Iterable[str]:
    template = parts[0]
    whose = f"{owner.label}'s"
    if built is not None:
        whose += f" with {_tokens(len(ids) - len(owner.ids))} of the experts added"
    bare = count - len(ids)
    padding = f", {bare} without a token: {owner.label}'s bits" if bare else ""
    yield f"vocabulary of the merge: {whose}; {_tokens(len(ids))}, {count} rows{padding}"
    for part in parts[-experts:]:
        if part is template:
            continue
        by_id = sorted(part.ids, key=part.ids.__getitem__)
        adds = [token for token in by_id if token not in template.ids]
        lacks = sorted(template.ids.keys() - part.ids.keys(), key=template.ids.__getitem__)
        moved = [t for t in by_id if template.ids.get(t, part.ids[t]) != part.ids[t]]
        left = [token for token in adds if token not in ids]
        said = []
        if adds:
            taken = f", {len(left)} of them not in the merge" if left else ""
            said.append(f"adds {_tokens(len(adds))} ({named(adds)}{taken})")
        if lacks:
            said.append(f"lacks {len(lacks)} of {template.label}'s ({named(lacks)})")
        if moved:
            shown = ", ".join(f"{t!r} {template.ids[t]} -> {part.ids[t]}" for t in moved[:3])
            more = ", ..." if len(moved) > 3 else ""
            said.append(f"has {_tokens(len(moved))} at other ids ({shown}{more})")
        if part.rows != template.rows:
            said.append(f"has {part.rows} rows where {template.label} has {template.rows}")
        yield f"  {part.label}: {'; '.join(said) or f'the same tokens as {template.label}'}"


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' if count != 1 else ''}"
