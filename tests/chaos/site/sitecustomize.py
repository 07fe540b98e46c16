"""On the path of every process of a chaos run: its `scripted` engine asks a child process.

A search file names engines of the product only, and the product's scripted engine neither looks at
the recipe nor has a process that could be killed. So the table of engines gets another one where
it is first imported; nothing else is changed.
"""

import importlib.abc
import importlib.machinery
import sys

_TABLE = "objectives.engines.config"


class _Swap(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != _TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            module.ENGINES["scripted"] = "tests.chaos.engine:AskingEngine"

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Swap())
