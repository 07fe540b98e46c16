"""A stand-in for the tiny world: what each item would score under each recipe, without a model.

    python -m benchmarks.surrogate      # fits what is not fitted yet, and says how good it is

For every item i and recipe x the chance of a right answer is sigmoid(a_i . z(x) + b_i), of one in
the language sigmoid(c_i . z(x) + d_i), and the expected tokens are e_i . z(x) + f_i; z is a small
network that all share. All are fitted to a recording (`benchmarks.recording`). Outcomes are drawn
by a Gaussian copula, so that merges agree about items as much as recorded ones do; the same world,
item and recipe always have the same outcome.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr
from scipy.stats import spearmanr

from benchmarks.measure import say
from benchmarks.recording import LEVELS, POOL, RANGES, TRIOS, Recording, path_of

Array = npt.NDArray[np.float64]

TOKENS = 40.0
"""The most that an answer has; expectations are fitted in units of it."""
_WIDTH, _LATENT, _EPOCHS, _BATCH = 128, 8, 300, 256
_LAYERS = 4  # of the demo's models
_HEADS = ("right", "language", "tokens")


@dataclass(frozen=True)
class Surrogate:
    """The fitted models of one trio.

    Attributes:
        layers: (weight [out, in], bias [out]) of the network; its input is in -1..1.
        heads: by target, (weight [POOL, latent], bias [POOL]).
    """

    layers: Sequence[tuple[Array, Array]]
    heads: dict[str, tuple[Array, Array]]

    def latent(self, unit: Array) -> Array:
        """The z of coordinates in 0..1, [recipes, dimensions] to [recipes, latent]."""
        state = features(unit)
        for index, (weight, bias) in enumerate(self.layers):
            state = state @ weight.T + bias
            if index < len(self.layers) - 1:
                state = state / (1.0 + np.exp(-state))
        return np.asarray(state)

    def logits(self, unit: Array) -> tuple[Array, Array]:
        """Of a right answer and of one in the language, each [recipes, POOL]."""
        z = self.latent(unit)
        right, language = (z @ self.heads[h][0].T + self.heads[h][1] for h in _HEADS[:2])
        return right, language

    def tokens(self, unit: Array) -> Array:
        """Expected tokens, [recipes, POOL]."""
        weight, bias = self.heads["tokens"]
        return np.clip(TOKENS * (self.latent(unit) @ weight.T + bias), 1.0, TOKENS)

    def save(self, path: Path) -> None:
        """Write in one step."""
        held = {
            f"layer-{i}-{j}": a for i, pair in enumerate(self.layers) for j, a in enumerate(pair)
        }
        held |= {
            f"head-{name}-{j}": a for name, pair in self.heads.items() for j, a in enumerate(pair)
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{os.getpid()}-{path.name}")
        with scratch.open("wb") as file:
            # numpy's types take keywords for its own option.
            floats: dict[str, Any] = {name: a.astype(np.float32) for name, a in held.items()}
            np.savez(file, **floats)
        scratch.replace(path)

    @classmethod
    def load(cls, path: Path) -> Surrogate:
        """As it was saved."""
        with np.load(path) as data:
            held = {name: data[name].astype(np.float64) for name in data.files}
        count = sum(name.startswith("layer-") for name in held) // 2
        return cls(
            [(held[f"layer-{i}-0"], held[f"layer-{i}-1"]) for i in range(count)],
            {name: (held[f"head-{name}-0"], held[f"head-{name}-1"]) for name in _HEADS},
        )


def features(unit: Array) -> Array:
    """What the network reads, about -1..1: more than coordinates, for fewer recipes to learn from.

    Where the knee lies says little by itself: what a merge sees of it is each layer's weight. What
    counts of an expert is its weight, the size of its trimmed difference (about weight times the
    root of the density) and how both compare with the other's.
    """
    lows, highs = (np.array([ends[i] for ends in RANGES.values()]) for i in (0, 1))
    values = lows + unit * (highs - lows)
    language, plateau, end, knee = (values[:, i] for i in (0, 2, 3, 4))
    depths = np.arange(1, _LAYERS) / (_LAYERS - 1)
    shares = np.clip((depths - knee[:, None]) / np.maximum(1.0 - knee, 1e-9)[:, None], 0.0, 1.0)
    layers = plateau[:, None] + shares * (end - plateau)[:, None]
    densities = values[:, (1, 5)]
    sizes = np.sqrt(densities)
    kept = 2.0 * unit[:, (0, 1, 2, 5, 6)] - 1.0
    more = [
        layers - 1.0,
        np.log(densities) / 2.0 + 1.0,
        (language * sizes[:, 0])[:, None] - 1.0,
        np.stack([plateau, end], axis=1) * sizes[:, 1:] - 1.0,
        language[:, None] - np.stack([plateau, end], axis=1),
    ]
    return np.concatenate([kept, *more], axis=1)


def fitted(trio: int, recorded: Path | None = None) -> Surrogate:
    """A trio's surrogate: from the user's cache, or fitted now (some 20 seconds) and kept there."""
    recorded = recorded or path_of(trio)
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for path in (recorded, Path(__file__), Path(__file__).with_name("recording.py")):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "mergefront" / "surrogates" / f"{digest.hexdigest()[:16]}.npz"
    if not place.is_file():
        fit(Recording.load(recorded), seed=trio).save(place)
    return Surrogate.load(place)


def fit(recording: Recording, seed: int, epochs: int = _EPOCHS) -> Surrogate:
    """Fit to all recipes of a recording that are not unseen; the same seed, the same fit."""
    import torch
    from torch import nn
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = np.flatnonzero(~recording.unseen)
        unit = torch.tensor(features(recording.unit[rows]), dtype=torch.float32)
        items, targets = map(torch.from_numpy, _windows(recording, rows))
        net = nn.Sequential(
            nn.Linear(unit.shape[1], _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(),
            nn.Linear(_WIDTH, _LATENT),
        )
        heads = {name: nn.Linear(_LATENT, POOL) for name in _HEADS}
        for head in heads.values():  # all items alike at first
            nn.init.normal_(head.weight[:1], std=0.3)
            head.weight.data[1:] = head.weight.data[:1]
            nn.init.zeros_(head.bias)
        groups = [
            {"params": net.parameters(), "weight_decay": 1e-3},
            {
                "params": [p for head in heads.values() for p in head.parameters()],
                "weight_decay": 1e-2,
            },
        ]
        steps = epochs * -(-len(rows) // _BATCH)
        optimizer = torch.optim.AdamW(groups, lr=4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
        for _ in range(epochs):
            for some in torch.split(torch.randperm(len(rows)), _BATCH):
                z = net(unit[some])
                # Of all items' numbers those that were asked: faster than their weights alone.
                asked = (torch.arange(len(some))[:, None] * POOL + items[some]).flatten()
                wanted = targets[:, some].flatten(1)
                given = [heads[name](z).flatten()[asked] for name in _HEADS]
                loss = cross_entropy(torch.stack(given[:2]), wanted[:2]) * 2.0
                loss = loss + 10.0 * (given[2] - wanted[2]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    torch.set_num_threads(threads)

    def arrays(layer: nn.Linear) -> tuple[Array, Array]:
        return tuple(p.detach().double().numpy() for p in (layer.weight, layer.bias))  # type: ignore[return-value]

    return Surrogate(
        [arrays(layer) for layer in net if isinstance(layer, nn.Linear)],
        {name: arrays(heads[name]) for name in _HEADS},
    )


def _windows(
    recording: Recording, rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Items [recipes, window] that were asked, and targets [3, recipes, window], of `rows`."""
    (size,) = set(recording.count[rows].tolist())  # all windows that are fitted have one length
    recipes, items = recording.entries()
    chosen = np.isin(recipes, rows)
    values = (recording.right, recording.language / LEVELS, recording.tokens / TOKENS)
    targets = np.stack([value[chosen] for value in values]).astype(np.float32)
    return items[chosen].reshape(-1, size), targets.reshape(3, -1, size)


