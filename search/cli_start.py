"""Commands to begin with: a demo, a search file, and what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from search.console import HERE, File, Runs, Set, console, print_json

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
    base: Annotated[str | None, typer.Option(help="base model: folder or hub id")] = None,
    language: Annotated[str | None, typer.Option(help="language expert")] = None,
    reasoning: Annotated[str | None, typer.Option(help="reasoning expert")] = None,
    items: Annotated[
        str | None, typer.Option(help="item file; default items.jsonl, with examples if not there")
    ] = None,
    expect: Annotated[str, typer.Option(help="language that answers have to be in")] = "th",
    from_mergekit: Annotated[
        Path | None,
        typer.Option("--from-mergekit", help="around this recipe: mergekit's YAML, or ours"),
    ] = None,
) -> None:
    """Write a commented search file that `check` accepts; it asks nothing.

    Without models it is of the demo's tiny ones, which are put beside it (trained once, a minute).

    Example: mergefront init

    Example: mergefront init thai.yaml --base meta-llama/Llama-3.1-8B --language models/thai
    --reasoning models/r1 --items data/th.jsonl

    Example: mergefront init thai.yaml --from-mergekit merge.yaml --items data/th.jsonl
    """
    from search.beginning import Models, write_from_recipe, write_search
    from search.errors import ConfigError

    given = {"--base": base, "--language": language, "--reasoning": reasoning}
    missing = [option for option, value in given.items() if value is None]
    if from_mergekit is not None:
        if len(missing) < len(given):
            raise ConfigError("--from-mergekit: the recipe names the models; leave out the others")
        write_from_recipe(file, from_mergekit, items, expect)
        return
    if missing and len(missing) < len(given):
        raise ConfigError(
            f"{', '.join(missing)}: give all three models, or none for the demo's tiny ones"
        )
    models = None
    if base is not None and language is not None and reasoning is not None:
        models = Models(base, language, reasoning)
    write_search(console, file, models, items, expect)


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
