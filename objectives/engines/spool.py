"""Sources that cannot be made again elsewhere, written down for those who have to read them.

Of the sources of a search none comes here: plans are portable. It is the way of dictionaries and
the like, and costs a copy of the model in memory and on disk while it is loaded.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from objectives.errors import EngineError
from objectives.weights import Portable, TensorSpec, WeightSource, yielded


@contextlib.contextmanager
def spooled(source: WeightSource, specs: Mapping[str, TensorSpec]) -> Iterator[Portable]:
    """The source's tensors in a file that is there while the block runs.

    Raises:
        EngineError: the source yields what its specs did not say, or ends early. What the source
            raises is passed on.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in yielded(source, specs):
        tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
    if missing := sorted(specs.keys() - tensors.keys()):
        raise EngineError(f"the source ended without {missing[0]}; mend it")
    with tempfile.TemporaryDirectory(prefix="mergefront-") as folder:
        file = Path(folder) / "weights.safetensors"
        save_file(tensors, file)
        yield Portable(f"{__name__}:written", {"file": str(file)})


def written(data: Mapping[str, Any], kept: dict[str, Any]) -> "WrittenTensors":
    """The source of a file that `spooled` wrote: a `Maker`."""
    del kept
    return WrittenTensors(Path(data["file"]))


class WrittenTensors:
    """Parts of the tensors of a safetensors file, mapped."""

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        with safe_open(file, framework="pt", device="cpu") as opened:
            self._tensors: dict[str, torch.Tensor] = {
                name: opened.get_tensor(name)
                for name in opened.keys()  # noqa: SIM118 - it is no dictionary
            }

    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor, which has shape and dtype itself."""
        return self._tensors

    def ahead(self) -> Iterator[str]:
        """All names, in name order."""
        yield from sorted(self._tensors)

    def part(
        self, name: str, spans: Sequence[tuple[int, int]], out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `PartSource.part`."""
        box = self._tensors[name][tuple(slice(*span) for span in spans)]
        if out is None:
            return box.contiguous()
        return out.copy_(box.reshape(-1)).view(box.shape)
