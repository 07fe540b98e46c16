"""vLLM's worker on a CPU whose weights stay as they are loaded, so that merges go in place.

By default that worker packs the weights of linear layers for the processor and drops what it
packed. Unpacked ones make answers slower, and take the same path as a GPU: that is what this is
for. vLLM imports it by name; nothing else does.
"""

from typing import Any

import torch
from vllm.model_executor.layers import utils
from vllm.v1.worker.cpu_worker import CPUWorker

from objectives.engines.vllm_worker import MergeExtension


class UnpackedWorker(CPUWorker, MergeExtension):  # type: ignore[misc]
    """`CPUWorker`, but for the packing.

    vLLM would mix the extension in as well, and refuse where `CPUWorker` has it already.
    """

    def load_model(self, *arguments: Any, **named: Any) -> Any:
        """Load with linear layers that compute with the weight they hold."""
        packing = utils.dispatch_cpu_unquantized_gemm

        def keep(layer: torch.nn.Module, remove_weight: bool) -> None:
            del remove_weight
            setattr(layer, "cpu_linear", torch.nn.functional.linear)  # noqa: B010 - as vLLM does

        utils.dispatch_cpu_unquantized_gemm = keep
        try:
            return super().load_model(*arguments, **named)
        finally:
            utils.dispatch_cpu_unquantized_gemm = packing
