"""SQLite studies: their backup, a file that is locked, full, or may not be written."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from search import study as studies
from search.backup import BACKUP, Backup
from search.database import Database
from search.errors import StorageError
from search.incidents import Kind
from search.storage import OwnedStorage
from tests.processes import until
from tests.search.test_driver import write
from tests.search.test_postgres import a_run


def owned(folder: Path, backup: Backup | None = None, **more: object) -> optuna.Study:
    url = f"sqlite:///{folder / 'study.db'}"
    told = None if backup is None else backup.told
    storage = OwnedStorage(url, told=told, **more)  # type: ignore[arg-type]
    return optuna.create_study(study_name="s", storage=storage)


def read(path: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    return optuna.load_study(study_name="s", storage=storage).trials


def test_a_backup_is_whole_and_made_while_the_study_is_written(tmp_path: Path) -> None:
    backup = Backup(tmp_path / "study.db", tmp_path / BACKUP, "s", trials=3)
    study = owned(tmp_path, backup)
    took = []
    for number in range(10):
        study.tell(study.ask(), float(number))
        began = time.perf_counter()
        backup.told()  # once more: what it costs a trial
        took.append(time.perf_counter() - began)
        if number == 3:
            until((tmp_path / BACKUP).is_file)
    assert sorted(took)[5] < 0.001
    backup.close()
    assert len(read(tmp_path / BACKUP)) == 10  # the last one is made at the end
    assert [t.values for t in read(tmp_path / BACKUP)] == [t.values for t in study.trials]
    assert not [path for path in tmp_path.iterdir() if ".tmp" in path.name]
    backup.close()


def test_a_damaged_study_never_becomes_its_backup(tmp_path: Path) -> None:
    study = owned(tmp_path)
    for number in range(30):
        study.tell(study.ask(), float(number))
    first = Backup(tmp_path / "study.db", tmp_path / BACKUP, "s")
    first.told()
    first.close()
    good = (tmp_path / BACKUP).read_bytes()
    with (tmp_path / "study.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 6)
    second = Backup(tmp_path / "study.db", tmp_path / BACKUP, "s")
    second.told()
    second.close()
    assert (tmp_path / BACKUP).read_bytes() == good


def test_a_damaged_study_is_put_back_from_its_backup(tmp_path: Path) -> None:
    run = a_run(write(tmp_path))
    study = studies.open_study(run)
    trial = study.ask()
    studies.fail(study, trial)
    studies.release(run)
    database = run.folder / "study.db"
    database.write_bytes(b"no database" * 1000)
    backup = run.folder / BACKUP
    with pytest.raises(StorageError, match=f"is damaged .*: put it back from {backup}"):
        studies.open_study(run)
    shutil.copy(backup, database)
    assert len(studies.open_study(run).trials) == 1
    studies.release(run)


def test_a_locked_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.database._BUSY_S", 0.1)
    faults: list[tuple[Kind, str, str]] = []
    met = threading.Event()

    def record(*fault: Any) -> None:
        faults.append(fault)
        met.set()

    study = owned(tmp_path, record=record)
    trial = study.ask()
    with closing(sqlite3.connect(tmp_path / "study.db", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Thread(target=lambda: (met.wait(60), other.rollback()))
        release.start()
        study.tell(trial, 1.0)
        release.join()
    assert [kind for kind, _, _ in faults] == [Kind.STORAGE_LOST]
    assert "locked" in faults[0][2]
    assert [t.values for t in read(tmp_path / "study.db")] == [[1.0]]


def test_an_outage_is_recorded_once_for_all_who_meet_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.database._BUSY_S", 0.1)
    faults: list[tuple[Kind, str, str]] = []
    database = Database(
        f"sqlite:///{tmp_path / 'study.db'}", record=lambda *fault: faults.append(fault)
    )

    def look() -> None:
        with database.optuna.engine.connect() as connection:
            connection.exec_driver_sql("SELECT * FROM studies").all()

    for outages in (1, 2):
        with closing(sqlite3.connect(tmp_path / "study.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StorageError, match=r"study\.db: does not answer: .*locked"):
                database.read_now(look)
            assert len(faults) == outages - 1
            tries = [0, 0, 0]

            def count(which: int, tries: list[int] = tries) -> None:
                tries[which] += 1
                look()

            waiting = [
                threading.Thread(target=database.read, args=(partial(count, which),))
                for which in range(3)
            ]
            for thread in waiting:
                thread.start()
            until(lambda tries=tries: min(tries) >= 2)  # each has met it
            other.rollback()
            for thread in waiting:
                thread.join()
        assert [kind for kind, _, _ in faults] == [Kind.STORAGE_LOST] * outages
    database.close()


def test_a_full_disk_is_one_line_and_the_study_stays_whole(tmp_path: Path) -> None:
    faults: list[tuple[Kind, str, str]] = []
    study = owned(tmp_path, record=lambda *fault: faults.append(fault))
    study.tell(study.ask(), 1.0)
    trial = study.ask()
    storage = study._storage
    assert isinstance(storage, OwnedStorage)

    def limit(pages: int) -> None:
        # SQLite says of its own limit of pages what it says of a full disk.
        from sqlalchemy import event

        def began(connection: sqlite3.Connection, _: object) -> None:
            connection.execute(f"PRAGMA max_page_count = {pages}")

        engine = storage._database.engine
        engine.dispose()
        event.listen(engine, "connect", began)

    limit(1)
    with pytest.raises(StorageError, match=r"study\.db: .*full; make room"):
        trial.set_user_attr("text", "x" * 100_000)
    assert [kind for kind, _, _ in faults] == [Kind.DISK_FULL]
    assert "text" not in study.trials[1].user_attrs
    assert [t.state.name for t in read(tmp_path / "study.db")] == ["COMPLETE", "RUNNING"]
    limit(100_000)
    study.tell(trial, 2.0)
    assert [t.values for t in read(tmp_path / "study.db")] == [[1.0], [2.0]]
