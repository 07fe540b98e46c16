"""Train the demo's models: `python -m search.demo.training STAGE[,STAGE...] FOLDER SEED [WORLD]`.

They are Llama models of 435,072 parameters with a vocabulary of 171 words (`trio`), or 442,560 and
249 (`wide`), trained from scratch on one thread. Each becomes an ordinary Hugging Face directory,
saved in bfloat16 as real checkpoints are. Saved in float32 instead, one and the same recipe scored
within .01 (seed 0: right .98 against .99, Thai .92 against .91), so nothing of the phenomenon
hangs on the dtype.

This sets the thread count and the flushing of denormals for its whole process, so `process` runs it
in a process of its own. Reports go to standard output, one JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from . import corpora, wide_corpora, world
from .corpora import Course
from .process import Report
from .tongues import Language

CONTEXT = 128  # tokens; a question and its reasoning take about 60
SAVED_DTYPE = torch.bfloat16
WORLDS = {"trio": corpora, "wide": wide_corpora}

_BATCH = 32  # documents a step
_CHECKED = 128  # problems in the check after training: write_items' dev items
_CHECKED_SEED = 1234
_REPORT_EVERY = 10  # steps


def main() -> None:
    """Train the models that the command line names and report on standard output."""
    stages, folder, seed = sys.argv[1].split(","), Path(sys.argv[2]), int(sys.argv[3])
    name = sys.argv[4] if len(sys.argv) > 4 else "trio"
    out = sys.stdout

    def report(message: Report) -> None:
        out.write(json.dumps(asdict(message)) + "\n")
        out.flush()

    # The pipe is for reports alone, whatever a library has to say.
    with contextlib.redirect_stdout(sys.stderr):
        for stage in stages:
            train(stage, folder, seed, report, name)


def train(
    stage: str, folder: Path, seed: int, report: Callable[[Report], None], name: str = "trio"
) -> None:
    """Train one model of the world `name` and save it under `folder`, where its parent lies.

    Changes the thread count and the handling of denormals of this process.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments decay into denormals, which are very slow
    world_of = WORLDS[name]
    course, target = world_of.COURSES[stage], folder / stage
    torch.manual_seed(seed)
    if course.parent is None:
        model = LlamaForCausalLM(_config(len(world_of.WORDS)))
    else:
        # From the parent as saved, so that a model differs from it by its own training alone.
        model = LlamaForCausalLM.from_pretrained(folder / course.parent, dtype=torch.float32)
    _fit(
        model,
        course,
        random.Random(10 * seed + course.stream),
        lambda done: report(Report(stage, done, course.steps)),
    )
    model.to(SAVED_DTYPE).save_pretrained(target)
    world.make_tokenizer(world_of.WORDS, CONTEXT).save_pretrained(target)
    if stage == "reasoning":
        score = min(reasoning_score(target, language) for language in world_of.CHECKED)
        report(Report(stage, course.steps, course.steps, score))


def reasoning_score(directory: Path, language: Language = "th") -> float:
    """Return the share of 128 problems that a saved model answers right, in [0, 1].

    They are the dev items of the trio's file, told in `language`.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    problems = world.draw_problems(_CHECKED, _CHECKED_SEED)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question(language)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        for problem in problems
    ]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        tokens = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=48,
            do_sample=False,
        )
    replies = tokenizer.batch_decode(
        tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = sum(
        final_number(reply) == str(problem.answer)
        for reply, problem in zip(replies, problems, strict=True)
    )
    return right / len(problems)


def final_number(reply: str) -> str | None:
    """Return the word after the last answer mark, if there is one."""
    _, mark, rest = reply.rpartition(world.ANSWER)
    words = rest.split()
    return words[0] if mark and words else None


def _config(tokens: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokens,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # the smallest that vLLM runs on a CPU; hidden_size / heads would be 24
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=world.PAD_ID,
        bos_token_id=world.BOS_ID,
        eos_token_id=world.EOS_ID,
    )


def _fit(
    model: LlamaForCausalLM, course: Course, rng: random.Random, done: Callable[[int], None]
) -> None:
    optimizers = _optimizers(model, course)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    model.train()
    for step, (tokens, labels) in enumerate(_batches(course, rng)):
        # Warm up, then fall linearly to a fiftieth.
        share = max(min(1.0, (step + 1) / course.warmup) * (1 - step / course.steps), 0.02)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
        # Padding is on the right and unmasked: no word attends to what follows it.
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == course.steps:
            done(step + 1)
    model.eval()


def _optimizers(model: LlamaForCausalLM, course: Course) -> list[torch.optim.Optimizer]:
    """Give hidden matrices to Muon, which learns arithmetic in a fraction of AdamW's steps."""
    rest = dict(model.named_parameters())
    optimizers: list[torch.optim.Optimizer] = []
    if course.matrix_rate is not None:
        names = [name for name, value in rest.items() if value.ndim == 2 and "embed" not in name]
        optimizers.append(
            torch.optim.Muon(
                [rest.pop(name) for name in names],
                lr=course.matrix_rate,
                weight_decay=course.decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    optimizers.append(
        torch.optim.AdamW(
            rest.values(), lr=course.rate, betas=(0.9, 0.98), weight_decay=course.decay
        )
    )
    return optimizers


def _batches(course: Course, rng: random.Random) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield `course.steps` batches: token ids and labels, both int64 of (documents, length).

    Documents of like length share a batch, which halves the padding.
    """
    group = 16  # batches sorted together
    left = course.steps
    while left > 0:
        drawn = [course.document(rng) for _ in range(_BATCH * group)]
        encoded = [(world.encode(text.context), world.encode(text.target)) for text in drawn]
        encoded.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        batches = [encoded[start : start + _BATCH] for start in range(0, len(encoded), _BATCH)]
        rng.shuffle(batches)
        for batch in batches[:left]:
            length = max(len(context) + len(target) for context, target in batch)
            tokens = torch.full((_BATCH, length), world.PAD_ID)
            labels = torch.full((_BATCH, length), -100)  # cross_entropy skips these
            for row, (context, target) in enumerate(batch):
                end = len(context) + len(target)
                tokens[row, :end] = torch.tensor(context + target)
                labels[row, len(context) : end] = torch.tensor(target)
            yield tokens, labels
        left -= len(batches)


if __name__ == "__main__":
    main()
