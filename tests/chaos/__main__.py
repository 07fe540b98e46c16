"""`python -m tests.chaos`: one run and its figures; exit code 1 if anything is amiss."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NoReturn

from tests.chaos import checks, processes
from tests.chaos.schedule import KINDS, schedule
from tests.chaos.soak import ChaosError, Soak

_REST_S = 900  # for the rest of the search and the checks


def _end(signum: int, _: object) -> NoReturn:
    """So that nothing is left behind when somebody's time is up."""
    raise TimeoutError(f"ended by {signal.Signals(signum).name}")


def main() -> int:
    """Run it; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--heads", type=int, default=0, help="kills of the cluster's head")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule and of the sampler")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds of an answer")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for the kills")
    parser.add_argument("--stall", type=float, default=180, help="seconds without any new result")
    parser.add_argument("--sqlite", action="store_true", help="no PostgreSQL")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a good run, too")
    parser.add_argument("--plan", action="store_true", help="print the schedule and end")
    given = parser.parse_args()
    kinds = [kind for kind in KINDS if kind != "postgres" or not given.sqlite]
    kills = schedule(given.seed, given.kills, given.trials, given.heads, kinds)
    if given.plan:
        sys.stdout.writelines(f"{i + 1:4d}. {kill}\n" for i, kill in enumerate(kills))
        return 0
    # Ray's sockets lie in it, and their paths may have 107 characters.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(int(given.limit) + _REST_S)
    folder = Path(tempfile.mkdtemp(prefix="mfc-", dir="/tmp"))
    began = time.monotonic()
    soak = None
    problems: list[str] = []
    try:
        soak = Soak(
            folder,
            kills,
            trials=given.trials,
            delay=given.delay,
            seed=given.seed,
            database=not given.sqlite,
            stall=given.stall,
            limit=given.limit,
        )
        soak.search()
        problems = checks.all_of(soak)
    except ChaosError as error:
        problems = [str(error)]
    except BaseException as error:  # noqa: BLE001 (what it left must be ended all the same)
        traceback.print_exc()
        problems = [f"{type(error).__name__}: {error}"]
    finally:
        if soak is not None:
            problems += checks.put_away(soak)
    told = f"seed {given.seed}, {given.trials} trials, {time.monotonic() - began:.0f}s"
    if soak is not None:
        of = ", ".join(f"{n} {kind}" for kind, n in sorted(soak.told.kills.items()))
        told += f", {soak.told.kills.total()} kills ({of}), {soak.told.sessions} sessions"
        told += f", gave up {len(soak.told.gave_up)} times"
    if not problems:
        sys.stdout.write(f"all is as it must be: {told}\n")
        if not given.keep:
            shutil.rmtree(folder)
        return 0
    sys.stdout.write(f"FAILED: {told}; everything is in {folder}\n")
    sys.stdout.writelines(f"{i + 1:4d}. {kill}\n" for i, kill in enumerate(kills))
    for log in ("driver.log", "work/runs/search/run.log", "mlflow/server.log", "postgres.log"):
        sys.stdout.write(f"--- {log}\n{processes.tail(folder / log)}\n")
    sys.stdout.writelines(f"FAILED: {problem}\n" for problem in problems)
    return 1


if __name__ == "__main__":
    sys.exit(main())
