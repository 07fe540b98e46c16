"""Model references: a local folder, a hub id (`org/name`, `org/name@revision`), or BASE+ADAPTER."""

from __future__ import annotations

import re
from pathlib import Path

from merge_core.errors import CheckpointError
from merge_core.hub import fetch
from merge_core.yaml_io import one_line

_OWNER, _NAME = r"[A-Za-z0-9][\w.-]*", r"\w[\w.-]*"
HUB_ID = re.compile(f"{_OWNER}/{_NAME}")
_ON_HUB = re.compile(rf"{_OWNER}(/{_NAME})?(@[\w./-]+)?")
"""As a recipe may name it: old models have no owner; a revision may follow."""


def split_reference(reference: str, folder: Path | None = None) -> tuple[str, str] | None:
    """Base and adapter of `BASE+ADAPTER`, each a folder or a hub id; None for any other reference.

    A folder whose own name holds a plus stays a folder.

    Args:
        reference: as the user named it.
        folder: what relative paths are relative to; the working directory by default.

    Raises:
        CheckpointError: folders exist for more than one reading.
    """
    if "+" not in reference or _on_disk(reference, folder) is not None:
        return None
    pieces = reference.split("+")
    pairs = [("+".join(pieces[:i]), "+".join(pieces[i:])) for i in range(1, len(pieces))]
    pairs = [pair for pair in pairs if all(_nameable(part, folder) for part in pair)]
    if len(pairs) > 1:
        readings = " or ".join(f"{base} with {adapter}" for base, adapter in pairs)
        raise CheckpointError(f"{reference}: can be {readings}: rename a folder")
    return pairs[0] if pairs else None


def resolve_reference(reference: str, folder: Path) -> str:
    """`reference` with its relative local paths made absolute from `folder`, part by part.

    What names nothing on this disk is left alone: a hub id, or an error that opening it reports.

    Raises:
        CheckpointError: see `split_reference`.
    """
    parts = split_reference(reference, folder) or (reference,)
    return "+".join(str(_on_disk(part, folder) or part) for part in parts)


def locate(reference: str) -> Path:
    """The folder of one model or adapter, fetched from the hub if it is a hub id.

    Raises:
        CheckpointError: no such folder, the hub cannot give it, or it is BASE+ADAPTER, which has
            no folder of its own (`Checkpoint.open` takes it).
    """
    try:
        path = Path(reference).expanduser()
        if path.is_dir():
            return path
        if path.is_file():
            raise CheckpointError(f"{reference}: is a file; name the model's folder")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{reference[:200]}: cannot be read: {one_line(error)}") from error
    if split_reference(reference) is not None:
        raise CheckpointError(
            f"{reference}: a model with a folder of its own is needed here, not BASE+ADAPTER"
        )
    if not _ON_HUB.fullmatch(reference):
        missing = [part for part in reference.split("+") if not _nameable(part, None)]
        if "+" in reference and not missing:
            raise CheckpointError(
                f"{reference}: a base takes one adapter; merge the others into it first"
            )
        raise CheckpointError(
            f"{reference}: no such folder"
            + (f": {', '.join(map(repr, missing))}" if "+" in reference else "")
        )
    return _fetch(reference)


def _nameable(part: str, folder: Path | None) -> bool:
    return bool(part) and (
        _ON_HUB.fullmatch(part) is not None or _on_disk(part, folder) is not None
    )


def _on_disk(reference: str, folder: Path | None) -> Path | None:
    """The absolute path of what exists under that name."""
    try:
        path = Path(folder or "", Path(reference).expanduser())
        return path.resolve() if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a name no file can have, or an unknown ~user
        return None


def _fetch(reference: str) -> Path:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repository, _, revision = reference.partition("@")
    try:
        return fetch(repository, revision or None)
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{reference}: no such folder, and the hub does not give it: it is not in the hub's "
            "cache, and the hub cannot be reached (HF_HUB_OFFLINE, or no network)"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{reference}: no such folder, and the hub does not give it: {one_line(error)[:200]}"
        ) from error
