"""Sandboxes on this machine: starting their processes, feeding, bounding and ending them."""

import contextlib
import fcntl
import json
import os
import selectors
import subprocess
import sys
import sysconfig
import tempfile
import time
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from objectives.sandbox.base import Limits, Outcome, Program, Sandbox, SandboxError, Status

START_LIMIT = (
    60.0  # seconds of wall time until a program is locked in; only a sick machine needs it
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}  # sets are ordered alike in every run
NOBODY = 65534
_STDERR = 1 << 16
_ALL_SEALS = 0xF  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE
_INSIDE = Path(__file__).with_name("inside")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_START = "import sys; sys.path.insert(0, {folder!r}); from inside.start import main; main()"

# Each of these must fail inside; whatever succeeds is printed.
_ESCAPES = """
import json, os, socket, sys
def attempt(what, action):
    try:
        action()
    except Exception:
        return
    broken.append(what)
broken = []
attempt("read a file outside", lambda: open({secret!r}).read())
attempt("write a file outside", lambda: open({target!r}, "w"))
attempt("list the root of the machine's processes", lambda: os.listdir("/proc/1"))
attempt("read an environment", lambda: open("/proc/self/environ").read())
attempt("open a socket", lambda: socket.socket())
attempt("start a process", lambda: os.fork() or os._exit(0))
attempt("execute a file", lambda: os.execv(sys.executable, ["python"]))
attempt("signal another process", lambda: os.kill(os.getppid() or 1, 0))
broken += [f"see the variable {{name}}" for name in os.environ if name not in {names!r}]
print(json.dumps(broken))
"""


class LocalSandbox(Sandbox):
    """A subclass says how a job is started: `command`; everything else is here."""

    def run(self, program: Program, limits: Limits) -> Outcome:
        with _Child(self, program, limits, subprocess.PIPE, subprocess.PIPE) as child:
            return _supervise([child], limits)[0]

    def run_joined(
        self, first: Program, second: Program, limits: Limits
    ) -> tuple[Outcome, Outcome]:
        from_first, to_second = os.pipe()
        from_second, to_first = os.pipe()
        with contextlib.ExitStack() as stack:
            try:
                left = stack.enter_context(_Child(self, first, limits, from_second, to_second))
                right = stack.enter_context(_Child(self, second, limits, from_first, to_first))
            finally:
                for end in (from_first, to_second, from_second, to_first):
                    os.close(end)
            outcomes = _supervise([left, right], limits)
        return outcomes[0], outcomes[1]

    def check(self) -> None:
        with tempfile.TemporaryDirectory(prefix="mergefront-") as folder:
            Path(folder).chmod(0o755)
            secret = Path(folder, "secret")
            secret.write_text("secret")
            names = [*ENVIRONMENT, "LC_CTYPE", "PWD"]  # Python and bubblewrap set these
            code = _ESCAPES.format(secret=str(secret), target=str(secret) + "2", names=names)
            outcome = self.run(Program(code), Limits())
        if outcome.status != "ok":
            last = (outcome.stderr.strip().splitlines() or [outcome.status])[-1]
            raise SandboxError(
                f"sandbox {self.kind}: Python does not run in it here ({last}); choose another"
            )
        broken = json.loads(outcome.stdout)
        if broken:
            raise SandboxError(
                f"sandbox {self.kind}: does not hold here, a program could {broken[0]}; choose"
                " another"
            )

    @abstractmethod
    def command(self, start: Sequence[str], job: dict[str, Any]) -> list[str]:
        """The command that runs `start` (its last argument is `job` as JSON) in the sandbox.

        Raises:
            SandboxError: a program that it needs is missing.
        """

    @property
    @abstractmethod
    def advice(self) -> str:
        """What to do where it does not start."""


@cache
def readable() -> tuple[str, ...]:
    """Files and folders a program may read: Python, its libraries, the code that locks it in.

    None of them lies in another.
    """
    base = Path(sys.base_prefix)
    wanted = [Path(path) for path in _SYSTEM]
    # Of the interpreter itself: its virtual environment's packages are nobody's business.
    origin = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    wanted += [Path(sysconfig.get_path(name, vars=origin)) for name in ("stdlib", "platstdlib")]
    if base not in (Path("/"), Path("/usr")):
        wanted.append(base / "lib")  # libraries that come with the interpreter
    wanted += [interpreter(), _INSIDE]
    present = sorted({path for path in wanted if path.exists()}, key=lambda path: len(path.parts))
    chosen: list[Path] = []
    for path in present:
        if not any(path.is_relative_to(other) for other in chosen):
            chosen.append(path)
    return tuple(str(path) for path in chosen)


