"""A whole search with vLLM in Ray's workers, and the same with the transformers engine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from search.results import Result
from tests.processes import until
from tests.search.kit import finish, start, trial_files, write_search
from tests.vllm.kit import SMALL

ITEMS = 32
NOISE = 2 / ITEMS
"""Two answers: greedy ties fall by rounding, which differs between engines."""

ENGINES = {
    "transformers": {"kind": "transformers", "device": "cpu"},
    "vllm": {"kind": "vllm", **{k: v for k, v in SMALL.items() if k != "dtype"}},
}


def results(run: Path) -> dict[str, Result]:
    """What became of every trial, by its recipe's fingerprint."""
    found = [Result.load(run / "trials" / name) for name in trial_files(run)]
    return {result.fingerprint: result for result in found}


def means(result: Result) -> dict[str, float]:
    """The mean of each measure over the items."""
    (items,) = result.items.values()
    keys = sorted({key for item in items for key in item.scores})
    return {key: sum(item.scores.get(key, 0.0) for item in items) / len(items) for key in keys}


@pytest.mark.timeout(900)
def test_a_search_on_vllm_finds_what_the_transformers_engine_finds(
    trio, tmp_path, monkeypatch, record_property
):
    # As for users: vLLM in processes of its own under each worker.
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING")
    before = {process.pid for process in psutil.process_iter()}
    found, printed = {}, {}
    for kind, engine in ENGINES.items():
        folder = tmp_path / kind
        write_search(
            folder,
            trio,
            engine=engine,
            workers={"count": 1},
            budget={"trials": 6},
            sampler={"name": "random", "seed": 1},
            racing=False,
        )
        printed[kind] = finish(start(folder, "run", "small.yaml"), 600)
        (run,) = (folder / "runs").iterdir()
        found[kind] = results(run)
    assert len(found["vllm"]) == 6
    assert found["vllm"].keys() == found["transformers"].keys()
    differ = same = 0
    for recipe, result in found["vllm"].items():
        other = found["transformers"][recipe]
        for key, mean in means(result).items():
            assert mean == pytest.approx(means(other)[key], abs=NOISE), (recipe, key)
        texts = [[i.text for i in one.items["math_th"]] for one in (result, other)]
        same += sum(a == b for a, b in zip(*texts, strict=True))
        differ += sum(a != b for a, b in zip(*texts, strict=True))
    record_property("answers that are the same", same)
    record_property("answers that differ", differ)
    record_property(
        "seconds of a load", [round(r.seconds["load"], 3) for r in found["vllm"].values()]
    )
    for engine, said in printed.items():
        record_property(f"front of {engine}", said[-3000:])

    def left() -> list[psutil.Process]:
        """Processes of vLLM that these searches began."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            with suppress(psutil.Error):
                ours = Path(process.cwd()).is_relative_to(tmp_path)
                if process.pid not in before and "VLLM" in " ".join(process.info["cmdline"] or []):
                    found += [process] if ours else []
        return found

    until(lambda: not left(), 60)
