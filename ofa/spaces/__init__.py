"""Every search space by name; each file here describes one space or one family of them.

A new space is a new file with `NAMES`, the names to list, and `find(name)`, which returns a space or None.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from ofa.arch import ArchError
from ofa.space import Space


@cache
def _families() -> list[ModuleType]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return [module for module in modules if hasattr(module, "NAMES")]  # the others are families that several files use


@cache
def get_space(name: str) -> Space:
    """The space called `name`; an unknown name is an `ArchError` that lists the known ones."""
    for family in _families():
        space: Space | None = family.find(name)
        if space is not None:
            return space
    names = sorted(name for family in _families() for name in family.NAMES)
    raise ArchError(f"no space is called {name!r}; there are {', '.join(names)}")
