"""The system calls a tested program may make: an allowlist, as a BPF program.

It reads files, maps memory, waits, starts threads and writes to what it was given. It cannot start
processes, execute files, open sockets, open files for writing, change files, signal, trace or limit
others, make namespaces, or allocate memory that address-space limits do not see (memfd, shm,
io_uring). So the file system is read-only, and the process is one, whatever else is around it.
"""

import ctypes
import errno
import os
import struct

from .kernel import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: x86_64, aarch64 (None: it has no such call)
_ALLOWED: dict[str, tuple[int, int | None]] = {
    # descriptors
    "read": (0, 63),
    "pread64": (17, 67),
    "readv": (19, 65),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "write": (1, 64),
    "writev": (20, 66),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create": (213, None),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "getsockname": (51, 204),
    # looking at files
    "fstat": (5, 80),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "getdents": (78, None),
    "getdents64": (217, 61),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    # threads
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "rseq": (334, 293),
    "membarrier": (324, 283),
    "set_tid_address": (218, 96),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    # signals and timers of its own
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "rt_sigpending": (127, 136),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    # asking
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "times": (100, 153),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
}
# Calls that are refused as if the kernel did not know them, so that libc takes older ones.
_UNKNOWN = {"clone3": (435, 435), "openat2": (437, 437)}

_CLONE_THREAD = 0x10000
_WRITING = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # access mode, CREAT, TRUNC, APPEND, TMPFILE
_AF_UNIX, _SOCK_STREAM = 1, 1
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ; above all not
# F_SETOWN and F_SETSIG, which send signals.
_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FION*, FIO*CLEX

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
Instruction = tuple[int, int, int, int]  # code, steps if true, steps if false, operand


def _answer(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _refuse(error: int) -> Instruction:
    return _answer(_ERRNO | error)


def _load_argument(index: int) -> Instruction:
    """The low 32 bits: what the kernel reads of pids, flags and commands."""
    return (_LOAD, 0, 0, 16 + 8 * index)


def _one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    checks = [_load_argument(index)]
    for value in values:
        checks += [(_EQUAL, 0, 1, value), _answer(_ALLOW)]
    return [*checks, _refuse(errno.EPERM)]


def _conditional(pid: int) -> dict[tuple[int, int | None], list[Instruction]]:
    """Calls that depend on their arguments."""
    reading = [(_ANY_BIT, 0, 1, _WRITING), _refuse(errno.EROFS), _answer(_ALLOW)]
    return {
        (2, None): [_load_argument(1), *reading],  # open
        (257, 56): [_load_argument(2), *reading],  # openat
        (56, 220): [  # clone
            _load_argument(0),
            (_ANY_BIT, 0, 1, _CLONE_THREAD),
            _answer(_ALLOW),
            _refuse(errno.EPERM),
        ],
        (62, 129): _one_of(0, (pid,)),  # kill
        (234, 131): _one_of(0, (pid,)),  # tgkill
        (302, 261): _one_of(0, (0, pid)),  # prlimit64
        (72, 25): _one_of(1, _FCNTL),  # fcntl
        (16, 29): _one_of(1, _IOCTL),  # ioctl
        (53, 199): [  # socketpair: datagrams could be sent to sockets outside
            _load_argument(0),
            (_EQUAL, 1, 0, _AF_UNIX),
            _refuse(errno.EPERM),
            _load_argument(1),
            (0x54, 0, 0, 0xF),  # and
            (_EQUAL, 0, 1, _SOCK_STREAM),
            _answer(_ALLOW),
            _refuse(errno.EPERM),
        ],
    }


def program(machine: str, pid: int) -> list[Instruction]:
    """The filter for a process `pid` on "x86_64" or "aarch64".

    Raises:
        OSError: another machine, whose numbers are not known here.
    """
    if machine not in _AUDIT_ARCH:
        raise OSError(f"no list of system calls for {machine}")
    column = list(_AUDIT_ARCH).index(machine)
    filtered: list[Instruction] = [
        (_LOAD, 0, 0, 4),  # the architecture: numbers of another one mean other calls
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        _answer(_KILL),
        (_LOAD, 0, 0, 0),  # the number
    ]
    for answer, group in ((_ALLOW, _ALLOWED), (_ERRNO | errno.ENOSYS, _UNKNOWN)):
        for numbers in group.values():
            number = numbers[column]
            if number is not None:
                filtered += [(_EQUAL, 0, 1, number), _answer(answer)]
    for conditional, body in _conditional(pid).items():
        number = conditional[column]
        if number is not None:
            filtered += [(_EQUAL, 0, len(body), number), *body]
    return [*filtered, _refuse(errno.EPERM)]


def install() -> None:
    """Hold this process to the filter for good.

    Raises:
        OSError: the kernel or the machine has no such filters.
    """
    code = program(os.uname().machine, os.getpid())
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(packed)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header))
