"""Our exports run by mergekit itself, in an environment of its own: `make test-mergekit`.

`MERGEFRONT_MERGEKIT` names the `bin` folder of that environment. mergekit (LGPL) is never imported
here: it runs in processes of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MERGEKIT = os.environ.get("MERGEFRONT_MERGEKIT")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MERGEKIT is None:
        here = Path(__file__).parent
        why = "mergekit has an environment of its own: `make test-mergekit`"
        for item in items:
            if item.path.is_relative_to(here):
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def mergekit() -> Path:
    """The `bin` folder of mergekit's environment."""
    assert MERGEKIT is not None
    folder = Path(MERGEKIT).absolute()
    assert (folder / "mergekit-yaml").is_file(), f"{folder} has no mergekit-yaml"
    return folder
