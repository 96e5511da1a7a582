"""`predictor/quality.json`: how well a run's predictors do on held-out rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ofa.documents import Document


@dataclass(frozen=True, slots=True)
class Quality(Document):
    """How well a predictor does on held-out rows."""

    kind: str
    cross_validation: dict[str, float]  # Kendall's tau of the kinds that it was chosen from, best first
    rows: int  # it learned from
    held_out: int
    rmse: float  # in the unit of the truth
    kendall_tau: float
    coverage: float  # share of held-out rows within 1.96 times the spread
    truth: tuple[float, ...]  # of the held-out rows
    predicted: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DeviceQuality(Quality):
    """How well a predictor of a device's latency does."""

    device: str

    @classmethod
    def on(cls, device: str, quality: Quality) -> DeviceQuality:
        """`quality` of a predictor for this device."""
        return cls(**asdict(quality), device=device)


@dataclass(frozen=True, slots=True)
class PredictorQuality(Document):
    """The quality of both predictors of a run."""

    accuracy: Quality
    latency: DeviceQuality
