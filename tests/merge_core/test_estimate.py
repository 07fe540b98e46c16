"""What is said before a merge starts, and the page cache that it rests on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from merge_core import MergePlan, Recipe
from merge_core.pages import Span, cached_share, disk_rate, read_ahead
from tests.merge_core.conftest import SHAPES, recipe_data

PARAMETERS = sum(torch.Size(shape).numel() for shape in SHAPES.values())


def test_bytes_follow_from_the_headers(trio_dirs: dict[str, Path]) -> None:
    ties = MergePlan(Recipe.parse(recipe_data(trio_dirs))).estimate()
    assert ties.parameters == PARAMETERS
    assert ties.read == 3 * 2 * PARAMETERS  # base and two experts
    assert ties.write == 2 * PARAMETERS
    # The largest merged tensor, and all of these that wait for their turn; the rest are views.
    assert ties.held == 2 * 23 * 8 + (ties.write if torch.get_num_threads() > 1 else 0)
    assert ties.tables == 0
    linear = MergePlan(Recipe.parse(recipe_data(trio_dirs, "linear"))).estimate()
    assert linear.read == 2 * 2 * PARAMETERS  # base is not read
    assert linear.prepare == 0.0
    assert "reads" in linear.line()
    assert "\n" not in linear.line()


def test_what_has_to_be_made_is_counted(trio_dirs: dict[str, Path]) -> None:
    experts = {name: {"density": 0.5, "epsilon": 0.1} for name in ("language", "reasoning")}
    della = MergePlan(Recipe.parse(recipe_data(trio_dirs, "della", **experts))).estimate()
    assert della.tables == 2 * 2 * PARAMETERS
    assert della.held > 1 << 20


def test_slack_takes_longer(trio_dirs: dict[str, Path]) -> None:
    plain = MergePlan(Recipe.parse(recipe_data(trio_dirs, "ties_sv"))).estimate()
    recipe = Recipe.parse(recipe_data(trio_dirs, "ties_sv", reasoning={"slack": 0.5}))
    assert MergePlan(recipe).estimate().seconds > plain.seconds


def test_names_come_in_order_once_whatever_is_asked_ahead(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(8 << 20))
    names = [f"t{i}" for i in range(8)]
    spans = {name: [Span(file, i << 20, 1 << 20)] for i, name in enumerate(names)}
    for ahead in (0, 3 << 20, 1 << 30):
        assert list(read_ahead(names, spans.__getitem__, ahead)) == names
    assert list(read_ahead([], spans.__getitem__)) == []


def test_handles_are_closed_when_the_reader_stops_early(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(8 << 20))
    before = len(list(Path("/proc/self/fd").iterdir()))
    names = read_ahead(["a", "b"], lambda _: [Span(file, 0, 4 << 20)], 0)
    assert next(names) == "a"
    names.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_share_in_memory_is_that_of_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    with file.open("wb") as stream:
        stream.write(os.urandom(16 << 20))
        stream.flush()
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 8 << 20, os.POSIX_FADV_DONTNEED)
    spans = [Span(file, 0, 4 << 20), Span(file, 4 << 20, 12 << 20)]
    share = cached_share(spans)
    assert 0.4 <= share <= 1.0  # some file systems keep or cannot tell: then all counts as read
    if share < 1.0:
        assert 0 < disk_rate(spans) < float("inf")
    assert cached_share([]) == 1.0
