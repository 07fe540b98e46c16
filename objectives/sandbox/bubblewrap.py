"""bubblewrap, the sandbox of Flatpak: the namespaces are made by a program that many have read."""

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any, ClassVar

from objectives.sandbox.base import SandboxError
from objectives.sandbox.local import LocalSandbox, threads_in_use


class Bubblewrap(LocalSandbox):
    """`bwrap` makes the namespaces and mounts; the filter and the limits are added inside."""

    kind: ClassVar[str] = "bubblewrap"

    @property
    def advice(self) -> str:
        return "user namespaces may be off (containers often forbid them): use landlock or http"

    def command(self, start: Sequence[str], job: dict[str, Any]) -> list[str]:
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise SandboxError(
                "sandbox bubblewrap: `bwrap` is not installed; `apt install bubblewrap`, or use"
                " unshare or landlock"
            )
        arguments = [bwrap, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session"]
        arguments += ["--cap-drop", "ALL"]
        threads = 0
        if os.geteuid() == 0:
            # In a namespace of users, root would stay root outside, who may start any number of
            # threads. It becomes nobody inside instead, and needs to be allowed to until then.
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                arguments += ["--cap-add", capability]
            threads = threads_in_use()
        else:
            arguments += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        for path in job["readable"]:
            arguments += ["--ro-bind", path, path]
        for path in job["devices"]:
            arguments += ["--dev-bind", path, path]
        # bwrap itself dies with its parent, and what it starts has another one.
        inner = json.dumps({**job, "parent": None, "threads": threads})
        return [*arguments, "--remount-ro", "/", "--chdir", "/", "--", *start, inner]
