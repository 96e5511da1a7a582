"""Samplers that are not ours, by name: those of Optuna, those that Python packages register, and classes of modules.

    sampler("optuna:TPESampler", {"multivariate": True}, population=20, seed=1)

A package registers a sampler as an entry point of the group `ofa.samplers`; `optuna:NAME` then finds it. Without that,
`optuna:package.module:Class` is found wherever the module can be imported.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from search.errors import ProblemError
from search.islands.island import quiet_study

PREFIX = "optuna:"
GROUP = "ofa.samplers"  # of entry points


def sampler(name: str, settings: Mapping[str, Any], population: int, seed: int) -> BaseSampler:
    """The sampler of this name with these keyword arguments, for studies of several objectives.

    population: its `population_size`, if it has that argument and the settings do not give it.
    Raises a `ProblemError` for a name or settings that cannot be used.
    """
    kind = _class(name)
    try:
        return _made(kind, settings, population, seed)
    except _Unusable as error:
        raise ProblemError(f"{name} {error}") from None


def check(name: str, settings: Mapping[str, Any], population: int) -> None:
    """Raises the `ProblemError` of a sampler that cannot be used, after a short study with it."""
    found = _class(name)
    try:
        _try(found, settings, population)
    except _Unusable as error:
        raise ProblemError(f"{name} {error}") from None


def names() -> list[str]:
    """The samplers that can be used: Optuna's own for several objectives, and those that packages register."""
    return [f"{PREFIX}{name}" for name in (*_usable(), *_registered())]


def seed_of(text: str) -> int:
    """The seed of a sampler, below 2**32: a number is its own seed, modulo 2**32; of another text, a hash."""
    number = int(text) if text.removeprefix("-").isdecimal() else int(hashlib.sha256(text.encode()).hexdigest(), 16)
    return number % 2**32


class _Unusable(Exception):
    """The reason why a sampler cannot be used, as the end of a sentence that starts with its name."""


def _optunas() -> dict[str, type[BaseSampler]]:
    """The samplers of `optuna.samplers` that are no base classes."""
    found = {name: getattr(optuna.samplers, name) for name in optuna.samplers.__all__}
    return {name: kind for name, kind in found.items() if _is_sampler(kind) and not inspect.isabstract(kind)}


def _usable() -> list[str]:
    found = []
    for name, kind in _optunas().items():
        try:
            _try(kind, {}, population=4)
        except _Unusable:
            continue
        found.append(name)
    return found


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def _is_sampler(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseSampler)


def _class(name: str) -> type[BaseSampler]:
    """The class of this name; raises a `ProblemError` that lists the samplers there are for an unknown one."""
    short = name.removeprefix(PREFIX)
    if short in (own := _optunas()):
        return own[short]
    registered, (module, _, attribute) = _registered(), short.partition(":")
    if short not in registered and not (module and attribute):
        raise ProblemError(
            f"no sampler is called {name!r}; there are {', '.join(names())}; any other is {PREFIX}package.module:Class"
        )
    try:
        kind = registered[short].load() if short in registered else getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ProblemError(f"{name} cannot be imported: {_line(error)}") from None
    if not _is_sampler(kind) or inspect.isabstract(kind):
        raise ProblemError(f"{name} is no sampler of Optuna; give a subclass of optuna.samplers.BaseSampler")
    found: type[BaseSampler] = kind
    return found


def _made(kind: type[BaseSampler], settings: Mapping[str, Any], population: int, seed: int) -> BaseSampler:
    """A sampler of this class; raises `_Unusable`."""
    arguments = {name: p for name, p in inspect.signature(kind).parameters.items() if p.kind is not p.VAR_POSITIONAL}
    any_name = any(p.kind is p.VAR_KEYWORD for p in arguments.values())
    if "seed" not in arguments and not any_name:
        raise _Unusable("takes no seed, so that a search could not be repeated")
    if "seed" in settings:
        raise _Unusable("has the seed of the run; leave it out of its settings")
    unknown = next((name for name in settings if name not in arguments and not any_name), None)
    if unknown is not None:
        there = [name for name, p in arguments.items() if name != "seed" and _is_plain(p)]
        raise _Unusable(f"has no setting {unknown!r}; it has {', '.join(there) or 'none'}")
    given = {"population_size": population} if "population_size" in arguments else {}
    given |= {"seed": seed, **settings}
    lacking = [
        name for name, p in arguments.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD and name not in given
    ]
    if lacking:
        raise _Unusable(f"needs {', '.join(lacking)}, which its settings do not give; give it, or use another sampler")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**given)
    except Exception as error:  # whatever a sampler raises for its arguments
        raise _Unusable(f"cannot be used with its settings: {_line(error)}") from None


def _is_plain(parameter: inspect.Parameter) -> bool:
    """Whether a setting may give this argument; an argument without annotation may be anything."""
    kind = str(parameter.annotation)
    if parameter.kind is parameter.VAR_KEYWORD or "Callable" in kind:
        return False
    return parameter.annotation is parameter.empty or any(name in kind for name in ("int", "float", "bool", "str"))


def _try(kind: type[BaseSampler], settings: Mapping[str, Any], population: int) -> None:
    """Runs three trials of two objectives; raises `_Unusable`."""
    made = _made(kind, settings, population, seed=0)
    study = quiet_study(("maximize", "minimize"), made)
    try:
        for _ in range(3):
            trial = study.ask()
            study.tell(trial, [trial.suggest_categorical("gene", (0, 1)), 1])
    except Exception as error:  # whatever a sampler raises for a study that it does not support
        raise _Unusable(f"cannot be used: {_line(error)}") from None
    try:
        copy.deepcopy(study)
    except Exception as error:
        raise _Unusable(f"cannot be copied, as a sampler in another process must be: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
