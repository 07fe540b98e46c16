"""A PostgreSQL server of the tests' own: made from nothing, killed and started again at will."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psutil

from tests.processes import end, free_port, tree, until

MISSING = "no PostgreSQL here: `apt install postgresql` brings one"
PASSWORD = "tell-nobody-7f3a"
_USER = "mergefront"


def binaries() -> Path | None:
    """The folder of `initdb` and `postgres`: of PATH, else Debian's newest; None if there is none.

    Debian keeps all but the client's programs out of PATH.
    """
    found = shutil.which("initdb")
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    places = [*([Path(found).resolve().parent] if found else []), *reversed(folders)]
    for place in places:
        if (place / "initdb").is_file() and (place / "postgres").is_file():
            return place
    return None


class Postgres:
    """A server with one database. Use as a context: it is started, and stopped at the end.

    It asks for a password, listens on the loopback address only, keeps its socket in its own
    folder, and runs as `postgres` or `nobody` where the tests run as root, as it refuses to be run
    by root. Written pages are not flushed to the disk: they outlive its processes, not the machine.

    Args:
        folder: for its files; the server's own user must be able to enter it, which pytest's
            folders do not let it when the tests run as root: then they are in a folder in /tmp.
    """

    def __init__(self, folder: Path) -> None:
        found = binaries()
        if found is None:
            raise FileNotFoundError(MISSING)
        self._binaries = found
        self.user = _other_user()
        self.folder = folder
        if self.user is not None:
            self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "mergefront", *, password: str | None = PASSWORD) -> str:
        """As a search file's `storage` takes it."""
        secret = "" if password is None else f":{password}"
        return f"postgresql://{_USER}{secret}@127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Make the server if it is not made yet, start it, and wait until it answers."""
        if not (self.folder / "data").exists():
            self._make()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._binaries / "postgres", "-D", self.folder / "data"),
                    *("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)),
                    *("-c", "fsync=off", "-c", "full_page_writes=off"),
                    *("-c", "shared_buffers=16MB", "-c", "max_connections=30"),
                ],
                stdout=log,
                stderr=log,
                user=self.user,
                group=_group(self.user),
                extra_groups=None if self.user is None else [],
                start_new_session=True,  # a Ctrl-C of the tests is none of its
            )

        def up() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            return self._answers()

        until(up, 30, "PostgreSQL does not answer")

    def kill(self) -> None:
        """Kill all its processes at once, as a failing machine does."""
        assert self._process is not None
        psutil.Process(self._process.pid).suspend()  # it starts no further process meanwhile
        end(tree(self._process.pid))
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Start it again after `kill`: it recovers what was committed."""
        # Children die a moment after their parent; a server refuses to start beside them.
        self.start()

    def stop(self) -> None:
        """End it and remove its files."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # at once, but in order
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str, database: str = "mergefront") -> list[tuple[object, ...]]:
        """Do one statement; its rows, if it has any."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.user is not None:
            shutil.chown(self.folder, self.user, _group(self.user))
            shutil.chown(secret, self.user)
        made = subprocess.run(
            [
                *(self._binaries / "initdb", "-D", self.folder / "data", "-U", _USER),
                *("--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C"),
                *("--no-sync", "--no-instructions"),
            ],
            capture_output=True,
            text=True,
            user=self.user,
            group=_group(self.user),
            extra_groups=None if self.user is None else [],
            cwd=self.folder,
            check=False,
        )
        assert made.returncode == 0, made.stderr

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=5, autocommit=True) as held:
                there = held.execute("SELECT 1 FROM pg_database WHERE datname = 'mergefront'")
                if there.fetchone() is None:
                    held.execute("CREATE DATABASE mergefront")
        except psycopg.OperationalError:
            return False
        return True


def _other_user() -> str | None:
    """Whom to run the server as; None: who runs the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid
