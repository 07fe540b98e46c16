"""How likely a live model finds given tokens: one batch of spans over a key-value cache.

Shapes: G different contexts of at most T tokens, N spans of at most C tokens, V vocabulary. A
context that several spans share (the options of one question) is read once. What follows it is
read in slices of columns, so that no more than `cells` logits exist at a time, however long it is.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from objectives.engines.base import Likelihood
from objectives.engines.encoding import Span


@torch.inference_mode()
def score_spans(model: Any, spans: Sequence[Span], pad_id: int, cells: int) -> list[Likelihood]:
    """The likelihood of each span's tokens, in the order of `spans`.

    Log probabilities are float32 log-softmaxes of the model's logits, summed in float64. A span's
    value depends on its batch by float rounding only.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    groups: dict[tuple[int, ...], int] = {}
    of = torch.tensor([groups.setdefault(s.context, len(groups)) for s in spans], device=device)
    ids, mask = _left_padded(list(groups), pad_id, device)  # [G, T]
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # [G, V]
    lengths = torch.tensor([len(span.tokens) for span in spans], device=device)
    tokens = torch.full((len(spans), int(lengths.max())), pad_id)  # [N, C], padded on the right
    for i, span in enumerate(spans):
        tokens[i, : len(span.tokens)] = torch.tensor(span.tokens)
    tokens = tokens.to(device)
    logprob = torch.zeros(tokens.shape, dtype=torch.float64, device=device)
    likeliest = torch.zeros(tokens.shape, dtype=torch.bool, device=device)
    logs = logits.log_softmax(-1, dtype=torch.float32)
    logprob[:, 0] = logs[of, tokens[:, 0]].double()
    likeliest[:, 0] = logits.argmax(-1)[of] == tokens[:, 0]
    longer = torch.nonzero(lengths > 1)[:, 0]  # one-token spans are done
    if len(longer):
        seen = mask.sum(1)[of[longer]]  # [N']
        mask = mask[of[longer]]
        cache.batch_select_indices(of[longer])
        step = max(1, cells // (len(longer) * logits.shape[-1]))
        rows = tokens[longer]
        last = (seen + lengths[longer] - 2)[:, None]  # position of the last token that is read
        for start in range(0, rows.shape[1] - 1, step):
            read = rows[:, start : min(start + step, rows.shape[1] - 1)]
            asked = rows[:, start + 1 : start + 1 + read.shape[1]]
            mask = torch.cat([mask, mask.new_ones(read.shape)], dim=1)
            position = seen[:, None] + torch.arange(start, start + read.shape[1], device=device)
            logits = model(
                input_ids=read,
                attention_mask=mask,
                # Padding stands still, or it would run past the last position a model has.
                position_ids=torch.minimum(position, last),
                past_key_values=cache,
                use_cache=True,
            ).logits  # [N', columns, V]
            logs = logits.log_softmax(-1, dtype=torch.float32)
            here = slice(start + 1, start + 1 + read.shape[1])
            logprob[longer, here] = logs.gather(-1, asked[..., None])[..., 0].double()
            likeliest[longer, here] = logits.argmax(-1) == asked
    inside = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
    sums = logprob.where(inside, 0.0).sum(1).tolist()
    greedy = (likeliest | ~inside).all(1).tolist()
    return [
        Likelihood(-math.inf if math.isnan(total) else total, len(span.tokens), first)
        for span, total, first in zip(spans, sums, greedy, strict=True)
    ]


def _left_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask, both int64 [rows, longest]."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
