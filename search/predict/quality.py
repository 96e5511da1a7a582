"""`predictor/quality.json`: the errors and rank correlations of a run's predictors on held-out rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ofa.documents import Document


def held_out_rows(rows: int, share: float) -> int:
    """The number of rows that are held out of a predictor's training."""
    return max(2, round(share * rows))


@dataclass(frozen=True, slots=True)
class Quality(Document):
    """The errors and rank correlation of a predictor on held-out rows."""

    kind: str
    cross_validation: dict[str, float]  # Kendall's tau of the candidate kinds, best first
    rows: int  # training rows
    held_out: int
    rmse: float  # in the unit of the truth
    kendall_tau: float
    coverage: float  # share of held-out rows within 1.96 times the spread
    truth: tuple[float, ...]  # of the held-out rows
    predicted: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class DeviceQuality(Quality):
    """The quality of a predictor of a device's latency."""

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
