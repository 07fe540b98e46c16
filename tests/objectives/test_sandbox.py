"""Each sandbox that can run here is attacked; one that cannot is skipped with its own reason."""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from objectives.sandbox import SANDBOXES, Limits, Program, SandboxError, make_sandbox
from objectives.sandbox.base import Sandbox
from objectives.sandbox.inside import seccomp
from objectives.sandbox.remote import Remote
from objectives.sandbox.serve import Service
from objectives.sandbox.serve import main as serve
from objectives.tables import resolve

LOCAL = sorted(set(SANDBOXES) - {"http"})
SHORT = Limits(seconds=5)
OWN = (1 << 30) + os.getpid()  # bytes of memory: a limit by which processes are told apart
MARK = f'"memory": {OWN}'.encode()


@pytest.fixture(scope="module", params=LOCAL)
def sandbox(request) -> Sandbox:
    made = make_sandbox(request.param)
    try:
        made.check()
    except SandboxError as error:
        pytest.skip(str(error))
    return made


@pytest.fixture(scope="module")
def some_sandbox() -> Sandbox:
    for name in LOCAL:
        made = make_sandbox(name)
        try:
            made.check()
        except SandboxError:
            continue
        return made
    raise AssertionError("no sandbox runs here, so none is tested")


def attempts(sandbox: Sandbox, code: str, limits: Limits = SHORT) -> list[str]:
    """Run lines of `try_(name, lambda: ...)`; the names of those that worked."""
    head = """
import json, os, socket, sys, ctypes, signal
worked = []
def try_(name, action):
    try:
        result = action()
    except BaseException:
        return
    if result != -1:
        worked.append(name)
def libc(name, *args):
    return getattr(ctypes.CDLL(None), name)(*args)
def syscall(*args):
    return ctypes.CDLL(None).syscall(*map(ctypes.c_long, args))
"""
    outcome = sandbox.run(Program(head + code + "\nprint(json.dumps(worked))"), limits)
    assert outcome.status == "ok", outcome
    return json.loads(outcome.stdout)


def test_some_sandbox_runs_here(some_sandbox):
    assert some_sandbox.run(Program("print(1)"), SHORT).stdout == "1\n"


class TestPrograms:
    def test_reads_and_prints(self, sandbox):
        code = "import sys\nn = int(input())\nprint(sum(map(int, sys.stdin)) * n)"
        outcome = sandbox.run(Program(code, "2\n3\n4\n"), SHORT)
        assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "14\n", "")

    def test_input_and_output_larger_than_a_pipe(self, sandbox):
        text = "ก" * 300_000
        outcome = sandbox.run(Program("print(input())", text + "\n"), SHORT)
        assert outcome.stdout == text + "\n"

    def test_input_that_is_not_read(self, sandbox):
        outcome = sandbox.run(Program("print(1)", "x" * 1_000_000), SHORT)
        assert (outcome.status, outcome.stdout) == ("ok", "1\n")

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            ("raise ValueError('x')", "error"),
            ("import sys; sys.exit(3)", "error"),
            ("import os; os._exit(0)", "ok"),
            ("exit()", "ok"),
            ("def (", "error"),
            ("import ctypes; ctypes.string_at(0)", "error"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "error"),
        ],
    )
    def test_how_it_ended(self, sandbox, code, status):
        assert sandbox.run(Program(code), SHORT).status == status

    def test_what_programs_of_contests_do(self, sandbox):
        code = """
import asyncio, sys, threading, math, heapq, collections, itertools, functools, random, decimal
import re, bisect, string, datetime, dataclasses, typing, zoneinfo, hashlib, sqlite3
async def slept():
    await asyncio.sleep(0.01)
    return 1
def deep(n):
    return 1 + deep(n - 1) if n else 0
def main():
    print(asyncio.run(slept()), deep(50_000), __name__)
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 27)
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""
        outcome = sandbox.run(Program(code), Limits())
        assert outcome.stdout == "1 50000 __main__\n", outcome.stderr

    def test_sets_are_ordered_alike_in_every_run(self, sandbox):
        program = Program("print({'a', 'b', 'c', 'd', 'e'})")
        assert sandbox.run(program, SHORT) == sandbox.run(program, SHORT)

    def test_two_joined_programs_talk(self, sandbox):
        first = Program("while True: print(int(input()) + 1, flush=True)")
        second = Program(
            "import sys\nprint(1, flush=True)\nn = int(input())\n"
            "print(n, flush=True)\nsys.stderr.write(input())"
        )
        _, outcome = sandbox.run_joined(first, second, SHORT)
        assert (outcome.status, outcome.stderr) == ("ok", "3")

    def test_of_joined_programs_the_first_may_hang_or_die(self, sandbox):
        second = Program("import sys\nsys.stderr.write(repr(sys.stdin.read()))")
        _, outcome = sandbox.run_joined(Program("1 / 0"), second, SHORT)
        assert (outcome.status, outcome.stderr) == ("ok", "''")
        short = Limits(seconds=0.1)
        _, outcome = sandbox.run_joined(Program("while True: input()"), second, short)
        assert outcome.status == "time"

    def test_travels_to_workers(self, sandbox):
        again = pickle.loads(pickle.dumps(sandbox))
        assert again.run(Program("print(1)"), SHORT).stdout == "1\n"


class TestAttacks:
    def test_files(self, sandbox, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("hunter2")
        for path in (tmp_path, *tmp_path.parents[:3]):
            if path.owner() == Path(__file__).owner():
                path.chmod(0o755)
        place = Path("/tmp/mergefront-was-here")
        found = attempts(
            sandbox,
            f"""
