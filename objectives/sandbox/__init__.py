"""The table of sandboxes: a new one is one file here and one line below."""

from collections.abc import Mapping
from typing import Any

from objectives.sandbox.base import Limits, Outcome, Program, Sandbox, SandboxError
from objectives.tables import did_you_mean, resolve

__all__ = [
    "SANDBOXES",
    "Limits",
    "Outcome",
    "Program",
    "Sandbox",
    "SandboxError",
    "make_sandbox",
]

SANDBOXES: dict[str, str] = {
    "bubblewrap": "objectives.sandbox.bubblewrap:Bubblewrap",
    "http": "objectives.sandbox.remote:Remote",
    "landlock": "objectives.sandbox.landlock:Landlock",
    "unshare": "objectives.sandbox.unshare:Unshare",
}


def make_sandbox(ref: str | Mapping[str, Any]) -> Sandbox:
    """The sandbox that a search file names: `unshare`, or `{http: https://...}`.

    Raises:
        SandboxError: an unknown name (with the nearest known one), or a wrong or missing setting.
    """
    if isinstance(ref, str):
        name, settings = ref, None
    elif len(ref) == 1:
        ((name, settings),) = ref.items()
    else:
        raise SandboxError("a sandbox is one name, such as landlock or {http: URL}; give one")
    if name not in SANDBOXES:
        raise SandboxError(f"unknown sandbox {name!r}; {did_you_mean(name, SANDBOXES)}")
    made: Sandbox
    if name == "http":
        made = resolve(SANDBOXES, name).of(settings)
        return made
    if settings is not None:
        raise SandboxError(f"sandbox {name}: takes no settings, got {settings!r}; remove them")
    made = resolve(SANDBOXES, name)()
    return made
