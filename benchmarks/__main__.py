"""All comparisons in one run: `make bench`, or `python -m benchmarks` (see README.md here)."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import agreement, merge, process
from benchmarks.measure import refuse_unless_equal, say
from benchmarks.models import write_set
from merge_core.methods import METHODS


def main(arguments: Sequence[str] | None = None) -> None:
    """Refuse while the equality tests are red; otherwise print every table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--millions", type=float, default=450, help="parameters of each model")
    parser.add_argument("--repeats", type=int, default=9, help="pairs a median is taken of")
    parser.add_argument("--process-repeats", type=int, default=3, help="runs of whole processes")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--folder", type=Path, help="keeps the models (6 GB a billion parameters); default: none"
    )
    parser.add_argument(
        "--mergekit", type=Path, help="folder of mergekit-yaml in an environment of its own"
    )
    options = parser.parse_args(arguments)
    if options.mergekit is not None and not (options.mergekit / "mergekit-yaml").is_file():
        parser.error(f"--mergekit {options.mergekit}: holds no mergekit-yaml")
    mergekit = options.mergekit and options.mergekit.absolute()
    refuse_unless_equal()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).absolute()
        write_set(folder / "large", options.millions)
        merge.report(folder / "large", options.repeats, options.methods)
        say()
        timed = [method for method in process.METHODS_TIMED if method in options.methods]
        process.report(folder / "large", mergekit, options.process_repeats, timed)
        say()
        if mergekit is not None:
            write_set(folder / "small", min(options.millions, agreement.MILLIONS))
        agreement.report(folder / "small", mergekit)


if __name__ == "__main__":
    main()
