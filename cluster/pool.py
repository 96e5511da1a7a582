"""A pool of Ray actors that share large arrays and each do one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from cluster.errors import StepError

ATTEMPTS = 4  # of one task; each lost one took its actor with it


class _Actor:
    """Builds its worker once, then calls it."""

    def __init__(self, build: Callable[[Mapping[str, np.ndarray]], Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.worker = build(arrays)

    def call(self, method: str, argument: Any) -> Any:
        return getattr(self.worker, method)(argument)


class Pool:
    """`workers` actors, each made by `build(arrays)`; one that dies is replaced and its tasks run again.

    The arrays go into the object store once; on every node all actors read the same copy, which is read-only.
    """

    def __init__(
        self, build: Callable[[Mapping[str, np.ndarray]], Any], arrays: Mapping[str, np.ndarray], workers: int
    ) -> None:
        self.build = build
        self.arrays = ray.put(dict(arrays))
        self.actors = [self._actor() for _ in range(workers)]
        self.replaced: dict[Any, Any] = {}

    def _actor(self) -> Any:
        return ray.remote(num_cpus=1)(_Actor).remote(self.build, self.arrays)

    def map(self, method: str, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(index, worker.method(argument)) of every argument, as they finish; an actor has one waiting task ahead."""
        waiting = list(range(len(arguments)))[::-1]
        lost = [0] * len(arguments)
        running: dict[Any, tuple[int, Any]] = {}

        def submit(actor: Any) -> None:
            if waiting:
                index = waiting.pop()
                running[actor.call.remote(method, arguments[index])] = (index, actor)

        for actor in [*self.actors, *self.actors]:
            submit(actor)
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            index, actor = running.pop(ready[0])
            try:
                answer = ray.get(ready[0])
            except (ActorDiedError, ActorUnavailableError) as error:
                lost[index] += 1
                if lost[index] == ATTEMPTS:
                    reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
                    raise StepError(
                        f"{method} lost its process {ATTEMPTS} times at {arguments[index]} ({reason}); "
                        "if memory ran out, use fewer ray.evaluators"
                    ) from None
                waiting.append(index)
                submit(self._replacement(actor))
                continue
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            submit(actor)
            yield index, answer

    def _replacement(self, dead: Any) -> Any:
        """The actor that took the place of `dead`; the first of its lost tasks brings a new one."""
        if dead in self.actors:
            self.replaced[dead] = self.actors[self.actors.index(dead)] = self._actor()
        return self.replaced[dead]

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)
