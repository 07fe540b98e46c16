"""What a sandbox is: Python text and limits in, what it printed and how it ended out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from objectives.errors import ServiceError

Status = Literal["ok", "error", "time", "output"]


class SandboxError(ServiceError):
    """A sandbox cannot run here, or broke: nothing is known of the program it was given."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    `seconds` is of processor time (the kernel counts whole ones); of wall time it may take twice
    that from when it is locked in, so that a busy machine does not decide. `memory` is the address
    space and `output` what may be printed, in bytes.
    """

    seconds: float = 6.0
    memory: int = 1 << 30
    output: int = 1 << 20

    @property
    def wall(self) -> float:
        """Seconds of wall time."""
        return 2 * self.seconds


@dataclass(frozen=True)
class Program:
    """Python text, run as `__main__` with the standard library alone, and its standard input."""

    code: str
    stdin: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended: "ok" is exit code 0, "error" any other end of its own.

    "time" and "output" are limits that it ran into. Undecodable output is replaced by U+FFFD.
    """

    status: Status
    stdout: str
    stderr: str


class Sandbox(ABC):
    """Runs programs that may be hostile; safe to use from several threads, and picklable.

    Every backend gives programs the same: reading Python's standard library, standard streams,
    threads. No other files, no writing of files, no network, no processes, no variables of the
    environment (docs/sandbox.md).
    """

    kind: ClassVar[str]

    @abstractmethod
    def run(self, program: Program, limits: Limits) -> Outcome:
        """Run one program to its end or limit.

        Raises:
            SandboxError: the sandbox itself failed; the program may not have run.
        """

    @abstractmethod
    def run_joined(
        self, first: Program, second: Program, limits: Limits
    ) -> tuple[Outcome, Outcome]:
        """Run two programs, each in a sandbox of its own, each reading what the other prints.

        It ends when `second` ends; their outcomes' `stdout` is empty, and so are their `stdin`.
        Limits hold for each.

        Raises:
            SandboxError: the sandbox itself failed.
        """

    @abstractmethod
    def check(self) -> None:
        """Make sure that programs run here and cannot get out.

        Raises:
            SandboxError: they do not or can; one line that says what to do.
        """
