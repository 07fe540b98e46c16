"""The verifier's own process: reads a pair per line, writes a verdict per line. Run as a script.

math-verify bounds its work by SIGALRM, which only works in a main thread; and some of sympy's work
cannot be interrupted at all. So it lives in a process that can be killed. Imports nothing of this
project: a start costs what math-verify costs.

In: `{"gold": str, "answer": str, "limit": seconds}`; out: `true`, `false`; first of all `"ready"`.
"""

import json
import logging
import resource
import signal
import sys


def main() -> None:
    """Serve until standard input closes."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # Ctrl-C reaches the whole terminal group; the caller may still want its last answers scored.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)  # its timeouts are logged as if they were the caller's
    # Libraries may print; the protocol's channel is kept apart from their standard output.
    out = sys.stdout
    sys.stdout = sys.stderr
    configs = (LatexExtractionConfig(), ExprExtractionConfig())

    def expressions(text: str, limit: int) -> list[object]:
        found: list[object] = parse(f"${text}$", extraction_config=configs, parsing_timeout=limit)
        return found

    def reply(value: object) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    reply("ready")
    for line in sys.stdin:
        job = json.loads(line)
        limit = max(1, round(job["limit"]))
        # If the parent is gone, nobody kills a hung job: let the kernel do it.
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime) + 2 * limit + 2
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        gold = expressions(job["gold"], limit)
        answer = expressions(job["answer"], limit) if gold else []
        reply(bool(gold and answer and verify(gold, answer, timeout_seconds=limit)))


if __name__ == "__main__":
    main()
