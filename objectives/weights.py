"""What an engine loads: named tensors whose shapes and dtypes are known before any work.

An engine never learns where weights come from. A merge plan, a checkpoint reader or a test's
dictionary is a weight source by structure alone; nothing here is inherited from.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # importing torch costs a second, and nothing here runs it
    import torch


class TensorSpec(Protocol):
    """Shape and dtype of one output tensor, known from headers only."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, as plain integers."""

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype in which the tensor will arrive."""


@runtime_checkable
class WeightSource(Protocol):
    """All tensors of one model, made one at a time."""

    def specs(self) -> Mapping[str, TensorSpec]:
        """Every output tensor by its checkpoint name, cheaply and before any arithmetic."""

    def tensors(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Each tensor of `specs()` exactly once, in any order.

        The consumer copies a tensor before it asks for the next, so a source may reuse one buffer.
        """
