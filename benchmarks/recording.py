"""What merges of the tiny world score, item by item: the data that the surrogate is fitted to.

    python -m benchmarks.recording              # `make record`: four trios, minutes each
    python -m benchmarks.recording --trios 0    # may be stopped, goes on where it was

For every trio of models one file, `benchmarks/data/trio-N.npz`. Its recipes are a scrambled Sobol
set over the demo's space, then rounds of mutations of what is near the front so far, because that
is where searches go; last come recipes that are never fitted to, drawn in the same two ways. Each
is scored by the product's own parts on a window of the trio's items: the matrix of recipes and
items is sparse.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measure import say
from merge_core import MergePlan, Sources
from objectives import Task, make_engine, score_task
from search.config import load
from search.worker import skeleton

DATA = Path(__file__).with_name("data")
TRIOS = (0, 1, 2, 3)
POOL = 1152
"""Items of a trio: as many as a demo search has on dev, confirm and test together."""
TASK = "math_th"
RANGES = {
    "language.weight": (0.0, 1.5),
    "language.density": (0.05, 1.0),
    "reasoning.weight.plateau": (0.0, 1.5),
    "reasoning.weight.end": (0.0, 1.5),
    "reasoning.weight.knee": (0.0, 1.0),
    "reasoning.density": (0.05, 1.0),
    "reasoning.slack": (0.0, 1.0),
}
"""The recorded space, in the order of coordinates: the demo's, as wide as somebody would make it
who knows nothing yet. The demo's own ranges lie around their optimum, and two of three worlds end
at 1 there within a few random trials."""
SPACE = (
    "models.0.parameters.weight={low: 0, high: 1.5}",
    "models.0.parameters.density={low: 0.05, high: 1}",
    "models.1.parameters.weight={plateau: {low: 0, high: 1.5}, end: {low: 0, high: 1.5},"
    " knee: {low: 0, high: 1}}",
    "models.1.parameters.density={low: 0.05, high: 1}",
    "models.1.parameters.slack={low: 0, high: 1}",
)
"""The same as settings of the demo's search file."""
LEVELS = 255
"""Language scores are stored in steps of 1 / LEVELS."""
_GRID = 65535  # coordinates are stored in so many steps of their range
_SAVE_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """How many recipes are recorded, and on how many items each."""

    sobol: int = 2048
    rounds: int = 8
    mutants: int = 220
    items: int = 112
    unseen: int = 200
    unseen_items: int = 256

    @property
    def recipes(self) -> int:
        """Of both kinds, unseen ones included."""
        return self.sobol + self.rounds * self.mutants + self.unseen


