"""The latest state of a running training, published so that a kill at any moment loses little work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from cluster.records import CHECKED, Digest, Key, NotNegative, RecordError, document
from cluster.run import DamagedObject, Run
from cluster.stores.errors import MissingObject
from cluster.texts import json_text, sha256


def weights(folder: str, phase: str) -> str:
    """The key of the weights at the end of a phase, in the folder of a training."""
    return f"{folder}/{phase}/weights.safetensors"


def meta(folder: str, phase: str) -> str:
    """The key of the description of a phase and its training."""
    return f"{folder}/{phase}/meta.json"


@dataclass
class Progress:
    """The next step, the reports of the training so far, and the sha256 of the finished phases' weights."""

    __pydantic_config__: ClassVar[Any] = CHECKED
    phase: NotNegative = 0
    epoch: NotNegative = 0
    step: NotNegative = 0
    loss_sum: float = 0.0  # sum of the losses of the current epoch's steps
    history: list[dict[str, Any]] = field(default_factory=list)
    phases: dict[str, Digest] = field(default_factory=dict)


@dataclass(frozen=True)
class Pointer:
    """The record of the latest state: its number, its key, and its sha256."""

    __pydantic_config__: ClassVar[Any] = CHECKED
    number: NotNegative
    object: Key
    sha256: Digest
    progress: Progress


def _progress(doc: dict[str, Any]) -> Progress:
    return Progress(**{f.name: doc[f.name] for f in fields(Progress) if f.name in doc})  # a newer version may have more


class Checkpoints:
    """The checkpoints of one training, in a folder of a run.

    The state is written first, then the pointer to it, then the old state is deleted. States are named by their content:
    workers of a killed driver, which live on for some seconds, cannot overwrite the states of their successors.
    """

    def __init__(self, run: Run, folder: str) -> None:
        self.run, self.folder = run, folder
        self.pointer = f"{folder}/checkpoint.json"

    def state_key(self, phase: str, digest: str) -> str:
        """The key of the state with this sha256 of an unfinished phase; the pointer names the latest."""
        return f"{self.folder}/{phase}/checkpoint-{digest[:16]}.safetensors"

    def save(self, state: bytes, progress: Progress, phase: str) -> None:
        """Publishes `state` as the latest."""
        self._publish(self.state_key(phase, sha256(state)), state, progress)

    def finish_phase(
        self, weights_data: bytes, meta_data: bytes, progress: Progress, phase: str, state: bytes | None = None
    ) -> None:
        """Publishes a finished phase; `progress`, which already names it, continues from `state`, or from its weights."""
        self.run.store.write(f"{self.run.id}/{meta(self.folder, phase)}", meta_data)
        if state is None:
            return self._publish(weights(self.folder, phase), weights_data, progress)
        self.run.store.write(f"{self.run.id}/{weights(self.folder, phase)}", weights_data)
        return self._publish(self.state_key(phase, sha256(state)), state, progress)

    def latest(self) -> tuple[bytes, Progress] | None:
        """The latest state, or None if nothing was saved yet; raises an error for a damaged one instead of restarting."""
        pointer = self._pointer()
        while pointer is not None:
            try:
                return self._checked(pointer["object"], pointer["sha256"]), _progress(pointer["progress"])
            except DamagedObject:
                previous, pointer = pointer, self._pointer()
                if pointer == previous:  # otherwise another process has just published a newer one
                    raise
        return None

    def phase(self, name: str, progress: Progress) -> bytes:
        """The weights of a finished phase."""
        return self._checked(weights(self.folder, name), progress.phases[name])

    def replaced(self, keys: Sequence[str]) -> list[str]:
        """Those of the run's keys that are states of this training, and not the latest, which the pointer names."""
        pointer = self._pointer()
        states = [
            key for key in keys if key.startswith(f"{self.folder}/") and "/checkpoint-" in key.removeprefix(self.folder)
        ]
        return [key for key in states if pointer is not None and key != pointer["object"]]

    def _publish(self, key: str, data: bytes, progress: Progress) -> None:
        previous = self._pointer()
        self.run.store.write(f"{self.run.id}/{key}", data)
        number = previous["number"] + 1 if previous else 1
        pointer = {"number": number, "object": key, "sha256": sha256(data), "progress": asdict(progress)}
        self.run.store.write(f"{self.run.id}/{self.pointer}", json_text(pointer, indent=1).encode())
        if previous and "/checkpoint-" in previous["object"] and previous["object"] != key:
            self.run.store.delete(f"{self.run.id}/{previous['object']}")

    def _pointer(self) -> dict[str, Any] | None:
        try:
            return document(self.run.raw(self.pointer), Pointer)
        except MissingObject:
            return None
        except RecordError as error:
            raise self._damaged(self.pointer, f"is no pointer to a checkpoint: {error}") from None

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
            f"{self.run.url}/{key}: {what}; delete {self.run.url}/{self.folder} to train anew, or restore the object"
        )
