"""A disk that is full or may not be written: one clear line, and nothing is broken.

In processes of their own, which give up root's right to write everywhere, and mount small file
systems that nobody else sees.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.progress import Progress
from search.results import Result
from search.run import Run
from tests.search import life
from tests.search.test_trial_life import check_whole, life_file

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _REMOUNT, _REC, _PRIVATE = 0x1, 0x20, 0x4000, 0x40000
_LIBC = ctypes.CDLL(None, use_errno=True)
UNSUPPORTED = 77  # the exit code where the kernel allows no mounts of one's own


# ---- in the processes


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _own_mounts() -> None:
    """Mounts of this process are nobody else's from now on."""
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEWNS if uid == 0 else _NEWNS | _NEWUSER)
        if uid:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        os._exit(UNSUPPORTED)


@contextmanager
def _small(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own at `folder`, whose files are there afterwards."""
    folder.mkdir(exist_ok=True)
    _own_mounts()
    _call("mount", b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={megabytes}m".encode())
    yield
    saved = folder.with_name("saved")
    shutil.copytree(folder, saved)
    _call("umount2", bytes(folder), 2)
    shutil.copytree(saved, folder, dirs_exist_ok=True)


def _fill(folder: Path) -> Path:
    """Take all the space that is left; what can be removed to have it again."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


def _after(trials: int, action: object) -> None:
    """Call `action` once so many trials are told, in the first session."""
    real = Progress.add

    def add(self: Progress, trial: object) -> None:
        real(self, trial)  # type: ignore[arg-type]
        if self.finished == trials:
            Progress.add = real  # type: ignore[method-assign]
            action()  # type: ignore[operator]

    Progress.add = add  # type: ignore[method-assign]


def _unharmed(folder: Path) -> None:
    """The study is whole, and so is every file that is there."""
    with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True) as held:
        assert held.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    Run.open(folder)
    for path in (folder / "trials").glob("*.json"):
        assert Result.load(path).items


def fills_up(file: Path) -> int:
    """The disk is full after two trials; then there is room again."""
    runs = file.parent / "runs"
    with _small(runs, 24):
        _after(2, lambda: _fill(runs))
        assert life.search(file) == 2
        _unharmed(runs / "s")
        sys.stderr.write("room\n")
        (runs / "ballast").unlink()
        assert life.search(file) == 0
    return 0


def full_at_start(file: Path) -> int:
    """There is no room for a run."""
    runs = file.parent / "runs"
    with _small(runs, 1):
        ballast = _fill(runs)
        assert life.search(file) == 2
        ballast.unlink()
        assert {path.name for path in runs.rglob("*")} <= {"s", ".lock"}
    return 0


def read_only(file: Path) -> int:
    """The whole file system is read-only from the start, and when a run is to go on."""
    runs = file.parent / "runs"
    with _small(runs, 24):
        _call("mount", None, bytes(runs), None, _REMOUNT | _RDONLY, None)
        assert life.search(file) == 2
        assert not list(runs.iterdir())
        _call("mount", None, bytes(runs), None, _REMOUNT, b"size=24m")
    return 0


def loses_rights(file: Path) -> int:
    """The run's folders may not be written any more after two trials; then they may again."""
    if os.getuid() == 0:  # root without its privileges is bound by permissions like anyone
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        _call("capset", header, (ctypes.c_uint32 * 6)())
    folder = file.parent / "runs" / "s"

    def change(mode: int) -> None:
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            place.chmod(mode)

    _after(2, lambda: change(0o555))
    assert life.search(file) == 2
    _unharmed(folder)
    assert life.search(file) == 2  # and it says the same when it is tried again
    sys.stderr.write("mended\n")
    change(0o755)
    return life.search(file)


# ---- what is shown


def _lines(said: str) -> list[str]:
    """What a process printed, without what MLflow says of its own tables."""
    return [line for line in said.splitlines() if " INFO " not in line]


def _run(tmp_path: Path, function: object, file: Path) -> list[str]:
    code, said = life.run(tmp_path / "printed.log", function, file)  # type: ignore[arg-type]
    if code == UNSUPPORTED:
        pytest.skip(f"no mounts of one's own here: {said}")
    assert code == 0, said
    return _lines(said)


def test_a_disk_that_fills_up_stops_the_search_with_one_line_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = life_file(tmp_path)
    line, room = _run(tmp_path, fills_up, file)
    assert room == "room"
    assert line.startswith(f"mergefront: {tmp_path}/runs/s")
    assert line.endswith("; make room, then start the same command again: it goes on")
    check_whole(file, monkeypatch)


def test_a_full_disk_is_one_line_at_the_start(tmp_path: Path) -> None:
    (line,) = _run(tmp_path, full_at_start, life_file(tmp_path))
    assert line.endswith("No space left on device")


def test_a_read_only_file_system_is_one_line(tmp_path: Path) -> None:
    (line,) = _run(tmp_path, read_only, life_file(tmp_path))
    assert line.endswith("runs/s: cannot be written: Read-only file system")


def test_revoked_permissions_are_one_line_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = life_file(tmp_path)
    first, again, mended = _run(tmp_path, loses_rights, file)
    assert mended == "mended"
    for line in (first, again):
        assert line.startswith(f"mergefront: {tmp_path}/runs/s")
        assert "ermission" in line or "readonly" in line or "unable to open" in line
    assert first.endswith("; make it writable, then start the same command again: it goes on")
    check_whole(file, monkeypatch)
