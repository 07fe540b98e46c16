"""Linux namespaces by system calls: no program to install, but the machine must permit them."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from objectives.sandbox.local import LocalSandbox


class Unshare(LocalSandbox):
    """New user, mount, process, network, IPC and host-name namespaces, then the filter and limits.

    Root is mapped to nobody for the program.
    """

    kind: ClassVar[str] = "unshare"

    @property
    def advice(self) -> str:
        return "user namespaces may be off (containers often forbid them): use landlock or http"

    def command(self, start: Sequence[str], job: dict[str, Any]) -> list[str]:
        return [*start, json.dumps(job)]
