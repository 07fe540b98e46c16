"""Which prompts are answered together: as many as fit into memory, longest first.

What a batch takes is estimated from the model's configuration, on the safe side. Where the
estimate fails, or another process took the memory meanwhile, the batch is halved and tried again;
after a while of smaller ones twice as many are tried, because that process may have ended.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from objectives.engines.config import TransformersConfig
from objectives.errors import EngineMemoryError

_log = logging.getLogger(__name__)

CPU_TOKENS = 16384
"""Tokens of a batch at most on a CPU, where larger batches are no faster."""

LOGIT_CELLS = {"cuda": 1 << 27, "mps": 1 << 25, "cpu": 1 << 24}
"""Logits that scoring makes at a time at most: more are no faster."""

GROW_AFTER = 20
"""Batches in a row that fit before twice as many tokens are tried; each relapse doubles it."""

_SHARE = {"cuda": 0.8, "mps": 0.5, "cpu": 0.5}
"""Share of the free memory that a batch may take: main memory has other users."""


@dataclass(frozen=True)
class Size:
    """What one row asks of a batch: tokens read at once, and tokens that follow one by one."""

    width: int
    extra: int


@dataclass(frozen=True)
class Footprint:
    """Bytes that a batch takes: `token` per column of a row, `read` more per column read at once.

    `pair` per pair of columns read at once (masks, and scores where attention is eager); `row` for
    the logits of a row and what sampling makes of them.
    """

    token: int
    read: int
    pair: int
    row: int

    @classmethod
    def of(cls, model: Any) -> "Footprint":
        """An estimate from the model's configuration.

        Keys and values of all layers are kept; a layer's are held twice while they grow, and once
        more for all heads where heads share them. Sliding windows are not counted as savings.
        """
        config = model.config.get_text_config()
        size = model.dtype.itemsize

        def number(*names: str, default: int) -> int:
            values = (getattr(config, name, None) for name in names)
            return max((int(v) for v in values if isinstance(v, int)), default=default)

        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        width = number("head_dim", "qk_head_dim", "v_head_dim", default=-(-hidden // heads))
        kept = number("num_key_value_heads", default=heads)
        inner = number("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
        experts = number("num_experts_per_tok", default=0)
        inner = max(inner, experts * number("moe_intermediate_size", default=inner))
        eager = getattr(model.config, "_attn_implementation", None) == "eager"
        return cls(
            token=2 * size * width * ((int(config.num_hidden_layers) + 2) * kept + heads),
            read=size * (8 * hidden + 4 * inner),
            pair=heads * (4 + 2 * size) if eager else 1 + size,
            row=40 * int(config.vocab_size),
        )

    def bytes(self, rows: int, width: int, extra: int) -> int:
        """Of a batch of `rows` whose longest ones have `width` and `extra` columns."""
        columns = (width + extra) * self.token + width * self.read + width * width * self.pair
        return rows * (columns + self.row)


class Batcher:
    """Runs work in batches that fit, and remembers for a while what did not.

    `free` tells the free bytes of the device, and is asked before every batch. `out_of_memory`
    counts the batches that were halved.
    """

    def __init__(
        self,
        config: TransformersConfig,
        device: torch.device,
        footprint: Footprint,
        free: Callable[[torch.device], int],
    ) -> None:
        self._config = config
        self._device = device
        self._footprint = footprint
        self._free = free
        self._most_tokens: int | None = None  # since memory ran out, until it has grown back
        self._failed_tokens = 0  # the most that did not fit since then
        self._patience, self._fits_in_row, self._grown = GROW_AFTER, 0, False
        self.out_of_memory = 0

    def run(
        self,
        order: Sequence[int],
        sizes: Sequence[Size],
        names: Sequence[str],
        work: Callable[[list[int]], None],
    ) -> None:
        """Call `work` on consecutive pieces of `order`, indices of `sizes` and `names`.

        Raises:
            EngineMemoryError: one row alone is too large for the device; it is named.
        """
        at = 0
        while at < len(order):
            batch = self.next(order[at:], sizes)
            if self._fitted(batch, work):
                at += len(batch)
                self._grow(batch, sizes)
                continue
            # Outside of the except clause: its traceback held the tensors of the failed attempt.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            if len(batch) == 1:
                size = sizes[batch[0]]
                raise EngineMemoryError(
                    f"prompt {names[batch[0]]!r}: its {size.width} tokens and {size.extra} new ones"
                    f" do not fit into the memory of {self._device}; shorten it, lower max_tokens,"
                    " or use a larger device"
                )
            self._shrink(batch, sizes)

    def next(self, order: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        """The longest beginning of `order` that fits; one row at least."""
        free = self._budget()
        width = extra = 0
        batch: list[int] = []
        for i in order:
            width, extra = max(width, sizes[i].width), max(extra, sizes[i].extra)
            if batch and not self._fits(len(batch) + 1, width, extra, free):
                break
            batch.append(i)
        return batch

    def logit_cells(self) -> int:
        """How many logits may exist at a time: at most a tenth of what batches may take.

        Each costs 12 bytes: as it comes, in float32, and what the softmax needs.
        """
        free = self._free(self._device) * _SHARE[self._device.type]
        return max(1, min(LOGIT_CELLS[self._device.type], int(free) // 120))

    def _budget(self) -> int | None:
        """Bytes that a batch may take; None where tokens alone are counted."""
        if self._config.max_batch_tokens is not None:
            return None
        return int(self._free(self._device) * _SHARE[self._device.type])

    def _fits(self, rows: int, width: int, extra: int, free: int | None) -> bool:
        tokens = rows * (width + extra)
        limits = [self._most_tokens, self._config.max_batch_tokens]
        if free is not None and self._device.type == "cpu":
            limits.append(CPU_TOKENS)
        return (
            rows <= (self._config.batch_size or rows)
            and all(tokens <= limit for limit in limits if limit is not None)
            and (free is None or self._footprint.bytes(rows, width, extra) <= free)
        )

    def _fitted(self, batch: list[int], work: Callable[[list[int]], None]) -> bool:
        try:
            work(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            return False
        return True

    def _grow(self, batch: Sequence[int], sizes: Sequence[Size]) -> None:
        """Let batches be larger again once many have fitted: not all want of memory lasts."""
        most = self._most_tokens
        if most is None and not self._grown:
            return
        if most is not None and 2 * len(batch) * _columns(batch, sizes) <= most:
            return  # a small one, as at the end of a task, tells nothing of larger ones
        self._fits_in_row += 1
        if self._fits_in_row < self._patience:
            return
        self._fits_in_row, self._grown = 0, most is not None
        if most is None:  # it has grown back and stayed well: the next want is a new one
            self._patience = GROW_AFTER
        elif 2 * most < self._failed_tokens:
            self._most_tokens = 2 * most
        else:
            self._most_tokens, self._failed_tokens = None, 0

    def _shrink(self, batch: Sequence[int], sizes: Sequence[Size]) -> None:
        """Half of what failed is the most from now on: the next weights have the same shapes."""
        columns = _columns(batch, sizes)
        self._most_tokens = len(batch) // 2 * columns
        self._failed_tokens = max(self._failed_tokens, len(batch) * columns)
        if self._grown:
            self._patience *= 2  # what did not fit before does not fit now: rarer and rarer trials
        self._fits_in_row, self._grown = 0, False
        self.out_of_memory += 1
        if self.out_of_memory == 1:
            _log.warning(
                "%s ran out of memory on %d prompts of %d columns; going on with half as many",
                self._device,
                len(batch),
                columns,
            )


def _columns(batch: Sequence[int], sizes: Sequence[Size]) -> int:
    return max(sizes[i].width for i in batch) + max(sizes[i].extra for i in batch)


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still take on `device`."""
    if device.type == "cuda":
        # What torch's allocator holds without using it is free to us, though not to others.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_main_memory(), _group_memory())


def _main_memory() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    # Elsewhere there is no such number without help: half of all memory is assumed to be free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _group_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves (cgroup v2); more than any memory where there is none."""
    try:
        most, used = ((root / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return int(most) - int(used)
    except (OSError, ValueError):  # no such group, or "max": no limit
        return 1 << 62


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)  # how torch says it of main memory
    )
