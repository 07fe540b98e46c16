"""Answers by vLLM: fast on accelerators, several of them if need be; merges are made where it runs.

The model lives in vLLM's own processes. A load sends them what is to be merged, not weights: each
worker opens the sources and makes its part in the live parameters (`vllm_worker`). Prompts are
encoded and answers decoded here, as for every other engine, so that all ask and read the same.
"""

import contextlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from objectives.engines.answers import Answers
from objectives.engines.base import (
    Continuation,
    Engine,
    Generation,
    GenerationSettings,
    Likelihood,
    Prompt,
    PromptCheck,
)
from objectives.engines.config import VllmConfig
from objectives.engines.decoding import stream_seed
from objectives.engines.encoding import Encoder
from objectives.engines.model_folder import end_ids, has_weights, opening, read_folder
from objectives.engines.spool import spooled
from objectives.engines.vllm_errors import at_start, lacks_memory, line, revived, tells_of_death
from objectives.engines.vllm_processes import alive, children, end
from objectives.errors import EngineDiedError, EngineError, EngineMemoryError, ObjectiveError
from objectives.weights import Portable, PortableSource, TensorSpec, WeightSource, short

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # a reload warns of every layer without weights, every time
}
"""Of the environment, unless it says otherwise: a search has a log of its own."""

_EXTENSION = "objectives.engines.vllm_worker.MergeExtension"
_UNPACKED = "objectives.engines.vllm_unpacked.UnpackedWorker"
_CACHES = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")
"""Ends of the names of what old checkpoints carry and models compute themselves."""

_HEAD = "lm_head.weight"

_RESET_PAUSE = 0.2
"""Seconds for vLLM to let go of the blocks of answers that were ended."""


