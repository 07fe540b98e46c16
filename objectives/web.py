"""JSON to and from HTTP services: bounded in time and size, tried again, keys kept secret."""

import email.utils
import http.client
import json
import os
import random
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from objectives.web_deadline import DeadlineHTTP, DeadlineHTTPS

MAX_REPLY = 16 << 20  # bytes
MAX_PAUSE = 60.0  # seconds between two tries, whatever the service asks for
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class WebError(Exception):
    """A service did not answer as it should: one line, without keys."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to wherever it points."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """A URL that takes JSON by POST.

    The key is read from the environment variable `key_env` at each use and kept nowhere, so that
    neither a pickle nor a message can hold it. `timeout` is in seconds, for the whole of one try;
    there are `tries` in all, `backoff` seconds apart at first and twice as long each time, with
    jitter.
    """

    url: str
    key_env: str | None = None
    timeout: float = 60.0
    tries: int = 5
    backoff: float = 1.0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port or an address that is none
            sound = False
        if not sound or re.search(r"\s", self.url):
            raise WebError(f"{self._shown()!r} is not an http(s) URL; write https://host/path")
        if parts.username or parts.password:
            raise WebError(
                f"{self._shown()}: a URL must not hold a password; name an environment variable"
                " by key_env"
            )

    def check(self) -> None:
        """Whether the key is there, and somebody answers at the URL; nothing is asked of them.

        Raises:
            WebError: the key's variable is not set or holds what no header can, or nobody listens.
        """
        self._headers()
        parts = urllib.parse.urlsplit(self.url)
        host = str(parts.hostname)
        if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            return  # only the proxy knows
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((host, port), timeout=min(10.0, self.timeout)).close()
        except OSError as error:
            raise WebError(f"{self._shown()}: {self._hidden(_words(error))}") from None

    def post(self, body: Any) -> Any:
        """The JSON that the service answers `body` with.

        Raises:
            WebError: it refused, or there was no answer in any of the tries.
        """
        data = json.dumps(body, sort_keys=True).encode()
        request = urllib.request.Request(self.url, data, self._headers(), method="POST")
        opener = urllib.request.build_opener(_NoRedirects, DeadlineHTTP, DeadlineHTTPS)
        problem = ""
        for turn in range(self.tries):
            pause = self.backoff * 2**turn
            try:
                return self._once(opener, request)
            except urllib.error.HTTPError as error:
                with error:
                    problem = self._refusal(error)
                    asked = _retry_after(error.headers.get("Retry-After"))
                if error.code not in _AGAIN:
                    raise WebError(problem) from None
                pause = max(pause, asked)
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = f"{self._shown()}: {self._hidden(_words(error))}"
            if turn + 1 < self.tries:
                # Several workers were refused at one time: they must not come back at one time.
                time.sleep(min(MAX_PAUSE, pause * random.uniform(1.0, 1.5)))
        raise WebError(f"{problem} (tried {self.tries} times)")

    def _once(self, opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> Any:
        reply = bytearray()
        with opener.open(request, timeout=self.timeout) as response:
            while chunk := response.read1(1 << 16):
                reply += chunk
                if len(reply) > MAX_REPLY:
                    raise ValueError(f"an answer of more than {MAX_REPLY >> 20} MiB")
        try:
            return json.loads(bytes(reply))
        except (ValueError, RecursionError):
            raise ValueError("the answer is not JSON") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "mergefront"}
        if self.key_env is not None:
            key = os.environ.get(self.key_env, "").strip()
            if not key:
                raise WebError(f"the environment variable {self.key_env} is not set; export it")
            if not (key.isascii() and key.isprintable()):
                # http.client would quote it in its own complaint.
                raise WebError(f"the environment variable {self.key_env} holds no valid key")
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        said = ""
        if error.code not in (401, 403):  # those tend to quote keys
            try:
                said = error.read(2000).decode(errors="replace")
            except (OSError, http.client.HTTPException):
                said = ""
        said = " ".join(self._hidden(said).split())[:200]
        hint = f"; check {self.key_env}" if self.key_env and error.code in (401, 403) else ""
        return f"{self._shown()}: HTTP {error.code}{hint}{f' ({said})' if said else ''}"

    def _hidden(self, text: str) -> str:
        key = os.environ.get(self.key_env or "", "").strip()
        return text.replace(key, "***") if key else text

    def _shown(self) -> str:
        """The URL without what could be secret in it."""
        try:
            parts = urllib.parse.urlsplit(self.url)
        except ValueError:
            return "the URL"
        host = parts.netloc.rpartition("@")[2]
        return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def _words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time" if str(reason) in ("", "timed out") else str(reason)
    return " ".join((str(reason) or type(reason).__name__).split())[:200]


def _retry_after(value: str | None) -> float:
    """Seconds that a service asks to wait, given as a number or a date; 0 if it does not."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
