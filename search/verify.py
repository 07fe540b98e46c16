"""A written checkpoint, read again: its bits, whether it loads, and whether it answers as it did.

Weights are compared with the sums that were taken as they left the merge. transformers then loads
the folder as any user would, and what it holds is compared with the files. Where the merge was
scored in a run, the search's own engine loads the folder too and is asked some of the run's items
again: other answers come from another configuration, tokenizer or chat template. What is missing
only for these questions (items, a judge, an accelerator) is told, and is no fault of the folder.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from merge_core import Checkpoint
from merge_core.tokenizers import TOKENIZER_FILE
from objectives import ItemScore, make_engine, score_task
from objectives.engines.model_folder import opening, read_tokenizer
from objectives.errors import ObjectiveError
from objectives.task import Split, Task
from objectives.weights import short
from search.amounts import many
from search.errors import ConfigError, ExportError
from search.results import Result
from search.run import Run

ITEMS = 8
"""Asked again, of all tasks together."""
_CACHES = (".inv_freq", ".masked_bias")  # buffers that older checkpoints hold and nobody reads
_AGREE = 1e-3  # of scores: batches of another size round otherwise
_HELD: tuple[Split, ...] = ("confirm", "dev", "test")


@dataclass(frozen=True)
class Verified:
    """What was found to be right.

    Attributes:
        tensors: read again, with the bits that were merged.
        loaded: how far transformers' copy was compared.
        split: whose items were asked again; None: the merge was not scored in a run.
        asked: how many.
        differ: those with another answer or score, as task/id.
        rescored: those of them with another score.
        unasked: why no answers could be compared on this machine; "" if they could.
        detail: the error behind it, which may name places of this machine.
    """

    tensors: int
    loaded: str
    split: Split | None = None
    asked: int = 0
    differ: tuple[str, ...] = ()
    rescored: int = 0
    unasked: str = ""
    detail: str = ""

    def line(self, *, public: bool = False) -> str:
        """In one line; in a public one no place of this machine."""
        text = f"{many(self.tensors, 'tensor')} read again as merged; {self.loaded}; "
        if self.unasked:
            detail = f": {self.detail}" if self.detail and not public else ""
            return text + f"no answers compared: {self.unasked}{detail}"
        if self.split is None:
            return text + "no answers compared: no run is named that has any"
        same = self.asked - len(self.differ)
        text += f"{same} of {self.asked} {self.split} items answered and scored as in the run"
        if self.differ:
            text += f", otherwise: {', '.join(self.differ)}"
        return text


@dataclass(frozen=True)
class Question:
    """What the run's engine is asked again.

    Attributes:
        run: that scored the merge.
        scored: the merge's result there.
        tasks: with items that have answers there.
        lack: why there are none, one line; "" if there are.
    """

    run: Run
    scored: Result
    tasks: Mapping[str, Task]
    lack: str = ""


def question(run: Run, scored: Result) -> Question:
    """Read the items that `scored` has answers to: before a merge, which takes long."""
    from search.session import load_tasks  # it knows Ray, which a merge without a run does not need

    try:
        tasks = load_tasks(run.search)
    except ConfigError as error:
        return Question(run, scored, {}, str(error))
    held = {
        name: task
        for name, task in tasks.items()
        if scored.items.get(name) and task.asked(scored.split)
    }
    lack = "" if held else f"the run keeps answers to no {scored.split} item that is here"
    return Question(run, scored, held, lack)


def verify(folder: Path, hashes: Mapping[str, str], asking: Question | None = None) -> Verified:
    """Verify a checkpoint on disk.

    Args:
        folder: of the checkpoint.
        hashes: sha256 of each tensor's bytes as they left the merge, by name.
        asking: what to ask of it, if a run has scored the merge.

    Raises:
        ExportError: a tensor is not what was merged; it does not load; or most of the answers have
            other scores. One line.
        CheckpointError: what was written cannot be read.
    """
    stored = Checkpoint(str(folder), folder)
    _check_bits(stored, hashes)
    try:
        if (folder / TOKENIZER_FILE).is_file():
            with opening(folder):
                read_tokenizer(folder)
        verified = Verified(len(hashes), _load(folder, stored))
    except ObjectiveError as error:
        raise ExportError(f"it does not load: {error}") from error
    if asking is not None:
        verified = _ask(verified, folder, stored, asking)
    # Texts alone may differ: on an accelerator a batch of another size rounds otherwise.
    if 2 * verified.rescored > verified.asked:
        raise ExportError(
            f"{verified.rescored} of {verified.asked} {verified.split} items are scored otherwise "
            f"than in the run; those that differ: {', '.join(verified.differ)}"
        )
    return verified


def stored_result(run: Run, fingerprint: str, trial: int | None) -> Result | None:
    """A result of the merge in its run that holds answers: on held-out items, else on dev items."""
    for split in _HELD:
        path = run.held_out(split, fingerprint)
        if split == "dev":
            path = Path() if trial is None else run.trial(trial)
        if path.is_file():
            result = Result.load(path)
            if result.fingerprint == fingerprint and any(result.items.values()):
                return result
    return None


def _check_bits(stored: Checkpoint, hashes: Mapping[str, str]) -> None:
    if odd := sorted(stored.specs.keys() ^ hashes.keys()):
        raise ExportError(f"tensor {odd[0]} is only in {_where(odd[0] in hashes)}")
    for name, expected in hashes.items():
        data = stored.tensor(name).reshape(-1).view(torch.uint8).numpy().data
        if hashlib.sha256(data).hexdigest() != expected:
            raise ExportError(f"tensor {name} has other bits on disk than were merged")


def _where(merged: bool) -> str:
    return "the merge, not in the files" if merged else "the files, not in the merge"


def _load(folder: Path, stored: Checkpoint) -> str:
    """Load the folder with transformers and compare what it holds with the files, bit by bit."""
    size = sum(spec.nbytes for spec in stored.specs.values())
    room = _available()
    if room is not None and size > 0.8 * room:
        return f"not loaded by transformers: {size / 1e9:.0f} GB do not fit in memory here"
    with opening(folder):
        model, loading = _model_class(stored).from_pretrained(
            folder, output_loading_info=True, dtype="auto", use_safetensors=True,
            local_files_only=True,
        )  # fmt: skip
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        found = sorted(str(name) for name in loading.get(kind, ()))
        odd = [name for name in found if not name.endswith(_CACHES)]
        if odd:
            raise ExportError(f"transformers loads it with {kind.replace('_', ' ')}: {odd[0]}")
    held: Mapping[str, torch.Tensor] = model.state_dict()
    same = 0
    for name in stored.specs.keys() & held.keys():
        tensor, live = stored.tensor(name), held[name]
        if tensor.shape != live.shape:
            continue  # fused or split by its loader
        if not torch.equal(_bits(tensor.to(live.dtype)), _bits(live)):
            raise ExportError(f"transformers loads tensor {name} with other values")
        same += 1
    return f"transformers loads them, {same} compared bit by bit"


def _model_class(stored: Checkpoint) -> Any:
    import transformers

    named = getattr(transformers, stored.architecture, None)
    return transformers.AutoModelForCausalLM if named is None else named


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _available() -> int | None:
    """Bytes of memory that are free or can be; None where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, IndexError, ValueError):
        return None


