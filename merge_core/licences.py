"""Licences of merged models: what the parents' come to together, and the known traps in them.

What stands here is no legal advice: it says what a publisher has to look at.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass

MIXED = "parents-licences-differ"
UNKNOWN = "parents-licences-unknown"
"""`license_name` of a merge whose parents' licences are not one, and where none is known."""

_LLAMA = (
    "publish the licence's text and the notice it asks for, show “Built with {brand}”, and begin "
    "the model's name with “{begin}”; its acceptable use policy binds every user"
)
_TRAPS = {
    "llama2": "publish the licence's text and the notice it asks for; outputs may not train models "
    "that are no Llama 2; its acceptable use policy binds every user",
    "llama3": _LLAMA.format(brand="Meta Llama 3", begin="Llama 3"),
    "llama3.[1-9]": _LLAMA.format(brand="Llama", begin="Llama"),
    "llama4": _LLAMA.format(brand="Llama", begin="Llama"),
    "gemma": "pass its terms and use restrictions on to every user, and say that you changed the "
    "model",
    "cc-by*-nd-*": "no derivatives: a merge of it may not be published",
    "cc-by-nc-*": "no commercial use: that binds the merge",
    "cc-by*-sa-*": "share alike: the merge has to be published under the same licence",
    "*gpl*": "copyleft: the merge has to be published under the same licence",
    "*openrail*": "its use restrictions have to be passed on to every user",
    "bigscience-*": "its use restrictions have to be passed on to every user",
    "qwen*": "terms of its own, some of them without commercial use: read its text",
    "mrl": "research only: no commercial use",
    "deepseek*": "its use restrictions have to be passed on to every user",
    "apache-2.0": "keep its NOTICE file, if there is one, and say that you changed the model",
}
"""What is often overlooked, by licence (`license`, or `license_name` of another); of several that
match, all: what forbids most stands first."""
_NAMED = {"llama3": "Llama 3", "llama3.[1-9]": "Llama", "llama4": "Llama"}


@dataclass(frozen=True)
class Licence:
    """What a model's own card says.

    Attributes:
        id: as the hub knows it ("apache-2.0", "other"); None: the card says nothing, or is missing.
        name: of one that the hub does not know.
        link: to its text.
    """

    id: str | None = None
    name: str | None = None
    link: str | None = None

    @property
    def shown(self) -> str:
        """In words."""
        if self.id is None:
            return "unknown"
        return self.name or self.id

    @property
    def trap(self) -> str | None:
        """What is often overlooked in it, or None."""
        found = [text for pattern, text in _TRAPS.items() if self.like(pattern)]
        return "; ".join(dict.fromkeys(found)) or None

    def like(self, pattern: str) -> bool:
        """Whether its id or its name is one of a kind: `llama3.[1-9]`."""
        return any(fnmatch.fnmatch(key.lower(), pattern) for key in (self.id, self.name) if key)

    def metadata(self) -> dict[str, str]:
        """Its keys of a card's front matter."""
        named = {"license": self.id, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in named.items() if value is not None}


def together(licences: Iterable[Licence]) -> Licence:
    """That of a merge: the parents' where all have the same, otherwise "other"."""
    found = list(dict.fromkeys(licences))
    same = {(licence.id, licence.name) for licence in found}
    unclear = found[0].id is None or (found[0].id == "other" and found[0].name is None)
    if len(same) == 1 and not unclear:
        return found[0]
    return Licence("other", UNKNOWN if same == {(None, None)} else MIXED)


def traps(licences: Iterable[Licence]) -> dict[str, str]:
    """What is easily overlooked, by licence."""
    return {
        licence.shown: trap
        for licence in dict.fromkeys(licences)
        if (trap := licence.trap) is not None
    }


def begins(licences: Iterable[Licence]) -> str | None:
    """What the merge's name has to begin with, as a parent's licence asks; None if nothing."""
    for licence in licences:
        for pattern, begin in _NAMED.items():
            if licence.like(pattern):
                return begin
    return None