# --- Outcomes -------------------------------------------------------------------------------------


_SMOOTH, _REACH = 0.9, 0.2
"""Of an outcome's variance beyond its chance: the share that changes smoothly with the recipe, and
over how much of the ranges. So near merges agree about an item more than their chances say, as
greedy answers do; with these two, as much as recorded ones do (`report`)."""
_WAVES = 24


class World:
    """What every recipe scores on every item, for one trio and one seed of the bench.

    The pool's items are divided anew for each seed, and outcomes are drawn anew.

    Args:
        trio: which recording.
        seed: of the division and of outcomes.
    """

    SPLITS = (("dev", 128), ("confirm", 512), ("test", 512))

    def __init__(self, trio: int, seed: int, surrogate: Surrogate | None = None) -> None:
        self.trio, self.seed = trio, seed
        self._model = surrogate or fitted(trio)
        rng = np.random.default_rng([trio, seed])
        order = rng.permutation(POOL)
        ends = np.cumsum([size for _, size in self.SPLITS])
        self.items = {
            name: order[end - size : end]
            for (name, size), end in zip(self.SPLITS, ends, strict=True)
        }
        self._frequencies = rng.standard_normal((_WAVES, len(RANGES))) / _REACH
        self._phases = rng.uniform(0.0, 2.0 * np.pi, _WAVES)
        self._waves = rng.standard_normal((2, _WAVES, POOL)) * np.sqrt(1.0 / _WAVES)

    def unit(self, params: Mapping[str, float]) -> Array:
        """[dimensions], a recipe's coordinates in 0..1."""
        return np.array([(params[n] - low) / (high - low) for n, (low, high) in RANGES.items()])

    def scores(self, params: Mapping[str, float], split: str) -> tuple[Array, Array, Array]:
        """Math and language score (0 or 1) and tokens of each item of a split."""
        right, language, tokens = self.outcomes(self.unit(params).round(9))
        chosen = self.items[split]
        return right[chosen], language[chosen], tokens[chosen]

    def outcomes(self, unit: Array) -> tuple[Array, Array, Array]:
        """Math and language score and tokens of each of the pool's items."""
        logits = np.stack([row[0] for row in self._model.logits(unit[None])])
        normal = self._normal(unit)
        outcomes = (ndtr(normal) < expit(logits)).astype(np.float64)
        return outcomes[0], outcomes[1], np.round(self._model.tokens(unit[None])[0])

    def _normal(self, unit: Array) -> Array:
        """[2, POOL], standard normals over seeds."""
        key = hashlib.blake2b(unit.tobytes(), key=b"%d %d" % (self.trio, self.seed), digest_size=16)
        own = np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest())))
        waves = np.sqrt(2.0) * np.cos(self._frequencies @ unit + self._phases)
        return np.asarray(
            np.sqrt(_SMOOTH) * np.einsum("w,twi->ti", waves, self._waves)
            + np.sqrt(1.0 - _SMOOTH) * own.standard_normal((2, POOL))
        )


