"""Changes to a YAML text that leave every other character of it as it is.

A round trip through a YAML library keeps comments, but not all of the spelling.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from merge_core.yaml_io import Where

_PLAIN = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
_SPECIAL = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


class Text:
    """A YAML document that is being changed.

    Attributes:
        original: what it was.
    """

    def __init__(self, text: str) -> None:
        self.original = text
        self._root: Node = YAML(typ="rt", pure=True).compose(text)
        self._changes: dict[tuple[int, int], str] = {}

    def node(self, where: Where) -> Node | None:
        """What stands at a place; None where it is merged in by `<<` or not written at all."""
        node: Node | None = self._root
        for step in where:
            if isinstance(node, MappingNode):
                node = next((v for k, v in node.value if k.value == step), None)
            elif isinstance(node, SequenceNode) and isinstance(step, int):
                node = node.value[step] if step < len(node.value) else None
            else:
                return None
        return node

    def replace(self, node: Node, value: Any) -> None:
        """Write `value`, of numbers, words, and lists or mappings of them, in place of `node`."""
        self._changes[node.start_mark.index, _end(node)] = flow(value)

    def put(self, where: Where, key: str, value: Any) -> None:
        """Write `key: value` into the mapping at a place, in place of what `key` had."""
        node = self.node(where)
        assert isinstance(node, MappingNode)
        old = self.node((*where, key))
        if old is not None:
            self.replace(old, value)
            return
        entry = f"{flow(key)}: {flow(value)}"
        if node.flow_style:
            end = _end(node) - 1
            comma = ", " if node.value else ""
            stop = len(self.original[:end].rstrip())
            self._changes[stop, end] = comma + entry
        elif not where:
            end = len(self.original)
            self._changes[end, end] = ("" if self.original.endswith("\n") else "\n") + entry + "\n"
        else:
            first = node.value[0][0].start_mark
            self._changes[first.index, first.index] = f"{entry}\n{' ' * first.column}"

    def __str__(self) -> str:
        text, done = self.original, len(self.original)
        for (start, end), new in sorted(self._changes.items(), reverse=True):
            assert end <= done, "changes do not overlap"
            text, done = text[:start] + new + text[end:], start
        return text


def flow(value: Any) -> str:
    """`value` as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _SPECIAL:
        return value
    return json.dumps(value, ensure_ascii=False)


def _end(node: Node) -> int:
    """Where the last character of a node stands; a block's own end is that of what follows it."""
    if isinstance(node, ScalarNode):
        return int(node.end_mark.index)
    assert isinstance(node, MappingNode | SequenceNode)
    if node.flow_style:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(node, MappingNode) else last)
