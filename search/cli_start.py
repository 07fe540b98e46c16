"""Commands to begin with: a demo, a search file, and what it would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from search.console import HERE, File, Runs, Set, console, print_json, say, writing

app = typer.Typer()


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="of the tiny models", min=0)] = 0,
    trials: Annotated[
        int | None,
        typer.Option(help="recipes to try; default 60, or the twin's own", min=1),
    ] = None,
    workers: Annotated[int, typer.Option(help="Ray workers", min=1)] = 2,
    folder: Annotated[
        Path | None, typer.Option(help="where models, items and the merge go; default demo")
    ] = None,
    runs: Runs = HERE,
    vocabulary: Annotated[
        Literal["plain", "extended", "permuted"],
        typer.Option(help="of the language expert: base's, 40 tokens more, or at other ids"),
    ] = "plain",
    twin: Annotated[
        Literal["typhoon2_r1", "ties_sv"] | None,
        typer.Option(help="a published protocol in miniature, on a world of two languages"),
    ] = None,
) -> None:
    """Train a tiny trio, search its merges, print the front, export and merge the best recipe.

    Example: mergefront demo

    Example: mergefront demo --trials 12 --workers 1
    """
    from search.demo.show import run_demo, run_twin
    from search.errors import ConfigError

    if twin is not None:
        if vocabulary != "plain":
            raise ConfigError("--vocabulary is for the demo's own world; leave it out with --twin")
        place = folder or Path("demo") / twin
        run_twin(console, twin, seed=seed, trials=trials, workers=workers, folder=place, runs=runs)
        return
    run_demo(
        console,
        seed=seed,
        trials=trials or 60,
        workers=workers,
        folder=folder or Path("demo"),
        runs=runs,
        vocabulary=vocabulary,
    )


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="search file to write")] = Path("search.yaml"),
    base: Annotated[str, typer.Option(help="base model")] = "path/or/hub-id/of/base",
    language: Annotated[str, typer.Option(help="language expert")] = "path/or/hub-id/of/language",
    reasoning: Annotated[
        str, typer.Option(help="reasoning expert")
    ] = "path/or/hub-id/of/reasoning",
    items: Annotated[str, typer.Option(help="item file")] = "items.jsonl",
) -> None:
    """Write a commented search file.

    Example: mergefront init search.yaml --base meta-llama/Llama-3.1-8B --items data/th.jsonl
    """
    from importlib.resources import files

    from merge_core.yaml_io import write_atomic
    from search.errors import ConfigError

    if file.exists():
        raise ConfigError(f"{file}: exists already; name another file")
    text = files("configs").joinpath("template.yaml").read_text(encoding="utf-8")
    values = {"BASE": base, "LANGUAGE": language, "REASONING": reasoning, "ITEMS": items}
    for key, value in values.items():
        text = text.replace(f"@{key}@", json.dumps(value, ensure_ascii=False))
    with writing(file):
        write_atomic(file, text)
    say(f"wrote {file}; next: mergefront check {file}")


@app.command()
def check(
    file: File,
    set_: Set = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs of the nodes to plan for: 8, or 4,8")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(help="GB of each of their GPUs: 80, or 80,141")
    ] = None,
) -> None:
    """Open everything that a search file names, and say what a search of it would do.

    What a large model needs of a node comes first, from headers alone: no weights are fetched.

    Example: mergefront check thai.yaml

    Example: mergefront check thai-70b.yaml --gpus 4,8 --gpu-memory 80,141
    """
    from search.config import load
    from search.describe import describe
    from search.session import prepare
    from search.size_plan import numbers, show

    counts, memories = numbers("--gpus", gpus), numbers("--gpu-memory", gpu_memory)
    search = load(file, set_)
    show(console, search, None if counts is None else [int(n) for n in counts], memories)
    describe(console, prepare(search))


@app.command()
def schema() -> None:
    """Print the JSON Schema of search files (editors complete and check with it).

    Example: mergefront schema > mergefront.schema.json
    """
    from search.config import SearchFile

    print_json(SearchFile.model_json_schema())
