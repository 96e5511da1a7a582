"""Where a training under way stands: the latest state, published so that a kill at any moment loses little."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster import run as keys
from cluster.run import DamagedObject, Run, sha256
from cluster.store import MissingObject


@dataclass
class Progress:
    """The next step to do, what training reported so far, and the finished phases' weights by sha256."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0  # over the steps of the epoch under way
    history: list[dict[str, Any]] = field(default_factory=list)
    phases: dict[str, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run. The state goes first, then the pointer to it, then the old state goes away.

    States are named by their content: workers of a killed driver, which live on for some seconds, cannot spoil what
    their successors write.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def save(self, state: bytes, progress: Progress, phase: str) -> None:
        """Makes `state` the latest."""
        self._publish(keys.supernet_checkpoint(phase, sha256(state)), state, progress)

    def finish_phase(self, weights: bytes, meta: bytes, progress: Progress, phase: str) -> None:
        """Publishes a finished phase; `progress`, which already names it, continues from its weights."""
        self.run.store.write(f"{self.run.id}/{keys.supernet_meta(phase)}", meta)
        self._publish(keys.supernet(phase), weights, progress)

    def latest(self) -> tuple[bytes, Progress] | None:
        """The latest state, or None if nothing was saved yet; a damaged one is an error, not a silent restart."""
        pointer = self._pointer()
        while pointer is not None:
            try:
                return self._checked(pointer["object"], pointer["sha256"]), Progress(**pointer["progress"])
            except DamagedObject:
                previous, pointer = pointer, self._pointer()
                if pointer == previous:  # otherwise somebody has just published a newer one
                    raise
        return None

    def phase(self, name: str, progress: Progress) -> bytes:
        """The weights of a finished phase."""
        return self._checked(keys.supernet(name), progress.phases[name])

    def _publish(self, key: str, data: bytes, progress: Progress) -> None:
        previous = self._pointer()
        self.run.store.write(f"{self.run.id}/{key}", data)
        number = previous["number"] + 1 if previous else 1
        pointer = {"number": number, "object": key, "sha256": sha256(data), "progress": asdict(progress)}
        self.run.store.write(f"{self.run.id}/{keys.CHECKPOINT}", json.dumps(pointer, indent=1).encode())
        if previous and "/checkpoint-" in previous["object"] and previous["object"] != key:
            self.run.store.delete(f"{self.run.id}/{previous['object']}")

    def _pointer(self) -> dict[str, Any] | None:
        try:
            pointer: dict[str, Any] = json.loads(self.run.raw(keys.CHECKPOINT))
        except MissingObject:
            return None
        except ValueError:
            raise self._damaged(keys.CHECKPOINT, "is not JSON") from None
        return pointer

    def _checked(self, key: str, digest: str) -> bytes:
        try:
            data = self.run.raw(key)
        except MissingObject:
            raise self._damaged(key, "is missing") from None
        if sha256(data) != digest:
            raise self._damaged(key, f"is damaged (sha256 {sha256(data)[:12]}, was written as {digest[:12]})")
        return data

    def _damaged(self, key: str, what: str) -> DamagedObject:
        return DamagedObject(
            f"{self.run.url}/{key}: {what}; delete {self.run.url}/supernet to train anew, or restore the object"
        )
