"""Once-for-All's evolutionary search: the best of one objective under limits on the others.

The best quarter of the population are parents; half of the next are mutants of them, half their crossovers. Archs that
break a limit are sampled again, where costs are exact without an evaluation; the published code samples forever, here a
limit that no arch keeps raises an `InfeasibleError`. Source: arXiv:1908.09791, sec. 3.4, and its released
`evolution_finder.py`.

Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ofa.genes import Genes
from search.algorithms.engine import Engine
from search.errors import InfeasibleError, ProblemError
from search.problem import Evaluate

POPULATION = 100
PARENTS = 0.25  # share of the population that are parents
MUTANTS = 0.5  # share of the offspring that are mutants
MUTATION = 0.1  # probability for each resolution, depth and width, and for all genes of a slot together
PATIENCE = 200  # successive samples of which none keeps the limits


@dataclass(frozen=True)
class Population:
    """Archs that keep the limits, with their points, best first."""

    genes: np.ndarray
    points: np.ndarray

    @property
    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Genes [G] and point [M] of the best member."""
        return self.genes[0], self.points[0]


@dataclass(frozen=True)
class Evolution:
    """The search under some bounds. Points are minimised; `costs` gives the exact ones, NaN for the others."""

    genes: Genes
    evaluate: Evaluate
    costs: Evaluate
    quality: int  # index of the objective to optimise
    bounds_M: np.ndarray  # upper bound of a point, infinity for no limit
    pin: Callable[[np.ndarray], np.ndarray]
    rng: np.random.Generator

    def random(self, count: int = POPULATION) -> Population:
        """Archs sampled uniformly; where hardly any keeps the limits, the rest are mutants of the smallest one."""
        drawn_BG = self._kept(lambda n: self.pin(self.genes.random(n, self.rng)), count, draws=10 * PATIENCE)
        if len(drawn_BG) < count:
            smallest_BG = self.pin(self.genes.encode([self.genes.space.smallest()]))
            if not self.keeps(smallest_BG)[0]:
                cost = self.costs(smallest_BG)[0]
                wanted = [m for m in range(len(cost)) if cost[m] > self.bounds_M[m]]
                raise InfeasibleError(
                    f"no sub-network of {self.genes.space.name} keeps the limit {self.bounds_M[wanted[0]]:g}: "
                    f"the smallest has {cost[wanted[0]]:g}; loosen the limit"
                )
            start_BG = np.concatenate([drawn_BG, smallest_BG])
            more_BG = self._kept(lambda n: self.mutants(start_BG, n), count - len(drawn_BG), draws=100 * PATIENCE)
            drawn_BG = np.concatenate([drawn_BG, more_BG, smallest_BG])[:count]
        return self.evaluated(drawn_BG)

    def evaluated(self, genes_BG: np.ndarray) -> Population:
        """Evaluates archs, and keeps those within the bounds."""
        points_BM = self.evaluate(genes_BG)
        within = (points_BM <= self.bounds_M).all(axis=1)
        return self.of(genes_BG[within], points_BM[within])

    def of(self, genes_BG: np.ndarray, points_BM: np.ndarray) -> Population:
        """The population of these archs, best first."""
        order = np.argsort(points_BM[:, self.quality], kind="stable")
        return Population(genes_BG[order], points_BM[order])

    def run(self, population: Population, generations: int) -> Population:
        """The population after this number of generations; its first member is the best of all generations."""
        for _ in range(generations):
            if not len(population.genes):
                raise InfeasibleError("no arch that was evaluated keeps the limits; loosen one")
            parents = round(PARENTS * POPULATION)
            genes_BG, points_BM = population.genes[:parents], population.points[:parents]
            mutants = round(MUTANTS * POPULATION)
            children_BG = [
                self._kept(lambda n, g=genes_BG: self.mutants(g, n), mutants, draws=PATIENCE),  # type: ignore[misc]
                self._kept(lambda n, g=genes_BG: self.crosses(g, n), POPULATION - mutants, draws=PATIENCE),  # type: ignore[misc]
            ]
            children = self.evaluated(np.concatenate(children_BG))
            population = self.of(np.concatenate([genes_BG, children.genes]), np.concatenate([points_BM, children.points]))
        return population

    def mutants(self, genes_BG: np.ndarray, count: int) -> np.ndarray:
        """Mutants of random parents; the genes of a slot change together."""
        rng, sizes_G = self.rng, self.genes.sizes_G
        child_BG = genes_BG[rng.integers(0, len(genes_BG), count)]
        change = rng.random((count, len(sizes_G))) < MUTATION
        change = change[:, self.genes.leader_G]
        return self.pin(np.where(change, rng.integers(0, sizes_G, change.shape), child_BG))

    def crosses(self, genes_BG: np.ndarray, count: int) -> np.ndarray:
        """Crossovers of two random parents each, every gene from either."""
        rng = self.rng
        mother, father = rng.integers(0, len(genes_BG), (2, count))
        return self.pin(np.where(rng.random((count, genes_BG.shape[1])) < 0.5, genes_BG[mother], genes_BG[father]))

    def keeps(self, genes_BG: np.ndarray) -> np.ndarray:
        """Whether archs keep those limits that are known without an evaluation."""
        costs_BM = self.costs(genes_BG)
        return np.asarray((np.isnan(costs_BM) | (costs_BM <= self.bounds_M)).all(axis=1))

    def _kept(self, draw: Callable[[int], np.ndarray], count: int, draws: int) -> np.ndarray:
        """The first `count` of at most `draws` × `count` sampled archs that keep the exact limits."""
        found: list[np.ndarray] = []
        missing, tried = count, 0
        while missing > 0 and tried < draws * count:
            genes_BG = draw(2 * count)
            tried += len(genes_BG)
            genes_BG = genes_BG[self.keeps(genes_BG)][:missing]
            found.append(genes_BG)
            missing -= len(genes_BG)
        return np.concatenate(found)


def evolve(search: Evolution, evaluations: int) -> Population:
    """Runs as many generations as the number of evaluations allows."""
    if evaluations < 2 * POPULATION:
        raise ProblemError(f"evolution has {evaluations} evaluations; it needs at least {2 * POPULATION}")
    return search.run(search.random(), evaluations // POPULATION - 1)


def evolution_search(engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """The best arch in the one objective that has no limit: its genes [1, G] and point [1, M]."""
    free = np.flatnonzero(~np.isfinite(engine.bounds_M))
    if len(free) != 1:
        raise ProblemError(
            f"evolution maximises one objective under limits on all others; {len(free)} of the "
            f"{len(engine.objectives)} objectives have no limit; give limits such as latency_ms at most 25"
        )
    found = evolve(evolution_under(engine, int(free[0])), engine.evaluations)
    engine.progress(engine.done)
    return found.genes[:1], found.points[:1]


def evolution_under(engine: Engine, quality: int) -> Evolution:
    """Once-for-All's search for the objective of this index, under an engine's bounds on the others."""
    e = engine
    return Evolution(e.genes, e.evaluate, e.costs, quality, e.bounds_M, e.pin, e.rng)
