"""What the exits of one network reach: alone, added up, and as a cascade that images leave when it is confident."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ensemble.cascade import Outcome, curve
from ensemble.document import CascadeResult, ExitResult, Exits, TunedCascade
from ensemble.exit_subsets import scored
from ensemble.intervals import interval
from jobs.config import Experiment
from ofa.arch import Arch
from ofa.cost import cost
from ofa.evaluate import Evaluator
from ofa.exits import combined, exit_weights
from ofa.images import Split
from ofa.record import Measured

SHOWN = 40  # most cascades of a curve that are kept


@dataclass(frozen=True)
class Predictions:
    """The logits of all exits of a network on one split. logits_ENC: float64 [exits, images, classes]."""

    logits_ENC: np.ndarray
    labels_N: np.ndarray

    @classmethod
    def of(cls, evaluator: Evaluator, arch: Arch, split: Split) -> Predictions:
        """The predictions of every exit up to the arch's own, in one pass."""
        exits = tuple(range(1, arch.exit + 1))
        return cls(evaluator.logits_by_exit(arch, exits, split).double().numpy(), split.labels.numpy())

    @property
    def confidence_EN(self) -> np.ndarray:
        """The largest probability at each exit."""
        shifted = np.exp(self.logits_ENC - self.logits_ENC.max(axis=2, keepdims=True))
        return np.asarray(1 / shifted.sum(axis=2))

    @property
    def right_EN(self) -> np.ndarray:
        """Whether each exit is right."""
        return np.asarray(self.logits_ENC.argmax(axis=2) == self.labels_N)


def network_of(members: tuple[Measured, ...]) -> Arch | None:
    """The network whose exits are looked at: the most accurate of the front with more than one; None if there is none."""
    several = [member for member in members if member.arch.exit > 1]
    return max(several, key=lambda member: member.top1).arch if several else None


def cascade_costs(config: Experiment, arch: Arch, classes: int) -> np.ndarray:
    """The MACs for an image that leaves at each exit, with the heads of all exits before it: float64 [E]."""
    space = config.search_space
    return np.array([cost(space, replace(arch, exit=last), classes, tuple(range(1, last + 1))).macs
                     for last in range(1, arch.exit + 1)], dtype=np.float64)  # fmt: skip


def exit_results(config: Experiment, arch: Arch, classes: int, selection: Predictions, test: Predictions) -> Exits:
    """The document of a network's exits; everything is chosen on the selection split and reported on both."""
    space = config.search_space
    weights = config.train.teacher_exits if config.train.teacher_exits != "last" else "uniform"
    each = exit_weights(weights, arch.exit)
    best = scored(selection.logits_ENC, selection.labels_N, each)[0]

    def result(exits: tuple[int, ...], macs: int) -> ExitResult:
        right = []
        for split in (selection, test):
            total = combined([split.logits_ENC[i - 1] for i in exits], [each[i - 1] for i in exits])
            right.append(int((total.argmax(axis=1) == split.labels_N).sum()))
        return ExitResult(
            exits=exits,
            macs=macs,
            top1=right[0] / len(selection.labels_N),
            test_top1=right[1] / len(test.labels_N),
            test_interval=interval(right[1], len(test.labels_N)),
        )

    singles = tuple(result((last,), cost(space, replace(arch, exit=last), classes).macs) for last in range(1, arch.exit + 1))
    cost_E = cascade_costs(config, arch, classes)
    found = curve(selection.confidence_EN, selection.right_EN, cost_E)
    kept = [found[i] for i in sorted({round(i) for i in np.linspace(0, len(found) - 1, SHOWN)})]
    return Exits(
        arch=arch,
        singles=singles,
        weights=weights,
        kept=result(best.exits, cost(space, replace(arch, exit=best.exits[-1]), classes, best.exits).macs),
        cascade=tuple(cascade_result(one, selection, test, cost_E) for one in kept),
    )


def tuned_cascade(chosen: Outcome, selection: Predictions) -> TunedCascade:
    """A cascade's average cost and accuracy on the split that it was tuned on."""
    return TunedCascade(
        thresholds=chosen.cascade.thresholds, macs=chosen.cost, top1=chosen.correct / len(selection.labels_N)
    )


def cascade_result(chosen: Outcome, selection: Predictions, test: Predictions, cost_E: np.ndarray) -> CascadeResult:
    """A cascade's average cost and accuracy on the split that it was tuned on, and on the test split."""
    tested = chosen.cascade.outcome(test.confidence_EN, test.right_EN, cost_E)
    images, found = len(test.labels_N), tuned_cascade(chosen, selection)
    return CascadeResult(
        thresholds=found.thresholds,
        macs=found.macs,
        top1=found.top1,
        test_macs=tested.cost,
        test_top1=tested.correct / images,
        test_interval=interval(tested.correct, images),
    )
