"""Runs functions as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import ray

T = TypeVar("T")
R = TypeVar("R")


def ray_map(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`function(item)` of every item, each in a Ray task, results in order; a task is retried if its process dies.

    The tasks claim no CPU, for short work between long-lived actors.
    """
    task: Any = ray.remote(num_cpus=0, max_retries=3)(_call)
    return list(ray.get([task.remote(function, item) for item in items]))


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)
