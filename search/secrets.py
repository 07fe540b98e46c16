"""Passwords, keys and tokens: how a search file names them, and how they stay out of all we write.

What leaves the process (log, run folder, MLflow, terminal) goes through `redacted`. A search file
needs to hold none: PostgreSQL reads PGPASSWORD and ~/.pgpass, MLflow MLFLOW_TRACKING_USERNAME,
_PASSWORD and _TOKEN, Ray RAY_AUTH_TOKEN, the hub HF_TOKEN, each by itself; and `${NAME}` in
`storage` and `tracking.uri` stands for an environment variable. A password that is written there
all the same works, but the copies of the file that a run keeps name a variable in its place.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any
from urllib.parse import unquote

MASK = "***"
PASSWORDS = {
    ("storage",): "MERGEFRONT_STORAGE_PASSWORD",
    ("tracking", "uri"): "MERGEFRONT_TRACKING_PASSWORD",
}
"""Places of a search file whose URLs may hold one, and the variable that a run's copy names.

For another secret of the same URL, as `sslpassword`, the variable ends in its name instead.
"""
_LEAST = 8  # characters of a value that is sought everywhere: shorter ones are words of their own

_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)\}", re.ASCII)
_NOT_REFERENCE = r"(?!\$\{\w+\}@)"
_NOT_VARIABLE = r"(?!\$\{\w+\}(?:[\s&;#'\"]|$))"
# Of http the authority ends at a slash; drivers of databases read a password up to its @.
_HTTP_USER = re.compile(r"(?i)\b(https?://)" + r"[^\s/?#'\"<>$]*@")
_HTTP_PASSWORD = re.compile(r"(?i)\b(https?://[^\s/?#'\"<>:@]+:)" + _NOT_REFERENCE + r"[^\s/?#]*@")
_PASSWORD = re.compile(
    r"(?i)\b((?!https?:)[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)" + _NOT_REFERENCE + r"[^\s'\"]*@"
)
_KEY = (
    r"(?:password|passwd|passphrase|pwd|secret|api_?key|access_?key(?:_?id)?|secret_?key"
    r"|private_?key|authorization|credentials?)"
)
_VALUE = (
    r"((?!\$\{|\*\*\*|(?:null|none|true|false)\b|(?:bearer|basic)\s)"
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s&;,'\"{}\[\]()]+))"
)
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w-]*[-_]|ssl)?(?:token|sig|signature|auth|key|"
    + _KEY
    + r")=)"
    + _NOT_VARIABLE
    + r"[^\s&;#'\"]+"
)
_ASSIGNED = re.compile(
    r"(?i)(?<![A-Za-z0-9])((?:\w*[-_]|ssl)?"
    + _KEY
    + r"[\"']?\s*(?:=|:)\s*(?:(?:bearer|basic)\s+)?)"
    + _VALUE
)
# `eos_token: </s>` is no secret, `max_tokens: 64` none either.
_TOKEN = re.compile(
    r"(?i)(?<![A-Za-z0-9])((?:\w*[-_])?(?:hf|hub|auth|access|api|bearer|refresh|session|id|tracking"
    r"|ray|user|service|vault|git(?:hub|lab)?)[-_]?token[\"']?\s*(?:=|:)\s*)" + _VALUE
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{12,}")
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|dapi[0-9a-f]{32}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
)
_SECRET_NAME = re.compile(r"(?i)(password|passwd|secret|token|api_?key|access_?key|credential)s?$")
_SCHEME = re.compile(r"(?i)[a-z][a-z0-9+.-]*://")
_PARAMETER = re.compile(
    r"(?i)([?&])([\w.-]*(?:password|passwd|passphrase|token|secret|api_?key))=([^&#]*)(&?)"
)
_used: set[str] = set()


def redacted(text: str) -> str:
    """`text` without passwords, keys and tokens; `${NAME}` stays, for it tells nothing.

    Known by where they stand (in a URL, after `password=` or `Authorization:`), by their shape, and
    by their value: what the environment's variables with such names hold, and what `expanded` read.
    Too much is hidden rather than too little.
    """
    for value in _values():
        text = text.replace(value, MASK)
    text = _HTTP_PASSWORD.sub(rf"\1{MASK}@", text)
    text = _HTTP_USER.sub(rf"\1{MASK}@", text)
    text = _PASSWORD.sub(rf"\1{MASK}@", text)
    text = _QUERY.sub(rf"\1{MASK}", text)
    text = _ASSIGNED.sub(_hidden, text)
    text = _TOKEN.sub(_hidden, text)
    text = _BEARER.sub(rf"\1{MASK}", text)
    return _SHAPES.sub(MASK, text)


def _hidden(match: re.Match[str]) -> str:
    """What was assigned, masked; its quotation marks stay, so that JSON stays JSON."""
    quote = match[2][0] if match[2][0] in "\"'" else ""
    return f"{match[1]}{quote}{MASK}{quote}"


def said(error: object) -> str:
    """The message of `error`, redacted, on one line."""
    from merge_core.yaml_io import one_line

    return redacted(one_line(error))


def without_password(url: str) -> str:
    """A URL that opens the same with the password from elsewhere: what is safe to keep of it."""
    scheme, user, password, rest = _parts(url)
    if _is_http(scheme):
        url = scheme + rest  # the user may be a token
    elif password is not None:
        url = f"{scheme}{user}@{rest}"
    return _PARAMETER.sub(r"\1", url).rstrip("?&")


def _parts(url: str) -> tuple[str, str | None, str | None, str]:
    """A URL as its service reads it: scheme with ://, user, password, and all from the host on.

    User and password are None where there are none. An `@` behind the host belongs to the rest: of
    http the authority ends at a slash, as `urlsplit` has it; of a database the password ends at the
    first `@`, as SQLAlchemy's `make_url` has it, and may hold slashes.
    """
    found = _SCHEME.match(url)
    scheme = found[0] if found else ""
    rest = url[len(scheme) :]
    begin = 0
    if not _is_http(scheme) and (found := re.match(r"[^:/?#@]*:[^@]*@", rest)):
        begin = found.end()
    # One more in the authority should have been %40.
    end = begin + re.split(r"[/?#]", rest[begin:], maxsplit=1)[0].rfind("@")
    if not scheme or end < 0:
        return scheme, None, None, rest
    user, colon, password = rest[:end].partition(":")
    return scheme, user, password if colon else None, rest[end + 1 :]


def _is_http(scheme: str) -> bool:
    return scheme.lower() in ("http://", "https://")


def expanded(text: str, where: str) -> str:
    """`text` with each `${NAME}` replaced by that environment variable.

    Args:
        text: of a search file.
        where: the key it stands at, for the message.

    Raises:
        ConfigError: one is not set.
    """
    from search.errors import ConfigError  # here, for it imports torch, and --help needs none

    def value(match: re.Match[str]) -> str:
        held = os.environ.get(match[1])
        if not held:
            raise ConfigError(f"{where}: the environment variable {match[1]} is not set: export it")
        if len(held) >= _LEAST and "://" not in held:
            _used.add(held)
        return held

    return _REFERENCE.sub(value, text)


def can_expand(text: str) -> bool:
    """Whether all variables that `text` names are set."""
    return all(os.environ.get(name) for name in _REFERENCE.findall(text))


def portable(data: dict[str, Any]) -> dict[str, Any]:
    """A search file's data with a variable in place of each password that it holds."""
    data = copy.deepcopy(data)
    for where, name in PASSWORDS.items():
        node: Any = data
        for step in where[:-1]:
            node = node.get(step) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(where[-1]), str):
            node[where[-1]] = _referring(node[where[-1]], name)
    return data


