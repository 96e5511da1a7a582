"""The genes of a space as parameters of Optuna trials: a categorical one for each gene that matters and has a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, Trial, create_trial

from ofa.arch import SCALARS
from ofa.genes import Genes
from ofa.space import Space
from search.islands.breeder import Packed
from search.objective import Objective


def constraints_of(objectives: Sequence[Objective], values: Sequence[float]) -> dict[str, float]:
    """The constraint of each objective that has a bound: 0 within it, above 0 beyond it."""
    return {
        o.key: float(o.beyond(np.array([value]))[0])
        for o, value in zip(objectives, values, strict=True)
        if o.bound is not None
    }


class Parameters:
    """The parameters of one space, such as `resolution`, `depth_0` and `kernel_3`, whose values are those of the genes.

    A gene that does not matter, given the values of the genes before it, is no parameter of the trial; a gene with a single
    choice never is.
    """

    def __init__(self, space: Space) -> None:
        self.genes = Genes(space)
        self.names = [
            gene.field if gene.field in SCALARS else f"{gene.field}_{gene.place}" for gene in self.genes.forest.genes
        ]

    def suggest(self, trial: Trial) -> Packed:
        """The arch that the trial's study proposes, gene by gene in the order of the forest."""
        chosen: list[int] = []
        matters: list[bool] = []
        for name, gene, choices in zip(self.names, self.genes.forest.genes, self.genes.choices, strict=True):
            above = gene.parent
            matters.append(above < 0 or (matters[above] and gene.wanted(self.genes.choices[above][chosen[above]])))
            asked = matters[-1] and len(choices) > 1
            chosen.append(choices.index(trial.suggest_categorical(name, choices)) if asked else 0)
        return self.genes.pack(np.array(chosen))

    def of(self, packed: Packed) -> dict[str, Any]:
        """The parameters of an arch."""
        genes_BG = self.genes.unpack_all([packed])
        return {
            name: choices[gene]
            for name, choices, gene, matters in zip(
                self.names, self.genes.choices, genes_BG[0].tolist(), self.genes.matter(genes_BG)[0].tolist(), strict=True
            )
            if matters and len(choices) > 1
        }

    def trial(
        self,
        packed: Packed,
        values: tuple[float, ...],
        constraints: Mapping[str, float] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> FrozenTrial:
        """A finished trial of an arch with these objective values.

        constraints: 0 or less where a limit is kept. attributes: the trial's user attributes.
        """
        params = self.of(packed)
        choices = dict(zip(self.names, self.genes.choices, strict=True))
        distributions: dict[str, BaseDistribution] = {name: CategoricalDistribution(choices[name]) for name in params}
        return create_trial(
            params=params,
            distributions=distributions,
            values=list(values),
            constraints=dict(constraints or {}) or None,
            user_attrs=dict(attributes or {}),
        )
