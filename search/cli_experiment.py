"""`mergefront experiment`: the seeds' questions, each answered by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.console import console, say, shown, typed

app = typer.Typer()


def _names() -> list[str]:
    from search.experiments import EXPERIMENTS

    return [*EXPERIMENTS]


@app.command()
def experiment(
    name: Annotated[
        str | None,
        typer.Argument(help="which; none lists them", show_default=False, autocompletion=_names),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="the experiment's file, for models of your own")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder; default experiments/NAME")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="a first look: few items, few points")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(help="of the tiny models and all draws; default 0, or the file's", min=0),
    ] = None,
) -> None:
    """Answer one of the papers' questions on the demo's models, or on your own: plot and text.

    The same command again goes on where it stopped. Without a name it lists what there is.

    Example: mergefront experiment ct-then-sft

    Example: mergefront experiment slack --config mine/slack.yaml --out results/slack
    """
    from search.experiments import EXPERIMENTS, get_experiment

    if name is None:
        for known in EXPERIMENTS:
            say(f"{known:<16} {get_experiment(known).summary}")
        return
    asked = get_experiment(name)
    from search.demo.show import training_bars
    from search.experiments.running import folder_of, run

    folder = folder_of(name, config, out, quick=quick, seed=seed)
    with training_bars(console) as progress:
        outcome, paths = run(
            asked,
            folder,
            config=config,
            quick=quick,
            seed=seed,
            command=typed(),
            told=say,
            progress=progress,
        )
    say("")
    for finding in outcome.findings:
        say(f"- {finding}")
    say("")
    for path in paths[:3]:
        say(str(shown(path)))
