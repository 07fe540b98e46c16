"""A study on a real PostgreSQL server: written exactly once, whatever becomes of the connection."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from search import study as studies
from search.config import load
from search.database import connect, connectable, place_of
from search.errors import StorageError
from search.incidents import Kind
from search.lease import Lease
from search.run import Run, locked
from search.status import as_json, look
from search.storage import OwnedStorage
from tests.processes import free_port, until
from tests.search.kit import finish, start, trial_files
from tests.search.postgres import MISSING, PASSWORD, Postgres, binaries
from tests.search.small import CommandLine
from tests.search.test_driver import write

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(binaries() is None, reason=MISSING),
]

SPACE = {"x": FloatDistribution(0, 1), "m": CategoricalDistribution(["ties", None, 3])}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("postgres") / "server") as running:
        yield running


class Owner:
    """A study that this process owns, and the faults that it met."""

    def __init__(self, server: Postgres, name: str, url: str | None = None, **more: Any) -> None:
        self.url, self.name = server.url(), name
        self.faults: list[tuple[Kind, str, str]] = []
        self.lease = Lease(connect(self.url), name, "server")
        self.storage = OwnedStorage(
            url or self.url,
            self.lease,
            record=lambda *fault: self.faults.append(fault),
            **more,
        )
        self.study = optuna.create_study(
            study_name=name,
            storage=self.storage,
            sampler=optuna.samplers.RandomSampler(seed=0),
            directions=["maximize"] * 2,
        )
        assert self.study.trials == []  # read once, from here on written only

    def ask(self) -> optuna.Trial:
        trial = self.study.ask()
        with self.storage.together():
            for name, distribution in SPACE.items():
                trial._suggest(name, distribution)
            trial.set_user_attr("recipe", json.dumps({"n": "ไทย"}))
        return trial

    def tell(self, trial: optuna.Trial) -> None:
        with self.storage.together():
            trial.set_constraint("c", trial.params["x"] - 0.5)
            trial.set_user_attr("of", (1, 2.5))
            self.study.tell(trial, [trial.params["x"], float(trial.number)])

    def check(self, tried: int) -> None:
        """What is in memory is what Optuna reads, and nothing is there twice."""
        read = optuna.load_study(
            study_name=self.name, storage=optuna.storages.RDBStorage(connectable(self.url))
        )
        own = self.study.get_trials(deepcopy=False)
        assert [vars(trial) for trial in own] == [vars(trial) for trial in read.trials]
        assert [trial.number for trial in own] == list(range(tried))
        assert self.study.user_attrs == read.user_attrs

    def close(self) -> None:
        self.storage.close()
        self.lease.close()


def test_a_server_holds_what_the_driver_wrote(server: Postgres) -> None:
    owner = Owner(server, "plain")
    owner.study.set_user_attr("mark", {"a": (1, 2)})
    owner.study.enqueue_trial({"x": 0.5})
    for index in range(6):
        trial = owner.ask()
        if index != 3:  # is still running
            owner.tell(trial)
    owner.study.tell(owner.study.ask(), state=TrialState.FAIL)
    with owner.storage.together():
        late = owner.study.ask()  # in a block, and gone on with after it
        late.suggest_float("x", 0, 1)
    late.set_user_attr("recipe", "r")
    owner.check(8)
    assert owner.faults == []
    owner.close()


class Cable:
    """Passes a server's bytes on, until it is cut: before or after a commit, or in mid-transaction.

    Attributes:
        cut: when: "before" the commit reaches the server, "after" it was done, "inside" the
            transaction; once.
    """

    def __init__(self, port: int) -> None:
        self.cut: str | None = None
        self.cuts = 0
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listening.accept()
                theirs = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._up, args=(ours, theirs), daemon=True).start()
                threading.Thread(target=self._down, args=(ours, theirs), daemon=True).start()

    def _up(self, ours: socket.socket, theirs: socket.socket) -> None:
        with suppress(OSError), ours, theirs:
            while data := ours.recv(1 << 16):
                writes = b"UPDATE trials" in data or b"INSERT INTO trial" in data
                commits = b"COMMIT" in data
                if (self.cut == "inside" and writes) or (self.cut == "before" and commits):
                    break
                theirs.sendall(data)
                if self.cut == "after" and commits:
                    time.sleep(0.1)  # it is done by now; its answer is not passed on, see _down
                    break
            if data:
                self.cut = None
                self.cuts += 1
            for end in (ours, theirs):  # closing alone says nothing while another thread reads
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _down(self, ours: socket.socket, theirs: socket.socket) -> None:
        with suppress(OSError), ours, theirs:
            while data := theirs.recv(1 << 16):
                if self.cut == "after" and b"COMMIT" in data:
                    continue
                ours.sendall(data)


@pytest.mark.parametrize("moment", ["before", "after", "inside"])
def test_a_write_whose_fate_is_unknown_is_done_once(server: Postgres, moment: str) -> None:
    cable = Cable(server.port)
    url = server.url().replace(f":{server.port}/", f":{cable.port}/")
    owner = Owner(server, f"cable-{moment}", url)

    def cutting() -> None:
        cable.cut = moment

    for index in range(2):
        cutting()
        trial = owner.study.ask()  # the connection breaks while a trial is made,
        cutting()
        with owner.storage.together():
            trial.suggest_float("x", 0, 1)  # while its parameters are written,
            trial.set_user_attr("recipe", "r")
        cutting()
        owner.tell(trial)  # and while it is told
        cutting()
        owner.study.set_user_attr("mark", index)
    cable.cut = None
    assert cable.cuts == (6 if moment == "inside" else 8)
    owner.check(2)
    assert {kind for kind, _, _ in owner.faults} == {Kind.STORAGE_LOST}
    owner.close()
    cable.close()


def test_a_killed_server_is_waited_for(server: Postgres) -> None:
    owner = Owner(server, "killed")
    told = 0
    for kill in (False, True, False, True):
        trial = owner.ask()
        if kill:
            server.kill()
            back = threading.Timer(1.0, server.restart)
            back.start()
        owner.tell(trial)
        if kill:
            back.join()
        told += 1
    owner.check(told)
    assert len(owner.faults) == 2  # one an outage
    assert all(PASSWORD not in str(fault) for fault in owner.faults)
    owner.close()


def test_a_server_that_stays_away_ends_the_search_with_one_line(server: Postgres) -> None:
    owner = Owner(server, "away", patience=0.6)
    trial = owner.ask()
    server.kill()
    try:
        with pytest.raises(StorageError, match=r"was away for 1 s \(.*nothing that was finished"):
            owner.tell(trial)
    finally:
        server.restart()
    assert owner.study.trials[0].state == TrialState.RUNNING  # memory is as the server is
    owner.tell(trial)
    owner.check(1)
    owner.close()


WRONG = {
    "nobody listens": (lambda _: f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/db", "refus"),
    "the password is wrong": (lambda s: s.url(password="wrong-but-secret"), "PGPASSWORD"),
    "no password": (lambda s: s.url(password=None), "PGPASSWORD"),
    "no such database": (lambda s: s.url("nothing"), "make it with createdb"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_opened_is_one_line_before_anything_is_written(
    server: Postgres,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    made, said = WRONG[case]
    url = made(server)
    write(tmp_path, storage=url)
    monkeypatch.chdir(tmp_path)
    ended = CommandLine(monkeypatch, capsys)("run", "s.yaml")
    assert ended.code == 2, ended
    assert ended.err.startswith(f"mergefront: {place_of(url)}: cannot be opened: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert len(ended.err) < 300
    for secret in (PASSWORD, "wrong-but-secret"):
        assert secret not in ended.err + ended.out
    assert not (tmp_path / "runs").exists()


def everything(folder: Path) -> str:
    """All that is in the files of a folder, as text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def test_tables_of_another_version_are_left_alone(server: Postgres, tmp_path: Path) -> None:
    server.sql("CREATE DATABASE other")
    optuna.create_study(storage=connectable(server.url("other")))

    def tables() -> list[tuple[object, ...]]:
        return server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", "other")

    for version, mend in (("v2.4.0.a", "optuna storage upgrade"), ("v9.9", "install the version")):
        server.sql(f"UPDATE alembic_version SET version_num = '{version}'", "other")
        file = write(tmp_path / version, storage=server.url("other"))
        run = a_run(file)
        before = tables()
        with pytest.raises(StorageError, match=rf"of another version of Optuna .*{mend}") as error:
            studies.open_study(run)
        assert PASSWORD not in str(error.value)
        assert tables() == before
        assert server.sql("SELECT count(*) FROM studies", "other") == [(1,)]


