"""Versions of what is installed, for cards and runs."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Python's version, and those of the packages that are installed, by name; imports nothing."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spelled_versions(versions: Mapping[str, str]) -> str:
    """In one line: python 3.11.9, torch 2.11.0."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())
