"""System calls that Python's standard library lacks."""

import ctypes
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522
_SECBIT_NO_SETUID_FIXUP = 1 << 2


def call(name: str, *args: object) -> int:
    """A function of libc by name; raises OSError, naming it, where it gives -1."""
    result = int(getattr(_LIBC, name)(*args))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def syscall(what: str, number: int, *args: object) -> int:
    """A system call by number; raises OSError, saying `what`, where it fails."""
    numbers = (ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args)
    result = int(_LIBC.syscall(ctypes.c_long(number), *numbers))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def prctl(option: int, *args: int) -> None:
    """The system call of that name; it demands that unused arguments are 0."""
    padded = (*args, 0, 0, 0, 0)[:4]
    call("prctl", option, *(ctypes.c_ulong(arg) for arg in padded))


def die_with(parent: int) -> None:
    """Be killed when `parent`, the process that started this one, dies."""
    prctl(PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(125)


def drop_capabilities() -> None:
    """Give up every capability for good, in this process and what it may start."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one; or none may be dropped, and then none is held either
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    syscall("capset", _CAPSET[os.uname().machine], header, bytes(24))
    prctl(PR_CAP_AMBIENT, 4)  # clear all


def become_nobody(uid: int) -> None:
    """From root to user `uid` without capabilities; files are still read as their owner root.

    Root is exempt from the limit on threads, so it must go; but the interpreter may lie where only
    root may look. What can be opened is for the sandbox to bound, by mounts or by Landlock.
    """
    prctl(PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)  # or setresuid would drop what comes after
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _LIBC.setfsuid(0)
    if _LIBC.setfsuid(-1) != 0:
        raise OSError("setfsuid: refused")
    drop_capabilities()
