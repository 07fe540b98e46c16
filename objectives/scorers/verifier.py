"""math-verify in a process of its own, with a time limit that holds whatever it does."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

from objectives.errors import ScorerError

START_LIMIT = 120.0  # seconds; importing sympy on a busy machine is slow, and happens once


class Verifier:
    """One child process, started at the first question and again after it had to be killed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started the child: a fork must not share its pipes
        self._lock = threading.Lock()
        self._pending = b""

    def equal(self, gold: str, answer: str, limit: float) -> bool:
        """Whether math-verify holds `answer` equal to `gold`; False when it takes over `limit` s.

        A child that hangs or dies over a question is replaced, and the question counts as False.

        Raises:
            ScorerError: the child cannot be started at all.
        """
        job = json.dumps({"gold": gold, "answer": answer, "limit": limit}) + "\n"
        with self._lock:
            try:
                child = self._asked(job)
            except BrokenPipeError:
                # It died between questions, which is not this question's fault.
                self._stop()
                child = self._asked(job)
            reply = self._reply(child, limit)
            if reply is None:
                self._stop()
            return reply == "true"

    def close(self) -> None:
        """Kill the child, if this process started it; the next question starts another."""
        with self._lock:
            self._stop()

    def _asked(self, job: str) -> "subprocess.Popen[bytes]":
        child = self._started()
        assert child.stdin is not None
        child.stdin.write(job.encode())
        child.stdin.flush()
        return child

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._owner != os.getpid():
            self._child = None  # of another process: neither ours to use nor to kill
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._stop()
        # A script, not multiprocessing: that would import the caller's main module again. -P keeps
        # this folder, whose math.py is not Python's, off the path.
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("verify_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._owner = os.getpid()
        self._pending = b""
        if self._reply(self._child, START_LIMIT) != '"ready"':
            self._stop()
            raise ScorerError(
                "scorer math: math-verify does not start; run `python -c 'import math_verify'`"
            )
        return self._child

    def _reply(self, child: "subprocess.Popen[bytes]", limit: float) -> str | None:
        """The child's next line, or None when it is dead or silent for `limit` seconds."""
        assert child.stdout is not None
        deadline = time.monotonic() + limit
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([child.stdout], [], [], left)[0]:
                return None
            chunk = os.read(child.stdout.fileno(), 4096)
            if not chunk:
                return None
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


@cache
def shared_verifier() -> Verifier:
    """This process's verifier, killed with it."""
    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier
