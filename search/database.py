"""The study's database: one transaction after another, each written exactly once.

A database may go away in mid-search: a server is restarted, a network fails, a backup locks a file.
Then whoever writes waits and tries again. Of a transaction whose connection was lost while it was
committed nobody knows whether it was; on a server the lease counts transactions in the same row
that they lock (`search.lease`), so that the next try finds out. A transaction is data until it is
committed: operations that can be done again from the start.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from merge_core.yaml_io import one_line
from search.errors import StorageError
from search.incidents import POLICIES, Kind
from search.lease import Lease
from search.secrets import redacted, without_password

PATIENCE_S = 3600.0
"""How long a database may be away, unless the search file says otherwise."""

_FIRST_S, _LONGEST_S = 0.2, 10.0  # between two tries: each time twice as long
_IDLE_S = 15  # then a server ends a transaction whose driver hangs, so that another may take over
_BUSY_S = 60  # for which SQLite itself waits for a lock
_LATER = ("25006", "25P03")  # of a server that became a replica, or ended a transaction that hung

Recorder = Callable[[Kind, str, str], None]
"""Keeps a fault: kind, where, message; see `search.incidents`."""

Answer = TypeVar("Answer")
log = logging.getLogger("mergefront")


class Database:
    """What `RDBStorage` reads and writes, with the waiting.

    Args:
        url: as SQLAlchemy takes it.
        lease: what the transactions are fenced with; None: nobody else can write.
        patience: seconds that it may be away before StorageError is raised.
        record: told of each outage, once for all who meet it; it goes to the log by default.

    Attributes:
        optuna: whose methods are the operations; to be called in `write` and `read` only.
        place: how users know it.
    """

    def __init__(
        self,
        url: str,
        lease: Lease | None = None,
        patience: float = PATIENCE_S,
        record: Recorder | None = None,
    ) -> None:
        self.optuna = opened(url, write=True)
        self._sessions = scoped_session(sessionmaker(bind=self.optuna.engine, class_=_Held))
        self.optuna.scoped_session = self._sessions  # type: ignore[assignment]
        self.place = place_of(url)
        self._lease = lease
        self._patience = patience
        self._record = record or _log
        self._away = False  # an outage is on that was recorded
        self._mark = threading.Lock()

    @property
    def session(self) -> Session:
        """That of the transaction, for an operation that Optuna's storage does not have."""
        return self._sessions()

    def write(self, operations: Sequence[Callable[[], object]]) -> None:
        """Do all `operations` in one transaction, or none; exactly once, however often it fails.

        Raises:
            StorageError: it refuses them, or is away for too long.
            RunError: another driver has taken the lease.
        """
        self._patiently(lambda: self._write_once(operations))
        self._marked(away=False)

    def read(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` reads.

        Raises:
            StorageError: it is away for too long.
        """
        return self._patiently(ask)

    def read_now(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` reads, for whom nobody shall wait; an outage is not recorded.

        Raises:
            StorageError: it is away, or refuses.
        """
        try:
            return ask()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise StorageError(f"{self.place}: does not answer: {spoken(error)}") from error

    def close(self) -> None:
        """Give up all connections."""
        self._sessions.remove()
        self.optuna.engine.dispose()

    def _patiently(self, attempt: Callable[[], Answer]) -> Answer:
        began: float | None = None
        pause = _FIRST_S
        while True:
            try:
                answer = attempt()
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                said = spoken(error)
                if not is_away(error):
                    raise self._refused(error, said) from error
                if began is None:
                    began = time.monotonic()
                    if self._marked(away=True):
                        # Which logs it, too.
                        self._record(Kind.STORAGE_LOST, self.place, f"the search waits: {said}")
                left = self._patience - (time.monotonic() - began)
                if left <= 0:
                    raise StorageError(
                        f"{self.place}: was away for {self._patience:,.0f} s ({said}); nothing "
                        "that was finished is lost: start the same command again when it is back"
                    ) from error
                self.optuna.engine.dispose()
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LONGEST_S)
            else:
                if began is not None and self._marked(away=False):
                    away = time.monotonic() - began
                    log.warning("%s: answers again after %.1f s", self.place, away)
                return answer

    def _marked(self, *, away: bool) -> bool:
        """Keep whether an outage is on; whether that is new: several callers may meet one."""
        with self._mark:
            new, self._away = self._away != away, away
        return new

    def _write_once(self, operations: Sequence[Callable[[], object]]) -> None:
        session = self._sessions()
        session.held = True
        fence = None if self._lease is None else self._lease.fence()
        try:
            # Where it is written already, the connection was lost after the commit.
            if fence is None or fence.open(session.connection()):
                for operation in operations:
                    operation()
                session.held = False
                session.commit()
            if fence is not None:
                fence.passed()
        except _RefusedError as refused:
            raise refused.__context__ or refused from None
        finally:
            session.held = False
            session.rollback()
            session.close()

    def _refused(self, error: BaseException, said: str) -> StorageError:
        code = getattr(cause(error), "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            kind = Kind.DISK_FULL
        elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            kind = Kind.NOT_WRITABLE
        else:
            return StorageError(f"{self.place}: refuses what is written: {said}")
        self._record(kind, self.place, said)
        return StorageError(POLICIES[kind].message.format(said=f"{self.place}: {said}", tries=1))


def _log(kind: Kind, where: str, message: str) -> None:
    log.warning("%s: %s: %s", kind, where, message)


class _RefusedError(Exception):
    """Raised in place of a rollback: what Optuna would do next belongs to the same transaction."""


class _Held(Session):
    """A session whose commits wait while it is held: then all are one transaction."""

    held = False

    def commit(self) -> None:
        if self.held:
            self.flush()
        else:
            super().commit()

    def close(self) -> None:
        if self.held:
            self.expunge_all()  # as after a real one, the next reads see what was written
        else:
            super().close()

    def rollback(self) -> None:
        if self.held:
            raise _RefusedError
        super().rollback()


# ---- connecting


def opened(url: str, *, write: bool) -> RDBStorage:
    """Optuna's storage; one that is only read has its tables already, and creates none."""
    url = connectable(url)
    storage = RDBStorage(
        url.replace("{", "{{").replace("}", "}}"),  # Optuna takes it for a template
        engine_kwargs=options(url),
        skip_table_creation=not write,
    )
    _set_up(storage.engine)
    return storage


def connectable(url: str) -> str:
    """The URL with the driver that we install, where it names none."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def place_of(url: str) -> str:
    """A database as users know it: the file, or the URL without its password."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return parsed.database
    parsed = parsed.set(drivername=parsed.get_backend_name())
    return redacted(without_password(parsed.render_as_string(hide_password=False)))


def is_server(url: str) -> bool:
    """Whether drivers on several machines could write it."""
    return make_url(url).get_backend_name() != "sqlite"


def options(url: str) -> dict[str, Any]:
    """How SQLAlchemy's engine for a URL is made."""
    backend = make_url(url).get_backend_name()
    if backend == "sqlite":
        return {"connect_args": {"timeout": _BUSY_S}}
    made: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 2}
    if backend == "postgresql":
        # A server whose machine vanished says nothing: without these one waits for hours.
        made["connect_args"] = {
            **{"connect_timeout": 10, "application_name": "mergefront"},
            **{"keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 3},
            "tcp_user_timeout": 30_000,
        }
    return made


def connect(url: str) -> Engine:
    """An engine of its own, for what is no part of the study's transactions."""
    engine = create_engine(connectable(url), **options(url))
    _set_up(engine)
    return engine


def _set_up(engine: Engine) -> None:
    if engine.dialect.name != "postgresql":
        return

    def began(connection: Any, _: object) -> None:
        connection.autocommit = True  # else the setting ends with its transaction
        connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'")
        connection.autocommit = False

    event.listen(engine, "connect", began)


# ---- tables


def check_tables(engine: Engine) -> bool:
    """Whether Optuna's tables are there, of this Optuna's version. Writes nothing.

    Raises:
        StorageError: they are of another version.
    """
    tables = set(inspect(engine).get_table_names())
    if not {"studies", "alembic_version"} <= tables:
        return "studies" in tables
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    known = _versions()
    if found is None or found == known[0]:
        return True
    place = place_of(engine.url.render_as_string(hide_password=False))
    mend = (
        f"bring them up to date with `optuna storage upgrade --storage {place}`"
        if found in known
        else "install the version that wrote them"
    )
    raise StorageError(
        f"{place}: its tables are of another version of Optuna ({found}, this one's are "
        f"{known[0]}): {mend}"
    )


def _versions() -> list[str]:
    """All versions of Optuna's tables that this Optuna knows, its own first."""
    from alembic.script import ScriptDirectory

    place = Path(optuna.__file__).parent / "storages" / "_rdb" / "alembic"
    return [script.revision for script in ScriptDirectory(str(place)).walk_revisions()]


# ---- what a database says


def cause(error: BaseException) -> BaseException:
    """What the database itself said: SQLAlchemy and Optuna wrap it in the SQL that was asked."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DBAPIError) and inner.orig is not None:
            return inner.orig
        inner = inner.__cause__ or inner.__context__
    return error


def is_away(error: BaseException) -> bool:
    """Whether a database may answer later: it is not there, has no room, or is locked."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, DBAPIError):
        inner = inner.__cause__ or inner.__context__
    if inner is None:
        return False
    code = getattr(inner.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    if isinstance(inner.orig, sqlite3.Error):
        return False
    if inner.connection_invalidated or isinstance(inner, OperationalError | InterfaceError):
        return True
    return getattr(inner.orig, "sqlstate", None) in _LATER


def spoken(error: BaseException) -> str:
    """What the database said, on one line, without SQL and without secrets."""
    said = one_line(cause(error))
    for noise in ("connection failed: ", "connection to server ", "FATAL: "):
        said = said.replace(noise, "")
    # libpq tells each address that it tried.
    return redacted(" ".join(said.partition("Multiple connection attempts")[0].split()))[:200]
