"""HTTP within a time that holds for all of an exchange, however slowly the other side drips.

The limits of Python's sockets are for each read: a byte a second keeps them waiting for ever.
"""

import http.client
import io
import queue
import socket
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import Any


class DeadlineHTTP(urllib.request.HTTPHandler):
    """For an opener: `timeout` bounds name look-up, connecting, sending and the whole answer."""

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request)


class DeadlineHTTPS(urllib.request.HTTPSHandler):
    """The same over TLS, its handshake included."""

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request)


@dataclass(frozen=True)
class _Deadline:
    timeout: float
    at: float

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: none are.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no whole answer in {self.timeout:g} s")
        return left


class _Connection(http.client.HTTPConnection):
    """Its time begins when it is made."""

    timeout: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline = _Deadline(self.timeout, time.monotonic() + self.timeout)
        # How `http.client` itself makes them, with and without TLS, and to a proxy.
        self._create_connection = self._connected
        self.response_class = self._response  # type: ignore[assignment]

    def send(self, data: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self._deadline.left())
        super().send(data)

    def _connected(self, address: tuple[str, int], *_: Any) -> socket.socket:
        found = _addresses(address, self._deadline)
        problem: OSError = OSError("no address")
        for at, (family, kind, protocol, _, where) in enumerate(found):
            connected = socket.socket(family, kind, protocol)
            try:
                # The next address gets its share of the time, should this one be silent.
                connected.settimeout(self._deadline.left() / (len(found) - at))
                connected.connect(where)
                connected.settimeout(self._deadline.left())  # a handshake's, as a whole
            except OSError as error:
                connected.close()
                problem = error
            else:
                return connected
        raise problem

    def _response(self, sock: socket.socket, **kwargs: Any) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(sock, **kwargs)
        response.fp.close()
        response.fp = io.BufferedReader(_Reading(sock, self._deadline))
        return response


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """Its `connect` calls the one above."""


class _Reading(io.RawIOBase):
    """What a socket receives until the deadline."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)  # it keeps the socket open when that is closed
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _addresses(address: tuple[str, int], deadline: _Deadline) -> list[Any]:
    """What a name stands for; the system's look-up knows no limit, so it is left behind."""
    found: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)
        except UnicodeError:
            found.put(OSError("no name of a host"))

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = found.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError(f"no address in {deadline.timeout:g} s") from None
    if isinstance(result, OSError):
        raise result
    return result
