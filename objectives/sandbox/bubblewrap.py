"""bubblewrap, the sandbox of Flatpak: the namespaces are made by a program that many have read."""

import json
import shutil
from collections.abc import Sequence
from typing import Any, ClassVar

from objectives.sandbox.base import SandboxError
from objectives.sandbox.local import LocalSandbox


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
        arguments = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc"]
        arguments += ["--unshare-uts", "--unshare-cgroup-try", "--die-with-parent", "--new-session"]
        arguments += ["--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
        for path in job["readable"]:
            arguments += ["--ro-bind", path, path]
        for path in job["devices"]:
            arguments += ["--dev-bind", path, path]
        # bwrap itself dies with its parent, and what it starts has another one.
        inner = json.dumps({**job, "parent": None})
        return [*arguments, "--remount-ro", "/", "--chdir", "/", "--", *start, inner]
