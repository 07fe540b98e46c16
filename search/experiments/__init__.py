"""The questions that the product grew from, each answered by one command on models of its own.

`mergefront experiment NAME` runs on the demo's wide world; a file (`configs/experiments`) names
other models, tasks and engines for the same code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # shells complete the names without what it imports
    from search.experiments.base import Experiment

EXPERIMENTS = {
    "ct-then-sft": "search.experiments.ct_then_sft:CtThenSft",
    "plateau": "search.experiments.plateau:Plateau",
    "slack": "search.experiments.slack:Slack",
    "criteria": "search.experiments.criteria:Criteria",
    "two-languages": "search.experiments.two_languages:TwoLanguages",
    "layer-schedules": "search.experiments.layer_schedules:LayerSchedules",
}
"""Where each is, in the order in which they are listed."""


def get_experiment(name: str) -> Experiment[Any]:
    """The experiment called `name`.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    from merge_core.yaml_io import unknown
    from search.errors import ConfigError

    if name not in EXPERIMENTS:
        raise ConfigError(unknown("experiment", name, EXPERIMENTS))
    module, kind = EXPERIMENTS[name].split(":")
    experiment: Experiment[Any] = getattr(import_module(module), kind)()
    return experiment
