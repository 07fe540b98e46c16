"""Demos that need no download: tiny worlds of two or three languages, models trained in them."""

from .process import DemoError
from .trio import Trio, ensure_trio
from .wide import Wide, ensure_wide
from .world import write_items

__all__ = [
    "DemoError",
    "Trio",
    "Wide",
    "ensure_trio",
    "ensure_wide",
    "write_items",
]
