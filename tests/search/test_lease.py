"""One driver a study: real processes that are killed, or stopped and woken."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy.exc import InternalError

from search import study as studies
from search.database import connect
from search.errors import RunError
from search.lease import Lease
from search.run import LOCK, locked
from tests.search.kit import environment
from tests.search.postgres import MISSING, PASSWORD, Postgres, binaries
from tests.search.test_driver import write
from tests.search.test_postgres import a_run

needs_server = pytest.mark.skipif(binaries() is None, reason=MISSING)

pytestmark = pytest.mark.cluster

HOLDER = """
import sys, time
from pathlib import Path
import optuna
from search import lease
from search.database import connect
from search.storage import OwnedStorage
from search.errors import RunError
url, name, beat, silence = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
if len(sys.argv) > 5:
    lease._machine = lambda: sys.argv[5]  # as if it were on another machine
held = lease.Lease(connect(url), name, "server", beat, silence)
storage = OwnedStorage(url, held)
study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
print("holds", flush=True)
for line in sys.stdin:
    try:
        if line.strip() == "write":
            study.tell(study.ask(), 1.0)
        else:
            storage.check()
        print("done", flush=True)
    except RunError as error:
        print(error, flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "server") as running:
        yield running


class Other:
    """A driver in another process that holds a study."""

    def __init__(self, url: str, name: str, silence: float, machine: str | None = None) -> None:
        more = [] if machine is None else [machine]
        command = [sys.executable, "-c", HOLDER, url, name, "0.2", str(silence), *more]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.hears()


@contextmanager
def other(url: str, name: str, silence: float, machine: str | None = None) -> Iterator[Other]:
    held = Other(url, name, silence, machine)
    try:
        assert held.hears() == "holds"
        yield held
    finally:
        held.process.kill()
        held.process.communicate()


def take(url: str, name: str, silence: float) -> Lease:
    return Lease(connect(url), name, "server", 0.2, silence)


@needs_server
def test_a_second_driver_is_told_who_works_and_a_killed_one_is_followed_at_once(
    server: Postgres,
) -> None:
    with other(server.url(), "one", 20.0) as first:
        began = time.monotonic()
        with pytest.raises(RunError) as error:
            take(server.url(), "one", 20.0)
        assert time.monotonic() - began < 10
        assert f"working on study 'one': process {first.process.pid} on " in str(error.value)
        assert " since 20" in str(error.value)
        first.tell("write")
        first.process.kill()
        first.process.wait()
        began = time.monotonic()
        mine = take(server.url(), "one", 20.0)  # on this machine it is known to be dead
        assert time.monotonic() - began < 10
    mine.close()
    take(server.url(), "one", 20.0).close()  # given back: nobody has to wait


@needs_server
def test_a_dead_driver_of_another_machine_is_followed_after_its_silence(server: Postgres) -> None:
    with other(server.url(), "far", 5.0, "another machine") as first:
        with pytest.raises(RunError, match="another mergefront is working on study 'far'"):
            take(server.url(), "far", 5.0)
        first.process.kill()
        began = time.monotonic()
        mine = take(server.url(), "far", 5.0)
        assert 4.0 < time.monotonic() - began < 60
        mine.close()


@needs_server
def test_a_driver_that_hung_writes_nothing_after_another_took_over(server: Postgres) -> None:
    def trials() -> list[tuple[object, ...]]:
        return server.sql(
            "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = 'hung'"
        )

    with other(server.url(), "hung", 1.0) as first:
        assert first.tell("write") == "done"
        first.process.send_signal(signal.SIGSTOP)
        with other(server.url(), "hung", 1.0) as second:  # which waits out the silence
            assert second.tell("write") == "done"
            before = trials()
            first.process.send_signal(signal.SIGCONT)
            for what in ("check", "write", "write"):
                said = first.tell(what)
                assert "study 'hung' was taken over by process" in said
                assert str(second.process.pid) in said
            assert trials() == before
            assert second.tell("write") == "done"


@needs_server
def test_a_stop_in_the_middle_of_a_transaction_does_not_hold_up_who_takes_over(
    server: Postgres,
) -> None:
    """The server ends the transaction, and with it the lock of the row."""
    first = take(server.url(), "middle", 1.0)
    first._ended.set()  # no sign of life from here on
    engine = connect(server.url())
    with suppress(InternalError), engine.connect() as connection:  # its end is refused
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = '1s'")
        assert first.fence().open(connection)
        began = time.monotonic()
        mine = take(server.url(), "middle", 1.0)
        assert time.monotonic() - began < 10
    with pytest.raises(RunError, match="was taken over by"):
        first.check()
    mine.close()
    engine.dispose()


@needs_server
def test_two_folders_of_one_run_have_one_driver(server: Postgres, tmp_path: Path) -> None:
    server.sql("CREATE DATABASE folders")
    run = a_run(write(tmp_path / "here", storage=server.url("folders")))
    studies.open_study(run)
    studies.release(run)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = tmp_path / "there" / "runs" / "s"
    code = (
        "import sys; from pathlib import Path;"
        "from search import study; from search.run import Run;"
        "study.open_study(Run.open(Path(sys.argv[1]))); print('holds', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(there)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(MERGEFRONT_STORAGE_PASSWORD=PASSWORD),
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "holds"
    with pytest.raises(RunError, match=f"working on study 's': process {process.pid} on "):
        studies.open_study(run)
    process.kill()
    process.communicate()
    studies.open_study(run)
    studies.release(run)


def test_who_works_on_a_folder_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from search.run import locked\n"
        "with locked(Path(sys.argv[1])): print('holds', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "holds"
    line = rf"another mergefront is working on this run: process {process.pid} on .* since 20"
    with pytest.raises(RunError, match=line), locked(tmp_path / "r"):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path / "r"):
        assert (tmp_path / "r" / LOCK).exists()
    assert list((tmp_path / "r").iterdir()) == []  # it has become no run


def test_a_sqlite_file_of_several_runs_has_one_driver_a_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    run = a_run(write(tmp_path / "here", storage=url))
    studies.open_study(run)
    code = (
        "import sys; from pathlib import Path;"
        "from search import study; from search.run import Run;"
        "study.open_study(Run.open(Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.folder)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert f"working on study 's': process {os.getpid()} on " in done.stderr
    studies.release(run)
