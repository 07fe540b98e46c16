"""math-verify in a few processes of its own, with a time limit that holds whatever it does."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from objectives.errors import ScorerError

START_LIMIT = 120.0  # seconds; importing sympy on a busy machine is slow, and happens once
MEMORY = 1 << 30  # bytes that one process may grow by: a symbolic blow-up must not fill the node


class Verifier:
    """A pool of `size` child processes; each starts when it is first needed, and again when killed.

    Any thread may ask. A process that forks shares no child with its fork, which starts its own.
    A child ends with its process, also when that is killed: its pipe closes, and a hung one has an
    alarm of the kernel's a second after its limit.
    """

    def __init__(self, size: int = 1, memory: int = MEMORY) -> None:
        self.size = size
        self._memory = memory
        self._refill()
        _LIVE.add(self)

    def equal(self, gold: str, answer: str, limit: float) -> bool:
        """Whether math-verify holds `answer` equal to `gold`; False when it takes over `limit` s.

        Both are LaTeX. Waiting for a free child, and for one to start, is not counted. A child
        that hangs is replaced; a question over which two children die counts as False. The caller
        may be interrupted at any time: the child that still computes is then ended.

        Raises:
            ScorerError: a child cannot be started at all.
        """
        child = self._take()
        try:
            return child.verdict(gold, answer, limit)
        except BaseException:
            child.stop()  # it may still be at this question
            raise
        finally:
            self._give_back(child)

    def close(self) -> None:
        """End the children, each once it is idle; the next question starts another."""
        for child in self._children:
            with self._lock:
                self._freed.wait_for(lambda child=child: child.holder is None)  # type: ignore[misc]
                child.stop()

    def pids(self) -> list[int]:
        """Process ids of the children alive, for those who watch processes."""
        return [child.process.pid for child in self._children if child.process is not None]

    def _refill(self) -> None:
        self._children = [_Child(self._memory) for _ in range(self.size)]
        # Taken by itself, not through the condition, whose __enter__ is Python's: interrupted
        # behind it, a thread would keep the lock for ever.
        self._lock = threading.RLock()
        self._freed = threading.Condition(self._lock)

    def _take(self) -> "_Child":
        """An idle child: one that has started before one that is starting, before a new one.

        A thread asks one question at a time, so a child that is its own already was left behind by
        an interruption that no `finally` can catch: as a call returns, or as one begins.
        """
        me = threading.get_ident()
        with self._lock:
            for child in self._children:
                if child.holder == me:
                    child.stop()  # it may still be at that question
                    child.holder = None
            self._freed.wait_for(self._idle)
            child = max(self._idle(), key=lambda one: (one.ready, one.process is not None))
            child.holder = me
            return child

    def _idle(self) -> list["_Child"]:
        return [child for child in self._children if child.holder is None]

    def _give_back(self, child: "_Child") -> None:
        with self._lock:
            child.holder = None
            self._freed.notify_all()  # one may wait for any child, one for this one

    def _leave_to_parent(self) -> None:
        """In a fork: another process's children are neither ours to ask nor to end."""
        for child in self._children:
            child.drop()
        self._refill()


class _Child:
    """One process; whoever has taken it from the pool is its only user.

    Attributes:
        holder: the thread that has taken it, or None.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self.holder: int | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self._pending = b""
        self._asked = 0

    def verdict(self, gold: str, answer: str, limit: float) -> bool:
        for _ in range(2):
            process = self._started()
            reply = self._ask(process, {"gold": gold, "answer": answer, "limit": limit})
            if reply in ("true", "false"):
                return reply == "true"
            # The next one starts while the caller goes on; its start is not waited for.
            self.stop()
            self._spawn()
            if reply is not None:
                return reply == "true last"
            if time.monotonic() >= self._deadline:
                return False
        return False

    def _ask(self, process: "subprocess.Popen[bytes]", job: dict[str, Any]) -> str | None:
        """The reply to this job and to no other, or None when there is none in time."""
        assert process.stdin is not None
        self._asked += 1
        self._deadline = time.monotonic() + job["limit"]
        try:
            process.stdin.write(json.dumps({**job, "number": self._asked}).encode() + b"\n")
        except BrokenPipeError:
            return None  # it died between questions
        while (line := self._line(process, self._deadline)) is not None:
            number, _, reply = line.partition(" ")
            if number == str(self._asked):
                return reply
        return None

    def _started(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            self._spawn()
        for _ in range(2):
            assert self.process is not None
            if self.ready or self._line(self.process, time.monotonic() + START_LIMIT) == "ready":
                self.ready = True
                return self.process
            self.stop()
            self._spawn()
        self.stop()
        raise ScorerError(
            "scorer math: math-verify does not start; run `python -c 'import math_verify'`"
        )

    def _spawn(self) -> None:
        # A script, not multiprocessing: that would import the caller's main module again. -P keeps
        # this folder, whose math.py is not Python's, off the path.
        script = str(Path(__file__).with_name("verify_child.py"))
        self.process = subprocess.Popen(
            [sys.executable, "-P", script, str(os.getpid()), str(self._memory)],
            bufsize=0,  # no lock that a fork could inherit taken
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self.ready = False
        self._pending = b""

    def _line(self, process: "subprocess.Popen[bytes]", deadline: float) -> str | None:
        """The child's next line, or None when it is dead or silent until `deadline`."""
        assert process.stdout is not None
        poll = select.poll()  # not select(), which fails on descriptors over 1023
        poll.register(process.stdout, select.POLLIN)
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                return None
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            _close_pipes(process)

    def drop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            _close_pipes(process)
            process.returncode = 0  # not ours to wait for


def _close_pipes(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


_LIVE: "weakref.WeakSet[Verifier]" = weakref.WeakSet()
_SHARED: dict[int, Verifier] = {}
_SHARED_LOCK = threading.Lock()


def shared_verifier(size: int = 1) -> Verifier:
    """This process's verifier of `size` children, which end with it; the same for every thread."""
    with _SHARED_LOCK:
        if size not in _SHARED:
            _SHARED[size] = Verifier(size)
            atexit.register(_SHARED[size].close)
        return _SHARED[size]


def _after_fork() -> None:
    global _SHARED_LOCK
    _SHARED_LOCK = threading.Lock()
    for verifier in list(_LIVE):
        verifier._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
