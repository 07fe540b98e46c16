"""What `analyze` tells: what becomes of each expert's parameters in the merge of a recipe."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from merge_core import MergePlan
from merge_core.analysis import BY, SHARES, Analysis, By, Row, analyze
from merge_core.yaml_io import unknown, write_atomic
from search.console import bar, print_json, say, writing
from search.errors import ConfigError
from search.figures.analysis import SharePlot
from search.recipes import load_recipe


def analyze_recipe(
    console: Console, recipe: Path, by: str, json_file: Path | None, plot: Path | None
) -> None:
    """Count what becomes of the experts' entries; print a table, write JSON and a plot.

    Args:
        console: for the table.
        recipe: file.
        by: what has a row in table and plot: one of BY.
        json_file: where all counts go; `-` is standard output, with no table.
        plot: where the plot goes: .html or .png.

    Raises:
        ConfigError: an option is wrong, or the recipe file cannot be read.
        MergeError: the recipe cannot be merged.
    """
    rows = next((known for known in BY if known == by), None)
    if rows is None:
        raise ConfigError(unknown("--by", by, BY))
    if plot is not None and plot.suffix not in (".html", ".png"):
        raise ConfigError(f"--plot {plot}: name a .html or .png file")
    piped = json_file == Path("-")
    for option, file in (("--json", json_file), ("--plot", plot)):  # before all sources are read
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise ConfigError(f"{option} {file}: name a file in a folder that exists")
    loaded, notes = load_recipe(recipe)
    plan = MergePlan(loaded, tally=True)
    for line in (*(f"note: {note}" for note in notes), *plan.sources.report()):
        if piped:
            sys.stderr.write(f"{line}\n")
        else:
            say(line)
    plan.sources.check_finite()
    with bar("counting") as progress:
        found = analyze(plan, progress)
    data = {"recipe": loaded.plain(), **found.plain()}
    if plot is not None:
        with writing(plot):
            SharePlot(found, rows, f"{recipe.name}: {loaded.merge_method}").write(plot)
    if piped:
        print_json(data)
        return
    if json_file is not None:
        with writing(json_file):
            write_atomic(json_file, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    console.print(shares_table(found, rows))
    for written in (json_file, plot):
        if written is not None:
            say(f"wrote {written}")


def shares_table(analysis: Analysis, by: By) -> Table:
    """What became of each expert's entries: a line for each expert, and all together below."""
    model = analysis.model
    table = Table(
        title=f"{analysis.merge_method}: what becomes of {model.entries:,} entries of each expert",
        title_justify="left",
        caption="retained (restored by slack included) + lost the sign election + trimmed + zero "
        "= all",
        caption_justify="left",
    )
    table.add_column("" if by == "model" else by, overflow="fold")
    table.add_column("expert", no_wrap=True)
    for what in SHARES:
        table.add_column(what, justify="right", no_wrap=True)
    if model.conflict is not None:
        table.add_column("conflict", justify="right", no_wrap=True)
    for row in analysis.rows(by):
        _add_shares(table, analysis.names, row)
    if by != "model":
        _add_shares(table, analysis.names, model)
    return table


def _add_shares(table: Table, names: tuple[str, ...], row: Row) -> None:
    for place, (name, counts) in enumerate(zip(names, row.experts, strict=True)):
        cells = [escape(row.name) if place == 0 else "", escape(name)]
        cells += [f"{counts.share(what):.1%}" for what in SHARES]
        if row.conflict_share is not None:
            cells.append(f"{row.conflict_share:.1%}" if place == 0 else "")
        table.add_row(*cells, end_section=place == len(names) - 1)
