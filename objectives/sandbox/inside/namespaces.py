"""Namespaces of user, mounts, processes, network: a machine in which nothing else exists."""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from .kernel import PR_SET_PDEATHSIG, call, die_with, drop_capabilities, prctl, syscall

_NEW = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x1000, 0x4000, 1 << 18, 2, 4
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_MNT_DETACH = 2
_USER = 1000  # inside
_NOBODY = 65534  # outside, where root starts the sandbox


def enter(readable: Sequence[str], devices: Sequence[str], scratch: str) -> None:
    """Return in a process that sees `readable` (read-only) and `devices` and no other process.

    `scratch` is any folder, used as a mount point that nobody else sees. The process that called
    never returns: it waits and exits as the inner one does (128 + n if signal n ended it).

    Raises:
        OSError: the kernel refuses a step, with its name.
    """
    _new_user()
    inner = os.fork()
    if inner:
        os._exit(_result_of(inner))
    prctl(PR_SET_PDEATHSIG, 9)  # its parent is of another namespace: no number to compare
    _mounts(readable, devices, scratch)
    # The first process of a namespace ignores many signals: the program must not be it.
    program = os.fork()
    if program:
        os._exit(_result_of(program))
    os.setsid()
    if os.geteuid() != _USER:
        os.setgroups([])
        os.setresgid(_USER, _USER, _USER)
        os.setresuid(_USER, _USER, _USER)
    drop_capabilities()
    die_with(1)


def _result_of(child: int) -> int:
    # Descriptors are the program's; a copy held here would keep its readers waiting.
    os.closerange(0, 256)
    _, status = os.waitpid(child, 0)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _new_user() -> None:
    """New namespaces; as root, root is mapped for the set-up and nobody for the program."""
    uid, gid = os.geteuid(), os.getegid()
    flags = 0
    for flag in _NEW.values():
        flags |= flag
    if uid != 0:
        call("unshare", flags)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{_USER} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{_USER} {gid} 1")
        return
    # Two users can only be mapped from outside.
    ready, go = os.pipe()
    outer = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        code = 1
        try:
            if os.read(ready, 1):
                for kind in ("uid_map", "gid_map"):
                    Path(f"/proc/{outer}/{kind}").write_text(f"0 0 1\n{_USER} {_NOBODY} 1\n")
                code = 0
        finally:
            os._exit(code)
    os.close(ready)
    try:
        call("unshare", flags)
        os.write(go, b"x")
    finally:
        os.close(go)
        _, status = os.waitpid(helper, 0)
    if status:
        raise PermissionError("uid_map: this root may not map users (CAP_SETUID is missing)")


def _mounts(readable: Sequence[str], devices: Sequence[str], scratch: str) -> None:
    # Opened first: the scratch mount may hide some of them.
    sources = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in (*readable, *devices)]
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("sandbox", scratch, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=4k,mode=755")
    for path, handle in sources:
        target = Path(scratch, path.lstrip("/"))
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.touch()
        _mount(f"/proc/self/fd/{handle}", str(target), None, _MS_BIND | _MS_REC)
        device = path in devices
        _set_attributes(str(target), _NOSUID | (0 if device else _RDONLY | _NODEV))
        os.close(handle)
    _set_attributes(scratch, _RDONLY | _NOSUID, recursive=False)
    os.chdir(scratch)
    syscall("pivot_root", {"x86_64": 155, "aarch64": 41}[os.uname().machine], b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    try:
        call(
            "mount",
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode(),
        )
    except OSError as error:
        raise OSError(f"{error.strerror} {target}") from None


def _set_attributes(path: str, attributes: int, recursive: bool = True) -> None:
    flags = _AT_RECURSIVE if recursive else 0
    packed = struct.pack("=QQQQ", attributes, 0, 0, 0)
    what = f"mount_setattr {path}"
    syscall(what, _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, packed, len(packed))
