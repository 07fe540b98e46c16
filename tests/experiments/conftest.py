"""These take minutes: they run where they are asked for, by their path or their marker."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "experiments: each experiment with --quick")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    paths = [Path(config.invocation_params.dir, arg.partition("::")[0]) for arg in config.args]
    asked = any(path.resolve() == HERE or HERE in path.resolve().parents for path in paths)
    if asked or "experiments" in config.option.markexpr:
        return None
    return True
