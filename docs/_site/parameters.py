"""The tables of parameters in docs/methods.md, from the methods' own declarations.

`python docs/_site/parameters.py` writes them anew; a test fails where they are not those.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "methods.md"
_PLACE = re.compile(r"<!-- parameters: (\w+)(?: - (\w+))? -->\n.*?<!-- end -->", re.DOTALL)


def filled(text: str) -> str:
    """The page with its tables as the declarations have them."""
    return _PLACE.sub(lambda match: _table(match[0], match[1], match[2]), text)


def _table(old: str, method: str, without: str | None) -> str:
    from merge_core.methods import get_method

    told = get_method(without).by_name if without else {}
    rows = ["| parameter | of | legal | default | is |", "|---|---|---|---|---|"]
    for parameter in get_method(method).parameters:
        if parameter.name in told:
            continue
        default = "required" if parameter.default is None else f"{parameter.default}".lower()
        of = "each expert" if parameter.scope == "model" else "the merge"
        legal = parameter.domain().replace(" | ", ", ")
        legal = f"{parameter.low:g}" if parameter.low == parameter.high else legal
        rows.append(f"| `{parameter.name}` | {of} | {legal} | {default} | {parameter.help} |")
    head = old.split("\n", 1)[0]
    return "\n".join([head, "", *rows, "", "<!-- end -->"])


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parents[1]))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
