"""Do the intervals and tests hold on real scores? On the tiny world, where the truth is known.

Two merges answer 2,048 fresh problems, scored by the real scorers. Their mean scores over all of
these are the truth; dev sets are 200 seeded draws of n items from them, with replacement, as if
the 2,048 were all the items that there might be.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from merge_core import Recipe
from objectives import EngineConfig, Task, TaskConfig
from objectives.comparing import PairedWatch, paired
from objectives.power import components
from objectives.statistics import estimate
from search.demo import Trio, world
from search.worker import Evaluator, Job, Setup

pytestmark = pytest.mark.slow

ITEMS = 2048
RESAMPLES = 200
SAMPLES = 3


@dataclass(frozen=True)
class Populations:
    """Scores per item: of sampled answers (ITEMS, SAMPLES), and of greedy ones (ITEMS,)."""

    math: np.ndarray
    language: np.ndarray
    ends: dict[str, np.ndarray]


def recipe(trio: Trio, language: float, reasoning: float) -> Recipe:
    experts = [(trio.language, "language", language), (trio.reasoning, "reasoning", reasoning)]
    return Recipe.parse(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(trio.base),
            "models": [
                {"model": str(path), "name": name, "parameters": {"weight": weight}}
                for path, name, weight in experts
            ],
        }
    )


def task(folder: Path, **changes: object) -> Task:
    data = {
        "items": "items.jsonl",
        "role": "report",
        "generate": {"max_tokens": 32},
        "scorers": ["math", {"language": {"expect": "th"}}, "think"],
        **changes,
    }
    return Task.load("math_th", TaskConfig.model_validate(data), folder)


@pytest.fixture(scope="module")
def populations(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Populations:
    folder = tmp_path_factory.mktemp("calibration")
    # Another seed than any search's items.
    lines = [
        {"id": f"q{at}", "prompt": problem.question("th"), "answer": str(problem.answer)}
        for at, problem in enumerate(world.draw_problems(ITEMS, seed=2048))
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "items.jsonl").write_text(text, encoding="utf-8")
    engine = TypeAdapter(EngineConfig).validate_python({"kind": "transformers", "device": "cpu"})
    mixed, sure = recipe(trio, 1.0, 0.6), recipe(trio, 0.3, 1.0)
    sampled = task(folder, samples=SAMPLES, generate={"max_tokens": 32, "temperature": 0.7})
    found = {}
    for name, asked, merged in (("sampled", sampled, mixed), ("greedy", task(folder), sure)):
        evaluator = Evaluator(Setup(engine, merged, {"t": asked}))
        found[name] = evaluator.evaluate(Job(name, merged, name, "test")).items["t"]
        evaluator.close()

    def per_sample(measure: str) -> np.ndarray:
        return np.array([[s.scores[measure] for s in i.samples] for i in found["sampled"]])

    return Populations(
        per_sample("math"),
        per_sample("language"),
        {
            name: np.array([item.scores[name] for item in found["greedy"]])
            for name in ("math", "language", "think")
        },
    )


def coverage(population: np.ndarray, n: int, binary: bool) -> float:
    """Share of resamples whose 95% interval holds the population's mean."""
    rng = np.random.default_rng(n)
    truth = population.mean()
    hits = 0
    for _ in range(RESAMPLES):
        found = estimate(rng.choice(population, n).tolist(), binary)
        hits += found.low <= truth <= found.high
    return hits / RESAMPLES


@pytest.mark.parametrize("n", [30, 128])
def test_intervals_hold_the_truth_in_about_95_of_100_dev_sets(populations, n):
    one, graded = populations.math[:, 0], populations.language[:, 0]
    assert set(one) == {0.0, 1.0}
    assert len(set(graded)) > 10
    averages = populations.math.mean(axis=1)
    assert len(set(averages)) == SAMPLES + 1
    found = {
        "0/1": coverage(one, n, True),
        "graded": coverage(graded, n, False),
        "avg@3": coverage(averages, n, False),
        "avg@3 graded": coverage(populations.language.mean(axis=1), n, False),
    }
    assert all(0.90 <= share <= 0.99 for share in found.values()), found


