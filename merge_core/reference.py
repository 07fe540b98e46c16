"""The mathematics of every method, readable and slow: full sorts, whole tensors, no tricks.

The fast executor (`merge_core.kernels`) must give the same bits. Read this file to learn what a
merge is, then the kernels to learn how it is made fast.

Everything is IEEE float32 from the stored values, in the order written, without fused
multiply-add, and is rounded once (nearest even) to the output dtype. Masks select, they never
multiply: a product would leave -0.0.

Symbols: b base, e_i expert i, delta_i = e_i - b, t_i its weighted sparse difference, S = sum of
t_i, c the coefficient table, K the bits of |delta| as an integer (they order as the floats do),
r(j) the rank of element j among ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from merge_core.arithmetic import (
    Float32,
    Mask,
    band,
    coefficients,
    della_table,
    multipliers,
    pair_products,
    restored_count,
    slerp_factors,
)
from merge_core.random import drop_bits, drop_threshold, tensor_ids, tie_ranks
from merge_core.recipe import Recipe, TensorSettings

ZERO = np.float32(0.0)

Criterion = Callable[[int, str, Float32, Float32], Float32]
"""What slack restores first: takes an expert's place in the recipe, a tensor's name, the expert's
differences and the magnitudes of the largest opponents; gives a number, 0 or more and finite, an
entry: the smallest go first. All are flat float32 of the tensor's size."""


def nearest(expert: int, tensor: str, delta: Float32, opponent: Float32) -> Float32:
    """Slack rule 1, the only one that recipes and kernels know: what was lost most narrowly."""
    del expert, tensor
    distance: Float32 = np.abs(np.abs(delta) - opponent)
    return distance


def merge(
    recipe: Recipe,
    base: Mapping[str, torch.Tensor] | None,
    experts: Sequence[Mapping[str, torch.Tensor]],
    depths: Mapping[str, float],
    dtype: torch.dtype,
    criterion: Criterion = nearest,
) -> dict[str, torch.Tensor]:
    """Merge whole models held in memory.

    Args:
        recipe: what to do.
        base: tensors by name, floating; None for methods without base.
        experts: as base, one mapping per expert, in recipe order, of the same shapes.
        depths: t of each tensor (see `merge_core.values`).
        dtype: of the result.
        criterion: what slack restores first; for experiments, as no recipe can name another.

    Returns:
        The merged tensors, shaped as base's.
    """
    method, count = recipe.method, len(experts)
    first = base if base is not None else experts[0]
    names = sorted(first)
    ids = tensor_ids(first)
    settings = {name: recipe.settings_for(name, depths[name]) for name in names}
    e = [{name: _float32(model[name]) for name in names} for model in experts]
    if not method.on_differences:
        return {
            name: _round(
                _combine_all(settings[name], [x[name] for x in e], recipe), first[name], dtype
            )
            for name in names
        }

    assert base is not None, f"{method.name} needs a base"
    b = {name: _float32(base[name]) for name in names}
    with np.errstate(over="ignore", invalid="ignore"):
        delta = [{name: x[name] - b[name] for name in names} for x in e]

    # Ranks run within a tensor, or over the whole model in name order.
    whole = "scope" in method.by_name and recipe.flag("scope") == "model"
    groups = [names] if whole else [[name] for name in names]

    keep: list[dict[str, Mask]] = [{} for _ in range(count)]
    factor: list[dict[str, Float32 | np.float32]] = [{} for _ in range(count)]
    for i in range(count):
        if method.sparsify == "rank_drop":
            for name in names:
                keep[i][name], factor[i][name] = _drop_by_rank(
                    recipe, i, delta[i][name], first[name].shape, settings[name], ids[name]
                )
            continue
        for group in groups:
            keep[i] |= _sparsify(recipe, i, group, delta[i], settings, ids)
        for name in names:
            own = multipliers(method, settings[name].weights, settings[name].densities)
            factor[i][name] = np.float32(own[i])

    t: list[dict[str, Float32]] = [{} for _ in range(count)]
    for name in names:
        for i in range(count):
            with np.errstate(over="ignore", invalid="ignore"):
                t[i][name] = np.where(keep[i][name], delta[i][name] * factor[i][name], ZERO)

    if method.elects:
        for name in names:
            elected = _elect([t[i][name] for i in range(count)])
            for i in range(count):
                keep[i][name] = elected[i]
        for group in groups:
            _restore(recipe, group, delta, t, keep, settings, ids, criterion)
    else:
        # Dropped entries count as zeros here, so that every expert is in every sum.
        keep = [{name: np.ones_like(mask) for name, mask in masks.items()} for masks in keep]

    merged = {}
    for name in names:
        table = _table(settings[name], recipe)
        total, coefficient = _kept_sum(
            [t[i][name] for i in range(count)], [keep[i][name] for i in range(count)], table
        )
        with np.errstate(over="ignore", invalid="ignore"):
            merged[name] = _round(b[name] + total * coefficient, first[name], dtype)
    return merged


