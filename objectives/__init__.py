"""What a merge is judged by: engines that answer, tasks that ask, scorers and statistics.

Knows nothing of merging or of the search: an engine takes any `WeightSource`.
"""

from objectives.engines import EngineConfig, make_engine
from objectives.engines.base import Engine, Generation, GenerationSettings, Prompt
from objectives.errors import EngineError, ObjectiveError, ScorerError, TaskError
from objectives.item import Item, ItemScore, SampleScore
from objectives.score import aggregate, score_task, summarize
from objectives.scorers import make_scorer
from objectives.statistics import Estimate
from objectives.task import SplitConfig, Task, TaskConfig
from objectives.weights import TensorSpec, WeightSource

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineError",
    "Estimate",
    "Generation",
    "GenerationSettings",
    "Item",
    "ItemScore",
    "ObjectiveError",
    "Prompt",
    "SampleScore",
    "ScorerError",
    "SplitConfig",
    "Task",
    "TaskConfig",
    "TaskError",
    "TensorSpec",
    "WeightSource",
    "aggregate",
    "make_engine",
    "make_scorer",
    "score_task",
    "summarize",
]