def interpreter() -> Path:
    """The Python that this one is, without its virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def threads_in_use() -> int:
    """Threads of the user that programs run as: of this one, or of nobody where this one is root.

    The kernel's limit is for all of a user's threads together, outside user namespaces.
    """
    uid = str(os.getuid() or NOBODY)
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            lines = (entry / "status").read_text().splitlines()
        except OSError:
            continue  # it ended
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        if fields["Uid"].split()[0] == uid:
            total += int(fields["Threads"])
    return total


class _Child:
    """One sandboxed process and what was read of it."""

    def __init__(
        self, sandbox: LocalSandbox, program: Program, limits: Limits, stdin: int, stdout: int
    ) -> None:
        self.sandbox = sandbox
        self.limits = limits
        self.program = program
        self._ends = (stdin, stdout)
        self.started = b""
        self.ready = False
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflow = False

    def __enter__(self) -> "_Child":
        status_read, status_write = os.pipe()
        text = _sealed(self.program.code.encode("utf-8", "surrogatepass"))
        try:
            job = {
                "backend": self.sandbox.kind,
                "limits": {
                    "memory": self.limits.memory,
                    "cpu": max(1, int(self.limits.seconds + 0.999)),
                },
                "readable": readable(),
                "devices": DEVICES,
                "scratch": tempfile.gettempdir(),
                "threads": 0,
                "parent": os.getpid(),
                "program": text,
                "status": status_write,
            }
            # -B: the sandbox's own folder is not written to; no site packages, no user's folder.
            python = [str(interpreter()), "-B", "-P", "-s", "-S", "-X", "utf8", "-c"]
            start = [*python, _START.format(folder=str(_INSIDE.parent))]
            self.process = subprocess.Popen(
                self.sandbox.command(start, job),
                stdin=self._ends[0],
                stdout=self._ends[1],
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=(text, status_write),
                start_new_session=True,
            )
        except OSError as error:
            os.close(status_read)
            raise SandboxError(
                f"sandbox {self.sandbox.kind}: cannot be started ({error.strerror});"
                f" {self.sandbox.advice}"
            ) from None
        except SandboxError:
            os.close(status_read)
            raise
        finally:
            os.close(text)
            os.close(status_write)
        self.status = os.fdopen(status_read, "rb", 0)
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever runs inside dies with this process: by its namespace, or because it is this one.
        self.process.kill()
        self.process.wait()
        for pipe in (self.status, self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def take(self, pipe: IO[bytes], data: bytes) -> None:
        if pipe is self.status:
            self.started += data
            self.ready = self.started == b"ready\n"
        elif pipe is self.process.stderr:
            self.stderr += data[: _STDERR - len(self.stderr)]
        else:
            self.stdout += data
            self.overflow = len(self.stdout) > self.limits.output

    def outcome(self, timed_out: bool) -> Outcome:
        """Of a process that has ended, or is about to be ended."""
        code = self.process.poll()
        status: Status
        if self.overflow:
            status = "output"
        elif timed_out or code in (-9, -24, 128 + 9, 128 + 24):  # SIGKILL, SIGXCPU
            status = "time"
        else:
            status = "ok" if code == 0 else "error"
        stdout = bytes(self.stdout[: self.limits.output]).decode(errors="replace")
        return Outcome(status, stdout, bytes(self.stderr).decode(errors="replace"))

    def failure(self) -> SandboxError:
        """Why it never said that it was ready."""
        said = self.started.decode(errors="replace").strip()
        said = said or self.stderr.decode(errors="replace").strip().partition("\n")[0]
        return SandboxError(
            f"sandbox {self.sandbox.kind}: does not start here ({said or 'no reason given'});"
            f" {self.sandbox.advice}"
        )


def _sealed(content: bytes) -> int:
    """A descriptor to read `content` from, which nobody can change or make grow."""
    handle = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(content)
    os.lseek(handle, 0, os.SEEK_SET)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return handle


def _supervise(children: Sequence[_Child], limits: Limits) -> list[Outcome]:
    """Until the last of `children` ends, or a limit is reached; their ends are read at once."""
    last = children[-1]
    with selectors.DefaultSelector() as selector:
        waiting = 0
        for child in children:
            for pipe in (child.status, child.process.stdout, child.process.stderr):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, child)
                    waiting += child is last
            if child.process.stdin is not None:
                os.set_blocking(child.process.stdin.fileno(), False)
                text = memoryview(child.program.stdin.encode("utf-8", "surrogatepass"))
                selector.register(child.process.stdin, selectors.EVENT_WRITE, (child, text))
        deadline = time.monotonic() + START_LIMIT
        ready = False
        timed_out = False
        while waiting and not any(child.overflow for child in children):
            left = deadline - time.monotonic()
            if left <= 0:
                timed_out = True
                break
            for key, _ in selector.select(left):
                if isinstance(key.data, tuple):
                    _feed(selector, key)
                    continue
                waiting -= _read(selector, key) and key.data is last
            if not ready and all(child.ready for child in children):
                ready = True
                deadline = time.monotonic() + limits.wall
    if timed_out and not ready:
        raise next(child for child in children if not child.ready).failure()
    if not timed_out and not last.overflow:
        # It may have closed its streams and live on.
        try:
            last.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            timed_out = True
    return [child.outcome(timed_out) for child in children]


def _read(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> bool:
    """Take what there is; whether that was all there will be.

    Raises:
        SandboxError: a child ended its start without being ready.
    """
    pipe: Any = key.fileobj
    data = os.read(pipe.fileno(), 1 << 16)
    if data:
        key.data.take(pipe, data)
        return False
    selector.unregister(pipe)
    if pipe is key.data.status and not key.data.ready:
        _drain(key.data)
        raise key.data.failure()
    return True


def _feed(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Write what fits of a program's input; close when there is no more, or nobody reads."""
    pipe: Any = key.fileobj
    child, data = key.data
    try:
        written = os.write(pipe.fileno(), data[: 1 << 16]) if data else 0
    except BrokenPipeError:
        written = len(data)
    if written == len(data):
        selector.unregister(pipe)
        pipe.close()
    else:
        selector.modify(pipe, selectors.EVENT_WRITE, (child, data[written:]))


def _drain(child: _Child) -> None:
    """What a sandbox that failed to start says on standard error."""
    child.process.kill()
    child.process.wait()
    assert child.process.stderr is not None
    child.take(child.process.stderr, os.read(child.process.stderr.fileno(), 4096))
