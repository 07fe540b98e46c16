"""What several test packages share: the tiny trio, trained once and cached by content hash."""

from __future__ import annotations

import pytest
from hypothesis import settings

from search.demo import Trio, ensure_trio

# The same examples everywhere: what fails in one place can be looked at in another.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def trio() -> Trio:
    return ensure_trio()
