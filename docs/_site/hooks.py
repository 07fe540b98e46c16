"""What the site's build adds: files of the repository as pages, links that hold on both, formulas.

Pages are written to be read in the repository too: their links are paths of it, and formulas are
```math blocks. Here links become those of the site, and formulas MathML, which browsers draw by
themselves.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    **{
        f"benchmarks/{file.name}": f"benchmarks/{file.name.replace('README', 'index')}"
        for file in sorted((ROOT / "benchmarks").iterdir())
        if file.suffix in (".md", ".png") and file.name != "LOG.md"
    },
}
"""What lies outside docs/: path in the repository to path in the site."""

_PATHS = {site: path for path, site in OUTSIDE.items()}
_FENCE = re.compile(r"^(```+).*?^\1$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_MATH = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Fill in the navigation of folders: `Title: folder/` is all of its pages, by name."""

    def filled(entry: Any) -> Any:
        if isinstance(entry, list):
            return [filled(one) for one in entry]
        if isinstance(entry, dict):
            return {title: filled(one) for title, one in entry.items()}
        if entry.endswith("/"):
            pages = sorted((Path(config.docs_dir) / entry).glob("*.md"))
            pages.sort(key=lambda page: page.name != "README.md")
            return [entry + page.name for page in pages]
        return entry

    config.nav = filled(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    for path, site in OUTSIDE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the repository's links into the site's, and formulas into MathML."""
    here = page.file.src_uri
    folder = posixpath.dirname(_PATHS.get(here, f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        if path in OUTSIDE:
            target = OUTSIDE[path]
        elif path.startswith("docs/"):
            target = path.removeprefix("docs/")
        else:
            raise PluginError(f"{here}: {match[1]} is no page of the site; write it as `{path}`")
        return posixpath.relpath(target, posixpath.dirname(here) or ".") + (match[2] or "")

    def formula(match: re.Match[str]) -> str:
        lines = [line for line in match[1].split("\n") if line.strip()]
        made = "".join(f"<div>{convert(line, display='block')}</div>" for line in lines)
        return f'<div class="formula">{made}</div>'

    pieces, end = [], 0
    for fence in _FENCE.finditer(markdown):  # code keeps its text
        pieces += [_LINK.sub(link, markdown[end : fence.start()]), _MATH.sub(formula, fence[0])]
        end = fence.end()
    return "".join(pieces) + _LINK.sub(link, markdown[end:])