def a_run(file: Path) -> Run:
    """A run of a search file that no driver works on."""
    folder = file.parent / "runs" / "s"
    names = [str(file.parent / name) for name in ("b", "l", "r")]
    with locked(folder):
        return Run.start(load(file), folder, names, dict(zip("blr", names, strict=True)))


def test_a_study_of_another_version_of_ours_is_left_alone(server: Postgres, tmp_path: Path) -> None:
    server.sql("CREATE DATABASE newer")
    run = a_run(write(tmp_path, storage=server.url("newer")))
    study = studies.open_study(run)
    study.set_user_attr(studies.WRITTEN_BY, 7)
    studies.release(run)
    for create in (True, False):
        with pytest.raises(StorageError, match=r"another version of mergefront \(of format 7"):
            studies.open_study(run, create=create)
    studies.release(run)


@pytest.mark.slow
def test_a_search_goes_on_when_its_server_is_killed_and_restarted(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sql("CREATE DATABASE search")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    models = [
        {"model": n, "name": n, "parameters": {"weight": {"low": 0.0, "high": 1.0}}} for n in "lr"
    ]
    write(
        tmp_path,
        storage=server.url("search", password=None),
        models=models,
        budget={"trials": 32},
        confirm={"max": 2},
    )
    run = tmp_path / "runs" / "s"
    process = start(tmp_path, "run", "s.yaml")
    log = run / "run.log"
    for outage, many in enumerate((4, 16), 1):
        until(lambda many=many: len(trial_files(run)) >= many)
        server.kill()
        until(lambda n=outage: log.read_text(encoding="utf-8").count("the search waits") >= n)
        server.restart()
    output = finish(process)
    study = optuna.load_study(
        study_name="s", storage=optuna.storages.RDBStorage(connectable(server.url("search")))
    )
    assert [trial.number for trial in study.trials] == list(range(len(study.trials)))
    scored = [t for t in study.trials if studies.DUPLICATE_OF not in t.user_attrs]
    assert [t.state for t in scored] == [TrialState.COMPLETE] * 32
    assert len(trial_files(run)) == 32
    for trial in scored:
        assert same(trial, run / "trials" / f"{trial.number:06d}.json")
    log = (run / "run.log").read_text(encoding="utf-8")
    assert log.count("the search waits") == log.count("answers again after") == 2
    assert as_json(look(Run.open(run)))["finished"] == 32
    counted = [json.loads(line) for line in (run / "incidents.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in counted] == ["storage_lost"] * 2
    assert PASSWORD not in output
    assert PASSWORD not in everything(run)
    assert server.sql("SELECT token FROM mergefront_leases", "search") == [(None,)]


def same(trial: FrozenTrial, path: Path) -> bool:
    """Whether a trial was told what its result file says."""
    result = studies.Result.load(path)
    scores = [item.scores["math"] for item in result.items["t"]]
    return (
        trial.values is not None
        and trial.values[0] == pytest.approx(sum(scores) / len(scores))
        and trial.user_attrs[studies.FINGERPRINT] == result.fingerprint
    )
