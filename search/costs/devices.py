"""The latencies of a space's archs on several devices, each by a latency table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from search.costs.latency import LatencyTable, TableCost, TableLatency
from search.costs.memory import ActivationCost, WeightCost
from search.objective import ACTIVATIONS, LATENCY, WEIGHTS, Column, Objective

MEMORY: dict[str, Callable[[int], Callable[[Space], Column]]] = {
    ACTIVATIONS.field: ActivationCost,
    WEIGHTS.field: WeightCost,
}


class DeviceCosts:
    """The latencies of a space's archs on some devices, by a table of each."""

    def __init__(self, space: Space, classes: int, tables: Mapping[str, LatencyTable]) -> None:
        self.space, self.classes = space, classes
        self.exact = {device: TableCost.of(table, space, classes) for device, table in tables.items()}

    @cached_property
    def latencies(self) -> dict[str, TableLatency]:
        """The latency (ms) of canonical genes by device."""
        return {device: cost(self.space) for device, cost in self.exact.items()}

    def completed(self, measured: Sequence[Measured]) -> list[Measured]:
        """The records with their latency on every device, after those that they have; `latency_ms` is that of the first."""
        if not self.exact or not measured:
            return list(measured)
        genes_NG = Genes(self.space).encode([m.arch for m in measured])
        ms = {device: table(genes_NG).tolist() for device, table in self.latencies.items()}
        found = []
        for i, m in enumerate(measured):
            before = m.latencies_ms or (((m.device, m.latency_ms),) if m.latency_ms is not None else ())
            row = tuple({**dict(before), **{device: values[i] for device, values in ms.items()}}.items())
            found.append(replace(m, device=row[0][0], latency_ms=row[0][1], latencies_ms=row if len(row) > 1 else ()))
        return found

    def computed(self, objective: Objective) -> Objective:
        """The objective, with the function that computes it if it is a latency on one of the devices, or memory."""
        if (memory := MEMORY.get(objective.field)) is not None:
            return replace(objective, exact=memory(self.classes))
        if objective.field != LATENCY.field:
            return objective
        device = objective.device or next(iter(self.exact))
        return replace(objective, exact=self.exact[device])
