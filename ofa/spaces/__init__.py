"""Every search space by name; each file here describes one space or one family of them.

Adding a space is adding a file with a `SPACES` tuple.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ofa.arch import ArchError
from ofa.space import Space


@cache
def _all() -> dict[str, Space]:
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {space.name: space for module in modules for space in module.SPACES}


def get_space(name: str) -> Space:
    """The space called `name`; an unknown name is an `ArchError` that lists those there are."""
    if name not in _all():
        raise ArchError(f"no space is called {name!r}; there are {', '.join(sorted(_all()))}")
    return _all()[name]
