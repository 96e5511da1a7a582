"""The interface of a measured search's islands, and calls of one that runs in another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from search.islands.breeder import Individual, Packed


class AskTell(Protocol):
    """A proposer of archs in a measured search: an evolved population, a predictor, or a uniform sampler."""

    @property
    def parents(self) -> Sequence[Individual]:
        """The population that the latest proposals were bred from; empty where there is none."""
        ...

    def tell(self, evaluated: Sequence[Individual]) -> None:
        """Adds the values of archs that it proposed, and of others to learn from."""
        ...

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Adds archs that are pending elsewhere, which `ask` then leaves out.

        The search reports the value of one that is proposed all the same; nothing is evaluated twice.
        """
        ...

    def ask(self, count: int) -> list[Packed]:
        """At most `count` new archs; fewer only where the space is nearly exhausted."""
        ...


class Lost(Exception):
    """An island's process died with its state, and was replaced by a new one."""


class Port(Protocol):
    """A connection to an island, possibly in another process: one asynchronous call at a time."""

    @property
    def busy(self) -> bool:
        """Whether a call was started whose result was not taken yet."""
        ...

    def call(self, method: str, *arguments: Any) -> None:
        """Starts a call of a method."""
        ...

    def finished(self) -> bool:
        """Whether the call has ended."""
        ...

    def answer(self) -> Any:
        """The result of the call; raises `Lost` if the process died with it."""
        ...


class LocalPort:
    """The port of an island in this process."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.island = build()
        self.busy = False
        self._answer: Any = None

    def call(self, method: str, *arguments: Any) -> None:
        """Calls the method at once."""
        self._answer, self.busy = getattr(self.island, method)(*arguments), True

    def finished(self) -> bool:
        """Returns True: a call is complete when `call` returns."""
        return True

    def answer(self) -> Any:
        """The result of the last call."""
        self.busy = False
        return self._answer


class Endpoint:
    """The island's side of a port."""

    def __init__(self, island: AskTell) -> None:
        self.island = island

    def exchange(self, evaluated: Sequence[Individual], avoid: Sequence[Packed], count: int) -> list[Packed]:
        """Passes values and pending archs to the island, and returns `count` new proposals."""
        self.island.tell(evaluated)
        self.island.avoid(avoid)
        return self.island.ask(count)
