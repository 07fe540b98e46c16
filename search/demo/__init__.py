"""A demo that needs no download: a tiny bilingual world and three models trained in it."""

from .trio import DemoError, Trio, ensure_trio
from .world import write_items

__all__ = ["DemoError", "Trio", "ensure_trio", "write_items"]
