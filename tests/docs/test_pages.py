"""The examples of the pages are run as they stand, and show what the pages show.

A ```console block is a session: `$ command`, then what it prints. In what it prints `...` stands
for anything, over lines too; numbers are those of some run, and lines of tables as long as they
happen to be. A page that has such blocks says where it starts:
`<!-- starts in: ... -->`; its blocks are run there one after the other. That is the folder of the
quick start's search, which begins empty.
"""

import re
from pathlib import Path

import pytest

from tests.docs.conftest import SEARCH, shell

DOCS = Path(__file__).parents[2] / "docs"
STARTS = re.compile(r"^<!-- starts in: .* -->$", re.MULTILINE)
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if STARTS.search(p.read_text(encoding="utf-8"))]


def sessions(block):
    """(command, what it prints) of a console block."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def shows(shown, printed):
    """Whether `printed` is what the page shows, but for numbers, white space and drawn lines."""

    def plain(text):
        text = re.sub(r"[\s\u2500-\u257f]+", " ", text).strip()
        return re.sub(r"[+-]?(\d[\d,]*(\.\d+)?|\.\d+)", "#", text)

    parts = [re.escape(plain(part)).replace(r"\ ", " ") for part in shown.split("...")]
    return re.fullmatch(" ?" + " ?.* ?".join(parts) + " ?", plain(printed)) is not None


def before(page, folder):
    """Where a page's reader stands, with the files there that its blocks are."""
    if page.name == "from_mergekit.md":
        folder = folder / "demo"
        text = page.read_text(encoding="utf-8")
        (merge,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        (diff,) = re.findall(r"^```diff\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        lines = diff.splitlines(keepends=True)
        assert "".join(line[1:] for line in lines if line[0] != "+") == merge
        assert sum(line[0] == "+" for line in lines) < 10
        (folder / "merge.yaml").write_text(merge, encoding="utf-8")
        made = "".join(line[1:] for line in lines if line[0] != "-")
        (folder / "search.yaml").write_text(made, encoding="utf-8")
    if page.parent.name == "api":
        (folder / "recipe.yaml").write_bytes((folder / "runs/demo/recipe.yaml").read_bytes())
    return folder


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in PAGES])
def test_what_a_page_shows_is_what_happens(page, place, searched):
    place = before(page, place)
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            (place / "example.py").write_text(block, encoding="utf-8")
            done = shell("python example.py", place)
            assert done.returncode == 0, done.stdout
            continue
        for command, shown in sessions(block):
            done = searched[1] if command == SEARCH else shell(command, place)
            assert shows(shown, done.stdout), (
                f"$ {command}\nexit code {done.returncode}, it printed:\n{done.stdout}"
            )
            ends = 2 if re.search(r"^mergefront: ", shown, re.MULTILINE) else 0
            assert done.returncode == ends, f"$ {command}\n{done.stdout}"


@pytest.mark.timeout(1200)
def test_the_registered_recipe_is_fetched_as_the_page_says(searched):
    place = searched[0]  # a copy's MLflow would still keep its files there
    text = (DOCS / "mlflow.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    done = shell("mergefront register runs/demo thai-r1 --alias champion", place)
    assert done.returncode == 0, done.stdout
    (server,) = re.findall(r"http://[\w.:]+", code)
    store = f"sqlite:///{place}/runs/demo/mlflow.db"
    (place / "example.py").write_text(code.replace(server, store), encoding="utf-8")
    done = shell("python example.py", place)
    assert done.returncode == 0, done.stdout
    assert (place / "champion" / "registered" / "recipe.yaml").is_file()