def held(data: dict[str, Any]) -> list[str]:
    """The variables that `portable` puts in place of passwords."""
    before, after = (_REFERENCE.findall(str(each)) for each in (data, portable(data)))
    return [name for name in dict.fromkeys(after) if name not in before]


def _referring(url: str, name: str) -> str:
    """A URL with variables in place of what is secret in it; `name` for its password."""
    scheme, user, password, rest = _parts(url)
    if password and not _REFERENCE.fullmatch(password):
        password = f"${{{name}}}"
    elif not password and user and _is_http(scheme) and not _REFERENCE.fullmatch(user):
        user = f"${{{name}}}"  # a token
    if user is not None:
        word = "" if password is None else f":{password}"
        url = f"{scheme}{user}{word}@{rest}"

    def parameter(match: re.Match[str]) -> str:
        if not match[3] or _REFERENCE.fullmatch(match[3]):
            return match[0]
        own = re.sub(r"\W", "_", match[2]).upper()
        other = name if own == "PASSWORD" else f"{name.removesuffix('PASSWORD')}{own}"
        return f"{match[1]}{match[2]}=${{{other}}}{match[4]}"

    return _PARAMETER.sub(parameter, url)


def _values() -> list[str]:
    """Values that are secret wherever they stand, longest first."""
    found = set(_used)
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            found.add(value.strip())
        elif password := _parts(value)[2]:
            found |= {password, unquote(password)}
    return sorted((v for v in found if len(v) >= _LEAST and v != MASK), key=len, reverse=True)


class Formatter(logging.Formatter):
    """A log line, its traceback included, redacted."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def hide_in_tracebacks() -> None:
    """From now on what ends this process, or a thread of it, is told redacted."""

    def of_process(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))

    def of_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_type is SystemExit or told.exc_value is None:
            return
        sys.stderr.write(f"in thread {told.thread.name if told.thread else '?'}:\n")
        of_process(told.exc_type, told.exc_value, told.exc_traceback)

    sys.excepthook = of_process
    threading.excepthook = of_thread