# --- How good it is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quality:
    """On the recipes that were not fitted, each on its window of items.

    Attributes:
        error: root mean square error of the mean score, by objective; tokens in tokens.
        rank: Spearman's correlation of the mean scores, likewise; forecasts in whole answers.
        recorded, drawn: share of items about which two recipes disagree (in math, in language), as
            recorded and as drawn, by how far the recipes are apart: `BINS`.
    """

    error: dict[str, float]
    rank: dict[str, float]
    recorded: Array
    drawn: Array


BINS = (0.0, 0.15, 0.2, 0.25, 0.35, 1.0)
"""Root mean square differences of coordinates in 0..1, between which pairs are counted together."""


def quality(trio: int, model: Surrogate, *, pairs: bool = True) -> Quality:
    """Of a trio's surrogate; `pairs` of recipes take some seconds."""
    recording = Recording.load(path_of(trio))
    rows = np.flatnonzero(recording.unseen)
    recipes, items = recording.entries()
    inside = np.isin(recipes, rows)
    at, items = np.searchsorted(rows, recipes[inside]), items[inside]
    unit = recording.unit[rows]
    expected = [expit(logits) for logits in model.logits(unit)] + [model.tokens(unit)]
    observed: Sequence[npt.NDArray[Any]] = (
        recording.right,
        recording.language / LEVELS,
        recording.tokens,
    )
    error, rank = {}, {}
    for name, forecast, values in zip(_HEADS, expected, observed, strict=True):
        count = recording.count[rows]
        mine = np.bincount(at, forecast[at, items]) / count
        true = np.bincount(at, values[inside]) / count
        error[name] = float(np.sqrt(np.mean((mine - true) ** 2)))
        # A forecast of 255.9 right of 256 is as good as all: finer ranks are not recorded.
        fine = count if name != "tokens" else 256.0
        rank[name] = float(spearmanr(np.round(mine * fine), np.round(true * fine))[0])
    recorded = drawn = np.empty((2, 0))
    if pairs:
        given = np.full((2, len(rows), POOL), np.nan)
        for target, values in zip(given, observed[:2], strict=True):
            target[at, items] = values[inside] > 0.5
        world = World(trio, 0, model)
        sampled = np.stack([np.stack(world.outcomes(row)[:2]) for row in unit], axis=1)
        sampled[np.isnan(given)] = np.nan
        recorded, drawn = (_disagreement(outcomes, unit) for outcomes in (given, sampled))
    return Quality(error, rank, recorded, drawn)


