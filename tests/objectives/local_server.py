"""An HTTP service on this machine that answers from a list, and keeps what it was asked."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What to answer; `text` as it is, else `body` as JSON. `drip` sends a byte each 50 ms."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str | None = None
    wait: float = 0.0
    drip: bool = False


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: Any
    at: float


class LocalServer:
    """`replies` are used up in order; the last one stays. Or `answer` makes one of the body."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.answer: Callable[[Any], Reply] | None = None
        self.asked: list[Asked] = []
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def take(self, asked: Asked) -> Reply:
        with self.lock:
            self.asked.append(asked)
            if self.answer is not None:
                return self.answer(asked.body)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def local_server(tls: ssl.SSLContext | None = None) -> Iterator[LocalServer]:
    state = LocalServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            reply = state.take(Asked(self.path, dict(self.headers), body, time.monotonic()))
            time.sleep(reply.wait)
            with state.lock:
                state.at_once -= 1
            data = (reply.text if reply.text is not None else json.dumps(reply.body)).encode()
            try:
                self.send_response(reply.status)
                for key, value in reply.headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                for byte in data if reply.drip else []:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                if not reply.drip:
                    self.wfile.write(data)
            except OSError:
                return  # the client gave up, as it should

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        state.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