def _combine_all(s: TensorSettings, e: list[Float32], recipe: Recipe) -> Float32:
    """Linear: (sum of e_i w_i) c. SLERP: the same with the pair's factors for w_i, and c = 1."""
    factors = _arc_factors(s, e, recipe) if recipe.method.interpolates else s.weights
    with np.errstate(over="ignore", invalid="ignore"):
        terms = [x * np.float32(w) for x, w in zip(e, factors, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        averaged: Float32 = total * _table(s, recipe)[-1]
        return averaged


def _arc_factors(s: TensorSettings, e: list[Float32], recipe: Recipe) -> tuple[float, ...]:
    """SLERP's factor of each model, in recipe order."""
    base, other = recipe.pair
    of_base, of_other = slerp_factors(s.t, *pair_products(e[base], e[other]))
    return (of_base, of_other) if base == 0 else (of_other, of_base)


def _table(s: TensorSettings, recipe: Recipe) -> Float32:
    return coefficients(s.weights, s.scale, normalize=recipe.normalizes)


def _sparsify(
    recipe: Recipe,
    i: int,
    group: list[str],
    delta: Mapping[str, Float32],
    settings: Mapping[str, TensorSettings],
    ids: Mapping[str, int],
) -> dict[str, Mask]:
    """Which entries of expert i's differences stay, before any election."""
    if recipe.method.sparsify == "none":
        return {name: np.ones(delta[name].shape, bool) for name in group}
    if recipe.method.sparsify == "drop":
        return {
            name: drop_bits(0, delta[name].size, seed=recipe.seed, tensor_id=ids[name], expert=i)
            < drop_threshold(settings[name].densities[i])
            for name in group
        }
    # Trim and band: k entries in a row of the total order (|delta| descending, r ascending, name),
    # from the largest, or from behind the g largest.
    magnitude = np.concatenate([np.abs(delta[name]).view(np.uint32) for name in group])
    s = settings[group[0]]
    outliers, count = band(s.densities[i], s.gammas[i], magnitude.size)
    order = _order(~magnitude, group, delta, ids)
    return _split(order[outliers : outliers + count], group, delta)


def _drop_by_rank(
    recipe: Recipe,
    i: int,
    delta: Float32,
    shape: Sequence[int],
    s: TensorSettings,
    tensor_id: int,
) -> tuple[Mask, Float32]:
    """DELLA: which entries of expert i's difference stay, and what each is multiplied by.

    Entries of a row are ranked by (|delta|, r) ascending; a rank has its threshold and factor.
    """
    length = shape[-1] if len(shape) > 1 else delta.size
    rows = (delta.size // length if length else 0, length)
    ties = tie_ranks(0, delta.size, tensor_id)
    magnitude = np.abs(delta).view(np.uint32)
    order = np.lexsort((ties.reshape(rows), magnitude.reshape(rows)), axis=-1)
    rank = np.empty(rows, np.int64)
    np.put_along_axis(rank, order, np.arange(length)[None, :], axis=-1)
    thresholds, factors = della_table(s.densities[i], s.epsilons[i], length, s.weights[i])
    drawn = drop_bits(0, delta.size, seed=recipe.seed, tensor_id=tensor_id, expert=i)
    return drawn < thresholds[rank.reshape(-1)], factors[rank.reshape(-1)]


def _elect(t: list[Float32]) -> list[Mask]:
    """t_i is kept where its sign agrees with the sum's; a sum of zero counts as positive."""
    total = t[0]
    with np.errstate(over="ignore", invalid="ignore"):
        for term in t[1:]:
            total = total + term
    positive = total >= 0
    return [((x > 0) & positive) | ((x < 0) & ~positive) for x in t]


def _restore(
    recipe: Recipe,
    group: list[str],
    delta: list[dict[str, Float32]],
    t: list[dict[str, Float32]],
    keep: list[dict[str, Mask]],
    settings: Mapping[str, TensorSettings],
    ids: Mapping[str, int],
    criterion: Criterion = nearest,
) -> None:
    """TIES-SV (arXiv 2407.03994), slack rule 1: give back what an expert lost narrowly.

    For expert q the candidates are the entries where t_q is not zero and lost the original
    election, less those restored for an earlier expert. The floor(slack candidates) with the
    smallest D = | |delta_q| - |delta_opponent| | (or what `criterion` says in its stead) are
    restored, where the opponent is the originally kept expert of largest |delta|. Changes `keep`
    in place.
    """
    won = [{name: keep[i][name].copy() for name in group} for i in range(len(t))]
    free = {name: np.ones(t[0][name].shape, bool) for name in group}
    for q in range(len(t)):
        slack = settings[group[0]].slacks[q]
        if slack <= 0.0:
            continue
        candidates = {name: (t[q][name] != 0) & ~won[q][name] & free[name] for name in group}
        distance = {}
        for name in group:
            opponent = np.zeros(t[0][name].shape, np.float32)
            for i in range(len(t)):
                opponent = np.where(
                    won[i][name], np.maximum(opponent, np.abs(delta[i][name])), opponent
                )
            distance[name] = criterion(q, name, delta[q][name], opponent)
        chosen = np.concatenate([candidates[name] for name in group])
        order = _order(
            np.concatenate([distance[name].view(np.uint32) for name in group]), group, delta[q], ids
        )
        order = order[chosen[order]]
        restored = _split(order[: restored_count(slack, order.size)], group, delta[q])
        for name in group:
            if recipe.flag("slack_mode") == "replace":
                for i in range(len(t)):
                    keep[i][name] = keep[i][name] & ~restored[name]
            keep[q][name] = keep[q][name] | restored[name]
            free[name] &= ~restored[name]


def _kept_sum(t: list[Float32], keep: list[Mask], table: Float32) -> tuple[Float32, Float32]:
    """The sum of what is kept, starting with the first term, and its coefficient, per entry."""
    subset = np.zeros(t[0].shape, np.int64)
    total = np.where(keep[0], t[0], ZERO)
    with np.errstate(over="ignore", invalid="ignore"):
        for i in range(1, len(t)):
            total = total + np.where(keep[i], t[i], ZERO)
    for i, mask in enumerate(keep):
        subset |= mask.astype(np.int64) << i
    return total, table[subset]


def _order(
    key: npt.NDArray[np.uint32],
    group: list[str],
    arrays: Mapping[str, Float32],
    ids: Mapping[str, int],
) -> npt.NDArray[np.int64]:
    """Indices of the concatenated group by (key, r, j >> 32, name), all ascending."""
    ranks = np.concatenate([tie_ranks(0, arrays[name].size, ids[name]) for name in group])
    high = np.concatenate([np.arange(arrays[name].size) >> 32 for name in group])
    place = np.concatenate([np.full(arrays[n].size, g) for g, n in enumerate(group)])
    return np.lexsort((place, high, ranks, key))


def _split(
    indices: npt.NDArray[np.int64], group: list[str], arrays: Mapping[str, Float32]
) -> dict[str, Mask]:
    """A mask per tensor from indices into the concatenated group."""
    mask = np.zeros(sum(arrays[name].size for name in group), bool)
    mask[indices] = True
    ends = np.cumsum([arrays[name].size for name in group])[:-1]
    return dict(zip(group, np.split(mask, ends), strict=True))


def _float32(tensor: torch.Tensor) -> Float32:
    array: Float32 = tensor.detach().to(torch.float32).reshape(-1).numpy()
    return array


def _round(values: Float32, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype).reshape(like.shape)
