"""Faults: what is recorded of them, what is done about each, and real ones on real workers."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from merge_core import Recipe
from objectives import ItemScore
from objectives.engines.base import Generation, GenerationSettings, Prompt
from objectives.engines.scripted import ScriptedEngine
from objectives.errors import EngineDiedError, EngineMemoryError, ServiceError
from search import incidents, worker
from search import study as studies
from search.blocks import Blocks
from search.care import Care, kind_of_death, kind_of_error
from search.config import load
from search.deadlines import AWAY_S, FACTOR, FIRST_S, FLOOR_S, Deadlines, Presence
from search.incidents import POLICIES, Incidents, Kind
from search.panel import status_lines
from search.pool import connected
from search.results import Result
from search.run import Run
from search.session import prepare
from search.status import look
from search.worker import Evaluator, Job, Scored, Step
from tests.search import life
from tests.search.test_driver import search
from tests.search.test_trial_life import TRIALS, check_whole, life_file

DOCS = Path(__file__).parents[2] / "docs" / "faults.md"


def job(number: int = 7) -> Job:
    recipe = Recipe.parse(
        {"merge_method": "linear", "models": [{"model": "m", "parameters": {"weight": 1.0}}]}
    )
    return Job(f"trial {number}", recipe, f"f{number}", "dev")


# ---- the record


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.booleans()), max_size=60))
def test_counts_outlive_the_lines(
    tmp_path_factory: pytest.TempPathFactory, faults: list[tuple[Kind, bool]]
) -> None:
    """Whatever is forgotten for want of space, and wherever a full disk tears a line."""
    path = tmp_path_factory.mktemp("run") / "incidents.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incidents, "MOST_BYTES", 600)
        for kind, torn in faults:
            Incidents(path).record(kind, "trial 3 on w1", "said\nin two lines")
            if torn:
                with path.open("a") as file:
                    file.write('{"at": "2026-01-01", "ki')
    counts = Counter(str(kind) for kind, _ in faults)
    assert Incidents(path).counts == dict(counts)
    if faults:
        assert path.stat().st_size < 1200
        last = Incidents(path).recent(1)[0]
        assert (last["kind"], last["where"]) == (faults[-1][0], "trial 3 on w1")
        assert last["message"] == "said in two lines"


def test_threads_record_side_by_side(tmp_path: Path) -> None:
    kept = Incidents(tmp_path / "incidents.jsonl")

    def many() -> None:
        for _ in range(50):
            kept.record(Kind.TRACKER_LOST, "MLflow", "x" * 2000)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.counts == {"tracker_lost": 200}
    assert all(len(row["message"]) == incidents.MOST_CHARACTERS for row in kept.recent())


def test_what_cannot_be_recorded_stops_nothing(tmp_path: Path) -> None:
    Incidents(tmp_path / "none" / "incidents.jsonl").record("hung", "here", "there")
    with pytest.raises(ValueError, match="no_such_kind"):
        Incidents(tmp_path / "incidents.jsonl").record("no_such_kind", "here", "there")


def test_every_kind_has_a_policy_and_the_page_tells_them() -> None:
    assert set(POLICIES) == set(Kind)
    for policy in POLICIES.values():
        assert policy.message.format(tries=2, said="why")
        assert not (policy.retries and policy.then != "fail the trial")
    assert incidents.table() in DOCS.read_text(encoding="utf-8")


# ---- deadlines


def test_a_deadline_follows_what_was_seen_and_doubles() -> None:
    block = Step("block", "t", tuple("abcd"))
    own = Deadlines(None, 60.0)
    assert own.of(block) == FIRST_S
    own.took(block, 1.0)
    assert own.of(block) == FLOOR_S
    own.took(block, 1000.0)
    assert own.of(block) == FACTOR * 1000.0
    assert own.of(Step("block", "t", tuple("abcdefgh"))) == FACTOR * 2000.0
    assert own.of(Step("block", "t", ("a",))) == FACTOR * 1000.0
    own.took(Step("block", "t", tuple("abcdefgh")), 1200.0)
    assert own.of(block, tries=1) == 2 * FACTOR * 1000.0
    assert own.of(Step("block", "t", tuple("abcdefghijklmnop"))) == FACTOR * 2400.0
    assert own.of(Step("block", "other", ("a",))) == own.of(Step("load")) == FIRST_S
    assert own.of(Step("end")) == FLOOR_S
    assert own.of(Step("start")) == 60.0
    told = Deadlines(30.0, 60.0)
    told.took(block, 1000.0)
    assert [told.of(block, tries) for tries in (0, 1, 2)] == [30.0, 60.0, 120.0]


# ---- blocks


def test_blocks_are_kept_until_they_are_not_needed(tmp_path: Path) -> None:
    kept = Blocks(tmp_path / "blocks")
    score = ItemScore("a", {"math": 1.0}, "สาม", 3, "stop")
    assert kept.of(job()) == Scored()
    kept.add(job(), Scored({"t": {2: score}}, 1.5))
    kept.add(job(), Scored({"u": {0: score}}, 0.5))
    kept.add(job(8), Scored({"t": {0: score}}, 9.0))
    (path,) = (tmp_path / "blocks").glob("*f7*")
    with path.open("a") as file:
        file.write('\n{"items": {"t": {"5"')  # killed while it wrote
    kept.add(job(), Scored({"t": {3: score}}, 0.25))
    assert kept.of(job()) == Scored({"t": {2: score, 3: score}, "u": {0: score}}, 2.25)
    whole = path.read_bytes()
    torn = json.dumps({"items": {"u": {"1": {"response": "สาม"}}}}, ensure_ascii=False).encode()
    for end in range(len(torn)):  # in the middle of a character, too
        path.write_bytes(torn[:end] + whole)
        assert kept.of(job()).items == {"t": {2: score, 3: score}, "u": {0: score}}
    kept.forget(job())
    kept.forget(job())
    assert kept.of(job()) == Scored()
    assert kept.of(job(8)).seconds == 9.0


# ---- what is done


@pytest.fixture
def care(tmp_path: Path) -> Care:
    kept = Incidents(tmp_path / "incidents.jsonl")
    return Care(kept, Blocks(tmp_path / "blocks"), Deadlines(None, 60.0))


@pytest.mark.parametrize("kind", [kind for kind in Kind if POLICIES[kind].retries])
def test_a_job_has_the_tries_that_the_table_says(care: Care, kind: Kind) -> None:
    policy, now = POLICIES[kind], job()
    block = Step("block", "t", ("a", "b"))
    for count in range(1, policy.retries + 1):
        care.sent(now, "w1")
        care.stepped(now, block)
        verdict = care.met(now, kind, "said", "w1")
        assert verdict.again is not None
        assert verdict.here == (count <= policy.here)
        now = verdict.again
        assert now.by_item == (policy.by_item and count == policy.retries)
    if not policy.by_item:
        care.sent(now, "w1")
        care.stepped(now, block)
        verdict = care.met(now, kind, "said", "w1")
        assert (verdict.again, verdict.poison) == (None, None)
        assert care.incidents.counts == {str(kind): policy.retries + 1}
        return
    for blamed in (None, ("t", "b")):  # once may be chance, twice at the same item is not
        care.sent(now, "w1")
        care.stepped(now, Step("block", "t", ("b",)))
        verdict = care.met(now, kind, "said", "w1")
        assert (verdict.again is None, verdict.poison) == (blamed is not None, blamed)
        now = verdict.again or now
    assert care.incidents.counts == {str(kind): policy.retries + 2, "poisoned_item": 1}


def test_losses_at_different_items_blame_none_of_them(care: Care) -> None:
    now: Job | None = job()
    steps = [Step("block", "t", ("a", "b"))] * 2
    steps += [Step("block", "t", (one,)) for one in ("a", "b")]
    for step in steps:
        assert now is not None
        care.sent(now, "w1")
        care.stepped(now, step)
        verdict = care.met(now, Kind.WORKER_LOST, "said", "w1")
        now = verdict.again
    assert (now, verdict.poison) == (None, None)
    assert verdict.error.startswith("its worker died in each of 4 tries")
    assert care.incidents.counts == {"worker_lost": 4}


def test_lost_machines_are_never_the_jobs_fault(care: Care) -> None:
    now: Job | None = job()
    for _ in range(2):
        for kind in (Kind.NODE_LOST, Kind.NODE_LOST, Kind.WORKER_LOST):
            assert now is not None
            care.sent(now, "w1")
            if kind == Kind.WORKER_LOST:
                care.stepped(now, Step("load"))
            now = care.met(now, kind, "said", "w1").again
    assert now is not None
    care.sent(now, "w1")
    care.stepped(now, Step("load"))
    verdict = care.met(now, Kind.WORKER_LOST, "said", "w1")
    assert verdict.again is None
    assert verdict.error == "its worker died in each of 3 tries: merging: said"


def test_workers_that_die_before_they_begin_cost_no_try(care: Care) -> None:
    """Killed while they were idle: the next job meets it."""
    now: Job | None = job()
    for count in range(10):
        assert now is not None, count
        care.sent(now, "w1")
        verdict = care.met(now, Kind.WORKER_LOST, "said", "w1")
        now = verdict.again
        assert not verdict.here
    assert verdict.error == "its worker died in each of 10 tries: said"


def test_a_job_that_is_done_but_for_its_result_keeps_its_blocks(care: Care) -> None:
    score = ItemScore("a", {"math": 1.0}, "สาม", 3, "stop")
    care.sent(job(), "w1")
    care.stepped(job(), Step("block", "t", ("a",)))
    care.stepped(job(), Step("end", done=Scored({"t": {0: score}}, 2.0)))
    verdict = care.met(job(), Kind.WORKER_LOST, "said", "w1")
    assert verdict.again is not None
    assert care.sent(verdict.again, "w2").had == Scored({"t": {0: score}}, 2.0)


def test_a_fault_before_any_item_blames_none(care: Care) -> None:
    care.sent(job(), "w1")
    care.stepped(job(), Step("load"))
    verdict = care.met(job(), Kind.JOB_ERROR, "KeyError: 'x'", "w1")
    assert (verdict.again, verdict.poison, verdict.error) == (None, None, "merging: KeyError: 'x'")


def test_a_worker_that_falls_silent_is_taken_to_hang(
    care: Care, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    care.sent(job(), "w1")
    now[0] += 10 * FLOOR_S
    assert care.overdue(job()) is None  # others on its machine start first
    care.stepped(job(), Step("load"))
    care.ended(job())
    care.sent(job(8), "w1")
    now[0] += FLOOR_S + 1
    assert care.overdue(job(8)) == "901 s without a sign"
    care.stepped(job(8), Step("block", "t", ("a", "b")))
    assert care.overdue(job(8)) is None
    now[0] += FIRST_S + 1
    assert care.overdue(job(8)) == "14,401 s without a sign"


def test_waiting_for_a_turn_to_start_again_is_no_hang(
    care: Care, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    care.sent(job(), "w1")
    care.stepped(job(), Step("start"))
    verdict = care.met(job(), Kind.OUT_OF_MEMORY, "said", "w1")
    assert verdict.here
    assert verdict.again is not None
    care.sent(verdict.again, "w1")
    now[0] += 10 * FLOOR_S
    assert care.overdue(job()) is None


def test_no_deadline_counts_the_drivers_own_absence(
    care: Care, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    presence = Presence()
    care.sent(job(), "w1")
    care.stepped(job(), Step("block", "t", ("a",)))
    now[0] += FIRST_S - 1.0
    assert presence.missed(planned=FIRST_S - 1.0 - AWAY_S) == 0.0
    now[0] += 8 * 3600.0  # stopped for a night
    missed = presence.missed(planned=1.0)
    assert missed == 8 * 3600.0 - 1.0
    assert care.overdue(job()) is not None
    care.away(missed)
    assert care.overdue(job()) is None
    now[0] += 1.0
    assert presence.missed() == 0.0
    assert care.overdue(job()) is not None
    care.sent(job(8), "w2")
    care.stepped(job(8), Step("load"))
    care.away(AWAY_S + 1.0)  # it began in the meantime
    now[0] += FIRST_S + 1.0
    assert care.overdue(job(8)) is not None


def test_errors_are_known_by_what_they_are() -> None:
    assert kind_of_error(torch.OutOfMemoryError("CUDA")) == Kind.OUT_OF_MEMORY
    assert kind_of_error(MemoryError()) == Kind.OUT_OF_MEMORY
    assert kind_of_error(EngineMemoryError("one row")) == Kind.OUT_OF_MEMORY
    assert kind_of_error(EngineDiedError("gone")) == Kind.ENGINE_DIED
    assert kind_of_error(ServiceError("no judge")) == Kind.SCORER_FAILED
    assert kind_of_error(KeyError("x")) == Kind.JOB_ERROR
    assert kind_of_death(ActorDiedError(), node_alive=True) == Kind.WORKER_LOST
    assert kind_of_death(ActorDiedError(), node_alive=False) == Kind.NODE_LOST
    assert kind_of_death(OutOfMemoryError("host"), node_alive=True) == Kind.OUT_OF_MEMORY


# ---- one process: an engine that fails as told


class Failing(ScriptedEngine):
    """Dies, or finds no memory, as its prompts say."""

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        self.meet([prompt.id for prompt in prompts])
        return super().generate(prompts, settings)

    def meet(self, ids: list[str]) -> None:
        raise NotImplementedError


class AlwaysDies(Failing):
    def meet(self, ids: list[str]) -> None:
        if "u3" in ids:
            raise EngineDiedError("its process ended with code -11")


class OneAtATime(Failing):
    def meet(self, ids: list[str]) -> None:
        if len(ids) > 1 and ids[0].startswith("u"):
            raise torch.OutOfMemoryError("CUDA out of memory")


class OnceInAWhile(Failing):
    """Every seventh block or so."""

    asked: ClassVar[list[list[str]]] = []

    def meet(self, ids: list[str]) -> None:
        self.asked.append(ids)
        if len(self.asked) % 7 == 0:
            raise EngineDiedError("its process ended with code -9")


def failing(kind: type[Failing], file: Path) -> int:
    worker.make_engine = lambda config, _: kind(config, respond=life.answer)  # type: ignore
    return life.search(file)


def counts_of(file: Path) -> dict[str, int]:
    return Run.open(file.parent / "runs" / "s").incidents.counts


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_item_that_always_kills_stops_the_search_by_name(tmp_path: Path) -> None:
    file = life_file(tmp_path)
    dev = prepare(load(file)).tasks["u"].items("dev")
    poisoned = dev[1].id
    code, said = life.run(tmp_path / "printed.log", dies_at, poisoned, file)
    assert code == 2
    (line,) = said.splitlines()
    assert line.startswith("mergefront: 3 trials in a row failed at the same place")
    assert f"item {poisoned!r} of task u" in line
    counts = counts_of(file)
    assert counts.pop("poisoned_item") == 3
    assert set(counts) == {"engine_died"}
    assert 12 <= counts["engine_died"] <= 15  # four tries each; a fourth trial was on its way


def dies_at(item: str, file: Path) -> int:
    AlwaysDies.meet = lambda _, ids: _die(item in ids)  # type: ignore[method-assign]
    return failing(AlwaysDies, file)


def _die(now: bool) -> None:
    if now:
        raise EngineDiedError("its process ended with code -11")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_where_memory_runs_out_items_are_asked_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = life_file(tmp_path)
    code, said = life.run(tmp_path / "printed.log", failing, OneAtATime, file)
    assert code == 0, said
    counts = counts_of(file)
    assert set(counts) == {"out_of_memory"}
    assert counts["out_of_memory"] % 2 == 0
    check_whole(file, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_dead_engine_had_scored_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = life_file(tmp_path)
    code, said = life.run(tmp_path / "printed.log", failing, OnceInAWhile, file)
    assert code == 0, said
    assert set(counts_of(file)) == {"engine_died"}
    check_whole(file, monkeypatch)
    opened = Run.open(file.parent / "runs" / "s")
    status = "\n".join(status_lines(look(opened)))
    assert f"{counts_of(file)['engine_died']} engine_died" in status


# ---- real workers

TRAP = '''
import ctypes, os
from pathlib import Path

HERE = Path(__file__).parent
LATE = 30  # items asked; some job has come to its end by then

def first(name):
    """Whether this is the first time in all processes."""
    try:
        os.close(os.open(HERE / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

if (HERE / "died").exists() and first("unreadable"):
    raise OSError("a disk of this node cannot be read")

def score(sample):
    with open(HERE / "asked", "a+") as file:
        file.write(sample.item.id + "\\n")
        file.seek(0)
        late = len(file.readlines()) > LATE
    if sample.item.id.startswith("u"):
        if first("hung"):
            ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock: nothing in there can help
        if late and first("died"):
            os._exit(1)
    return 1.0
'''


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with connected():
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hung_and_a_dead_worker_cost_no_more_than_their_block(
    local_ray: None, tmp_path: Path
) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    workers = {"count": 2, "block_timeout": "20s"}
    file = life_file(tmp_path, scorers=["python:trap:score"], workers=workers)
    found, study, _ = search(file)
    assert found.finished == TRIALS
    assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in study.trials)
    assert found.account.faults["hung"] >= 1
    assert found.account.faults["worker_lost"] >= 1
    assert found.account.faults["engine_died"] == 1  # the next one's start: no end of the search
    rows = found.run.incidents.recent()
    assert any(
        "items of task u" in row["message"] and "without a sign" in row["message"] for row in rows
    )
    # The first task's block was kept: it was asked once for each merge, whatever happened after.
    dev = [item.id for item in prepare(load(file)).tasks["t"].items("dev")]
    asked = Counter((tmp_path / "asked").read_text().split())
    assert {asked[item] for item in dev} == {TRIALS + 1}  # and the baseline
    assert "hung" in "\n".join(found.account.lines())
    assert found.account.metrics()["faults_worker_lost"] >= 1.0


@ray.remote(num_cpus=0)
def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_error_is_still_known_when_it_comes_from_a_worker(local_ray: None) -> None:
    with pytest.raises(RayTaskError) as caught:
        ray.get(out_of_memory.remote())
    assert kind_of_error(caught.value.cause) == Kind.OUT_OF_MEMORY


# ---- a worker's own part


def test_a_job_goes_on_from_what_it_had(tmp_path: Path) -> None:
    """Item by item, block by block, or from the middle: the same result."""
    prepared = prepare(load(life_file(tmp_path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            worker, "make_engine", lambda config, _: ScriptedEngine(config, respond=life.answer)
        )
        evaluator = Evaluator(prepared.setup())
    recipe = prepared.plan.recipe
    whole = evaluator.evaluate(Job("one", recipe, "f", "dev"))
    steps = list(evaluator.steps(Job("two", recipe, "f", "dev", by_item=True)))
    blocks = [step for step in steps if isinstance(step, Step) and step.at == "block"]
    assert [len(step.items) for step in blocks] == [1] * 8
    assert isinstance(steps[-1], Result)
    assert steps[-1].items == whole.items
    told = [step.done.items for step in steps if isinstance(step, Step)]
    assert sum(len(found) for items in told for found in items.values()) == 8  # the last one, too
    done: dict[str, Any] = {}
    for step in blocks[:6]:
        for task, items in step.done.items.items():
            done.setdefault(task, {}).update(items)
    had = Scored(done, 2.0)
    rest = list(evaluator.steps(Job("three", recipe, "f", "dev", had=had)))
    assert [len(step.items) for step in rest if isinstance(step, Step) and step.items] == [3]
    assert isinstance(rest[-1], Result)
    assert rest[-1].items == whole.items
    assert rest[-1].seconds["generate"] >= 2.0
    assert json.dumps(studies.attributes_of(rest[-1], prepared.search)["tokens"])
