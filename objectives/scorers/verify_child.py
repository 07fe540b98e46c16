"""The verifier's own process: reads a pair per line, writes a verdict per line. Run as a script.

math-verify bounds its work by SIGALRM, which only works in a main thread, and some of sympy's work
cannot be interrupted at all. So it lives in a process that can be killed. Imports nothing of this
project: a start costs what math-verify costs.

Arguments: the parent's process id, and how many bytes its memory may grow by.
In: `{"number": int, "gold": str, "answer": str, "limit": seconds}`; out: the number, and `true` or
`false`, with `last` behind it where the process ends for having grown; first of all `ready`.
"""

import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Iterator

ORPHAN_CHECK = 2.0  # seconds; a fork of the parent may hold its end of the pipe open
GRACE = 1.0  # seconds over the limit, when nobody is there to kill it


def main(parent: int, memory: int) -> None:
    """Serve until standard input closes or the parent is gone."""
    # Ctrl-C reaches the whole terminal group; the caller may still want its last answers scored.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it warns that its own time limits are off
    # Libraries may print; the protocol's channel is kept apart from their standard output.
    out = sys.stdout
    sys.stdout = sys.stderr
    configs = (LatexExtractionConfig(),)

    def expressions(text: str) -> list[object]:
        # The whole text or nothing: no search for parts that could be read.
        found: list[object] = parse(
            f"${text}$",
            extraction_config=configs,
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        return found

    def reply(text: str) -> None:
        out.write(text + "\n")
        out.flush()

    verify(expressions("2x+1"), expressions("1+2x"), timeout_seconds=None)  # what is made once
    _limit_memory(memory)
    before = _memory()
    reply("ready")
    for line in _lines(parent):
        job = json.loads(line)
        # The kernel's own end for an orphan that hangs: no handler of Python's could run.
        signal.setitimer(signal.ITIMER_REAL, job["limit"] + GRACE)
        try:
            gold = expressions(job["gold"])
            answer = expressions(job["answer"]) if gold else []
            equal = bool(gold and answer) and verify(
                gold, answer, timeout_seconds=None, allow_set_relation_comp=True
            )
        except (MemoryError, RecursionError):
            equal = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        grown = _memory() - before > memory // 4
        reply(f"{job['number']} {'true' if equal else 'false'}{' last' if grown else ''}")
        if grown:
            return


def _lines(parent: int) -> Iterator[bytes]:
    """Lines of standard input until it closes or the process `parent` is no longer ours."""
    stdin = sys.stdin.fileno()
    pending = b""
    while os.getppid() == parent:
        if not select.select([stdin], [], [], ORPHAN_CHECK)[0]:
            continue
        chunk = os.read(stdin, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from lines


def _limit_memory(growth: int) -> None:
    """Let this process's memory grow by `growth` bytes; Linux holds to it, macOS does not."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = _memory() + growth
    if sys.platform == "linux":
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _memory() -> int:
    """Bytes of address space in use; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 (pathlib is slow)
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