s = {str(secret)!r}
try_("open", lambda: open(s).read())
try_("list", lambda: os.listdir({str(tmp_path)!r}))
try_("list the root's", lambda: [open("/" + n) for n in ("etc/passwd",)])
try_("list home", lambda: os.listdir("/root") + os.listdir("/home"))
try_("repository", lambda: open({__file__!r}).read())
try_("write", lambda: open({str(place)!r}, "w").write("x"))
try_("append", lambda: open(s, "a"))
try_("create here", lambda: open("x", "w"))
try_("tmp", lambda: __import__("tempfile").TemporaryFile())
try_("shm", lambda: open("/dev/shm/x", "w"))
try_("O_TMPFILE", lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR))
try_("truncate by reading", lambda: os.open(s, os.O_RDONLY | os.O_TRUNC))
try_("truncate", lambda: os.truncate(s, 0))
try_("unlink", lambda: os.unlink(s))
try_("rename", lambda: os.rename(s, s + "2"))
try_("chmod", lambda: os.chmod(s, 0o777))
try_("mkdir", lambda: os.mkdir("/tmp/x"))
try_("symlink", lambda: os.symlink(s, "/tmp/link"))
try_("link", lambda: os.link(s, "/tmp/link"))
try_("chroot", lambda: os.chroot("/"))
try_("mount", lambda: libc("mount", b"none", b"/tmp", b"tmpfs", 0, None))
try_("unmount", lambda: libc("umount2", b"/usr/lib", 2))
try_("up", lambda: open("../" * 30 + s).read())
try_("open the disk", lambda: open("/dev/vda", "rb"))
try_("open memory", lambda: open("/dev/mem", "rb"))
try_("open the terminal", lambda: open("/dev/tty"))
for fd in range(3, 256):
    try_(f"descriptor {{fd}}", lambda: os.fstat(fd))
""",
        )
        assert found == []
        assert secret.read_text() == "hunter2"
        assert not place.exists()

    def test_network(self, sandbox):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.2)
            port = server.getsockname()[1]
            found = attempts(
                sandbox,
                f"""
