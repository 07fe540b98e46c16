"""Landlock: without any privilege, this process can open what is listed and nothing else."""

import os
import stat
import struct
from collections.abc import Sequence

from .kernel import PR_SET_NO_NEW_PRIVS, prctl, syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # on every architecture
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Rights over files, by version: 13 at first, then refer, truncate, (network,) ioctl.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def restrict(readable: Sequence[str]) -> None:
    """Allow reading files under `readable`, and no other use of the file system.

    Where the kernel can, TCP, abstract sockets and signals to others are refused too; the filter of
    system calls refuses them anyway.

    Raises:
        OSError: the kernel has no Landlock, or it is off.
    """
    version = syscall("landlock", _CREATE, None, 0, 1)
    rights = (1 << _RIGHTS[min(version, 5)]) - 1
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", 0b11)  # TCP: bind, connect
    if version >= 6:
        attributes += struct.pack("=Q", 0b11)  # scopes: abstract sockets, signals
    rules = syscall("landlock", _CREATE, attributes, len(attributes), 0)
    for path in readable:
        handle = os.open(path, os.O_PATH)
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        allowed = _READ_FILE | (_READ_DIR if folder else 0)
        syscall("landlock", _ADD, rules, 1, struct.pack("=Qi", allowed, handle), 0)
        os.close(handle)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    syscall("landlock", _RESTRICT, rules, 0)
    os.close(rules)