def _disagreement(outcomes: Array, unit: Array) -> Array:
    """[2, bins], of pairs of recipes on the items that both have; NaN where no pair is."""
    differing, common = np.zeros((2, len(BINS) - 1)), np.zeros((2, len(BINS) - 1))
    for one in range(len(unit)):
        apart = np.sqrt(np.mean((unit[one + 1 :] - unit[one]) ** 2, axis=1))
        which = np.searchsorted(BINS, apart, side="right") - 1
        both = ~np.isnan(outcomes[:, one + 1 :] + outcomes[:, one, None])
        unlike = both & (outcomes[:, one + 1 :] != outcomes[:, one, None])
        for target in range(2):
            np.add.at(differing[target], which, unlike[target].sum(1))
            np.add.at(common[target], which, both[target].sum(1))
    return np.where(common > 0, differing / np.maximum(common, 1.0), np.nan)


def report(trios: Sequence[int] = TRIOS) -> list[str]:
    """Tables in Markdown: errors and rank correlations, and how much merges agree about items."""
    found = {trio: quality(trio, fitted(trio)) for trio in trios}
    lines = [
        "| trio | RMSE: math | language | tokens | rank correlation: math | language | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for trio, held in found.items():
        cells = [f"{held.error[h]:.3f}" for h in _HEADS] + [f"{held.rank[h]:.3f}" for h in _HEADS]
        lines.append(f"| {trio} | {' | '.join(cells)} |")
    bins = [f"{low:g} to {high:g}" for low, high in pairwise(BINS)]
    lines += ["", f"| disagreement of recipes apart by | {' | '.join(bins)} |"]
    lines.append("|---" * (len(bins) + 1) + "|")
    for trio, held in found.items():
        for index, name in enumerate(("math", "language")):
            cells = [
                f"{a:.3f} / {b:.3f}"
                for a, b in zip(held.recorded[index], held.drawn[index], strict=True)
            ]
            lines.append(f"| trio {trio}, {name}: recorded / drawn | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    for line in report([trio for trio in TRIOS if path_of(trio).is_file()]):
        say(line)
