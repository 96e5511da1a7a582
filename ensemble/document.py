"""`ensembles.json`: the chosen subsets of a front's members, with their scores.

Costs are in the document's unit, accuracies and gains are fractions, intervals are 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ofa.arch import Arch
from ofa.documents import Document, json_name

if TYPE_CHECKING:
    from ensemble.vote import Voting


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSubset(Document):
    """A subset with its accuracy on the split that it was chosen on (`top1`) and on the test split."""

    members: tuple[int, ...]  # indices in the front
    cost: float
    top1: float
    test_top1: float
    test_interval: tuple[float, float]
    weights: tuple[float, ...] = ()  # of the members' votes; () means equal weights
    single: int | None = None  # of an ensemble: the best single member within its cost, chosen on the same split
    gain: float | None = None  # over `single`, on the test split
    gain_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimism(Document):
    """The accuracy of the best subset on the split that it was chosen on, less its accuracy on the test split."""

    drop: float  # of the best subset's accuracy, from one split to the other
    typical_drop: float  # mean drop of the single members: the difference in difficulty between the splits
    gap: float  # the part that is due to choosing the best of many (winner's curse): drop - typical_drop


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetFront(Document):
    """The subsets that no other beats in cost and accuracy on the split of the selection, in ascending cost."""

    cost: str  # name of the cost rule
    unit: str
    members: tuple[ScoredSubset, ...]
    optimism: Optimism = field(metadata=json_name("curse"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensembles(SubsetFront):
    """The front for a run's first cost rule, those for its other rules, and every single member."""

    other_costs: tuple[SubsetFront, ...]
    singles: tuple[ScoredSubset, ...]
    vote: str
    temperatures: tuple[float, ...] = ()  # of the members; () means 1 for all

    @classmethod
    def of(cls, fronts: Sequence[SubsetFront], singles: tuple[ScoredSubset, ...], voting: Voting) -> Ensembles:
        """The document of these fronts; the first is that of the run's first cost rule."""
        first, *others = fronts
        return cls(
            cost=first.cost,
            unit=first.unit,
            members=first.members,
            optimism=first.optimism,
            other_costs=tuple(others),
            singles=singles,
            vote=voting.vote,
            temperatures=voting.temperatures,
        )

    @property
    def fronts(self) -> tuple[SubsetFront, ...]:
        """The front of each cost rule, in the run's order."""
        return (self, *self.other_costs)

    @property
    def best(self) -> ScoredSubset:
        """The most accurate subset for the first cost rule."""
        return self.members[-1]

    @property
    def best_of_several(self) -> ScoredSubset:
        """The most accurate subset with two members or more for the first cost rule; of all subsets if there is none."""
        several = [subset for subset in self.members if len(subset.members) > 1]
        return (several or self.members)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset(Document):
    """A subset chosen from a predictions file, with its accuracy on that file's images."""

    members: tuple[int, ...]
    cost: float
    top1: float
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEnsembles(Document):
    """The document of a selection from a predictions file, without a run."""

    cost: str
    unit: str
    vote: str
    members: tuple[Subset, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitResult(Document):
    """One exit of a network alone, or several whose weighted logits are added up; costs are exact MACs for one image."""

    exits: tuple[int, ...]
    macs: int
    top1: float  # on the selection split
    test_top1: float
    test_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedCascade(Document):
    """A cascade of all exits: an image leaves at the first whose largest probability is above the exit's threshold."""

    thresholds: tuple[float, ...]  # of every exit but the last, tuned on the selection split
    macs: float  # average on the selection split
    top1: float  # on the selection split


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeResult(TunedCascade):
    """A cascade with its cost and accuracy on the test split."""

    test_macs: float
    test_top1: float
    test_interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits(Document):
    """`exits.json`: what the exits of one network of the front reach, alone, together, and as a cascade."""

    arch: Arch
    singles: tuple[ExitResult, ...]
    weights: str  # of the exits in `kept`, a name in `ofa.exits.WEIGHTS`
    kept: ExitResult  # the subset of exits that is the most accurate on the selection split (AEP, arXiv:2301.12168)
    cascade: tuple[CascadeResult, ...]  # ascending in cost
