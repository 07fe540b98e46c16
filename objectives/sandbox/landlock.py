"""Landlock and the filter of system calls: needs no privilege, so it works in most containers."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from objectives.sandbox.local import LocalSandbox, threads_in_use


class Landlock(LocalSandbox):
    """The kernel opens nothing but the standard library for the program, and starts nothing.

    It shares the machine's namespaces: names and sizes of files can be asked for, not their
    contents or the lists of folders.
    """

    kind: ClassVar[str] = "landlock"

    @property
    def advice(self) -> str:
        return "it needs Linux 5.13 with Landlock on: use unshare, bubblewrap or http"

    def command(self, start: Sequence[str], job: dict[str, Any]) -> list[str]:
        return [*start, json.dumps({**job, "threads": threads_in_use()})]
