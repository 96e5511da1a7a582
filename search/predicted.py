"""Search whose objectives take microseconds: whole arrays of genes against predictors and cost tables.

Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ofa.arch import Arch
from ofa.genes import Genes
from ofa.space import Space
from search.front import nondominated
from search.objective import Objective, minimised
from search.problem import Evaluate

ALGORITHMS = ("default", "archive", "random")


@dataclass(frozen=True, slots=True)
class Predicted:
    """The non-dominated archs that were found, and their objective values [N, M] as they are."""

    archs: tuple[Arch, ...]
    values: np.ndarray


def search(
    space: Space,
    objectives: Sequence[Objective],
    evaluate: Evaluate,
    *,
    algorithm: str = "default",
    evaluations: int,
    members: int,
    seed: int,
    batch: int = 500,
    progress: Callable[[int], None] = lambda done: None,
) -> Predicted:
    """At most `members` non-dominated archs out of `evaluations`, spread along the front.

    algorithm: `archive` (the default) keeps the non-dominated archs of all time, crosses neighbours on the front
    and changes a few genes; a part of every batch is random. `random` is only that.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"no algorithm is called {algorithm!r}; there are {', '.join(ALGORITHMS)}")
    genes, rng = Genes(space), np.random.default_rng([*f"{seed}/predicted".encode()])
    keep = max(members, 200)
    uniform = [
        space.uniform(r, d, k, e)
        for r in space.resolutions
        for d in space.depths
        for k in space.kernels
        for e in space.expands
    ]
    seeds = genes.encode([space.smallest(), space.largest(), *uniform])
    archive_BG = np.unique(np.concatenate([seeds, genes.random(batch, rng)]), axis=0)[:evaluations]
    values_BM, done = evaluate(archive_BG), len(archive_BG)
    archive_BG, values_BM = _best(archive_BG, values_BM, objectives, keep)
    while done < evaluations:
        count = min(batch, evaluations - done)
        if algorithm == "random":
            children_BG = genes.random(count, rng)
        else:
            children_BG = np.concatenate(
                [_bred(archive_BG, genes, count - count // 20, rng), genes.random(count // 20, rng)]
            )
        children_values_BM = evaluate(children_BG)
        done += len(children_BG)
        both, both_values = np.concatenate([archive_BG, children_BG]), np.concatenate([values_BM, children_values_BM])
        archive_BG, values_BM = _best(both, both_values, objectives, keep)
        progress(done)
    archive_BG, values_BM = _best(archive_BG, values_BM, objectives, members)
    return Predicted(tuple(genes.decode(archive_BG)), values_BM)


def _bred(archive_BG: np.ndarray, genes: Genes, count: int, rng: np.random.Generator) -> np.ndarray:
    """Children of neighbours on the front, one to four genes of each drawn anew."""
    size, width = archive_BG.shape
    mother = rng.integers(0, size, count)
    father = np.clip(mother + rng.integers(-3, 4, count), 0, size - 1)
    children = np.where(rng.random((count, width)) < 0.5, archive_BG[mother], archive_BG[father])
    change = rng.random((count, width)) < rng.integers(1, 5, (count, 1)) / width
    return genes.canonical(np.where(change, rng.integers(0, genes.sizes_G, (count, width)), children))


def _best(
    genes_BG: np.ndarray, values_BM: np.ndarray, objectives: Sequence[Objective], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The non-dominated, one for each point, in order of the last objective; `most` of them, evenly spread."""
    points = minimised(objectives, values_BM)
    _, first = np.unique(points, axis=0, return_index=True)
    kept = first[nondominated(points[first])]
    kept = kept[np.argsort(points[kept, -1], kind="stable")]
    if len(kept) > most:
        kept = kept[_spread(points[kept], most)]
    return genes_BG[kept], values_BM[kept]


def _spread(points_BM: np.ndarray, count: int) -> np.ndarray:
    """Indices of `count` points at even distances along the front, its ends among them."""
    span = np.ptp(points_BM, axis=0)
    steps = np.abs(np.diff(points_BM / np.where(span > 0, span, 1.0), axis=0)).sum(axis=1)
    along = np.concatenate(([0.0], np.cumsum(steps)))
    targets = np.linspace(0, along[-1], count)
    return np.unique(np.abs(along[:, None] - targets).argmin(axis=0))
