"""Runs functions as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray

T = TypeVar("T")
R = TypeVar("R")


def ray_map(function: Callable[[T], R], items: Iterable[T], gpus: float = 0) -> list[R]:
    """The results of `function(item)` for every item, each in a Ray task, in order; a task is retried if its process dies.

    The tasks claim no CPU; they are for short work between long-lived actors. gpus: of each task.
    """
    task: Any = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=3)(_call)
    return list(ray.get([task.remote(function, item) for item in items]))


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)
