"""`latency.json`, `validated.json` and `batch.json`: times of a run's networks on a device, in ms for one image."""

from __future__ import annotations

from dataclasses import dataclass

from ofa.arch import Arch
from ofa.documents import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchLatency(Document):
    """The median latency of one sub-network, and half the distance between its quartiles, in milliseconds."""

    arch: Arch
    latency_ms: float
    latency_spread_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies(Document):
    """Latencies of extracted sub-networks on one device."""

    device: str
    threads: int
    batch: int  # images that are processed together
    runs: int  # timed runs of each network
    rows: tuple[ArchLatency, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedMember(Document):
    """A member of the front, extracted: its measured and predicted top-1 (fractions) and latency."""

    key: str
    top1: float
    predicted_top1: float
    latency_ms: float
    latency_spread_ms: float
    predicted_latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated(Document):
    """Every member of the front, extracted and measured as it would be deployed, on one device."""

    device: str
    threads: int
    batch: int
    members: tuple[ValidatedMember, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTime(Document):
    """The median milliseconds for one image where an evaluation takes `batch` images at a time."""

    batch: int
    image_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes(Document):
    """The times of an evaluation of one sub-network on one device, by the images that it takes at a time."""

    device: str
    arch: Arch
    rows: tuple[BatchTime, ...]  # ascending sizes, at least one

    @property
    def fastest(self) -> BatchTime:
        """The row with the lowest time; of equal ones that with the smallest batch."""
        return min(self.rows, key=lambda row: row.image_ms)