@pytest.mark.parametrize("n", [30, 128])
def test_where_all_or_nearly_all_are_right_or_wrong(populations, n):
    """The truth is then at the end of the range, or so near that most dev sets see nothing else.

    Every interval reaches the end that all scores are at, so coverage of an end is 100%; what must
    be shown is that it never claims certainty, and that dev sets that happen to be perfect do not
    exclude a truth that is not.
    """
    wrong, right = populations.ends["language"], populations.ends["think"]
    nearly = populations.ends["math"]
    assert set(wrong) == {0.0}
    assert set(right) == {1.0}
    assert 0.98 < nearly.mean() < 1.0
    for binary in (True, False):
        assert coverage(wrong, n, binary) == coverage(right, n, binary) == 1.0
        # The likeliest of rates that such a dev set leaves open in one of twenty.
        reach = 1.0 - 0.05 ** (1 / n)
        assert estimate(wrong[:n].tolist(), binary).high == pytest.approx(reach)
        assert estimate(right[:n].tolist(), binary).low == pytest.approx(1.0 - reach)
        assert coverage(nearly, n, binary) >= 0.90
    # Rates of success from where a perfect dev set is the rule down to where it is rare.
    rng = np.random.default_rng(0)
    for rate in (0.995, 0.98, 0.95):
        population = (np.arange(ITEMS) < round(rate * ITEMS)).astype(float)
        assert coverage(rng.permutation(population), n, True) >= 0.90
        # Right answers not quite at the end: the likes of language scores.
        shaded = population * (1.0 - 0.02 * rng.random(ITEMS))
        assert coverage(shaded, n, False) >= 0.90


def test_samples_of_one_item_are_not_counted_as_items(populations):
    """Taking 3 x 128 answers for 384 independent ones would be wrong by a factor."""
    parts = components(populations.math.tolist())
    assert parts.between > 0.1 * parts.within
    rng = np.random.default_rng(0)
    means = [populations.math[rng.integers(0, ITEMS, 128)].mean() for _ in range(2000)]
    assert np.std(means) == pytest.approx(parts.standard_error(items=128), rel=0.1)
    as_items = np.sqrt(populations.math.var() / (128 * SAMPLES))
    assert np.std(means) > 1.1 * as_items


@pytest.mark.parametrize("n", [30, 128])
def test_paired_intervals_hold_the_true_difference(populations, n):
    pairs = {
        "0/1": (populations.math[:, 0], populations.math[:, 1], True),
        "0/1, far apart": (populations.math[:, 0], populations.ends["math"], True),
        "graded": (populations.language[:, 0], populations.language[:, 1], False),
        "avg@3": (populations.math.mean(axis=1), populations.ends["math"], False),
    }
    found = {}
    for name, (a, b, binary) in pairs.items():
        rng = np.random.default_rng(n)
        truth = (a - b).mean()
        hits = 0
        for _ in range(RESAMPLES):
            rows = rng.integers(0, ITEMS, n)
            comparison = paired(a[rows].tolist(), b[rows].tolist(), binary)
            hits += comparison.low <= truth <= comparison.high
        found[name] = hits / RESAMPLES
    assert all(0.90 <= share <= 0.99 for share in found.values()), found


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("scores", ["0/1", "graded", "avg@3 against greedy"])
def test_false_alarms_under_repeated_looks(populations, scores, level):
    """Label swaps per item: no recipe is better, and eight looks are taken at 512 items."""
    differences = {
        "0/1": populations.math[:, 0] - populations.ends["math"],
        "graded": populations.language[:, 0] - populations.language[:, 1],
        "avg@3 against greedy": populations.math.mean(axis=1) - populations.ends["math"],
    }[scores][:512]
    rng = np.random.default_rng(1)
    replicates, alarms = 2000, 0
    for _ in range(replicates):
        watch = PairedWatch(level)
        swapped = differences * rng.choice([-1.0, 1.0], differences.size)
        alarms += any(watch.update(block) for block in swapped.reshape(8, 64))
    assert alarms / replicates <= 1.0 - level


def test_a_real_difference_is_found_early(populations):
    watch = PairedWatch(0.95)
    differences = populations.math[:, 0] - populations.ends["math"]
    assert any(watch.update(block) for block in differences[:128].reshape(4, 32))
    assert watch.verdict == "worse"
