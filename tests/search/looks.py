"""Run folders to look at: real searches of many trials whose answers come from a landscape.

    python -m tests.search.looks --trials 1000 OUT     # makes OUT/runs/looks

The product's own session, driver, study, races, confirmation, files and MLflow, over two sessions
with a night between them. Only three things are not real: the engine's answers, which follow from
the recipe by a made-up landscape; the workers, which live in this process; and the clock, which
takes the seconds that such answers would have taken. The same arguments make the same run.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import math
import os
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import optuna.storages._rdb.storage as optuna_storage
import torch

from merge_core import NonFiniteError, Recipe
from merge_core.values import parse_value
from merge_core.yaml_io import dump_yaml
from objectives.engines.base import Generation, GenerationSettings, Prompt
from objectives.engines.scripted import ScriptedEngine
from search import incidents, ledger, run, session, storage, worker
from search.care import Care
from search.config import load
from search.driver import Driver
from search.incidents import Kind
from search.live import Doing
from search.placement import Node
from search.pool import Outcome
from search.results import Result
from search.worker import Evaluator, Job, Setup
from tests.merge_core.conftest import CONFIG, write_checkpoint
from tests.search.test_driver import Quiet

LAYERS = 12
WORKERS = 4
START = datetime(2026, 11, 20, 21, 30, tzinfo=UTC).timestamp()
NIGHT_S = 5 * 3600.0
"""Between the two sessions."""
_LOAD_S, _TOKENS_S = 14.0, 140.0  # a merge into the live model; tokens a second of a worker
_SPEED = (1.0, 0.97, 1.04, 0.7)  # of the workers: one has a slower card

_NAMES = ("สมชาย", "มาลี", "วิชัย", "อรุณ", "นภา", "ปรีชา")
_THINGS = (("แอปเปิล", "ผล"), ("หนังสือ", "เล่ม"), ("ดินสอ", "แท่ง"), ("ไข่", "ฟอง"), ("ส้ม", "ผล"))


# ---- what the search is given


def _problem(number: int) -> tuple[str, str, list[str], int]:
    """Thai and English wording, the steps and the answer."""
    rng = random.Random(number)
    who, (thing, counter) = rng.choice(_NAMES), rng.choice(_THINGS)
    first = 3 + number % 997  # no two problems are the same
    more, price = rng.randint(2, 30), rng.randint(2, 9)
    less = rng.randint(1, first + more - 1)
    left = first + more - less
    steps = [f"{first} + {more} = {first + more}", f"{first + more} - {less} = {left}"]
    thai = f"{who}มี{thing} {first} {counter} ซื้อเพิ่มอีก {more} {counter} แล้วให้เพื่อนไป {less} {counter} "
    english = f"Somchai has {first} apples, buys {more} more and gives {less} away. "
    if number % 3 == 0:
        steps.append(f"{left} * {price} = {left * price}")
        thai += f"ถ้าขายส่วนที่เหลือราคา{counter}ละ {price} บาท จะได้เงินกี่บาท"
        return (
            thai,
            f"{english}He sells the rest at {price} baht each. How many baht?",
            steps,
            (left * price),
        )
    return thai + f"เหลือ{thing}กี่{counter}", f"{english}How many are left?", steps, left


def write_items(folder: Path, count: int) -> None:
    """Arithmetic in Thai and in English, `count` items each."""
    for task, offset in (("th", 0), ("en", 100_000)):
        rows = []
        for number in range(count):
            thai, english, _, answer = _problem(number + offset)
            prompt = thai if task == "th" else english
            row = {"id": f"{task}-{number:04d}", "prompt": prompt, "answer": str(answer)}
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / f"items_{task}.jsonl").write_text("".join(rows), encoding="utf-8")


def _tensors(seed: int, base: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (23, 8),
        "model.norm.weight": (8,),
    }
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (8, 8)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (17, 8)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        value = noise * 0.05 if base is None else base[name].float() + noise * 0.01
        found[name] = value.to(torch.bfloat16)
    return found


def search_data(trials: int, sampler: str, **changes: object) -> dict[str, Any]:
    """The search file: two objectives, a constraint, races, ten parameters."""
    weight, density = {"low": 0.3, "high": 1.2}, {"low": 0.08, "high": 0.6}
    end, knee = {"low": 0.0, "high": 1.0}, {"low": 0.1, "high": 1.0}
    schedule = {"plateau": weight, "end": end, "knee": knee}
    return {
        "merge_method": "ties_sv",
        "base_model": "models/base",
        "models": [
            {
                "model": "models/thai",
                "name": "language",
                "parameters": {"weight": {**weight, "anchors": 3}, "density": density},
            },
            {
                "model": "models/r1",
                "name": "reasoning",
                "parameters": {
                    "weight": schedule,
                    "density": density,
                    "slack": {"low": 0.0, "high": 1.0},
                },
            },
        ],
        "parameters": {"normalize": False, "lambda": {"low": 0.7, "high": 1.3}},
        "tokenizer_source": "base",
        "tasks": {
            "math_th": {
                "items": "items_th.jsonl",
                "generate": {"max_tokens": 90},
                "scorers": ["math", {"language": {"expect": "th"}}, "think"],
            },
            "math_en": {
                "items": "items_en.jsonl",
                "generate": {"max_tokens": 90},
                "scorers": ["math"],
            },
        },
        "objectives": {"reasoning": "math_th/math", "language": "math_th/language"},
        "constraints": {"math_en/math": ">= 0.5"},
        "splits": {"dev": 64, "confirm": 200, "test": 200},
        "confirm": {"max": 8},
        "baselines": ["base", "experts", "uniform", "task_arithmetic", "typhoon2_r1:reasoning"],
        "engine": {"kind": "scripted", "default": "-"},
        "budget": {"trials": trials, "gpu_hour_price": 2.5},
        "workers": {"count": WORKERS, "gpus": 1},
        "sampler": {"name": sampler, "seed": 0},
        "racing": {"audit": 0.05},
        **changes,
    }


def make_workplace(folder: Path, trials: int, sampler: str, **changes: object) -> Path:
    """Models, items and the search file in `folder`; its path."""
    base = _tensors(0, None)
    config = {**CONFIG, "num_hidden_layers": LAYERS}
    for seed, name in enumerate(("base", "thai", "r1")):
        tensors = base if not seed else _tensors(seed, base)
        write_checkpoint(folder / "models" / name, tensors, config)
    data = search_data(trials, sampler, **changes)
    write_items(folder, sum(data["splits"].values()))
    path = folder / "looks.yaml"
    path.write_text(dump_yaml(data), encoding="utf-8")
    return path


# ---- what merges answer


@dataclass(frozen=True)
class Character:
    """What a merge is like: logits of thinking, being right, answering in Thai."""

    think: float
    right: float
    thai: float

    @classmethod
    def of(cls, recipe: Recipe) -> Character:
        """By the layers' weights of the two experts, and how many parameters are kept."""
        data = recipe.plain()
        common = data.get("parameters", {})
        force = {"thai": [0.0] * LAYERS, "r1": [0.0] * LAYERS}
        density, slack = {"thai": 1.0, "r1": 1.0}, 0.0
        alone = data["merge_method"] == "linear"
        for model in data["models"]:
            name, own = Path(model["model"]).name, model["parameters"]
            if name not in force:
                continue
            weight = parse_value(own["weight"])
            depths = [layer / (LAYERS - 1) for layer in range(LAYERS)]
            share = 1.0 / len(data["models"]) if alone else float(common.get("lambda", 1.0))
            density[name] = float(own.get("density", 1.0))
            kept = 1.0 - math.exp(-6.0 * density[name])
            force[name] = [share * kept * (weight.at("", depth) or 0.0) for depth in depths]
            slack = float(own.get("slack", slack))
        thai, r1 = force["thai"], force["r1"]
        early, late = sum(r1[:8]) / 8, sum(r1[8:]) / 4
        speech, top = sum(thai) / LAYERS, sum(thai[8:]) / 4
        crowd = max(0.0, early * density["r1"] + speech * density["thai"] - 0.45)
        rescue = 0.5 * slack * (1.3 - slack) * min(1.0, early)
        return cls(
            think=-2.5 + 6.0 * early,
            right=-2.5 + 3.1 * early + 0.9 * late - 0.5 * speech - 4.0 * crowd**2 + rescue,
            thai=0.2 + 1.6 * speech + 2.2 * top - 4.6 * late - 0.7 * early,
        )


