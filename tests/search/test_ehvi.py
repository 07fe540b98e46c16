"""The Gaussian process of `auto`: its regression, its gain in volume, its proposals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from search.ehvi import PARTIAL, EHVISampler, Scale
from search.front import hypervolume
from search.improvement import Boxes, normal_excess, share_excess
from search.process import Process, Settings
from search.unit import from_unit, to_unit

BOUNDED = (Scale("a", 1.0, 0.0, 0.0, 1.0), Scale("b", 1.0, 0.0, 0.0, 1.0))


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


# ---- regression


def test_the_process_expects_what_another_library_expects() -> None:
    rng = np.random.default_rng(0)
    points, values, known = rng.random((30, 3)), rng.standard_normal(30), rng.random(30)
    given_settings = Settings(np.array([0.3, 0.7, 1.5]), 1.7, 0.05)
    process = Process.of(points, values, known, given_settings)
    peer = GaussianProcessRegressor(
        ConstantKernel(1.7) * Matern([0.3, 0.7, 1.5], nu=2.5),
        alpha=known + 0.05 + 1e-6,
        optimizer=None,
    ).fit(points, values)
    at = rng.random((50, 3))
    mean, deviation = peer.predict(at, return_std=True)
    found = process.expect(at)
    np.testing.assert_allclose(found[0], mean, atol=1e-9)
    np.testing.assert_allclose(found[1], deviation, atol=1e-7)


def _probability(points: Any, values: Any, known: Any, one: Settings) -> float:
    kernel = ConstantKernel(one.signal) * Matern(one.lengths, nu=2.5)
    alpha = known + one.noise + 1e-6
    peer = GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None).fit(points, values)
    off = (one.logs - np.log([*[0.33 * np.sqrt(2)] * 2, 1.0, 0.02])) / [1.0, 1.0, 1.0, 1.5]
    return float(peer.log_marginal_likelihood_value_ - 0.5 * off @ off)


def test_settings_are_the_most_probable() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((40, 2))
    values = np.sin(7.0 * points[:, 0]) + 0.1 * rng.standard_normal(40)
    known = np.full(40, 0.01)
    best = Process.fit(points, values, known).settings
    most = _probability(points, values, known, best)
    for _ in range(40):
        other = Settings.of(best.logs + rng.normal(0.0, 0.2, 4))
        assert _probability(points, values, known, other) < most
    assert best.lengths[0] < best.lengths[1]  # the one that matters
    assert np.allclose(Process.fit(points, values, known, best).settings.logs, best.logs, atol=0.05)


def test_what_is_known_to_be_uncertain_counts_for_less() -> None:
    points = np.array([[0.2], [0.5], [0.8]])
    values = np.array([0.0, 3.0, 0.0])
    at = np.array([[0.5]])
    one = Settings(np.array([0.5]), 1.0, 0.01)
    sure, unsure = (
        Process.of(points, values, np.array([0.0, variance, 0.0]), one).expect(at)[0]
        for variance in (0.0, 100.0)
    )
    assert sure > 2.5
    assert unsure < 0.2


# ---- volume


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 10**6))
def test_boxes_are_what_the_front_leaves(count: int, members: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    front = rng.random((members, count)).round(2)  # with equal coordinates
    boxes = Boxes.beyond(front, np.zeros(count))
    sizes = np.minimum(boxes.highs, 1.0) - np.minimum(boxes.lows, 1.0)
    left = float(np.prod(sizes, axis=1).sum())
    assert left == pytest.approx(1.0 - hypervolume([tuple(one) for one in front]), abs=1e-9)
    points = rng.random((200, count))
    inside = np.all((points[:, None] >= boxes.lows) & (points[:, None] < boxes.highs), axis=2)
    assert inside.sum(axis=1).max(initial=0) <= 1  # disjoint


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_expected_growth_is_the_mean_over_outcomes(count: int) -> None:
    rng = np.random.default_rng(count)
    front = rng.random((4, count))
    means, deviations = rng.random((count, 3)), 0.1 + 0.2 * rng.random((count, 3))
    expected = Boxes.beyond(front, np.zeros(count)).expected(
        [partial(normal_excess, *pair) for pair in zip(means, deviations, strict=True)]
    )
    before = hypervolume([tuple(one) for one in front])
    for candidate in range(3):
        draws = means[:, candidate] + deviations[:, candidate] * rng.standard_normal((4000, count))
        grown = [
            hypervolume([*map(tuple, front), tuple(np.maximum(draw, 0.0))]) - before
            for draw in draws
        ]
        error = 4.0 * np.std(grown) / np.sqrt(len(grown))
        assert np.mean(grown) == pytest.approx(expected[candidate], abs=error)


def test_a_share_exceeds_what_its_outcomes_exceed() -> None:
    rng = np.random.default_rng(0)
    mean, deviation = np.array([0.2, 0.9, 1.5]), np.array([0.3, 0.1, 0.2])
    bounds = np.array([0.0, 0.3, 0.97, 1.0, np.inf])
    found = share_excess(mean, deviation, bounds)
    angles = np.clip(
        mean[:, None] + deviation[:, None] * rng.standard_normal((3, 10**5)), 0, np.pi / 2
    )
    shares = np.sin(angles) ** 2
    for column, bound in enumerate(bounds):
        expected = np.maximum(0.0, shares - bound).mean(axis=1)
        np.testing.assert_allclose(found[:, column], expected, atol=0.003)
    assert np.all(found[:, 3:] == 0.0)


# ---- proposals

SPACE = {
    "x": FloatDistribution(0.0, 2.0),
    "y": FloatDistribution(0.01, 1.0, log=True),
    "z": FloatDistribution(0.0, 1.0, step=0.1),
}
Scores = Callable[[Sequence[float]], list[float]]


def _bumps(unit: Sequence[float]) -> list[float]:
    """Two objectives in [0, 1], best near (.3, .7, .5) and (.7, .7, .5)."""
    x, y, z = unit
    loss = 4.0 * (y - 0.7) ** 2 + 2.0 * (z - 0.5) ** 2
    return [float(np.exp(-loss - 8.0 * (x - best) ** 2)) for best in (0.3, 0.7)]


def _search(
    sampler: Any,
    trials: int,
    scores: Scores = _bumps,
    directions: Sequence[str] = ("maximize", "maximize"),
    bound: Callable[[Sequence[float]], float] | None = None,
) -> optuna.Study:
    study = optuna.create_study(directions=list(directions), sampler=sampler)
    for _ in range(trials):
        trial = study.ask(SPACE)
        unit = [to_unit(d, trial.params[n]) for n, d in SPACE.items()]
        if bound is not None:
            trial.set_constraint("c", bound(unit))
        study.tell(trial, scores(unit))
    return study


def _volume(study: optuna.Study) -> float:
    return hypervolume([tuple(trial.values) for trial in study.trials])


def test_it_finds_more_than_chance() -> None:
    ours, chance = [], []
    for seed in range(2):
        ours.append(_volume(_search(EHVISampler(scales=BOUNDED, seed=seed), 30)))
        chance.append(_volume(_search(optuna.samplers.RandomSampler(seed=seed), 60)))
    assert min(ours) > max(chance)


def test_the_same_seed_proposes_the_same_and_another_does_not() -> None:
    one, two, other = (
        [t.params for t in _search(EHVISampler(scales=BOUNDED, seed=seed), 12).trials]
        for seed in (0, 0, 1)
    )
    assert one == two != other


def test_proposals_lie_in_their_ranges_and_steps() -> None:
    study = _search(EHVISampler(scales=BOUNDED, seed=0), 20)
    for trial in study.trials:
        for name, value in trial.params.items():
            assert SPACE[name]._contains(value)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_objectives(count: int) -> None:
    scales = tuple(Scale(f"o{k}", 1.0, 0.0, 0.0, 1.0) for k in range(count))

    def scores(unit: Sequence[float]) -> list[float]:
        return [*_bumps(unit), 1.0 - unit[0]][:count] if count > 1 else [_bumps(unit)[0]]

    study = _search(EHVISampler(scales=scales, seed=0), 25, scores, ["maximize"] * count)
    plain = _search(optuna.samplers.RandomSampler(seed=0), 25, scores, ["maximize"] * count)
    assert _volume(study) > _volume(plain)


def test_smaller_can_be_better_and_ends_can_be_open() -> None:
    scales = (Scale("a", -1.0, 10.0), Scale("b", 1.0, 0.0, 0.0, 1.0))

    def scores(unit: Sequence[float]) -> list[float]:
        first, second = _bumps(unit)
        return [10.0 * (1.0 - first), second]

    study = _search(EHVISampler(scales=scales, seed=0), 30, scores, ("minimize", "maximize"))
    assert hypervolume([(1.0 - a / 10.0, b) for a, b in (t.values for t in study.trials)]) > 0.75


def test_constraints_are_looked_for_and_held() -> None:
    """A tenth of the space holds."""
    study = _search(
        EHVISampler(scales=BOUNDED, seed=0), 30, bound=lambda unit: 0.9 - unit[0] - 0.05 * unit[2]
    )
    late = study.trials[15:]
    assert sum(trial.constraints["c"] <= 0.0 for trial in late) >= 10


def test_a_recipe_on_its_way_is_not_proposed_again() -> None:
    study = _search(EHVISampler(scales=BOUNDED, seed=0), 15)
    asked = [study.ask(SPACE) for _ in range(4)]
    units = np.array([[to_unit(d, t.params[n]) for n, d in SPACE.items()] for t in asked])
    gaps = np.abs(units[:, None] - units[None]).max(axis=2)[np.triu_indices(4, 1)]
    assert gaps.min() > 0.02
    assert all(study.trials[t.number].state == TrialState.RUNNING for t in asked)


def test_a_lucky_rough_score_does_not_lead_astray() -> None:
    """Told 1.0 of a few items in a bad corner: known to be rough, it is hardly believed."""

    def proposals(rough: bool) -> float:
        study = _search(EHVISampler(scales=BOUNDED, seed=0), 14)
        params = {n: from_unit(d, 0.05) for n, d in SPACE.items()}
        expected = {"a": [0.9, 0.4], "b": [0.9, 0.4]}
        told = {PARTIAL: {"expected": expected}} if rough else {}
        study.add_trial(
            create_trial(params=params, distributions=SPACE, values=[0.9, 0.9], user_attrs=told)
        )
        units = []
        for _ in range(5):
            trial = study.ask(SPACE)
            units.append([to_unit(d, trial.params[n]) for n, d in SPACE.items()])
        return float(np.mean(np.abs(np.array(units) - 0.05)))

    assert proposals(rough=True) > proposals(rough=False)


def test_a_parameter_may_be_frozen_in_between() -> None:
    sampler = EHVISampler(scales=BOUNDED, seed=0)
    study = _search(sampler, 14)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.sampler = optuna.samplers.PartialFixedSampler({"x": 1.0}, sampler)
    trial = study.ask(SPACE)
    assert trial.params["x"] == 1.0


@pytest.mark.parametrize("distribution", SPACE.values(), ids=SPACE)
def test_shares_of_a_range_and_back(distribution: FloatDistribution) -> None:
    for share in np.linspace(0.0, 1.0, 11):
        value = from_unit(distribution, float(share))
        assert distribution._contains(value)
        assert to_unit(distribution, value) == pytest.approx(share, abs=1e-9)
