import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.comparing import paired
from objectives.power import Components, components, items_to_tell, paired_components


def recipes(rng: np.random.Generator, n: int, discordance: float, delta: float) -> list:
    """0/1 scores of two recipes with these probabilities."""
    wins, losses = (discordance + delta) / 2, (discordance - delta) / 2
    b = (rng.random(n) < 0.5).astype(float)
    kind = rng.choice([1, -1, 0], n, p=[wins, losses, 1 - discordance])
    return [
        np.where(kind == 1, 1.0, np.where(kind == -1, 0.0, b)).tolist(),
        np.where(kind == 1, 0.0, np.where(kind == -1, 1.0, b)).tolist(),
    ]


def test_what_one_comparison_tells():
    a = [1.0] * 60 + [0.0] * 40
    b = [1.0] * 46 + [0.0] * 14 + [1.0] * 6 + [0.0] * 34
    noise = items_to_tell(a, b, True)
    assert (noise.n, noise.discordance, noise.square) == (100, 0.2, 0.2)
    assert noise.difference == pytest.approx(0.08)
    assert noise.standard_error == pytest.approx(np.std(np.subtract(a, b), ddof=1) / 10)
    # PAPERS.md's figure: 4.5 points at n = 100 with 20% discordance.
    assert noise.standard_error == pytest.approx(0.045, abs=0.001)


def test_connors_example():
    """Connor (1987): discordance .2, difference .1, 95% and 80%: 155 items."""
    a, b = [1.0] * 20 + [0.0] * 80, [1.0] * 10 + [0.0] * 10 + [1.0] * 10 + [0.0] * 70
    noise = items_to_tell(a, b, True)
    z = 1.959963984540054 * math.sqrt(0.2) + 0.8416212335729143 * math.sqrt(0.2 - 0.01)
    assert noise.items(0.1) == math.ceil((z / 0.1) ** 2) == 155
    assert noise.items(-0.1) == 155


@pytest.mark.parametrize(("discordance", "delta"), [(0.2, 0.1), (0.4, 0.15)])
def test_as_many_items_do_tell_at_about_the_power_asked_for(discordance, delta):
    rng = np.random.default_rng(0)
    noise = items_to_tell(*recipes(rng, 4000, discordance, 0.0), True)
    n = noise.items(delta)
    found = [paired(*recipes(rng, n, discordance, delta), True).p_value <= 0.05 for _ in range(300)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40),
    st.floats(0.01, 1),
)
def test_items_and_smallest_difference_are_each_others_inverse(pairs, delta):
    noise = items_to_tell([a for a, _ in pairs], [b for _, b in pairs], False)
    n = noise.items(delta)
    smallest = noise.smallest(n)
    assert smallest is not None
    assert smallest <= delta + 1e-9
    assert noise.items(smallest) <= n
    fewer = noise.smallest(max(1, n // 4))
    assert fewer is None or fewer >= smallest


def test_recipes_that_never_differ_still_need_items():
    noise = items_to_tell([1.0] * 30, [1.0] * 30, True)
    assert noise.standard_error == 0.0
    assert noise.items(0.1) > 40
    assert items_to_tell([1.0], [0.0], True).smallest() is None


def test_other_ranges_scale():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 50))
    plain = items_to_tell(a.tolist(), b.tolist(), False)
    scaled = items_to_tell((9 * a + 1).tolist(), (9 * b + 1).tolist(), False, bounds=(1.0, 10.0))
    assert scaled.standard_error == pytest.approx(9 * plain.standard_error)
    assert scaled.items(0.9) == plain.items(0.1)
    assert scaled.smallest() == pytest.approx(9 * plain.smallest())


# --- Samples against items -----------------------------------------------------------------------


def test_components_are_the_textbooks():
    # One-way analysis of variance by hand: item means 1, 3, 8; mean squares 39 and 1.
    found = components([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [7.0, 8.0, 9.0]])
    assert found == Components(
        between=pytest.approx((39 - 1) / 3), within=pytest.approx(1.0), items=3, samples=3
    )
    assert found.standard_error() == pytest.approx(math.sqrt(39 / 9))


def test_components_are_found_again():
    rng = np.random.default_rng(0)
    rates = rng.beta(2, 1, 4000)
    found = components((rng.random((4000, 4)) < rates[:, None]).astype(float).tolist())
    assert found.between == pytest.approx(rates.var(), rel=0.1)
    assert found.within == pytest.approx((rates * (1 - rates)).mean(), rel=0.05)
    # Twice the samples help less than twice the items, and neither hurts.
    now = found.standard_error(100)
    assert found.standard_error(200) < found.standard_error(100, samples=8) < now
    assert found.standard_error(200) == pytest.approx(now / math.sqrt(2))


def test_samples_that_all_agree_leave_items_alone_to_add():
    found = components([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    assert found.within == 0.0
    assert found.standard_error(samples=64) == found.standard_error()
    noisy = components([[1.0, 0.0], [0.0, 1.0]])
    assert noisy.between == 0.0


def test_components_of_a_difference():
    rng = np.random.default_rng(0)
    items, samples = 4000, 4
    level = rng.normal(0, 1.0, items)  # what both share must drop out
    better = rng.normal(0.1, 0.3, items)
    a = (level + better)[:, None] + rng.normal(0, 0.5, (items, samples))
    b = level[:, None] + rng.normal(0, 0.4, (items, samples))
    found = paired_components(a.tolist(), b.tolist())
    assert found.between == pytest.approx(0.09, rel=0.15)
    assert found.within == pytest.approx(0.41, rel=0.05)
    differences = (a.mean(axis=1) - b.mean(axis=1)).std(ddof=1) / math.sqrt(items)
    assert found.standard_error() == pytest.approx(differences)
    need = found.items_for(0.1)
    z = 1.959963984540054 + 0.8416212335729143
    assert need == pytest.approx((z * found.standard_error(1) / 0.1) ** 2, abs=1)
    assert found.items_for(0.1, samples=16) < need < found.items_for(0.1, samples=1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: items_to_tell([1.0], [1.0, 0.0], True),
        lambda: items_to_tell([1.0], [0.0], True, power=0.2),
        lambda: items_to_tell([1.0, 0.0], [0.0, 0.0], True).items(0.0),
        lambda: items_to_tell([1.0, 0.0], [0.0, 0.0], True).items(1.5),
        lambda: items_to_tell([1.0, 0.0], [0.0, 0.0], True).smallest(0),
        lambda: components([[1.0, 0.0]]),
        lambda: components([[1.0], [0.0]]),
        lambda: components([[1.0, 0.0], [0.0]]),
        lambda: paired_components([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 3),
        lambda: components([[1.0, 0.0]] * 2).standard_error(items=0),
        lambda: components([[1.0, 0.0]] * 2).items_for(0.0),
        lambda: components([[1.0, 0.0]] * 2).items_for(0.1, level=1.0),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match=r"\w"):
        call()


def test_where_nothing_differs_graded_scores_are_planned_for_as_binary_ones():
    nobody_knows = items_to_tell([0.5] * 20, [0.5] * 20, False)
    assert nobody_knows.items(0.05) == items_to_tell([1.0] * 20, [1.0] * 20, True).items(0.05)
    a, b = [0.25] + [0.0] * 127, [0.0] * 128
    assert items_to_tell(a, b, False).items(0.02) > 50  # one step of avg@4 says little
