"""The document of `ofa tune`, `tune.json`: its trials, and which of them is the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.settings import Value
from ofa.documents import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Document):
    """A trial that has ended: its number, its settings, and its results.

    state: complete, stopped (by ASHA), or diverged. compared: the mean top-1 of the largest and the smallest network after
    every epoch, on the selection split. values: the objectives of a complete trial. reason: of a diverged one.
    """

    trial: int
    state: str
    settings: dict[str, bool | int | float | str]
    compared: tuple[float, ...]
    values: dict[str, float]
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials(Document):
    """All trials of a search, of which the first has the settings of the config.

    relative: the settings whose values are factors of those in the config. epochs: of a complete trial. best: its number.
    front: the numbers of the complete trials that no other is better than in every objective.
    """

    objectives: tuple[str, ...]
    relative: tuple[str, ...]
    epochs: int
    best: int
    front: tuple[int, ...]
    trials: tuple[Trial, ...]

    @property
    def best_trial(self) -> Trial:
        """The trial whose settings were chosen."""
        return next(trial for trial in self.trials if trial.trial == self.best)


def shown(settings: dict[str, Value], relative: tuple[str, ...]) -> str:
    """Settings in one line; factors have a multiplication sign."""
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return ", ".join(f"{name} {'×' if name in relative else '= '}{text}" for name, text in texts.items())


def points_of(trials: tuple[Trial, ...], objectives: tuple[str, ...]) -> np.ndarray:
    """The values [trials, objectives] of complete trials, all maximised."""
    return np.array([[trial.values[name] for name in objectives] for trial in trials])


def front_of(trials: tuple[Trial, ...], objectives: tuple[str, ...]) -> list[Trial]:
    """The complete trials that no other one dominates, in their order."""
    complete = tuple(trial for trial in trials if trial.state == "complete")
    if not complete:
        return []
    points_NM = points_of(complete, objectives)
    one, other = points_NM[:, None], points_NM[None]
    dominated_N = np.any(np.logical_and(np.all(one >= other, axis=2), np.any(one > other, axis=2)), axis=0)
    return [trial for trial, dominated in zip(complete, dominated_N, strict=True) if not dominated]


def best_of(trials: tuple[Trial, ...], objectives: tuple[str, ...]) -> Trial | None:
    """The member of the front with the highest mean of the objectives, each scaled to 0..1 over the complete trials.

    Of equal ones it is the first; None if no trial is complete.
    """
    members = front_of(trials, objectives)
    if not members:
        return None
    every_NM = points_of(tuple(trial for trial in trials if trial.state == "complete"), objectives)
    low_M, range_M = every_NM.min(axis=0), np.ptp(every_NM, axis=0)
    scaled_NM = (points_of(tuple(members), objectives) - low_M) / np.where(range_M > 0, range_M, 1.0)
    return members[int(scaled_NM.mean(axis=1).argmax())]


def ordered(trials: Trials) -> list[Trial]:
    """The best trial, the others of the front, complete ones by the first objective, and those that did not complete."""
    first = trials.objectives[0]

    def key(trial: Trial) -> tuple[bool, bool, bool, float, int, int]:
        return (trial.trial != trials.best, trial.trial not in trials.front, trial.state != "complete",
                -trial.values.get(first, 0.0), -len(trial.compared), trial.trial)  # fmt: skip

    return sorted(trials.trials, key=key)
