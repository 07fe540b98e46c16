"""Who may write a study: one driver, and whoever takes over when it is dead.

A run folder is held by a lock of its file system, which dies with its process
(`search.run.locked`); so is a SQLite file that is elsewhere. A study on a server can be reached
from other folders and machines, so it has a row in the table `mergefront_leases`:

- its holder writes a new number into it every few seconds; who wants to take over watches the row
  for longer than that, by its own clock, and takes it only if nothing has changed: clocks of two
  machines are never compared. A dead holder on the same machine is known at once.
- every transaction of the holder locks the row, checks that it is still its own, and counts itself
  in it. A driver that hung while another took over finds so out with its next transaction, which
  then writes nothing; and a transaction whose connection broke knows whether it was committed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from merge_core.yaml_io import write_atomic
from search.errors import RunError

BEAT_S = 3.0
"""Between two signs of life."""

SILENCE_S = 20.0
"""Without one for this long, a holder is taken to be dead."""

log = logging.getLogger("mergefront")

_TABLE = Table(
    "mergefront_leases",
    MetaData(),
    Column("study", String(512), primary_key=True),
    Column("token", String(32)),  # of the holder's session; none: nobody holds it
    Column("beat", BigInteger, nullable=False),
    Column("writes", BigInteger, nullable=False),
    Column("host", String(256), nullable=False),
    Column("machine", String(128), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("born", BigInteger, nullable=False),
    Column("since", String(32), nullable=False),
)


@dataclass(frozen=True)
class Holder:
    """A driver, as others know it.

    Attributes:
        host: name of its machine, for people.
        machine: which machine that is, and which of its containers: tells whose process ids are
            ours.
        pid: its process there.
        born: when that process began, in the kernel's ticks: ids are used again.
        since: when it began to hold, local time with its zone.
    """

    host: str
    machine: str
    pid: int
    born: int
    since: str

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        pid = os.getpid()
        return cls(socket.gethostname(), _machine(), pid, _born(pid) or 0, since)

    @property
    def dead(self) -> bool:
        """Whether it is known to have ended: it was on this machine, and is not there any more."""
        return self.here and _born(self.pid) != self.born

    @property
    def here(self) -> bool:
        """Whether it was on this machine, where `dead` is known for certain."""
        return self.machine == _machine()

    @classmethod
    def of(cls, lock: Path) -> Holder | None:
        """Who has a lock, or had it last; None if that cannot be read. Takes nothing."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(holder_file(lock).read_text(encoding="utf-8")))
        return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


def lock_file(path: Path, busy: str, *, again: bool = False) -> FileLock:
    """Take a lock that dies with this process; beside it stands who has it.

    Args:
        path: of the lock.
        busy: what to say if somebody else has it.
        again: whether this process may take it several times.

    Raises:
        RunError: somebody else has it.
        OSError: it cannot be made.
    """
    lock = FileLock(path, is_singleton=again)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = Holder.of(path)
        who = "" if holder is None else f": {holder}; end that one first"
        raise RunError(busy + who) from None
    if lock.lock_counter == 1:
        write_atomic(holder_file(path), json.dumps(vars(Holder.me())) + "\n")
    return lock


def holder_file(lock: Path) -> Path:
    """What says who has a lock, or had it last."""
    return lock.with_name(f"{lock.name}.holder")