@dataclass(frozen=True)
class Recording:
    """Scores of one trio's recipes on windows of its items.

    Attributes:
        grid: uint16 [recipes, dimensions], the coordinates in steps of their range / 65,535.
        start: int64 [recipes], where the recipe's window of items begins; it wraps around.
        count: int64 [recipes], its length.
        unseen: bool [recipes], whether the recipe is for tests alone.
        right: uint8 [entries], 0 or 1; entries are window after window, recipe after recipe.
        language: uint8 [entries], in steps of 1 / LEVELS.
        think: uint8 [entries], 0 or 1.
        tokens: uint8 [entries].
    """

    grid: npt.NDArray[np.uint16]
    start: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    unseen: npt.NDArray[np.bool_]
    right: npt.NDArray[np.uint8]
    language: npt.NDArray[np.uint8]
    think: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.uint8]

    @property
    def unit(self) -> npt.NDArray[np.float64]:
        """[recipes, dimensions], the coordinates in 0..1."""
        return self.grid / float(_GRID)

    def entries(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Recipe and item of every entry."""
        recipes = np.repeat(np.arange(len(self.count)), self.count)
        first = np.repeat(np.cumsum(self.count) - self.count, self.count)
        items = (self.start[recipes] + np.arange(len(recipes)) - first) % POOL
        return recipes, items

    def means(self) -> npt.NDArray[np.float64]:
        """[recipes, 2], mean math and language score of each."""
        recipes, _ = self.entries()
        sums = [np.bincount(recipes, values) for values in (self.right, self.language / LEVELS)]
        return np.stack(sums, axis=1) / self.count[:, None]

    def joined(self, other: Recording) -> Recording:
        """This one's recipes, then the other's."""
        mine, theirs = vars(self), vars(other)
        return Recording(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine})

    def save(self, path: Path) -> None:
        """Write a small file, in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        packed: dict[str, Any] = {  # numpy's types take keywords for its own option
            "grid": self.grid,
            "start": self.start.astype(np.uint16),
            "count": self.count.astype(np.uint16),
            "unseen": self.unseen,
            "right": np.packbits(self.right),
            "language": self.language,
            "think": np.packbits(self.think),
            "tokens": self.tokens,
        }
        scratch = path.with_name(f".{path.name}")
        with scratch.open("wb") as file:
            np.savez_compressed(file, **packed)
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> Recording:
        """As it was saved."""
        with np.load(path) as data:
            held = {name: data[name] for name in data.files}
        count = held["count"].astype(np.int64)
        bits = {
            name: np.unpackbits(held.pop(name), count=int(count.sum()))
            for name in ("right", "think")
        }
        return cls(**held | bits | {"count": count, "start": held["start"].astype(np.int64)})


def path_of(trio: int) -> Path:
    """The committed file of a trio's recording."""
    return DATA / f"trio-{trio}.npz"


# --- Which recipes --------------------------------------------------------------------------------


def _quantized(unit: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    return np.round(np.clip(unit, 0.0, 1.0) * _GRID).astype(np.uint16)


def _sobol(count: int, seed: int) -> npt.NDArray[np.float64]:
    from scipy.stats import qmc

    points = qmc.Sobol(len(RANGES), scramble=True, rng=np.random.default_rng(seed))
    return np.asarray(points.random_base2((count - 1).bit_length()))[:count]


def _near_front(known: Recording, share: float = 0.12) -> npt.NDArray[np.float64]:
    """Coordinates of the fronts of what is known, peeled one by one up to a share of it."""
    values, left = known.means(), np.arange(len(known.count))
    chosen: list[int] = []
    while len(chosen) < share * len(values):
        ahead = np.all(values[left, None] <= values[None, left], axis=2)
        ahead &= np.any(values[left, None] < values[None, left], axis=2)
        top = ~ahead.any(1)
        chosen += list(left[top])
        left = left[~top]
    return known.unit[chosen]


def _mutants(known: Recording, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Near-front recipes changed a little: some dimensions moved, or mixed with another parent."""
    parents = _near_front(known)
    one, two = (parents[rng.integers(len(parents), size=count)] for _ in range(2))
    mixed = rng.random((count, 1)) < 0.3
    mother = np.where(mixed, one + rng.random((count, 1)) * (two - one), one)
    scale = np.array([0.03, 0.1, 0.25])[rng.integers(3, size=count)][:, None]
    moved = rng.random(mother.shape) < 0.6
    return np.asarray(mother + moved * scale * rng.standard_normal(mother.shape))


def _phase(
    trio: int, phase: int, plan: Plan, known: Recording | None
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64], int, bool]:
    """Coordinates, windows' starts and length, and whether unseen, of a phase's recipes."""
    rng = np.random.default_rng([trio, phase])
    unseen = phase > plan.rounds
    if phase == 0:
        unit = _sobol(plan.sobol, 1000 + trio)
    elif unseen:
        assert known is not None
        half = plan.unseen // 2
        near = _mutants(known, plan.unseen - half, rng)
        unit = np.concatenate([_sobol(half, 2000 + trio), near])
    else:
        assert known is not None
        unit = _mutants(known, plan.mutants, rng)
    start = rng.integers(POOL, size=len(unit))
    return _quantized(unit), start, plan.unseen_items if unseen else plan.items, unseen


# --- Recording ------------------------------------------------------------------------------------


def record(trio: int, plan: Plan, path: Path) -> None:
    """Record a trio's recipes, going on with what `path` or its scratch file already holds."""
    if path.is_file() and len(Recording.load(path).count) == plan.recipes:
        return
    part = path.with_name(f"{path.stem}.part.npz")
    known = Recording.load(part) if part.is_file() else None
    with tempfile.TemporaryDirectory() as scratch:
        scorer = _Scorer(trio, Path(scratch))
        done = 0 if known is None else len(known.count)
        at = 0
        for phase in range(plan.rounds + 2):
            # What a phase's recipes are depends on whole phases alone, so that a stop changes none.
            whole = None if known is None else _first(known, at)
            grid, start, count, unseen = _phase(trio, phase, plan, whole)
            for begin in range(0, len(grid), _SAVE_EVERY):
                rows = slice(begin, min(begin + _SAVE_EVERY, len(grid)))
                if at + rows.stop <= done:
                    continue
                new = scorer.scored(grid[rows], start[rows], count, unseen)
                known = new if known is None else known.joined(new)
                known.save(part)
                say(f"trio {trio}: {at + rows.stop} of {plan.recipes} recipes")
            at += len(grid)
    assert known is not None
    known.save(path)
    part.unlink()


def _first(known: Recording, recipes: int) -> Recording:
    entries = int(known.count[:recipes].sum())
    by_entry = {"right", "language", "think", "tokens"}
    return Recording(
        **{k: v[: entries if k in by_entry else recipes] for k, v in vars(known).items()}
    )


class _Scorer:
    """Merges and answers by the product's own parts, one thread."""

    def __init__(self, trio: int, folder: Path) -> None:
        import torch

        from search.demo import ensure_trio, write_items

        torch.set_num_threads(1)
        text = files("configs").joinpath("demo.yaml").read_text(encoding="utf-8")
        (folder / "demo.yaml").write_text(text, encoding="utf-8")
        (folder / "trio").symlink_to(ensure_trio(seed=trio).root)
        write_items(folder / "items.jsonl", seed=1234 + trio)
        self.search = load(folder / "demo.yaml", SPACE)
        assert set(self.search.space.distributions()) == set(RANGES)
        # As a report task without splits, so that all lines are items of one split.
        config = self.search.file.tasks[TASK]
        config = config.model_copy(update={"role": "report", "splits": None})
        self.task = Task.load(TASK, config, folder)
        assert len(self.task.items("test")) == POOL
        example = self.search.example()
        self._sources = Sources.open(example)
        with skeleton(MergePlan(example, self._sources)) as model:
            self._engine = make_engine(self.search.engine, model)

    def scored(
        self,
        grid: npt.NDArray[np.uint16],
        start: npt.NDArray[np.int64],
        count: int,
        unseen: bool,
    ) -> Recording:
        """Every recipe on its window."""
        items = self.task.items("test")
        found: list[Any] = []
        for unit, begin in zip(grid / _GRID, start, strict=True):
            params = {
                name: float(low + (high - low) * share)
                for (name, (low, high)), share in zip(RANGES.items(), unit, strict=True)
            }
            recipe = self.search.space.from_params(params).resolved(self.search.root)
            window = [items[(begin + i) % POOL] for i in range(count)]
            self._engine.load(MergePlan(recipe, self._sources))
            found += score_task(self._engine, self.task, window)
        scores = {key: np.array([f.scores[key] for f in found]) for key in _KEYS}
        return Recording(
            grid=grid,
            start=start,
            count=np.full(len(grid), count),
            unseen=np.full(len(grid), unseen),
            right=scores["math"].astype(np.uint8),
            language=np.round(scores["language"] * LEVELS).astype(np.uint8),
            think=scores["think"].astype(np.uint8),
            tokens=np.array([f.tokens for f in found], dtype=np.uint8),
        )


_KEYS = ("math", "language", "think")


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the trios that are not recorded yet, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trios", type=int, nargs="+", default=list(TRIOS), metavar="SEED")
    parser.add_argument("--folder", type=Path, default=DATA, help="of the files")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # two threads on two busy cores are many times slower
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(record, trio, Plan(), given.folder / f"trio-{trio}.npz")
            for trio in given.trios
        ]
        for job in jobs:
            job.result()


if __name__ == "__main__":
    main()
