"""Selects one member of a front after a search, by limits, its knee, weights or a reference direction.

Shape letters in this file: N members, M objectives. Points are minimised, and scaled to 0..1 over the front where
objectives are weighed against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.record import Measured
from search.errors import InfeasibleError, ProblemError
from search.front import knee, nondominated
from search.objective import Objective, minimised, values
from search.problem import Limit


@dataclass(frozen=True, slots=True)
class Choice:
    """A selected member and its trade-offs.

    gives_up: by objective, how much worse the member is than the best of all members, in the objective's unit. next: the
    adjacent members of the front in the first objective.
    """

    member: Measured
    reason: str
    gives_up: Mapping[str, float]
    next: tuple[Measured, ...]


def choose(
    members: Sequence[Measured],
    objectives: Sequence[Objective],
    *,
    limits: Sequence[Limit] = (),
    weights: Mapping[str, float] | None = None,
    direction: Mapping[str, float] | None = None,
    at_knee: bool = False,
) -> Choice:
    """The member within all limits that is best by weights, a direction or the knee, else in the first objective.

    weights: of the scaled objectives, by name; the least weighted sum wins. direction: how much of each objective may be
    given up, by name; the least achievement scalarising function wins (Wierzbicki 1980; as pymoo's ASF). Objectives
    without a weight do not count. Raises an `InfeasibleError` if no member is within the limits.
    """
    if (weights is not None) + (direction is not None) + at_knee > 1:
        raise ProblemError("choose by one of weights, direction and knee, not by several")
    if not members:
        raise ProblemError("the front has no members")
    table = _points(members, objectives)
    points = minimised(objectives, table)
    within = np.ones(len(members), dtype=bool)
    for limit in limits:
        m = list(objectives).index(limit.objective)
        sign = 1.0 if limit.objective.direction == "minimize" else -1.0
        within &= points[:, m] <= sign * limit.bound
    if not within.any():
        found = ", ".join(f"{limit.objective.name} {_best(objectives, table, limit.objective):g}" for limit in limits)
        raise InfeasibleError(f"no member has {' and '.join(map(str, limits))}; the best there are: {found}")
    here = np.flatnonzero(within)
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1.0)
    reason = " and ".join(map(str, limits)) or "no limit"
    if at_knee:
        front = here[nondominated(points[here])]
        chosen, rule = front[knee(points[front])], "the knee"
    elif weights is not None:
        weight_M = _by_name(weights, objectives, "weight")
        chosen, rule = here[(scaled[here] @ weight_M).argmin()], f"the weights {_listed(weights)}"
    elif direction is not None:
        share_M = _by_name(direction, objectives, "direction")
        asf = (scaled[here][:, share_M > 0] / share_M[share_M > 0]).max(axis=1)
        chosen, rule = here[asf.argmin()], f"the direction {_listed(direction)}"
    else:
        order = np.lexsort(points[here].T[::-1])
        chosen, rule = here[order[0]], f"the best {objectives[0].name}"
    gives_up = {o.name: abs(float(table[chosen, m] - _best(objectives, table, o))) for m, o in enumerate(objectives)}
    return Choice(members[chosen], f"{rule}, {reason}", gives_up, _beside(members, points, int(chosen)))


def _points(members: Sequence[Measured], objectives: Sequence[Objective]) -> np.ndarray:
    for objective in objectives:
        for member in members:
            known = dict(member.latencies_ms)
            if (objective.device and objective.device not in known and objective.device != member.device) or (
                objective.known(member) is None
            ):
                devices = ", ".join(known) or member.device or "none"
                raise ProblemError(
                    f"the member {member.arch.key} has no {objective.name}; latencies of these devices are known: {devices}"
                )
    return values(objectives, members)


def _best(objectives: Sequence[Objective], table_NM: np.ndarray, objective: Objective) -> float:
    column = table_NM[:, list(objectives).index(objective)]
    return float(column.min() if objective.direction == "minimize" else column.max())


def _by_name(numbers: Mapping[str, float], objectives: Sequence[Objective], what: str) -> np.ndarray:
    names = [o.name for o in objectives]
    for name, number in numbers.items():
        if name not in names or not 0 <= number < float("inf"):
            raise ProblemError(f"the {what} {name}={number:g} fits none of {', '.join(names)}, or is negative")
    found = np.array([numbers.get(name, 0.0) for name in names])
    if not found.any():
        raise ProblemError(f"every {what} is 0; give one above 0 of {', '.join(names)}")
    return found


def _beside(members: Sequence[Measured], points: np.ndarray, chosen: int) -> tuple[Measured, ...]:
    """The non-dominated members next to the chosen one in the first objective."""
    front = np.flatnonzero(nondominated(points))
    order = front[np.lexsort(points[front].T[::-1])]
    before = [i for i in order if points[i, 0] < points[chosen, 0]][-1:]
    after = [i for i in order if points[i, 0] > points[chosen, 0]][:1]
    return tuple(members[i] for i in (*before, *after))


def _listed(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={number:g}" for name, number in numbers.items())