class Lease:
    """The right to write one study of a server, until `close`.

    Args:
        engine: of the server, for this alone; closed with it.
        study: its name.
        place: the server, for messages.
        beat: seconds between two signs of life.
        silence: seconds without one, after which a holder is dead.

    Raises:
        RunError: another driver holds it, and lives.
        SQLAlchemyError: the server does not answer.
    """

    def __init__(
        self,
        engine: Engine,
        study: str,
        place: str,
        beat: float = BEAT_S,
        silence: float = SILENCE_S,
    ) -> None:
        self._engine = engine
        self._study = study
        self._place = place
        self._every, self._silence = beat, silence
        self._token = uuid.uuid4().hex
        self._row = _TABLE.c.study == study
        self._own = self._row & (_TABLE.c.token == self._token)
        self._lost: str | None = None
        self._renewed = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        with suppress(IntegrityError, ProgrammingError):  # another one was quicker
            _TABLE.create(engine, checkfirst=True)
        self._writes = self._take()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)
        self._thread.start()

    def fence(self) -> Fence:
        """What one transaction has to pass."""
        return Fence(self, self._writes + 1)

    def check(self) -> None:
        """Raise unless no other driver can hold the study now; before what is no transaction.

        Raises:
            RunError: another one holds it.
            SQLAlchemyError: that cannot be told, because the server does not answer.
        """
        if self._lost is not None:
            raise RunError(self._lost)
        if _now() - self._renewed > 0.7 * self._silence:
            self._beat()

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(update(_TABLE).where(self._own).values(token=None))
        self._engine.dispose()

    def lost_to(self, connection: Connection) -> RunError:
        """The error of a holder whose row is another's now."""
        found = connection.execute(select(_TABLE).where(self._row)).mappings().one_or_none()
        who = "nobody" if found is None or found["token"] is None else str(_holder(found))
        self._lost = (
            f"{self._place}: study '{self._study}' was taken over by {who} while this driver gave "
            "no sign of life; it writes nothing any more"
        )
        return RunError(self._lost)

    def _take(self) -> int:
        """Become the holder; how many transactions were counted so far."""
        me = Holder.me()
        mine = {"token": self._token, **vars(me)}
        watched: tuple[Any, float] | None = None
        while True:
            began = _now()
            with self._engine.begin() as connection:
                found = connection.execute(select(_TABLE).where(self._row)).mappings().one_or_none()
                if found is None:
                    with suppress(IntegrityError):  # another one was quicker: look again
                        connection.execute(
                            insert(_TABLE).values(study=self._study, beat=0, writes=0, **mine)
                        )
                        self._renewed = began
                        return 0
                    continue
                sign = (found["token"], found["beat"], found["writes"])
                if watched is None:
                    watched = (sign, began)
                holder = _holder(found)
                lives = sign != watched[0]
                silent = began - watched[1] > self._silence
                if sign[0] is None or holder.dead or (silent and not lives):
                    if self._take_from(connection, sign, mine):
                        if sign[0] is not None:
                            log.warning("%s: is taken over from %s", self._place, holder)
                        self._renewed = began
                        return int(found["writes"])
                    continue
                if lives:
                    raise RunError(self._held_by(holder))
            if began == watched[1]:
                log.info("%s: held by %s; is it alive?", self._place, holder)
            time.sleep(min(1.0, self._every / 2))

    def _take_from(self, connection: Connection, sign: tuple[Any, ...], mine: Any) -> bool:
        """Put this driver into the row if it is as it was seen."""
        token, beat, writes = sign
        same = (_TABLE.c.beat == beat) & (_TABLE.c.writes == writes)
        same &= _TABLE.c.token.is_not_distinct_from(token)
        taken = update(_TABLE).where(self._row & same).values(beat=beat + 1, **mine)
        return connection.execute(taken).rowcount == 1

    def _held_by(self, holder: Holder) -> str:
        return (
            f"{self._place}: another mergefront is working on study '{self._study}': {holder}; "
            "end that one first"
        )

    def _work(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._beat()
            except RunError as error:
                log.error("%s", error)
                return
            except SQLAlchemyError:  # told by whoever writes the study
                self._engine.dispose()

    def _beat(self) -> None:
        """Give a sign of life."""
        with self._lock, self._engine.begin() as connection:
            began = _now()
            beat = update(_TABLE).where(self._own).values(beat=_TABLE.c.beat + 1)
            if connection.execute(beat).rowcount != 1:
                raise self.lost_to(connection)
        self._renewed = max(self._renewed, began)


class Fence:
    """One transaction's passage through the lease; made anew for each try.

    Args:
        lease: whose.
        number: of the transaction.
    """

    def __init__(self, lease: Lease, number: int) -> None:
        self._lease = lease
        self._number = number
        self._began = _now()

    def open(self, connection: Connection) -> bool:
        """Lock the row for this transaction; False: it is committed already.

        Raises:
            RunError: another driver holds the study, or the server has forgotten transactions.
        """
        lease = self._lease
        mine = lease._own & (_TABLE.c.writes == self._number - 1)
        if connection.execute(update(_TABLE).where(mine).values(writes=self._number)).rowcount:
            return True
        counted = connection.execute(select(_TABLE.c.writes).where(lease._own)).scalar()
        if counted is None:
            raise lease.lost_to(connection)
        if counted == self._number:
            return False
        raise RunError(
            f"{lease._place}: came back as it was {self._number - 1 - counted} writes ago: start "
            "the same command again: it goes on from what is there and the run's result files"
        )

    def passed(self) -> None:
        """The transaction is committed."""
        self._lease._writes = self._number
        self._lease._renewed = max(self._lease._renewed, self._began)


def _holder(row: Any) -> Holder:
    names = ("host", "machine", "pid", "born", "since")
    return Holder(**{name: row[name] for name in names})


def _now() -> float:
    """Seconds on a clock that goes on while this process is stopped or the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _machine() -> str:
    """This boot of this machine, and the container that this process is in."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts) or f"{socket.gethostname()} {uuid.getnode():x}"


def _born(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        with suppress(OSError):  # a system without /proc: whether it lives is all that is known
            os.kill(pid, 0)
            return 0
        return None
    return None if fields[0] in "ZX" else int(fields[19])
