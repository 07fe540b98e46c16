"""The pool of math-verify processes, with answers that really hang it."""

import contextlib
import dis
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from objectives.scorers import verifier as module
from objectives.scorers.verifier import Verifier, shared_verifier

HANGS = "9^{9^{9^9}}"  # in C, over one long number: no signal handler of Python's would run
EXPANDS = "(x+y+z+a+b+c)^{60}"  # in Python, into ever more terms
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def pool():
    verifier = Verifier(2)
    yield verifier
    pids = verifier.pids()
    verifier.close()
    assert not any(map(alive, pids))
    assert verifier.pids() == []


def start(pool):
    """Both children, whatever the test before did to them."""
    while not all(child.ready for child in pool._children):
        with ThreadPoolExecutor(2) as threads:
            assert all(threads.map(lambda n: pool.equal(f"{n}x+x", f"x+{n}x", 9.0), range(2)))


def gone(pids, within):
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_starts_before_the_first_question_and_then_one():
    verifier = Verifier(3)
    assert verifier.pids() == []
    for _ in range(3):
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
    assert len(verifier.pids()) == 1  # one after the other needs one
    verifier.close()


@pytest.mark.parametrize("answer", [HANGS, EXPANDS])
def test_a_hang_costs_its_limit_and_delays_no_other(pool, answer):
    start(pool)
    before = pool.pids()
    with ThreadPoolExecutor(1) as threads:
        begin = time.monotonic()
        hung = threads.submit(lambda: (pool.equal("\\sqrt{2}", answer, 1.0), time.monotonic()))
        served, slowest = 0, 0.0
        while not hung.done():
            asked = time.monotonic()
            assert pool.equal("\\sqrt{2}", f"2^{{1/2}}+{served}-{served}", 5.0)
            slowest = max(slowest, time.monotonic() - asked)
            served += 1
        verdict, end = hung.result()
    assert not verdict
    assert 1.0 <= end - begin < 2.0 + 3 * slowest  # its limit, and little more
    assert served > 3  # the other child answered meanwhile
    assert pool.equal("7", "\\sqrt{49}", 5.0)
    assert len(set(before) - set(pool.pids())) == 1  # the one that hung was replaced
    assert len(pool.pids()) == 2


def test_every_child_may_hang(pool):
    with ThreadPoolExecutor(2) as threads:
        verdicts = list(threads.map(lambda _: pool.equal("\\sqrt{2}", HANGS, 0.2), range(2)))
    assert verdicts == [False] * 2
    assert pool.equal("7", "\\sqrt{49}", 5.0)


def test_a_child_that_dies_is_replaced(pool):
    start(pool)
    before = pool.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert gone(before, 5)
    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(lambda _: pool.equal("7", "\\sqrt{49}", 5.0), range(4)))
    assert not set(before) & set(pool.pids())


def test_a_child_that_dies_over_a_question_gets_it_asked_again():
    verifier = Verifier(1)
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        (first,) = verifier.pids()
        os.kill(first, signal.SIGSTOP)  # so that the question is on its way when it dies
        with ThreadPoolExecutor(1) as threads:
            verdict = threads.submit(verifier.equal, "7", "\\sqrt{49}", 30.0)
            time.sleep(0.2)
            os.kill(first, signal.SIGKILL)
            assert verdict.result() is True
        assert first not in verifier.pids()
    finally:
        verifier.close()


class Interrupted(BaseException):
    """As a Ctrl-C or a cancelled task."""


@contextlib.contextmanager
def interrupted_after(seconds):
    def handler(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Interrupted):  # noqa: PT012 - so that no interruption comes before it
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_question_leaves_no_verdict_to_the_next():
    verifier = Verifier(1)
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        (first,) = verifier.pids()
        os.kill(first, signal.SIGSTOP)  # so that the interruption comes before the verdict
        with interrupted_after(0.2):
            verifier.equal("7", "8", 30.0)
        assert gone([first], 5)  # it computes for nobody
        for _ in range(3):
            assert verifier.equal("7", "\\sqrt{49}", 5.0)
            assert not verifier.equal("7", "\\sqrt{50}", 5.0)
    finally:
        verifier.close()


def test_interruptions_while_it_asks_lose_no_child():
    verifier = Verifier(1)
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        for wait in (0.0005, 0.003):  # writing, waiting
            with interrupted_after(wait):
                end = time.monotonic() + 5.0
                while time.monotonic() < end:
                    verifier.equal("7", "8", 5.0)
            assert verifier.equal("7", "\\sqrt{49}", 5.0)
    finally:
        verifier.close()


LOOKS = ("RESUME", "CALL", "JUMP_BACKWARD")
"""Bytecodes after which the interpreter looks for signals."""