try_("tcp", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
try_("tcp6", lambda: socket.create_connection(("::1", {port}), 1))
try_("dns", lambda: socket.getaddrinfo("example.com", 80))
try_("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
try_("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
try_("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
try_("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
try_("unix", lambda: socket.socket(socket.AF_UNIX))
try_("datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
try_("urllib", lambda: __import__("urllib.request").request.urlopen("http://127.0.0.1:{port}"))
try_("io_uring", lambda: syscall(425, 8, 0))
""",
            )
            with pytest.raises(TimeoutError):
                server.accept()
        assert found == []

    def test_processes(self, sandbox):
        victim = subprocess.Popen(["/bin/sleep", "30"])
        try:
            found = attempts(
                sandbox,
                f"""
pid = {victim.pid}
try_("kill", lambda: os.kill(pid, 9))
try_("kill the test", lambda: os.kill({os.getpid()}, 0))
try_("kill the parent", lambda: os.kill(os.getppid() or 1, 9))
try_("kill all", lambda: os.kill(-1, 9))
try_("kill the group", lambda: os.killpg(0, 0))
try_("queue a signal", lambda: libc("sigqueue", pid, 9, None))
try_("own signals", lambda: __import__("fcntl").fcntl(0, 8, pid))
try_("limit others", lambda: __import__("resource").prlimit(pid, 7, (1, 1)))
try_("renice", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
try_("schedule", lambda: os.sched_setaffinity(pid, {{0}}))
try_("trace", lambda: libc("ptrace", 16, pid, 0, 0))
try_("read memory", lambda: syscall(310, pid, 0, 0, 0, 0, 0))
try_("pidfd", lambda: os.pidfd_open(pid))
try_("fork", lambda: os.fork() or os._exit(0))
try_("spawn", lambda: os.posix_spawn(sys.executable, ["python", "-c", ""], {{}}))
try_("exec", lambda: os.execv(sys.executable, ["python", "-c", ""]))
try_("shell", lambda: -1 if os.system("true") else 0)
try_("pool", lambda: __import__("multiprocessing").Pool(1))
try_("user namespace", lambda: libc("unshare", 0x10000000))
try_("become root", lambda: os.setuid(0))
try_("key ring", lambda: syscall(248, 0, 0, 0, 0, -3))
try_("bpf", lambda: syscall(321, 0, 0, 0))
""",
            )
            assert victim.poll() is None
        finally:
            victim.kill()
            victim.wait()
        assert found == []

    def test_secrets_of_the_environment(self, sandbox, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hunter2")
        code = f"""
found = [name for name in os.environ if name not in ("PYTHONHASHSEED", "LANG", "LC_CTYPE", "PWD")]
worked += found
for pid in ("self", "1", os.getpid(), os.getppid(), {os.getpid()}, {os.getppid()}):
    for name in ("environ", "cmdline", "maps", "mem", "root", "cwd", "fd"):
        try_(f"{{pid}}/{{name}}", lambda: open(f"/proc/{{pid}}/{{name}}", "rb").read(10))
        try_(f"{{pid}}/{{name}}", lambda: os.listdir(f"/proc/{{pid}}/{{name}}"))
try_("proc", lambda: os.listdir("/proc"))
try_("sys", lambda: os.listdir("/sys"))
try_("argv", lambda: sys.orig_argv.index("hunter2"))
"""
        assert attempts(sandbox, code) == []

    def test_endless_loop_and_sleep(self, sandbox):
        for code in (
            "while True: pass",
            "import time; time.sleep(60)",
            "import signal\nfor n in range(1, 32):\n try: signal.signal(n, signal.SIG_IGN)\n"
            " except OSError: pass\nwhile True: pass",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()",
            "import os, time\nos.close(0); os.close(1); os.close(2)\ntime.sleep(60)",
        ):
            start = time.monotonic()
            outcome = sandbox.run(Program(code), Limits(seconds=0.1))
            assert outcome.status == "time", code
            assert time.monotonic() - start < 30

    def test_processor_time_of_all_threads_counts(self, sandbox):
        code = """
import threading, hashlib
def burn():
    while True: hashlib.sha256(bytes(1 << 20)).digest()
for _ in range(4): threading.Thread(target=burn).start()
"""
        assert sandbox.run(Program(code), Limits(seconds=0.2)).status == "time"

    def test_endless_output(self, sandbox):
        limits = Limits(seconds=5, output=100_000)
        for stream in ("stdout", "stderr"):
            start = time.monotonic()
            code = f"import sys\nfor _ in range(10**9): sys.{stream}.write('x' * 10_000)"
            outcome = sandbox.run(Program(code), Limits(0.2) if stream == "stderr" else limits)
            assert outcome.status == ("output" if stream == "stdout" else "time")
            assert len(outcome.stdout) + len(outcome.stderr) <= 100_000
            assert time.monotonic() - start < 5

    def test_memory(self, sandbox):
        limits = Limits(seconds=3, memory=256 << 20)
        for code in (
            "x = bytearray(300 << 20)",
            "x = []\nwhile True: x.append(bytes(1 << 20))",
            "import mmap\nx = mmap.mmap(-1, 300 << 20)",
        ):
            outcome = sandbox.run(Program(code), limits)
            assert outcome.status == "error"
            assert "Error" in outcome.stderr.splitlines()[-1]
        code = """
import resource
try_("raise a limit", lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40)))
try_("memfd", lambda: os.memfd_create("x"))
try_("shared memory", lambda: syscall(29, 0, 1 << 20, 0o1600))
try_("message queue", lambda: syscall(68, 0, 0o1600))
try_("semaphore", lambda: syscall(64, 0, 1, 0o1600))
try_("lock", lambda: libc("mlockall", 3))
"""
        assert attempts(sandbox, code) == []

    def test_fork_and_thread_bombs(self, sandbox):
        bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: break\nprint('over')"
        assert sandbox.run(Program(bomb), SHORT).stdout == "over\n"
        threads = """
import threading
threading.stack_size(1 << 15)
stop = threading.Event()
count = 0
try:
    while count < 5000:
        threading.Thread(target=stop.wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(count)
stop.set()
"""
        outcome = sandbox.run(Program(threads), Limits(seconds=5, memory=4 << 30))
        assert outcome.status == "ok"
        assert int(outcome.stdout) < 1000

    def test_nothing_is_left_behind(self, sandbox):
        limits = Limits(seconds=0.2, memory=OWN)
        for code in ("import time; time.sleep(60)", "print(1)"):
            sandbox.run(Program(code), limits)
        assert within(5, lambda: not running())

    def test_it_dies_with_what_started_it(self, sandbox):
        """A worker that is killed leaves no program running."""
        code = (
            "from objectives.sandbox import *\n"
            f"limits = Limits(seconds=50, memory={OWN})\n"
            f"make_sandbox({sandbox.kind!r}).run(Program('import time; time.sleep(50)'), limits)"
        )
        worker = subprocess.Popen([sys.executable, "-c", code])
        assert within(20, running)
        time.sleep(0.3)
        assert running()
        worker.kill()
        worker.wait()
        assert within(5, lambda: not running())

    def test_a_program_cannot_pose_as_its_sandbox(self, sandbox):
        """What looks like a failure of the sandbox would be an error instead of a wrong answer."""
        code = (
            "import os\nfor fd in range(256):\n try: os.write(fd, b'ready')\n except OSError: 0\n"
        )
        assert sandbox.run(Program(code + "os._exit(125)"), SHORT).status == "error"


def running() -> list[str]:
    """Processes of sandboxes with the limit OWN; other tests may run others at the same time."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and MARK in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def within(seconds: float, holds) -> bool:
    deadline = time.monotonic() + seconds
    while not (result := holds()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(result)


class TestFilter:
    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    def test_jumps_stay_inside_and_all_paths_answer(self, machine):
        code = seccomp.program(machine, 42)
        assert len(code) < 4096
        for at, (operation, yes, no, _) in enumerate(code):
            if operation in (0x15, 0x45):
                assert at + 1 + max(yes, no) < len(code)
        assert code[-1][0] == 0x06

    def test_another_machine_is_refused(self):
        with pytest.raises(OSError, match="no list of system calls for riscv64"):
            seccomp.program("riscv64", 42)


class TestUnavailable:
    def test_bubblewrap_that_is_not_installed(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(SandboxError, match="apt install bubblewrap") as caught:
            make_sandbox("bubblewrap").check()
        assert "\n" not in str(caught.value)

    def test_a_bubblewrap_that_does_not_work(self, monkeypatch, tmp_path):
        fake = tmp_path / "bwrap"
        fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create namespace' >&2\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SandboxError, match=r"No permissions.*use landlock or http"):
            make_sandbox("bubblewrap").run(Program("print(1)"), SHORT)

    def test_a_bubblewrap_that_isolates_nothing(self, monkeypatch, tmp_path):
        """A check that only asked whether programs run would take it."""
        fake = tmp_path / "bwrap"
        fake.write_text('#!/bin/sh\nwhile [ "$1" != "--" ]; do shift; done\nshift\nexec "$@"\n')
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(SandboxError, match="does not hold here, a program could read a file"):
            make_sandbox("bubblewrap").check()

    def test_namespaces_that_are_forbidden(self):
        """As containers forbid them: no user namespace may be made below this process."""
        code = (
            "from pathlib import Path\n"
            "from objectives.sandbox import *\n"
            "import ctypes\n"
            "libc = ctypes.CDLL(None)\n"
            "assert libc.unshare(0x10000000) == 0\n"
            "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
            "try: make_sandbox('unshare').check()\n"
            "except SandboxError as error: print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if "AssertionError" in done.stderr or "PermissionError" in done.stderr:
            pytest.skip("no user namespaces here to forbid")
        assert "sandbox unshare: does not start here" in done.stdout
        assert "use landlock or http" in done.stdout

    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            ("unshar", "unknown sandbox 'unshar'; did you mean 'unshare'"),
            ({"unshare": {"x": 1}}, "takes no settings"),
            ("http", "needs a URL"),
            ({"http": {"url": "http://x/", "key": "a"}}, "unknown setting 'key'"),
            ({"http": "ftp://x"}, r"not an http\(s\) URL"),
            ({"http": "https://user:hunter2@x/"}, "must not hold a password"),
            ({"http": "u", "unshare": None}, "give one"),
        ],
    )
    def test_a_wrong_reference_is_one_clear_line(self, ref, message):
        with pytest.raises(SandboxError, match=message) as caught:
            make_sandbox(ref)
        assert "\n" not in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_every_table_entry_resolves(self):
        for name in SANDBOXES:
            assert resolve(SANDBOXES, name).kind == name


class TestRemote:
    @pytest.fixture
    def service(self, some_sandbox):
        with Service(("127.0.0.1", 0), some_sandbox, 2, "hunter2") as service:
            thread = threading.Thread(target=service.serve_forever, args=(0.02,))
            thread.start()
            yield f"http://127.0.0.1:{service.server_address[1]}/"
            service.shutdown()
            thread.join()

    @pytest.fixture
    def remote(self, service, monkeypatch):
        monkeypatch.setenv("SANDBOX_KEY", "hunter2")
        return make_sandbox({"http": {"url": service, "key_env": "SANDBOX_KEY", "backoff": 0.01}})

    def test_runs_programs_there(self, remote):
        remote.check()
        outcome = remote.run(Program("print(input())", "ก"), SHORT)
        assert (outcome.status, outcome.stdout) == ("ok", "ก\n")
        assert remote.run(Program("while True: pass"), Limits(0.2)).status == "time"
        _, second = remote.run_joined(
            Program("print(7)"), Program("import sys; sys.stderr.write(input())"), SHORT
        )
        assert second.stderr == "7"

    def test_a_wrong_key_is_refused_and_never_shown(self, service, monkeypatch):
        monkeypatch.setenv("SANDBOX_KEY", "letmein")
        remote = make_sandbox({"http": {"url": service, "key_env": "SANDBOX_KEY"}})
        with pytest.raises(SandboxError, match="HTTP 401; check SANDBOX_KEY") as caught:
            remote.check()
        assert "letmein" not in str(caught.value)
        assert b"letmein" not in pickle.dumps(remote)

    def test_limits_beyond_the_services_are_refused(self, remote):
        with pytest.raises(SandboxError, match=r"HTTP 400 .*a limit of 1000000000"):
            remote.run(Program(""), Limits(seconds=1e9))

    def test_a_service_that_is_not_there(self):
        remote = Remote("http://127.0.0.1:9/", tries=2, backoff=0.01)
        with pytest.raises(SandboxError, match=r"refused \(tried 2 times\)"):
            remote.check()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--sandbox", "http"], "invalid choice"),
            (["--sandbox", "landlock", "--host", "0.0.0.0"], "others could run programs here"),
            (["--sandbox", "landlock", "--key-env", "NOT_SET"], "NOT_SET is not set"),
        ],
    )
    def test_the_service_refuses_to_be_open(self, arguments, message, capsys):
        with pytest.raises(SystemExit):
            serve(arguments)
        assert message in capsys.readouterr().err
