"""The run: a search, and everything that it stands on killed again and again."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import processes
from tests.chaos.parts import Command, Ray
from tests.chaos.schedule import Kill
from tests.chaos.workplace import NAME, make_workplace
from tests.processes import Mlflow, end, free_port
from tests.search.postgres import PASSWORD, Postgres

NODES = 2
WORKERS = 3
_HEADLESS_S = 60.0  # Ray itself gives its head up after `_GCS_S`, unless told after 60
_GCS_S = 20
SITE = Path(__file__).with_name("site")
ROOT = Path(__file__).parents[2]


class ChaosError(Exception):
    """The search did not survive, or is not what it has to be."""


@dataclass
class Told:
    """What happened in a run.

    Attributes:
        kills: of each kind that were done.
        gave_up: what the driver said when it ended by itself though the search was not done, but
            for the times when its cluster's head had been killed.
        sessions: how often the driver was started.
        left_out: kills for which there was no time.
        seconds: of the search.
    """

    kills: Counter[str] = field(default_factory=Counter)
    gave_up: list[str] = field(default_factory=list)
    sessions: int = 0
    left_out: int = 0
    seconds: float = 0.0


class Soak:
    """One search under one schedule.

    Args:
        folder: for all files; it is made, and stays.
        kills: what is killed.
        trials: of the search.
        delay: seconds that an engine takes for a block of answers.
        seed: of the search's sampler.
        database: a PostgreSQL server; otherwise a SQLite file, which nobody can kill.
        stall: seconds without a new result after which the search is taken to hang.
        limit: seconds after which nothing more is killed.
    """

    def __init__(
        self,
        folder: Path,
        kills: list[Kill],
        *,
        trials: int,
        delay: float,
        seed: int,
        database: bool,
        stall: float,
        limit: float,
    ) -> None:
        self.folder, self.kills, self.told = folder, kills, Told()
        self.trials, self._delay, self._seed = trials, delay, seed
        self._stall, self._limit = stall, limit
        self._began = time.monotonic()
        (folder / "tmp").mkdir(parents=True)
        folder.chmod(0o711)  # a PostgreSQL that runs as somebody else has to get in
        os.environ |= {
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": f"{SITE}:{ROOT}",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(_GCS_S),
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            # Workers that nobody asked for cost seconds of a slow machine, node after node.
            "RAY_enable_worker_prestart": "0",
            "RAY_prestart_worker_first_driver": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        processes.adopt_orphans()
        tempfile.tempdir = None  # so that it is asked for again
        self.database = Postgres(folder / "postgres") if database else None
        self.mlflow = Mlflow(folder / "mlflow")
        self.ray = Ray(folder / "tmp" / "ray")
        self.work = folder / "work"
        self.work.mkdir()
        self.driver = Command(self.work, folder / "driver.log")
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._headless = False
        self._down = {"mlflow": False, "postgres": False}  # the services, which know nothing of Ray

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.work / "runs" / NAME

    def search(self) -> None:
        """Run the search to its end.

        Raises:
            ChaosError: it stalled, or ended before all kills were done.
        """
        self.mlflow.start()
        self.ray.start(NODES)
        storage = f"sqlite:///{self.folder / 'study.db'}"
        if self.database is not None:
            self.database.port = free_port()
            self.database.start()
            storage = self.database.url(password=None)
            os.environ["PGPASSWORD"] = PASSWORD
        make_workplace(
            self.work,
            trials=self.trials,
            workers=WORKERS,
            delay=self._delay,
            seed=self._seed,
            storage=storage,
            tracking=self.mlflow.uri,
        )
        self.mlflow.ready()
        self.say(f"all is up; {len(self.kills)} kills to come")
        began = self._moved = time.monotonic()
        self._start_driver()
        waiting = list(self.kills)
        seen, free_from = -1, 0.0
        while self.driver.code != 0:
            now = time.monotonic()
            for due in [one for one in self._due if one[0] <= now]:
                self._due.remove(due)
                due[1]()
            self._bury()
            if self.driver.code is not None:
                self._ended()
            done = self._results()
            if done != seen:
                seen, self._moved = done, now
            if now - self._moved > self._stall:
                raise ChaosError(f"no new result in {self._stall:.0f}s")
            if waiting and now - began > self._limit:
                self.say(f"time is up: {len(waiting)} kills are left out")
                self.told.left_out = len(waiting)
                waiting.clear()
            if waiting and self._finished() >= waiting[0].after:
                free_from = free_from or now + waiting[0].wait
                if now >= free_from and self._strike(waiting[0]):
                    waiting.pop(0)
                    free_from = 0.0
            time.sleep(0.1)
        self.told.seconds = time.monotonic() - began
        self.say(f"the driver is done after {self.told.seconds:.0f}s")
        for due in self._due:
            due[1]()
        self._due.clear()
        self.mlflow.ready()
        if waiting:
            raise ChaosError(f"the search ended before {len(waiting)} kills: {waiting[0]}")

    def close(self) -> None:
        """End whatever still runs, what is ours and what should not be there."""
        with ExitStack() as ends:
            ends.callback(self.ray.stop)
            if self.database is not None:
                ends.callback(self.database.stop)  # which removes its files
                (self.folder / "postgres.log").write_text(self.database.log, encoding="utf-8")
            ends.callback(self.mlflow.kill)
            if self.driver.process is not None and self.driver.code is None:
                self.driver.kill()

    # ---- the driver

    def _start_driver(self) -> None:
        self._headless = False
        self.told.sessions += 1
        self.driver.start("run", f"{NAME}.yaml", RAY_ADDRESS=self.ray.address)

    def _ended(self) -> None:
        """The driver ended by itself, but not well: start it again."""
        said = processes.tail(self.driver.log, 1)
        self.say(f"the driver ended with {self.driver.code}: {said}")
        if not self._headless:
            self.told.gave_up.append(said)
        if len(self.told.gave_up) > 10 + len(self.kills) // 4:
            raise ChaosError(f"the driver gave up {len(self.told.gave_up)} times: {said}")
        if self._headless:
            self._new_cluster()
        time.sleep(1.0)
        self._start_driver()

    def _results(self) -> int:
        """Results of any kind, to see that it goes on."""
        return sum(1 for part in ("trials", "confirm", "test") for _ in self._files(part))

    def _finished(self) -> int:
        return sum(1 for _ in self._files("trials"))

    def _files(self, part: str) -> list[Path]:
        folder = self.run / part
        return list(folder.glob("*.json")) if folder.is_dir() else []

    # ---- kills

    def _strike(self, kill: Kill) -> bool:
        """Do it; False if there is nothing of the kind now."""
        if self._headless and kill.kind not in self._down:
            return False  # nothing of Ray is there, and the driver is to see that for itself
        struck = getattr(self, f"_kill_{kill.kind}")(kill)
        if struck is None:
            return False
        self.told.kills[kill.kind] += 1
        number = self.told.kills.total()
        self.say(f"kill {number}: {kill.kind} {struck} at {self._finished()} trials")
        return True

    def _kill_driver(self, kill: Kill) -> str | None:
        del kill
        if self.driver.code is not None:
            return None
        pid = self.driver.kill()
        self._start_driver()
        return f"{pid}"

    def _kill_worker(self, kill: Kill) -> str | None:
        return self._kill_one_of(processes.workers(), kill)

    def _kill_engine(self, kill: Kill) -> str | None:
        return self._kill_one_of(processes.engines(), kill)

    def _kill_one_of(self, those: list, kill: Kill) -> str | None:
        if not those:
            return None
        one = those[int(kill.draw * len(those))]
        title = processes.line_of(one)[:40]
        end([one])
        return f"{one.pid} ({title})"

    def _kill_raylet(self, kill: Kill) -> str | None:
        nodes = self.ray.nodes
        pid = self.ray.kill(nodes[int(kill.draw * len(nodes))])
        self.ray.add()
        return f"{pid}"

    def _kill_head(self, kill: Kill) -> str | None:
        del kill
        if self.driver.code is not None:
            return None
        pid = self.ray.kill_head()
        self._headless = True
        # Who sees that its cluster is gone for good ends; nobody waits for it for ever.
        self._later(_HEADLESS_S, self._take_headless_away)
        return f"{pid}"

    def _take_headless_away(self) -> None:
        if self._headless and self.driver.code is None:
            self.say("the driver goes on without its cluster: it is killed")
            self.driver.kill()

    def _new_cluster(self) -> None:
        self.ray.start(NODES)

    def _kill_postgres(self, kill: Kill) -> str | None:
        if self.database is None or self._down["postgres"]:
            return None
        self.database.kill()
        self._down["postgres"] = True
        self._later(kill.down, self._restart_postgres)
        return f"for {kill.down:.1f}s"

    def _restart_postgres(self) -> None:
        assert self.database is not None
        self.database.restart()
        self._down["postgres"] = False

    def _kill_mlflow(self, kill: Kill) -> str | None:
        if self._down["mlflow"]:
            return None
        self.mlflow.kill()
        self._down["mlflow"] = True
        self._later(kill.down, self._restart_mlflow)
        return f"for {kill.down:.1f}s"

    def _restart_mlflow(self) -> None:
        self.mlflow.start()
        self._down["mlflow"] = False

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + seconds, what))

    # ---- watching

    def _bury(self) -> None:
        waited = {one.pid for one in (self.driver.process, self.mlflow.process) if one is not None}
        processes.bury(waited | self.ray.pids)

    def say(self, what: str) -> None:
        """A line for the terminal and for chaos.log."""
        line = f"{time.monotonic() - self._began:7.1f}s  {what}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        with (self.folder / "chaos.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")