@functools.cache
def looks_before(code):
    """Offsets of bytecodes before which an interruption may come."""
    codes = list(dis.get_instructions(code))
    pairs = itertools.pairwise(codes)
    return {after.offset for before, after in pairs if before.opname in LOOKS}


def interrupted_at(step, function):
    """Call, with an interruption at the n-th chance in the pool; False if there are fewer."""
    left = step

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in looks_before(frame.f_code):
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def test_interruptions_at_every_step_of_the_pool_lose_no_child():
    verifier = Verifier(2)
    steps = 0
    while interrupted_at(steps, lambda: verifier._give_back(verifier._take())):
        steps += 1
        with ThreadPoolExecutor(1) as threads:  # the other child, at least, and the lock are free
            threads.submit(lambda: verifier._give_back(verifier._take())).result(5)
        verifier._give_back(verifier._take())  # which finds what was left behind
        assert len(verifier._idle()) == 2
    assert steps >= 15


def test_a_stale_reply_is_taken_for_no_question():
    verifier = Verifier(1)
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        stale = {"number": 0, "gold": "7", "answer": "8", "limit": 5.0}
        for _ in range(3):
            verifier._children[0].process.stdin.write(json.dumps(stale).encode() + b"\n")
            assert verifier.equal("7", "\\sqrt{49}", 5.0)
    finally:
        verifier.close()


def test_many_threads_get_their_own_answers(pool):
    questions = [(n, m) for n in range(12) for m in (n, n + 1)]
    with ThreadPoolExecutor(16) as threads:
        verdicts = list(
            threads.map(lambda q: pool.equal(f"{q[0]}x+1", f"1+{q[1]}x", 10.0), questions)
        )
    assert verdicts == [n == m for n, m in questions]


def test_memory_is_bounded():
    verifier = Verifier(1, memory=48 << 20)
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        size = psutil.Process(verifier.pids()[0]).memory_info().rss
        peak = 0
        with ThreadPoolExecutor(1) as threads:
            blown = threads.submit(verifier.equal, "x^2+1", EXPANDS, 3.0)
            while not blown.done():
                for pid in verifier.pids():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        peak = max(peak, psutil.Process(pid).memory_info().rss)
                time.sleep(0.01)
        assert blown.result() is False
        assert peak < size + (64 << 20)
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
    finally:
        verifier.close()


def test_a_child_that_has_grown_is_replaced_and_its_answer_counts():
    verifier = Verifier(1, memory=64 << 20)
    try:
        assert verifier.equal("7", "\\sqrt{49}", 5.0)
        before = verifier.pids()
        for n in range(14_999_999, 14_999_999 + 20):  # long numbers, which are kept
            assert verifier.equal(f"2^{{{2 * n + 1}}}", f"4^{{{n}}}\\cdot 2", 30.0)
            if verifier.pids() != before:
                break
        else:
            pytest.fail("it keeps growing")
    finally:
        verifier.close()


def test_a_fork_has_children_of_its_own(pool):
    assert pool.equal("7", "\\sqrt{49}", 5.0)
    before = pool.pids()
    pid = os.fork()
    if pid == 0:
        right = pool.equal("7", "\\sqrt{49}", 5.0) and not set(pool.pids()) & set(before)
        pool.close()
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert pool.pids() == before
    assert pool.equal("7", "\\sqrt{49}", 5.0)


def test_a_fork_while_threads_ask_does_not_lock(pool):
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            assert pool.equal("7", "\\sqrt{49}", 5.0)

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask) for _ in range(3)]
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if pool.pids() == [] and shared_verifier(2).size == 2 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for done in asking:
            done.result()


PARENT = """
import os, sys, threading, time
from objectives.scorers.verifier import Verifier
pool = Verifier(2)
while not all(child.ready for child in pool._children):
    both = [threading.Thread(target=pool.equal, args=(f"{n}x+x", f"x+{n}x", 9.0)) for n in (3, 4)]
    for one in both:
        one.start()
    for one in both:
        one.join()
threading.Thread(target=pool.equal, args=("\\\\sqrt{2}", sys.argv[1], 3.0), daemon=True).start()
pool.equal("\\\\sqrt{2}", "2^{1/2}", 5.0)
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(30)
    os._exit(0)
print(*pool.pids(), flush=True)
if sys.argv[2] == "exit":
    sys.exit()
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["fork", "exit"])
def test_children_end_with_their_parent(how):
    """Also a hung one, and when the parent is killed while its fork holds the pipes open."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, HANGS, how],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        if how != "exit":
            assert all(map(alive, pids))
            process.kill()
        process.wait(20)
        assert gone(pids, within=6)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_one_verifier_a_process_and_size():
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(lambda _: shared_verifier(2), range(32)))) == 1
    assert shared_verifier(2) is not shared_verifier(1)
    assert module._SHARED[2] is shared_verifier(2)
