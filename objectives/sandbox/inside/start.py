"""The first code of a sandbox: lock in, say so, run the program's text in this very process.

`argv[1]` is JSON: `backend`, `limits`, `readable`, `devices`, `scratch`, `threads` (that the user
has already), `parent`, `program` and `status` (descriptors). On `status` goes "ready" when nothing
is left to lock, else one line of what failed; the program never holds that descriptor, so it cannot
claim either.
"""

import builtins
import json
import os
import resource
import sys
import types
from pathlib import Path
from typing import Any, NoReturn

from . import landlock, namespaces, seccomp
from .kernel import become_nobody, die_with, drop_capabilities

NOBODY = 65534
THREADS = 256
FAILED = 125


def main() -> None:
    """Run as `python -c`; returns when the program has run to its end."""
    job = json.loads(sys.argv[1])
    status = job["status"]
    try:
        if job["parent"] is not None:
            die_with(job["parent"])
        text = _read(job["program"])
        _raise_oom_score()
        if job["backend"] == "unshare":
            namespaces.enter(job["readable"], job["devices"], job["scratch"])
        elif job["backend"] == "landlock":
            if os.geteuid() == 0:
                become_nobody(NOBODY)
                die_with(job["parent"])  # a change of user forgets it
            landlock.restrict([*job["readable"], *job["devices"]])
            os.chdir("/")
        elif os.geteuid() == 0:  # bubblewrap has made the namespaces
            become_nobody(NOBODY)
        else:
            drop_capabilities()
        _limit(job["limits"], THREADS + job["threads"])
        seccomp.install()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the program must not run
        _fail(status, error)
    os.write(status, b"ready\n")
    os.close(status)
    _run(text)


def _read(handle: int) -> str:
    with os.fdopen(handle, "rb") as file:
        return file.read().decode("utf-8", "surrogatepass")


def _fail(status: int, error: BaseException) -> NoReturn:
    os.write(status, f"{type(error).__name__}: {error}"[:500].replace("\n", " ").encode())
    os._exit(FAILED)


def _raise_oom_score() -> None:
    """If memory runs out, this is what the kernel should end."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return  # no such file in bubblewrap's view; memory is limited anyway


def _limit(limits: dict[str, Any], threads: int) -> None:
    """The kernel's limits, soft and hard; lower ones in force already stay."""
    wanted = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_NPROC: threads,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: 64 << 20,
    }
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    # A second more for those that ignore the first signal.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))


def _run(text: str) -> None:
    from _sitebuiltins import Quitter

    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    for name in ("exit", "quit"):  # `site` defines them, and is not run here
        setattr(builtins, name, Quitter(name, "Ctrl-D"))
    exec(compile(text, "program.py", "exec"), module.__dict__)  # what all of this is for
