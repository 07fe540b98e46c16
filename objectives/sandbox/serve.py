"""A service that runs programs for others: `python -m objectives.sandbox.serve`.

Put it on a machine that may be lost. `objectives.sandbox.remote` says what it is sent.
"""

import argparse
import hmac
import json
import os
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from objectives.sandbox import (
    SANDBOXES,
    Limits,
    Outcome,
    Program,
    Sandbox,
    SandboxError,
    make_sandbox,
)

MAX_BODY = 64 << 20
MAX_SECONDS, MAX_MEMORY, MAX_OUTPUT = 600.0, 8 << 30, 64 << 20
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Service(ThreadingHTTPServer):
    """Runs at most `runs` requests at once; asks for `key` where there is one."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], sandbox: Sandbox, runs: int, key: str) -> None:
        super().__init__(address, _Handler)
        self.sandbox = sandbox
        self.turns = threading.BoundedSemaphore(runs)
        self.key = key


class _Handler(BaseHTTPRequestHandler):
    server: Service
    timeout = 60  # seconds for a client to send its request

    def do_POST(self) -> None:
        given = self.headers.get("Authorization", "")
        wanted = f"Bearer {self.server.key}"
        if self.server.key and not hmac.compare_digest(given.encode(), wanted.encode()):
            self._send(401, {"error": "wrong or missing key"})
            return
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= MAX_BODY:
                raise ValueError("too large")
            programs, limits = _parse(json.loads(self.rfile.read(length)))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            self._send(400, {"error": f"not a request: {error}"})
            return
        try:
            with self.server.turns:
                outcomes = _run(self.server.sandbox, programs, limits)
        except SandboxError as error:
            self._send(500, {"error": str(error)})
            return
        self._send(200, {"outcomes": [vars(outcome) for outcome in outcomes]})

    def _send(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests are many and hold nothing to learn."""


def _run(sandbox: Sandbox, programs: list[Program], limits: Limits) -> list[Outcome]:
    if len(programs) == 1:
        return [sandbox.run(programs[0], limits)]
    return list(sandbox.run_joined(programs[0], programs[1], limits))


def _parse(body: Any) -> tuple[list[Program], Limits]:
    if body["version"] != 1:
        raise ValueError("only version 1 is known")
    programs = [Program(str(p["code"]), str(p.get("stdin", ""))) for p in body["programs"]]
    if not 1 <= len(programs) <= 2:
        raise ValueError("one program, or two that are joined")
    given = body["limits"]
    limits = Limits(float(given["seconds"]), int(given["memory"]), int(given["output"]))
    for value, most in (
        (limits.seconds, MAX_SECONDS),
        (limits.memory, MAX_MEMORY),
        (limits.output, MAX_OUTPUT),
    ):
        if not 0 < value <= most:
            raise ValueError(f"a limit of {value} is not within 0 and {most}")
    return programs, limits


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m objectives.sandbox.serve", description=__doc__)
    local = sorted(set(SANDBOXES) - {"http"})
    parser.add_argument("--sandbox", choices=local, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8321)
    parser.add_argument("--runs", type=int, default=os.cpu_count() or 1, help="at once")
    parser.add_argument("--key-env", help="environment variable with the key that clients send")
    options = parser.parse_args(arguments)
    key = os.environ.get(options.key_env or "", "").strip()
    if options.key_env and not key:
        parser.error(f"the environment variable {options.key_env} is not set")
    if options.host not in LOOPBACK and not key:
        parser.error("others could run programs here: give --key-env, or a loopback --host")
    sandbox = make_sandbox(options.sandbox)
    try:
        sandbox.check()
    except SandboxError as error:
        parser.error(str(error))
    with Service((options.host, options.port), sandbox, options.runs, key) as service:
        try:
            service.serve_forever()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
