"""What the compiled backends share: the flags of a method, and the file that a kernel's source is.

The specialized source lies in the user's cache as a plain Python file: numba keeps machine code
beside files only, Triton reads the source of what it compiles, and people can look at it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

from merge_core.kernels.job import TREE_UP_TO
from merge_core.methods import Method

Makes = Literal["merge", "magnitude", "distance"]


def flags(
    method: Method,
    experts: int,
    restored: tuple[int, ...],
    replace: bool,
    given: tuple[int, ...],
    bf16_out: bool,
    makes: Makes,
    tally: bool,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Constants and registers (see `unroll.specialize`) of `template.block`.

    What is not named below is its flag of that name.

    Args:
        method: which stages to run.
        experts: how many.
        restored: those with slack, in order.
        replace: whether a restored entry stands alone.
        given: the experts that are given as differences.
        bf16_out: whether the merge is bfloat16 held in uint16; otherwise float32.
        makes: the merge, or words of keys.
        tally: whether entries are counted.
    """
    band, drop = method.sparsify == "band", method.sparsify == "drop"
    trim = band or method.sparsify == "trim"
    rank_drop = method.sparsify == "rank_drop"
    tree = experts <= TREE_UP_TO
    constants = {
        "N": experts,
        "DIFFERENCES": method.on_differences,
        "GIVEN": given,
        "SPARSE": trim or drop or rank_drop,
        "TRIM": trim,
        "BAND": band,
        "DROP": drop,
        "RANK_DROP": rank_drop,
        "ELECTS": method.elects,
        # The last restored expert's ranks are not needed where its keys are being collected.
        "RANKED": trim or len(restored) > (makes == "distance"),
        "RESTORED": restored,
        "REPLACE": replace,
        "BF16_OUT": bf16_out,
        "HALVES": 1,
        "TREE": tree,
        "TALLY": tally,
        "MAKES": makes,
        "COLLECT": restored[-1] if makes == "distance" else -1,
    }
    registers = dict.fromkeys(("experts", "part", "delta", "term", "stays", "kept"), experts)
    registers |= dict.fromkeys(("lost", "stayed", "retained", "beaten", "returned"), experts)
    registers |= dict.fromkeys(("bits", "half"), experts if drop or rank_drop else 0)
    registers |= dict.fromkeys(("ranks", "place", "limits", "scales"), experts * rank_drop)
    registers["factors"] = 0 if rank_drop or makes == "magnitude" else experts
    registers |= dict.fromkeys(("tau", "cut"), experts if trim else 0)
    registers |= dict.fromkeys(("top", "top_cut"), experts if band else 0)
    registers["drop"] = experts if drop else 0
    registers |= dict.fromkeys(("sigma", "sigma_cut"), experts if restored else 0)
    if makes == "magnitude":
        registers["table"] = 0
    elif tree:
        registers |= {"table": 2**experts, "choice": 2**experts}
    return constants, registers


def load(source: str, *inlined: str) -> Any:
    """Import `source` from a file of the cache; its name covers the texts it inlines too."""
    name = f"mergefront_{hashlib.sha256(''.join((source, *inlined)).encode()).hexdigest()[:24]}"
    path = _folder() / f"{name}.py"
    if not path.is_file() or path.read_text(encoding="utf-8") != source:
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        Path(temporary).replace(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _folder() -> Path:
    """Where kernels are kept: the user's cache, or a folder of this process if that is closed."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "mergefront" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="mergefront-kernels-"))