def _draw(*what: str) -> float:
    held = hashlib.sha256("|".join(what).encode()).digest()
    return int.from_bytes(held[:6], "big") / 2**48


def _chance(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


def answer(like: Character, fingerprint: str, prompt_id: str) -> str:
    """What such a merge says to an item: hard items are hard for all, with some luck of its own."""
    task, number = prompt_id.split("-")
    _, _, steps, right = _problem(int(number) + (100_000 if task == "en" else 0))

    def happens(what: str, logit: float) -> bool:
        common, own = _draw(what, prompt_id), _draw(what, prompt_id, fingerprint)
        return 0.75 * common + 0.25 * own < _chance(logit)

    in_thai = task == "th" and happens("thai", like.thai)
    thinks = happens("think", like.think)
    correct = happens("right", like.right + (1.0 if task == "en" else 0.0))
    if _draw("loop", prompt_id, fingerprint) < 0.012:
        return "ดังนั้น คำตอบ คือ " * 60 if in_thai else "so the answer is " * 60
    told = right if correct else right + 1 + int(9 * _draw("by", prompt_id, fingerprint))
    lines = [*steps]
    if not correct and thinks:
        lines[-1] = lines[-1].rsplit("=", 1)[0] + f"= {told}"
    thought = ""
    if thinks:
        spoken = in_thai and _draw("inner", prompt_id, fingerprint) < 0.35
        word = "คิดทีละขั้น" if spoken else "Let me work step by step."
        thought = f"<think> {word} " + " . ".join(lines) + " </think> "
    mixed = in_thai and _draw("mixed", prompt_id, fingerprint) < 0.06
    if mixed:
        return f"{thought}ดังนั้นคำตอบที่ถูกต้องของโจทย์ข้อนี้ the final answer 答案 คือ #### {told}"
    if in_thai:
        return f"{thought}จากโจทย์ คำนวณทีละขั้นแล้ว คำตอบคือ #### {told}"
    return f"{thought}So after all of these steps the answer is #### {told}"


class Landscape(ScriptedEngine):
    """Merges for real, and answers as the merge's recipe lets one expect."""

    def load(self, source: Any) -> None:
        for _ in source.tensors():
            pass
        super().load(source)
        recipe = source.recipe
        based = [] if recipe.base_model is None else ["base"]
        self.name = recipe.fingerprint([*based, *(Path(e.model).name for e in recipe.models)])
        self.like = Character.of(recipe)
        if _draw("fault", self.name) < 0.015 and recipe.merge_method == "ties_sv":
            raise NonFiniteError("model.layers.7.mlp.up_proj.weight: the merge has infinities")

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        self._respond = lambda prompt, _: answer(self.like, self.name, prompt.id)
        return [
            replace(given, tokens=max(given.tokens, len(given.text) // 3))
            for given in super().generate(prompts, settings)
        ]


# ---- workers and a clock


class Clock:
    """Seconds since the epoch, as far as the workers have come.

    Attributes:
        at: now.
        ended: when each merge was scored, by its split and fingerprint.
    """

    def __init__(self) -> None:
        self.at = START
        self.ended: dict[str, float] = {}

    def monotonic(self) -> float:
        return self.at

    def datetime(self) -> type[datetime]:
        """The class `datetime` with this clock's now."""
        clock = self

        class Now(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return datetime.fromtimestamp(clock.at, tz)

        return Now


class Pool:
    """The pool's duties in this process: each worker is busy for as long as its answers take."""

    clock: Clock

    def __init__(self, setup: Setup, resources: Any, care: Care, *_: Any) -> None:
        self.size = WORKERS
        self._evaluator = Evaluator(setup, "w0")
        self._care = care
        self._began = self.clock.at
        self._free = deque(range(WORKERS))
        self._queue: deque[Job] = deque()
        self._running: list[tuple[float, int, Outcome]] = []
        self.crew = SimpleNamespace(wanted=(self.size, 1.0), held=self._held)

    def _held(self) -> tuple[float, float]:
        held = WORKERS * (self.clock.at - self._began)
        return held, held

    @property
    def places(self) -> int:
        return max(0, len(self._free) - len(self._queue))

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._running)

    def doing(self) -> dict[str, Doing]:
        held = {worker: outcome.job.key for _, worker, outcome in self._running}
        return {
            f"w{n}": Doing(held.get(n, ""), "" if n in held else "idle") for n in range(WORKERS)
        }

    def submit(self, job: Job) -> None:
        self._queue.append(job)
        self._assign()

    def withdraw(self) -> None:
        self._queue.clear()

    def close(self) -> None:
        self._running.clear()

    def wait(self, timeout: float) -> list[Outcome]:
        self.clock.at, worker, outcome = heapq.heappop(self._running)
        self._free.append(worker)
        self._assign()
        self.clock.ended[f"{outcome.job.split} {outcome.job.fingerprint}"] = self.clock.at
        return [outcome]

    def _assign(self) -> None:
        while self._queue and self._free:
            job, worker = self._queue.popleft(), self._free.popleft()
            seconds, outcome = self._done(job, worker)
            heapq.heappush(self._running, (self.clock.at + seconds, worker, outcome))

    def _done(self, job: Job, worker: int) -> tuple[float, Outcome]:
        name, luck = f"w{worker}", _draw("luck", job.key)
        record = self._care.incidents.record
        if job.key.startswith("trial") and job.split == "dev" and luck < 0.012:
            kind = Kind.WORKER_LOST if luck < 0.006 else Kind.HUNG
            why = "worker process ended: out of memory (OOM killer)"
            if kind == Kind.HUNG:
                why = "no sign for 15 min while generating 24 items of task math_th"
            record(kind, f"{job.key} on {name}", why)
            if luck < 0.006:
                why = "its worker died in each of 3 tries: worker process ended"
                return 180.0, Outcome(job, None, why)
        self._evaluator.name = name
        result = self._evaluator.evaluate(job)
        took = {"load": _LOAD_S / _SPEED[worker], "generate": 0.0}
        took["generate"] = result.tokens / (_TOKENS_S * _SPEED[worker])
        return sum(took.values()) + 1.5, Outcome(job, replace(result, seconds=took))


class Stopping(Quiet):
    """A user who stops the search after some trials."""

    def __init__(self, after: int | None) -> None:
        super().__init__()
        self._after = after

    def finished(self, driver: Driver, what: str, result: Result | None) -> None:
        if self._after is not None and driver.finished >= self._after:
            driver.stopping = True


def make(
    folder: Path,
    trials: int,
    sampler: str = "auto",
    *,
    stops: Sequence[int | None] = (),
    after: Callable[[], None] = lambda: None,
    **changes: object,
) -> Path:
    """A run of so many trials in `folder`/runs/looks; its path.

    Args:
        folder: where models, items and search file are written, too.
        trials: of the budget.
        sampler: of the search file.
        stops: after how many trials the user stops each session; None: not at all. By default a
            first session ends at 60% of the trials and a second one goes on.
        after: called at the end of each session.
        changes: of the search file's keys.
    """
    path = make_workplace(folder, trials, sampler, **changes)
    place = folder / "runs" / "looks"
    clock = Clock()
    now, time = clock.datetime(), SimpleNamespace(monotonic=clock.monotonic)
    patches = [
        (session, "connected", nullcontext),
        (session, "Pool", type("ClockedPool", (Pool,), {"clock": clock})),
        (session, "nodes", lambda: [Node("here", "node-1", {"CPU": 16.0, "GPU": 4.0})]),
        (worker, "make_engine", lambda config, _: Landscape(config)),
        (ledger, "time", time),
        *((module, "datetime", now) for module in (ledger, incidents, run, storage)),
        (optuna_storage, "datetime", now),
    ]
    with ExitStack() as patched:
        for owner, name, value in patches:
            patched.enter_context(mock.patch.object(owner, name, value))
        for stop in stops or (int(0.6 * trials), None):
            session.run(session.prepare(load(path), place), place, Stopping(stop))
            for folder in ("baselines", "confirm", "test"):
                for file in (place / folder).glob("*.json"):  # its time is when it was scored
                    held = Result.load(file)
                    at = clock.ended[f"{held.split} {held.fingerprint}"]
                    os.utime(file, (at, at))
            clock.at += NIGHT_S
            after()
    return place


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--sampler", default="auto")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    made = make(given.folder.resolve(), given.trials, given.sampler)
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
