"""What several test packages share: the tiny trio, trained once and cached by content hash."""

from __future__ import annotations

import pytest

from search.demo import Trio, ensure_trio


@pytest.fixture(scope="session")
def trio() -> Trio:
    return ensure_trio()