def _ask(verified: Verified, folder: Path, stored: Checkpoint, asking: Question) -> Verified:
    """Ask some items again, of the folder as the search's engine loads it."""
    scored, tasks = asking.scored, asking.tasks
    if asking.lack:
        return replace(verified, unasked="the run's items cannot be asked here", detail=asking.lack)
    config = asking.run.search.engine
    if getattr(config, "dtype", "") is None:
        largest = max(stored.specs.values(), key=lambda spec: spec.nbytes)
        config = config.model_copy(update={"dtype": short(largest.dtype)})
    share, asked, rescored, differ = -(-ITEMS // len(tasks)), 0, 0, []
    lack = f"the {config.kind} engine does not start here"
    try:
        with make_engine(config, folder) as engine:
            for name, task in tasks.items():
                lack = f"task {name} cannot be answered and scored here"
                before = {item.id: item for item in scored.items[name]}
                items = [item for item in task.items(scored.split) if item.id in before]
                items = items[: min(share, ITEMS - asked)]
                for now in score_task(engine, task, items) if items else ():
                    had = before[now.id]
                    asked += 1
                    rescored += (other := not _same_scores(now, had))
                    if other or _texts(now) != _texts(had):
                        differ.append(f"{name}/{now.id}")
    except ObjectiveError as error:  # no accelerator, no judge: that says nothing of the folder
        return replace(verified, unasked=lack, detail=str(error))
    if not asked:
        return replace(verified, unasked="the run's items are no longer those that it answered")
    return replace(
        verified, split=scored.split, asked=asked, differ=tuple(differ), rescored=rescored
    )


def _texts(item: ItemScore) -> list[str]:
    return [sample.text for sample in item.samples] or [item.text]


def _same_scores(one: ItemScore, other: ItemScore) -> bool:
    return one.scores.keys() == other.scores.keys() and all(
        math.isclose(value, other.scores[key], rel_tol=_AGREE, abs_tol=_AGREE)
        for key, value in one.scores.items()
    )
