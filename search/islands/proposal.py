"""Batches of archs to measure next: the predictions are searched, and a part of the front that they have is picked.

Shape letters in this file: B archs, G genes, M objectives, N measured archs, P candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ofa.genes import Genes
from ofa.space import Space
from search import predicted
from search.errors import InfeasibleError
from search.front import hypervolume, nondominated
from search.islands.breeder import Breeder, Individual, Packed, elites, within
from search.objective import Column, Objective, minimised, violations

_MARGIN = 0.1  # distance of the reference point beyond the worst values that it is set by, as a share of the front's span
_PARENTS = 50  # known archs from which others are bred

# Candidates with their predicted values [P, M], and the values [N, M] of the archs that are there, to the indices of at most
# so many candidates.
Pick = Callable[[Sequence[Objective], np.ndarray, np.ndarray, int], list[int]]


def propose(
    space: Space,
    objectives: Sequence[Objective],
    values_NM: np.ndarray,
    taken: set[Packed],
    count: int,
    *,
    columns: Sequence[Column],
    pick: Pick,
    evaluations: int,
    members: int,
    rng: np.random.Generator,
) -> list[Packed]:
    """At most `count` new archs, which `pick` selects from the non-dominated predictions.

    values_NM: the unscaled values of the measured archs. taken: all archs that must not be proposed, measured or pending.
    columns: the prediction of each objective, in the order of `objectives`. evaluations: number of archs that the search of
    the predictions evaluates. members: the most candidates that `pick` gets.
    Fewer than `count` are proposed where the predictions have fewer new candidates or `pick` leaves some out; `bred` makes
    more.
    """

    def evaluate(genes_BG: np.ndarray) -> np.ndarray:
        return np.stack([column(genes_BG) for column in columns], axis=1)

    try:
        found = predicted.search(
            space, objectives, evaluate, evaluations=evaluations, members=members, seed=int(rng.integers(2**31))
        )
    except InfeasibleError:  # none of the predictions is within the objectives' bounds
        return []
    genes = Genes(space)
    packed = genes.pack_all(genes.encode(found.archs))
    new = [i for i, p in enumerate(packed) if p not in taken]
    return [packed[new[i]] for i in pick(objectives, found.values[new], values_NM, count)]


def bred(
    genes: Genes,
    objectives: Sequence[Objective],
    known: Sequence[Individual],
    taken: set[Packed],
    count: int,
    rng: np.random.Generator,
) -> list[Packed]:
    """At most `count` new archs bred from the non-dominated known ones, which are added to `taken`.

    Fewer only where the space is nearly exhausted.
    """
    directions = [o.direction for o in objectives]
    breeder = Breeder(genes, directions, rng)
    breeder.adopt(elites(within(objectives, known), directions, _PARENTS))
    return breeder.children(count, taken)


def inside(objectives: Sequence[Objective], values_NM: np.ndarray) -> np.ndarray:
    """The rows of unscaled values within the objectives' bounds; all of them where none is."""
    inside_N = violations(objectives, values_NM) <= 0
    return values_NM[inside_N] if inside_N.any() else values_NM


def volume_scale(
    objectives: Sequence[Objective], values_NM: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The front of measured values within the bounds, as points to minimise in units of its span from its least values.

    Returns these points [N, M], the least values [M], the span [M] and the reference point [M] in those units: a tenth of
    the span beyond the front in a quality, and in a cost beyond its bound or the most costly measured arch, the lesser one.
    What costs more than all of the front may still be better than it: with a reference point near the front, the search
    never measures such archs.
    """
    points_NM, all_NM = minimised(objectives, inside(objectives, values_NM)), minimised(objectives, values_NM)
    front_NM = np.unique(points_NM[nondominated(points_NM)], axis=0)
    low_M, high_M = front_NM.min(axis=0), front_NM.max(axis=0)
    span_M, all_M = high_M - low_M, np.ptp(points_NM, axis=0)
    span_M = np.where(span_M > 0, span_M, np.where(all_M > 0, all_M, 1.0))  # a front may be a single point
    bound_M = np.array([np.inf if o.bound is None or o.direction == "maximize" else o.bound for o in objectives])
    most_M = np.maximum(np.minimum(all_NM.max(axis=0), bound_M), high_M)
    worst_M = np.where([o.direction == "minimize" for o in objectives], most_M, high_M)
    return (front_NM - low_M) / span_M, low_M, span_M, (worst_M - low_M) / span_M + _MARGIN


def pick_by_hypervolume(
    objectives: Sequence[Objective], values_PM: np.ndarray, there_NM: np.ndarray, count: int
) -> list[int]:
    """A `Pick`: each candidate for the most hypervolume that it adds; those that add nothing are left out.

    The reference point is that of `volume_scale`. A candidate's gain never grows while others are added, so only the most
    promising are computed anew.
    """
    if not len(values_PM):
        return []
    there_NM, low, span, reference = volume_scale(objectives, there_NM)
    points_BM = (minimised(objectives, values_PM) - low) / span
    volume = hypervolume(there_NM, reference)
    bound = dict.fromkeys(range(len(points_BM)), np.inf)
    picked: list[int] = []
    while bound and len(picked) < count:
        fresh: set[int] = set()
        while True:
            best = max(bound, key=lambda i: (bound[i], -i))
            if best in fresh or bound[best] <= 0:
                break
            bound[best] = hypervolume(np.concatenate([there_NM, points_BM[best : best + 1]]), reference) - volume
            fresh.add(best)
        if bound.pop(best) <= 1e-12:
            break
        picked.append(best)
        there_NM = np.concatenate([there_NM, points_BM[best : best + 1]])
        there_NM = there_NM[nondominated(there_NM)]
        volume = hypervolume(there_NM, reference)
    return picked
