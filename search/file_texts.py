"""Texts of a search file that have to mean something: durations, bounds, URLs, warm starts."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from merge_core.yaml_io import unknown
from search.secrets import can_expand, expanded

WARM_STARTS = ("published", "recipe:FILE", "run:FOLDER")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_BOUND = re.compile(r"\s*(>=|<=)\s*(\S+)\s*")
DURATION_PATTERN = r"^\s*([0-9]+[dhms])+\s*$"
BOUND_PATTERN = r"^\s*[<>]=\s*\S+\s*$"
"""What editors check by; reading a file says more of what is wrong."""


def seconds(text: str) -> float:
    """A duration such as 90s, 45m, 8h or 1d12h in seconds; ValueError if it is none."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is no duration; write 90s, 45m, 8h or 1h30m")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def bound(text: Any) -> tuple[bool, float]:
    """A bound such as '>= 0.8' as (is it a lower one, its value); ValueError if it is none."""
    match = _BOUND.fullmatch(text) if isinstance(text, str) else None
    try:
        assert match is not None
        return match[1] == ">=", float(match[2])
    except (AssertionError, ValueError):
        raise ValueError(f"{text!r} is no bound; write '>= 0.8' or '<= 20'") from None


def _checked_bound(text: Any) -> Any:
    bound(text)
    return text


def _checked_duration(text: Any) -> Any:
    if text is not None and seconds(str(text)) == 0.0:
        raise ValueError(f"{text!r} is no time at all; write 90s, 45m, 8h or 1h30m")
    return text


def _checked_storage(url: Any) -> Any:
    """Refuse early what would be refused when the run has begun: the URL, its driver."""
    if isinstance(url, str) and can_expand(url):  # else it is told when the run opens it
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import SQLAlchemyError

        from search.database import connectable

        try:
            parsed = make_url(connectable(expanded(url, "storage")))
            parsed.get_dialect().import_dbapi()
        except SQLAlchemyError:
            # Not the URL itself: it may hold a password.
            raise ValueError(
                "storage is no database URL; write sqlite:///FILE or postgresql://USER@HOST/DATABASE"
            ) from None
        except ImportError as error:
            mend = ": pip install 'mergefront[postgresql]'" if error.name == "psycopg" else ""
            raise ValueError(
                f"storage {parsed.drivername} needs a package that is not installed: "
                f"{error.name}{mend}"
            ) from None
    return url


def _checked_warm_start(entry: Any) -> Any:
    if isinstance(entry, str) and entry != "published":
        kind, _, place = entry.partition(":")
        if kind not in ("recipe", "run") or not place:
            raise ValueError(unknown("warm start", entry, WARM_STARTS))
    return entry


_DurationText = Annotated[str, Field(pattern=DURATION_PATTERN)]
_BoundText = Annotated[str, Field(pattern=BOUND_PATTERN)]
Duration = Annotated[str, BeforeValidator(_checked_duration, json_schema_input_type=_DurationText)]
Bound = Annotated[str, BeforeValidator(_checked_bound, json_schema_input_type=_BoundText)]
StorageUrl = Annotated[str, BeforeValidator(_checked_storage)]
WarmStart = Annotated[str, BeforeValidator(_checked_warm_start)]
