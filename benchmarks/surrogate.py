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
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit, ndtr

from benchmarks.recording import LEVELS, POOL, RANGES, Recording, path_of

Array = npt.NDArray[np.float64]

TOKENS = 40.0
"""The most that an answer has; expectations are fitted in units of it."""
_WIDTH, _LATENT, _EPOCHS, _BATCH = 96, 24, 160, 256
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
            np.savez(file, **{name: array.astype(np.float32) for name, array in held.items()})
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
    """What the network reads, in -1..1: coordinates, and the schedule's weight in each layer.

    Where the knee lies says little by itself: what a merge sees of it is each layer's weight.
    """
    plateau, end, knee = (unit[:, i] for i in (2, 3, 4))
    layers = []
    for depth in np.arange(1, _LAYERS) / (_LAYERS - 1):
        share = np.clip((depth - knee) / np.maximum(1.0 - knee, 1e-9), 0.0, 1.0)
        layers.append(plateau + share * (end - plateau))
    kept = [unit[:, i] for i in (0, 1, 2, 5, 6)]
    return np.asarray(2.0 * np.stack([*kept, *layers], axis=1) - 1.0)


def fitted(trio: int, recorded: Path | None = None) -> Surrogate:
    """A trio's surrogate: from the user's cache, or fitted now (some 10 seconds) and kept there."""
    recorded = recorded or path_of(trio)
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for path in (recorded, Path(__file__), Path(__file__).with_name("recording.py")):
        digest.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "mergefront" / "surrogates" / f"{digest.hexdigest()[:16]}.npz"
    if not place.is_file():
        fit(Recording.load(recorded), seed=trio).save(place)
    return Surrogate.load(place)


def fit(recording: Recording, seed: int) -> Surrogate:
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
            nn.Linear(_WIDTH, _LATENT),
        )
        heads = nn.ModuleDict({name: nn.Linear(_LATENT, POOL) for name in _HEADS})
        for head in heads.values():  # all items alike at first
            nn.init.normal_(head.weight[:1], std=0.3)
            head.weight.data[1:] = head.weight.data[:1]
            nn.init.zeros_(head.bias)
        groups = [
            {"params": net.parameters(), "weight_decay": 1e-3},
            {"params": heads.parameters(), "weight_decay": 1e-2},
        ]
        steps = _EPOCHS * -(-len(rows) // _BATCH)
        optimizer = torch.optim.AdamW(groups, lr=4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
        for _ in range(_EPOCHS):
            for some in torch.randperm(len(rows)).split(_BATCH):
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


@dataclass(frozen=True)
class Noise:
    """Of what the chance that an item is answered right turns into an answer.

    The quantile of every outcome is Phi of a standard normal that is the sum of three parts: one of
    the item alone (`item` of the variance), one of the item that changes smoothly with the recipe
    (`smooth`, over `reach` of the ranges), and one of item and recipe (the rest). So two merges
    agree about an item more than their chances say, and near ones more than far ones.
    """

    item: float = 0.3
    smooth: float = 0.5
    reach: float = 0.3


NOISE = Noise()
_WAVES = 24


class World:
    """What every recipe scores on every item, for one trio and one seed of the bench.

    The pool's items are divided anew for each seed, and outcomes are drawn anew.

    Args:
        trio: which recording.
        seed: of the division and of outcomes.
    """

    SPLITS = (("dev", 128), ("confirm", 512), ("test", 512))

    def __init__(
        self, trio: int, seed: int, surrogate: Surrogate | None = None, noise: Noise = NOISE
    ) -> None:
        self.trio, self.seed = trio, seed
        self._model = surrogate or fitted(trio)
        self._noise = noise
        rng = np.random.default_rng([trio, seed])
        order = rng.permutation(POOL)
        ends = np.cumsum([size for _, size in self.SPLITS])
        self.items = {
            name: order[end - size : end]
            for (name, size), end in zip(self.SPLITS, ends, strict=True)
        }
        self._of_item = rng.standard_normal((2, POOL))
        self._frequencies = rng.standard_normal((_WAVES, len(RANGES))) / noise.reach
        self._phases = rng.uniform(0.0, 2.0 * np.pi, _WAVES)
        self._waves = rng.standard_normal((2, _WAVES, POOL)) * np.sqrt(1.0 / _WAVES)

    def unit(self, params: Mapping[str, float]) -> Array:
        """[dimensions], a recipe's coordinates in 0..1."""
        return np.array([(params[n] - low) / (high - low) for n, (low, high) in RANGES.items()])

    def scores(self, params: Mapping[str, float], split: str) -> tuple[Array, Array, Array]:
        """Math and language score (0 or 1) and tokens of each item of a split."""
        right, language, tokens = self._all(self.unit(params).round(9))
        chosen = self.items[split]
        return right[chosen], language[chosen], tokens[chosen]

    def _all(self, unit: Array) -> tuple[Array, Array, Array]:
        logits = np.stack([row[0] for row in self._model.logits(unit[None])])
        normal = self._normal(unit)
        outcomes = (ndtr(normal) < expit(logits)).astype(np.float64)
        return outcomes[0], outcomes[1], np.round(self._model.tokens(unit[None])[0])

    def _normal(self, unit: Array) -> Array:
        """[2, POOL], standard normals over seeds."""
        noise = self._noise
        key = hashlib.blake2b(unit.tobytes(), key=b"%d %d" % (self.trio, self.seed), digest_size=16)
        own = np.random.Generator(np.random.Philox(key=int.from_bytes(key.digest())))
        waves = np.sqrt(2.0) * np.cos(self._frequencies @ unit + self._phases)
        rest = max(0.0, 1.0 - noise.item - noise.smooth)
        return np.asarray(
            np.sqrt(noise.item) * self._of_item
            + np.sqrt(noise.smooth) * np.einsum("w,twi->ti", waves, self._waves)
            + np.sqrt(rest) * own.standard_normal((2, POOL))
        )
