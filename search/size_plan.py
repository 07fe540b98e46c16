"""What a search of a large model needs of a node, told before one is hired: from headers alone.

How the weights lie: a worker is one engine on k GPUs, which share each layer (tensor parallel).
Each GPU holds a k-th of the live model, and merges its own part. What a merge reads (base and
experts, or the experts alone where the method needs no base) lies on the GPU beside it, in pinned
memory of the host, or in mapped files. What is left of a GPU's memory is room for keys and values.

Everything here is computed, nothing measured: `Rates` holds what is assumed, and `show` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from merge_core.checkpoint import DTYPES, TensorSpec
from merge_core.errors import CheckpointError
from search.config import Search
from search.errors import ConfigError
from search.headers import HeaderReader, Headers

Residence = Literal["device", "pinned", "mapped"]
PLACES: tuple[Residence, ...] = ("device", "pinned", "mapped")
TODAY: Residence = "mapped"
"""Where the engines keep the sources; the other rows tell what keeping them nearer would give."""
GB = 1e9
GPUS, MEMORIES = (4, 8), (80.0, 141.0)
"""Of the nodes that are planned for where none is named and no GPU is seen."""
LARGE = 10 * GB
"""Bytes of a live model from which on a plan is made unasked."""
NIGHT = 10.0  # hours


@dataclass(frozen=True)
class Rates:
    """What is assumed of a node. Bytes a second, seconds, or shares.

    Attributes:
        copy: of a GPU's own memory, read and written: 4.3e12 of an H200 (141 GB); 3.0e12 of an
            H100 (80 GB), in proportion to their memory's speed (4.8 and 3.35 TB/s).
        pinned: from pinned host memory to one GPU (PCIe 5.0 x16).
        mapped: from the page cache to one GPU, through a bounce buffer.
        disk: of the node's disk, which all share.
        usable: share of a GPU that an engine may take.
        kept: bytes of a GPU for activations, CUDA graphs, and tiles of a merge on their way.
        decoding: share of `copy` that a decoding step reaches.
        flops: a second and GPU, as a decoding step reaches them.
        prefill: the same of reading prompts: half of what H100 and H200 are said to reach at their
            peak (989e12, bfloat16).
        step: seconds of a decoding step beside its reads: launches, sums over the GPUs.
        at_once: answers that an engine decodes at once, at most.
        answer: length of an answer as a share of max_tokens.
        prompt: tokens.
    """

    copy: float
    pinned: float = 50 * GB
    mapped: float = 10 * GB
    disk: float = 6 * GB
    usable: float = 0.9
    kept: float = 4 * GB
    decoding: float = 0.6
    flops: float = 4e14
    prefill: float = 4.95e14
    step: float = 0.005
    at_once: int = 256
    answer: float = 0.25
    prompt: int = 512

    @classmethod
    def of(cls, memory: float, usable: float | None = None) -> Rates:
        """For a GPU of `memory` bytes, of which an engine may take `usable`."""
        return cls(copy=4.3e12 if memory >= 100 * GB else 3.0e12, usable=usable or 0.9)


@dataclass(frozen=True)
class Model:
    """What a merge and a trial of a search are made of.

    Attributes:
        live: shape and dtype of the tensors of the live model.
        read: the same of each source that a merge reads; those of an adapter have no shape here.
        extra: bytes that are read besides: of adapters, of ranks.
        layers, kv_heads, head: of its attention; head in elements.
        answers: (how many, max_tokens) of each searched task on its dev items.
        longest: tokens of prompt and answer that an engine must have room for.
        passes: how often a merge reads its sources: once more to find where to trim for densities
            that are new, and once more for slack.
    """

    live: Mapping[str, TensorSpec]
    read: tuple[Mapping[str, TensorSpec], ...]
    extra: int
    layers: int
    kv_heads: int
    head: int
    answers: tuple[tuple[int, int], ...]
    longest: int
    passes: int = 1

    @property
    def parameters(self) -> int:
        """Of the live model."""
        return sum(spec.numel for spec in self.live.values())

    @property
    def kv(self) -> int:
        """Bytes of keys and values of one token, in 16 bits, on all GPUs together."""
        return 2 * self.layers * self.kv_heads * self.head * 2

    def on(self, parallel: int) -> int:
        """Bytes of the live model on one of `parallel` GPUs."""
        return self._share(self.live, parallel)

    def sources_on(self, parallel: int) -> int:
        """Bytes that one of `parallel` GPUs reads for a merge."""
        whole = sum(self._share(specs, parallel) for specs in self.read)
        return whole + math.ceil(self.extra / parallel)

    def tokens(self, rates: Rates) -> int:
        """That the answers of a trial are assumed to have."""
        return sum(round(count * rates.answer * most) for count, most in self.answers)

    def _share(self, specs: Mapping[str, TensorSpec], parallel: int) -> int:
        found = 0
        for name, spec in specs.items():
            pieces = parallel if len(spec.shape) > 1 else 1  # norms are on every GPU
            if ".k_proj." in name or ".v_proj." in name:
                pieces = min(pieces, self.kv_heads)
            found += math.ceil(spec.nbytes / pieces)
        return found


@dataclass(frozen=True)
class Plan:
    """One way to lay a search on a node: bytes are of one GPU.

    Attributes:
        workers, parallel: how many engines, and GPUs of each.
        where: the sources lie.
        live: bytes of the live model.
        resident: bytes of sources on the GPU.
        room: bytes for keys and values; at or below 0 it does not fit.
        streamed: bytes that come to the GPU for each merge.
        host: bytes of pinned memory, or of page cache, of the node.
        merge: seconds.
        rate: tokens a second of one worker.
        trial: seconds of one trial in which all dev items are answered.
        trials: in a night, of all workers.
        fits: whether the longest answer has room.
    """

    workers: int
    parallel: int
    where: Residence
    live: int
    resident: int
    room: float
    streamed: int
    host: int
    merge: float
    rate: float
    trial: float
    trials: int
    fits: bool


def planned(
    model: Model, gpus: int, memory: float, parallel: int, where: Residence, rates: Rates
) -> Plan:
    """The plan of `gpus` GPUs of `memory` bytes, `parallel` of them a worker."""
    live, sources = model.on(parallel), model.sources_on(parallel)
    resident = sources if where == "device" else 0
    room = rates.usable * memory - rates.kept - live - resident
    per_token = model.kv / min(parallel, model.kv_heads)
    streamed = model.passes * (sources - resident)
    merge = (model.passes * sources + live) / rates.copy
    if where == "pinned":
        merge = max(merge, streamed / rates.pinned)
    elif where == "mapped":
        merge = max(merge, streamed / rates.mapped)
    workers = gpus // parallel
    fits = room >= model.longest * per_token
    rate = trial = 0.0
    if fits and model.answers:
        count = sum(number for number, _ in model.answers)
        tokens = model.tokens(rates)
        context = rates.prompt + tokens / count / 2
        held = room / per_token / (rates.prompt + tokens / count)
        batch = max(1.0, min(held, count, rates.at_once))
        reads = (live + batch * context * per_token) / (rates.decoding * rates.copy)
        sums = 2 * model.parameters * batch / parallel / rates.flops
        rate = batch / (max(reads, sums) + rates.step)
        prompts = 2 * model.parameters * count * rates.prompt / parallel / rates.prefill
        trial = merge + prompts + tokens / rate
    return Plan(
        workers=workers,
        parallel=parallel,
        where=where,
        live=live,
        resident=resident,
        room=room,
        streamed=streamed,
        host=0 if where == "device" else sum(map(_bytes, model.read)) + model.extra,
        merge=merge,
        rate=rate,
        trial=trial,
        trials=int(NIGHT * 3600 / trial * workers) if trial else 0,
        fits=fits,
    )


def best(model: Model, gpus: int, memory: float, where: Residence, rates: Rates) -> Plan:
    """The plan with most trials a night; if none fits, the one that lacks least."""
    widths = [k for k in range(1, gpus + 1) if gpus % k == 0 and k & (k - 1) == 0]
    plans = [planned(model, gpus, memory, k, where, rates) for k in widths]
    return max(plans, key=lambda plan: (plan.fits, plan.trials, plan.room))


def model_of(search: Search, reader: HeaderReader) -> tuple[Model, list[Headers]]:
    """What `search` merges and asks, and the headers that tell it, base first.

    Raises:
        CheckpointError: headers are nowhere to be had, or tell no attention.
    """
    recipe = search.example()
    references = [] if recipe.base_model is None else [recipe.base_model]
    references += [expert.model for expert in recipe.models]
    found = {reference: reader.read(reference) for reference in dict.fromkeys(references)}
    template = found[references[0]]
    # With a choice of methods: what the hungriest of them reads.
    methods = search.space.methods
    differences = any(method.on_differences for method in methods)
    read = [found[r] for r in (references if differences else references[-len(recipe.models) :])]
    live = dict(template.specs)
    if recipe.dtype is not None:
        dtype = next(d for d in DTYPES.values() if str(d) == f"torch.{recipe.dtype}")
        live = {n: TensorSpec(s.shape, dtype if s.floating else s.dtype) for n, s in live.items()}
    ranks = any(method.sparsify == "rank_drop" for method in methods)
    parameters = sum(spec.numel for spec in live.values())
    config = template.config.get("text_config", template.config)
    heads = _whole(config, "num_attention_heads", template)
    answers = tuple(_answers(search))
    room = getattr(search.file.engine, "max_model_len", None)
    longest = room or max((most for _, most in answers), default=0) + Rates.prompt
    model = Model(
        live=live,
        read=tuple(h.specs for h in read if not h.adapter),
        extra=sum(h.adapter for h in read) + ranks * 2 * parameters * len(recipe.models),
        layers=_whole(config, "num_hidden_layers", template),
        kv_heads=config.get("num_key_value_heads") or heads,
        head=config.get("head_dim") or _whole(config, "hidden_size", template) // heads,
        answers=answers,
        longest=longest,
        passes=1
        + any(method.sparsify in ("trim", "band") for method in methods)
        + any(name.endswith("slack") for name in search.space.distributions()),
    )
    return model, [found[reference] for reference in references]


def show(
    console: Console,
    search: Search,
    gpus: Sequence[int] | None = None,
    memories: Sequence[float] | None = None,
    reader: HeaderReader | None = None,
) -> None:
    """Print the plan for nodes of so many GPUs and GB each; unasked only for a large model.

    Raises:
        CheckpointError: it was asked for, and headers are nowhere to be had.
    """
    asked = gpus is not None or memories is not None
    try:
        model, headers = model_of(search, reader or HeaderReader())
    except CheckpointError:
        if asked:
            raise
        return  # whoever opens the checkpoints next says what is wrong with them
    if not asked and _bytes(model.live) < LARGE:
        return
    seen_gpus, seen_memories = _seen()
    lines, table = report(
        search, model, headers, gpus or seen_gpus, memories or seen_memories, seen=not asked
    )
    for line in lines[:3]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for line in lines[3:]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def report(
    search: Search,
    model: Model,
    headers: Sequence[Headers],
    gpus: Sequence[int],
    memories: Sequence[float],
    *,
    seen: bool = False,
) -> tuple[list[str], Table]:
    """Lines and the table of the plan: three lines, the table, and what it rests on."""
    usable = getattr(search.file.engine, "gpu_memory_utilization", None)
    rates = Rates.of(max(memories) * GB, usable)
    read = sum(map(_bytes, model.read)) + model.extra
    live = _bytes(model.live) / GB
    lines = [
        f"size plan of {search.path}: computed from headers, not measured",
        f"  live model {model.parameters / 1e9:,.1f}B parameters, {live:,.1f} GB; a merge reads"
        f" {read / GB:,.1f} GB of {len(model.read)} models{_times(model.passes)} and writes"
        f" {live:,.1f} GB; keys and values {model.kv:,} bytes a token",
        f"  headers: {_origins(headers)}",
    ]
    columns = (
        *("GPUs", "workers", "sources", "live", "sources on GPU", "KV room", "streamed a merge"),
        *("s a merge", "tokens/s", "s a trial", f"trials in {NIGHT:g} h"),
    )
    table = Table(*columns, title="bytes are GB of one GPU", title_justify="left")
    picked = []
    for count in gpus:
        for memory in memories:
            own = Rates.of(memory * GB, usable)
            plans = [best(model, count, memory * GB, where, own) for where in PLACES]
            for plan in plans:
                table.add_row(f"{count} x {memory:g} GB", *_cells(plan, model))
            today = plans[PLACES.index(TODAY)]
            picked.append(
                f"  {count} x {memory:g} GB: {_settings(today)}, {today.trials:,} trials"
                if today.fits
                else f"  {count} x {memory:g} GB: does not fit"
            )
    lines += [
        f"engines keep sources {TODAY} today: the other rows tell what keeping them nearer would"
        f" give; so most trials in {NIGHT:g} h with",
        *picked,
        "assumed:",
        *_assumed(model, rates, read, memories),
    ]
    engine = search.file.engine
    if engine.devices == 1 and not any(
        planned(model, 1, m * GB, 1, "mapped", Rates.of(m * GB, usable)).fits for m in memories
    ):
        lines.append(
            f"the file's engine, {engine.kind}, has one device a worker, which holds no live model"
            " of this size: take kind: vllm with tensor_parallel"
        )
    return lines, table


def numbers(option: str, text: str | None) -> list[float] | None:
    """The positive numbers of an option such as `--gpus 4,8`; None if it was not given.

    Raises:
        ConfigError: they are none.
    """
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    whole = option != "--gpus" or all(number.is_integer() for number in found)
    if not found or not whole or not all(0 < number < 1e5 for number in found):
        raise ConfigError(f"{option} {text}: write numbers with commas between, such as 4,8")
    return found


def _times(passes: int) -> str:
    return "" if passes == 1 else f" up to {passes} times"


def _cells(plan: Plan, model: Model) -> list[str]:
    layout = f"{plan.workers} of {plan.parallel}"
    held = [f"{plan.live / GB:.1f}", f"{plan.resident / GB:.1f}"]
    if not plan.fits:
        needed = model.longest * model.kv / min(plan.parallel, model.kv_heads) - plan.room
        return [layout, plan.where, *held, f"lacks {needed / GB:.1f}", *["does not fit", *[""] * 4]]
    merge = f"{plan.merge:.3f}" if plan.merge < 0.1 else f"{plan.merge:.1f}"
    times = [f"{plan.rate:,.0f}", f"{plan.trial:,.0f}", f"{plan.trials:,}"]
    return [
        layout,
        plan.where,
        *held,
        f"{plan.room / GB:.1f}",
        f"{plan.streamed / GB:.1f}",
        merge,
        *(times if plan.trial else ["", "", ""]),
    ]


def _settings(plan: Plan) -> str:
    return (
        f"workers: {{count: {plan.workers}, gpus: {plan.parallel}}},"
        f" engine: {{kind: vllm, tensor_parallel: {plan.parallel}}}"
    )


def _assumed(model: Model, rates: Rates, read: float, memories: Iterable[float]) -> list[str]:
    count = sum(number for number, _ in model.answers)
    copies = ", ".join(f"{Rates.of(m * GB).copy / 1e12:.1f} TB/s at {m:g} GB" for m in memories)
    cold = read / rates.disk
    return [
        f"  a GPU copies its own memory with {copies}; a merge there takes as long as a copy of"
        " the bytes that it reads and writes (bfloat16 methods are bound by memory)",
        f"  pinned host memory comes with {rates.pinned / GB:g} GB/s to each GPU, beside the merge;"
        f" the page cache with {rates.mapped / GB:g}, the disk with {rates.disk / GB:g} for all:"
        f" {cold:,.0f} s the first time, and each time where the page cache holds less than"
        f" {read / GB:,.0f} GB; pinned needs that much of the host's memory, once a node",
        f"  an engine takes {rates.usable:.0%} of a GPU, {rates.kept / GB:g} GB of it for"
        f" activations, graphs and tiles; it must have room for {model.longest:,} tokens at once"
        " (GB are 1e9 bytes)",
        f"  a trial has {count:,} answers (searched tasks, all dev items) of"
        f" {rates.answer:.0%} of max_tokens: {model.tokens(rates):,} tokens, after prompts of"
        f" {rates.prompt}; none is stopped early, and no worker waits",
        f"  a decoding step reads the live model and all keys and values at {rates.decoding:.0%}"
        f" of the copy, or computes at {rates.flops / 1e12:g} TFLOP/s, whichever is longer, and"
        f" {1000 * rates.step:g} ms; up to {rates.at_once} answers at once; a prompt's token takes"
        f" 2 operations a parameter, at {rates.prefill / 1e12:g} TFLOP/s a GPU",
        "  not in it: the engine's start, baselines, confirmation and test; what does not scale"
        " with size; trials that racing stops, which make it more",
    ]


def _origins(headers: Sequence[Headers]) -> str:
    told = []
    for origin, words in (
        ("folder", "of the files of"),
        ("hub", "by range requests of"),
        ("packaged", "not read from the models: the architecture's published numbers stand for"),
    ):
        names = dict.fromkeys(h.reference for h in headers if h.origin == origin)
        if names:
            told.append(f"{words} {', '.join(names)}")
    why = next((h.why.partition("and ")[2] for h in headers if h.why), "")
    return "; ".join(told) + (f" ({why})" if why else "")


def _answers(search: Search) -> Iterable[tuple[int, int]]:
    """(answers, max_tokens) of each searched task; a fraction of items not yet read is 128."""
    for task in search.file.tasks.values():
        if task.role != "search":
            continue
        dev = (task.splits or search.file.splits).dev
        items = dev if isinstance(dev, int) else 128
        yield items * task.samples, task.generate.max_tokens


def _seen() -> tuple[tuple[int, ...], tuple[float, ...]]:
    """GPUs of this machine and their GB; the usual nodes where there is none."""
    import torch

    count = torch.cuda.device_count()
    if not count:
        return GPUS, MEMORIES
    memory = torch.cuda.get_device_properties(0).total_memory
    return (count,), (round(memory / GB),)


def _whole(config: Mapping[str, Any], key: str, headers: Headers) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{headers.reference}: its config.json tells no {key}")
    return value


def _bytes(specs: Mapping[str, TensorSpec]) -> int:
    return sum(spec.nbytes for spec in specs.values())
