"""What an engine loads: named tensors whose shapes and dtypes are known before any work.

An engine never learns where weights come from. A merge plan, a checkpoint reader or a test's
dictionary is a weight source by structure alone; nothing here is inherited from.

Engines whose model lives in other processes have the weights made there. Their sources are
*portable* as well: they say themselves as plain data, and name who makes them again elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from objectives.errors import EngineError

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


class PartSource(Protocol):
    """A source that makes any box of any tensor: what another process makes of plain data."""

    def specs(self) -> Mapping[str, TensorSpec]:
        """As `WeightSource.specs`."""

    def ahead(self) -> Iterator[str]:
        """The names of `specs()` in the order in which their parts are best asked for.

        What is stored of a tensor is being read when its name comes.
        """

    def part(
        self, name: str, spans: Sequence[tuple[int, int]], out: "torch.Tensor | None" = None
    ) -> "torch.Tensor":
        """A box of one tensor, contiguous: the same bits as in the whole.

        Args:
            name: of the tensor.
            spans: [start, stop) along its axes; axes that are not named are whole.
            out: where to make it, and on whose device: flat, contiguous, of the tensor's dtype
                and the box's size. New on the CPU by default.
        """


@dataclass(frozen=True)
class Portable:
    """A source said as plain data.

    Attributes:
        maker: "module:function" that makes it again: a `Maker`.
        data: what that function takes; JSON.
    """

    maker: str
    data: dict[str, Any]


Maker = Callable[[Mapping[str, Any], dict[str, Any]], PartSource]
"""Makes a source of `Portable.data`.

The second argument is a dictionary that lives as long as the process: whatever is costly to open
and serves the next source too is kept there by the maker.
"""


@runtime_checkable
class PortableSource(WeightSource, Protocol):
    """A weight source that can be made again in another process of the same machine."""

    def portable(self) -> Portable:
        """How."""


def yielded(
    source: WeightSource, specs: Mapping[str, TensorSpec]
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """The tensors of `source`, each held to what its specs said.

    Raises:
        EngineError: one is not listed there, or is of another shape or dtype.
    """
    for name, tensor in source.tensors():
        spec = specs.get(name)
        if spec is None:
            raise EngineError(f"the source yields {name}, which its specs do not list; mend it")
        if tuple(tensor.shape) != tuple(spec.shape) or tensor.dtype != spec.dtype:
            raise EngineError(
                f"{name}: the source yields {short(tensor.dtype)} {tuple(tensor.shape)} but its"
                f" specs say {short(spec.dtype)} {tuple(spec.shape)}; mend it"
            )
        yield name, tensor


def short(dtype: "torch.dtype") -> str:
    """A dtype as people write it: bfloat16."""
    return str(dtype).removeprefix("torch.")