class VllmEngine(Engine):
    """Answers with vLLM's engine; safetensors only, no remote code.

    With more than one device, or on a CPU, vLLM starts child processes: never start an engine in a
    new process session, or they outlive it.

    Attributes:
        way: how merges come into the model: "in_place" or "reload".
        last_load: what each of vLLM's workers said of the last load: seconds, made (elements).
    """

    kind: ClassVar[str] = "vllm"

    def __init__(self, config: VllmConfig, model: str | Path) -> None:
        path = Path(model)
        _require()
        self._config = config
        tokenizer, _ = read_folder(path)
        ends = end_ids(_generation_config(path), tokenizer)
        self._answers, self._end_ids = Answers(tokenizer, ends), ends
        self._complete = has_weights(path)
        self._rehearsed: set[tuple[tuple[str, tuple[int, ...], str], ...]] = set()
        self._number = 0
        self._closed = False
        self._engine: Any = None
        self._children: list[Any] = []
        self.last_load: list[dict[str, Any]] = []
        before = children()
        try:
            self._engine = _start(config, path, self._complete)
            opened = self._call("mergefront_open", config.swap, self._owner())
            self._raise_fault(opened)
            # One rank that cannot be written in place makes all reload.
            if len({answer["way"] for answer in opened}) > 1:
                opened = self._call("mergefront_open", "reload", None)
        except BaseException:
            self._children = [child for child in children() if child not in before]
            self.close()
            raise
        self._children = [child for child in children() if child not in before]
        self.way: str = opened[0]["way"]
        length = int(self._engine.model_config.max_model_len)
        self._encoder = Encoder(tokenizer, length)
        # vLLM tells the likelihood of prompts only, and wants room for one token behind them.
        self._scorer = Encoder(tokenizer, length - 2)

    def load(self, source: WeightSource) -> None:
        """Have every worker of vLLM make its part of the weights; nothing passes through here.

        A source that is not portable (`objectives.weights`) is written to a temporary file first.
        The first source of its names, shapes and dtypes is rehearsed: vLLM's loader runs without
        anything being made or written, so that what does not fit leaves the old weights.
        """
        self._check_open()
        specs = source.specs()
        if isinstance(source, PortableSource):
            self._load(source.portable(), specs)
            return
        _check_dtypes(specs, self._dtype())
        self._complete = False
        with spooled(source, specs) as portable:
            self._load(portable, specs)

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Ask vLLM for all at once; loops and stop strings end an answer as in other engines.

        Greedy answers depend on their company by float rounding only. Sampling is seeded for each
        answer apart, of the same numbers as in other engines, but draws from vLLM's own streams.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._check_ready()
        asked, opens = [], []
        for prompt in prompts:
            tokens, thinking_open = self._encoder.prompt(prompt)
            budget = self._encoder.room(prompt.id, len(tokens), settings)
            params = SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p if settings.temperature else 1.0,
                seed=stream_seed(settings.seed, prompt.id, prompt.sample),
                max_tokens=budget,
                stop_token_ids=sorted(self._end_ids),
                ignore_eos=True,  # the ids above are all that end an answer
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            asked.append((tokens, params))
            opens.append(thinking_open)
        stopped = self._answers.stop_check(settings)
        new: list[list[int]] = [[] for _ in prompts]

        def read(at: int, output: Any) -> bool:
            for token in output.outputs[0].token_ids:
                new[at].append(int(token))
                if stopped(new[at]):
                    return True
            return False

        self._run(asked, read)
        return [self._answers.of(new[i], opens[i], settings) for i in range(len(prompts))]

    def loglikelihood(self, requests: Sequence[Continuation]) -> list[Likelihood]:
        """Score by the log probabilities that vLLM tells of a prompt's tokens.

        Tokens are paired as in other engines. Texts without a chat that are longer than the
        model's limit are scored in windows that are two tokens shorter than the limit.
        """
        from vllm import SamplingParams

        self._check_ready()
        spans = self._scorer.spans(requests)
        parts: list[list[Likelihood]] = [[] for _ in requests]
        params = SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, ignore_eos=True
        )

        def read(at: int, output: Any) -> bool:
            if output.prompt_logprobs is not None and output.finished:
                span = spans[at]
                found = output.prompt_logprobs[len(span.context) :]
                ones = [told[token] for told, token in zip(found, span.tokens, strict=True)]
                total = math.fsum(one.logprob for one in ones)
                greedy = all(one.rank == 1 for one in ones)
                total = -math.inf if math.isnan(total) else total
                parts[span.owner].append(Likelihood(total, len(ones), greedy))
            return False

        self._run([([*span.context, *span.tokens], params) for span in spans], read)
        return [Likelihood.of(mine) for mine in parts]

    def close(self) -> None:
        """End vLLM and every child process it has started."""
        if self._closed:
            return
        self._closed = True
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(Exception):  # a dead one has nothing left to say
                engine.engine_core.shutdown()
            del engine
            _free()
        end(self._children)

    # ---- the load

    def _load(self, portable: Portable, specs: Mapping[str, TensorSpec]) -> None:
        signature = tuple(
            (name, tuple(spec.shape), str(spec.dtype)) for name, spec in sorted(specs.items())
        )
        if signature not in self._rehearsed:
            _check_dtypes(specs, self._dtype())
            self._rehearse(portable, specs)
            self._rehearsed.add(signature)
        self._complete = False
        self.last_load = self._call("mergefront_load", portable.maker, portable.data)
        # Blocks of the old model's cache would answer for the new one, even after a fault.
        with self._talking():
            reset = self._engine.reset_prefix_cache()
            if not reset:
                time.sleep(_RESET_PAUSE)
                reset = self._engine.reset_prefix_cache()
        self._raise_fault(self.last_load)
        if not reset:
            raise EngineDiedError("vLLM did not reset its prefix cache: old weights would answer")
        self._complete = True

    def _rehearse(self, portable: Portable, specs: Mapping[str, TensorSpec]) -> None:
        """Hold names, shapes and dtypes against the live model, by its own loader."""
        answers = self._call("mergefront_rehearse", portable.maker, portable.data)
        self._raise_fault(answers)
        for name, spec in specs.items():
            if name.endswith(_CACHES):
                continue
            size = math.prod(spec.shape)
            taken = sum(answer["taken"].get(name, 0) for answer in answers)
            if not taken and name == _HEAD:
                raise EngineError(
                    f"the source holds {name} apart from the embedding, but the live model ties"
                    " them; start the engine from a model with tie_word_embeddings: false"
                )
            if taken < size:
                raise EngineError(
                    f"{name}: the source has {size} entries in shape {tuple(spec.shape)}, of which"
                    f" the live model takes {taken}; start the engine from a model of the merge's"
                    " shapes"
                )
            live = next(answer["types"][name] for answer in answers if name in answer["types"])
            if live != short(spec.dtype):
                raise _misfit(name, short(spec.dtype), live)
        lacking = sorted({name for answer in answers for name in answer["lacking"]})
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise EngineError(
                f"the source lacks what fills {lacking[0]}{more} of the live model; check that both"
                " have one architecture"
            )

    def _dtype(self) -> str:
        return short(self._engine.model_config.dtype)

    # ---- vLLM's processes

    def _owner(self) -> int | None:
        """This process, for workers to end with it; None where they may be on other machines."""
        backend = self._engine.vllm_config.parallel_config.distributed_executor_backend
        return os.getpid() if backend in ("mp", "uni") else None

    def _call(self, method: str, *arguments: Any) -> list[dict[str, Any]]:
        """What every worker answers to a call of `MergeExtension`."""
        with self._talking():
            answers: list[dict[str, Any]] = self._engine.collective_rpc(method, args=arguments)
        return answers

    def _run(
        self, asked: Sequence[tuple[list[int], Any]], read: Callable[[int, Any], bool]
    ) -> None:
        """Send requests and read outputs as they come; one of which `read` says so is ended."""
        waiting: dict[str, int] = {}
        with self._talking():
            try:
                for at, (tokens, params) in enumerate(asked):
                    self._number += 1
                    name = str(self._number)  # never the same twice: an ended one may still come
                    self._engine.add_request(name, {"prompt_token_ids": tokens}, params)
                    waiting[name] = at
                while waiting:
                    for output in self._engine.step():
                        found = waiting.get(output.request_id)
                        if found is None:
                            continue
                        if read(found, output):
                            self._engine.abort_request([output.request_id])
                            del waiting[output.request_id]
                        elif output.finished:
                            del waiting[output.request_id]
            except BaseException:
                with contextlib.suppress(Exception):
                    self._engine.abort_request(list(waiting))
                raise

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Whatever vLLM raises while it is used, as ours."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            yield
        except ObjectiveError:
            raise
        except Exception as error:
            if lacks_memory(error):
                self._complete = False
                raise EngineMemoryError(f"vLLM ran out of memory: {line(error)}") from error
            dead = isinstance(error, EngineDeadError | ConnectionError | EOFError)
            if dead or tells_of_death(error) or not all(map(alive, self._children)):
                self._complete = False
                raise EngineDiedError(
                    f"a process of vLLM has died: {line(error)}; its own log says why"
                ) from error
            refusals = (EngineGenerateError, RuntimeError, ValueError, AssertionError)
            if isinstance(error, refusals):
                raise EngineError(f"vLLM refuses: {line(error)}") from error
            raise  # a fault of ours

    def _raise_fault(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """The first fault that a worker tells of, as the exception that it was."""
        fault = next((answer["fault"] for answer in answers if answer["fault"]), None)
        if fault is not None:
            raise revived(fault["kind"], fault["message"])

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the vllm engine is closed; make a new one")

    def _check_ready(self) -> None:
        self._check_open()
        if not self._complete:
            raise EngineError("no complete weights loaded; load before asking anything")


def prompt_check(config: VllmConfig, model: str | Path) -> PromptCheck:
    """The engine's own encoder; needs neither vLLM nor a device."""
    tokenizer, limit = read_folder(Path(model))
    return Encoder(tokenizer, limit if config.max_model_len is None else config.max_model_len)


def _require() -> None:
    """Raise EngineError unless vLLM is there."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineError(
            "the vllm engine needs vLLM, which is not installed: pip install 'mergefront[vllm]',"
            " or use `engine: {kind: transformers}`"
        )


def _start(config: VllmConfig, path: Path, whole: bool) -> Any:
    """A live `LLMEngine`.

    Raises:
        EngineMemoryError: too little memory is free here and now.
        EngineDiedError: a process of vLLM ended while it started.
        EngineError: vLLM cannot serve this model; one line says why.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    given = dict(config.arguments)
    if config.devices > 1:
        given.setdefault("distributed_executor_backend", "mp")
    if current_platform.is_cpu() and config.swap == "in_place":
        given["worker_cls"] = _UNPACKED
    try:
        return LLMEngine.from_engine_args(
            EngineArgs(
                model=str(path),
                load_format="safetensors" if whole else "dummy",
                trust_remote_code=False,
                skip_tokenizer_init=True,
                generation_config="vllm",
                disable_log_stats=True,
                worker_extension_cls=_EXTENSION,
                **given,
            )
        )
    except Exception as error:  # vLLM raises plain ones for its processes, too
        raise at_start(path, error) from error


def _generation_config(path: Path) -> Any:
    from transformers import AutoConfig, GenerationConfig

    with opening(path):
        if (path / "generation_config.json").is_file():
            return GenerationConfig.from_pretrained(path, local_files_only=True)
        own = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        return GenerationConfig.from_model_config(own)


def _check_dtypes(specs: Mapping[str, TensorSpec], live: str) -> None:
    """Hold the dtype of the largest tensor against the engine's: the others have reasons."""
    if specs:
        name = max(specs, key=lambda name: math.prod(specs[name].shape))
        if short(specs[name].dtype) != live:
            raise _misfit(name, short(specs[name].dtype), live)


def _misfit(name: str, given: str, live: str) -> EngineError:
    return EngineError(
        f"{name}: the source has dtype {given}, the live model {live}; set the recipe's or the"
        " engine's dtype so they agree"
    )


def _free() -> None:
    """What an engine in this process leaves behind; one in processes of its own leaves nothing."""
    from vllm.distributed.parallel_state import (
        cleanup_dist_env_and_memory,
        model_parallel_is_initialized,
    )

    if model_parallel_is_initialized():
        cleanup_dist_env_and_memory()
