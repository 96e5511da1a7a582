"""The sub-networks that a training step samples, and the target of each one's loss.

A `Draw` is a value with two methods; another sampling scheme is another class.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from ofa.arch import Arch
from ofa.exits import exit_weights, joint
from ofa.space import Space


@dataclass(frozen=True, slots=True)
class Lesson:
    """One sub-network of a step and the target of its loss.

    learns_from: "labels", the true classes; "teacher", the true classes plus `distil` times the teacher's soft labels;
    "largest", the same with the step's first lesson, the largest network, as the teacher; "first", only the soft labels of
    that lesson, computed in the same step (in-place distillation).
    """

    arch: Arch
    learns_from: Literal["labels", "teacher", "largest", "first"] = "labels"
    distil: float = 0.0  # weight of the teacher's soft labels; 0 unless the lesson learns from labels and a teacher
    exits: tuple[int, ...] = ()  # that are trained together, the earliest first; () trains the arch's own exit alone
    weights: tuple[float, ...] = ()  # of the losses of these exits
    share: float = 1.0  # weight of the lesson's gradient relative to that of the step's first lesson

    def with_exits(self, kind: str) -> Lesson:
        """The lesson for all exits up to the arch's own, with the weights `kind` of `ofa.exits.WEIGHTS`."""
        exits = joint(kind, self.arch.exit)
        return replace(self, exits=exits, weights=exit_weights(kind, len(exits)) if exits else ())


class Draw(Protocol):
    """Samples the lessons of a step from a space; all lessons of one step have the same resolution."""

    def lessons(self, space: Space, rng: random.Random) -> list[Lesson]:
        """The lessons of one step, in the order of their computation; archs of `space`, sampled by `rng`."""
        ...

    def ends(self, space: Space) -> tuple[Arch, Arch]:
        """The largest and the smallest network that may be sampled."""
        ...


Pairs = tuple[tuple[float, float], ...]  # the (depth, expand) pairs that the stages may have, from small to large


@dataclass(frozen=True, slots=True)
class Uniform:
    """`subnets` sub-networks with every choice sampled uniformly; with `largest`, the largest network before them.

    extremes: the probabilities with which a sampled sub-network is instead the smallest and the largest one. coupled: if
    not (), every stage has one of these pairs of depth and expand ratio (CompOFA, arXiv:2104.12642).
    Source: Once-for-All, arXiv:1908.09791, sec. 3.3.
    """

    subnets: int = 1
    largest: bool = False
    extremes: tuple[float, float] = (0.0, 0.0)
    coupled: Pairs = ()

    def lessons(self, space: Space, rng: random.Random) -> list[Lesson]:
        """See `Draw`: all lessons learn from the labels."""
        here = _at_one_resolution(space, rng)
        sampled = [self._sampled(here, rng) for _ in range(self.subnets)]
        return [Lesson(arch) for arch in ([self.ends(here)[0], *sampled] if self.largest else sampled)]

    def _sampled(self, here: Space, rng: random.Random) -> Arch:
        if any(self.extremes):
            (smallest, largest), at = self.extremes, rng.random()
            if at < smallest + largest:
                return self.ends(here)[1 if at < smallest else 0]
        return sample_coupled(here, rng, self.coupled)

    def ends(self, space: Space) -> tuple[Arch, Arch]:
        """See `Draw.ends`: those of the space, or of its coupled sub-networks."""
        return coupled_ends(space, self.coupled)


@dataclass(frozen=True, slots=True)
class Sandwich:
    """The largest network, the smallest, and `subnets` sampled uniformly; all others are distilled from the largest.

    coupled: as for `Uniform`.
    Source: BigNAS's sandwich rule with in-place distillation, arXiv:2003.11142, sec. 3.1; AlphaNet, arXiv:2102.07954.
    """

    subnets: int = 1
    coupled: Pairs = ()

    def lessons(self, space: Space, rng: random.Random) -> list[Lesson]:
        """See `Draw`: the largest network learns from the labels, the others from the largest."""
        here = _at_one_resolution(space, rng)
        largest, smallest = self.ends(here)
        others = [smallest, *(sample_coupled(here, rng, self.coupled) for _ in range(self.subnets))]
        return [Lesson(largest), *(Lesson(arch, "first") for arch in others)]

    def ends(self, space: Space) -> tuple[Arch, Arch]:
        """See `Draw.ends`: those of the space, or of its coupled sub-networks."""
        return coupled_ends(space, self.coupled)


@dataclass(frozen=True, slots=True)
class Given:
    """One of the given networks, ordered from the smallest to the largest; they need not cover the space."""

    archs: tuple[Arch, ...]

    def lessons(self, space: Space, rng: random.Random) -> list[Lesson]:
        """See `Draw`: one network, sampled uniformly, which learns from the labels."""
        return [Lesson(rng.choice(self.archs))]

    def ends(self, space: Space) -> tuple[Arch, Arch]:
        """See `Draw.ends`: the last and the first of the given networks."""
        return self.archs[-1], self.archs[0]


@dataclass(frozen=True, slots=True)
class Weighted:
    """`subnets` sub-networks with every gene sampled independently from its own probabilities.

    probabilities: one row for each gene of the space, in the order of `ofa.genes.Genes`, with one weight for each choice;
    weights need not sum to 1. One resolution is sampled for each step. Genes that do not matter in a sampled network are
    set to 0, so the probabilities of a gene hold among the networks in which it matters.
    """

    probabilities: tuple[tuple[float, ...], ...]
    subnets: int = 1

    def lessons(self, space: Space, rng: random.Random) -> list[Lesson]:
        """See `Draw`: all lessons learn from the labels, at the resolution of the first sample."""
        import numpy as np

        from ofa.genes import Genes  # with Numba, which a command that only reads its config need not load

        genes = Genes(space)
        sizes = [len(row) for row in self.probabilities]
        assert sizes == genes.sizes_G.tolist(), f"{space.name}: {sizes} probabilities for {genes.sizes_G.tolist()} choices"
        rows_BG = np.array([[_chosen(row, rng) for row in self.probabilities] for _ in range(self.subnets)])
        archs: Sequence[Arch] = genes.decode(genes.canonical(rows_BG))
        return [Lesson(replace(arch, resolution=archs[0].resolution)) for arch in archs]

    def ends(self, space: Space) -> tuple[Arch, Arch]:
        """See `Draw.ends`: those of the space."""
        return space.largest(), space.smallest()


def sample_coupled(space: Space, rng: random.Random, pairs: Pairs) -> Arch:
    """An arch with every choice sampled uniformly; with `pairs`, the depth and expand ratio of each stage together."""
    if not pairs:
        return space.sample(rng)
    values = [rng.choice(choices) for choices in space.choices]
    return _with_pairs(space, values, {depth: rng.choice(pairs) for depth in dict.fromkeys(_depth_of(space).values())})


def coupled_ends(space: Space, pairs: Pairs) -> tuple[Arch, Arch]:
    """The largest and the smallest arch of a space, or of those whose stages have one of these pairs."""
    if not pairs:
        return space.largest(), space.smallest()
    largest, smallest = (
        _with_pairs(space, [choices[end] for choices in space.choices], dict.fromkeys(_depth_of(space).values(), pairs[end]))
        for end in (-1, 0)
    )
    return largest, smallest


def _depth_of(space: Space) -> dict[int, int]:
    """For each gene of an expand ratio, the gene of the depth of its stage; by their numbers."""
    genes, found = space.forest.genes, {}
    for number, gene in enumerate(genes):
        if gene.field == "expand":
            above = gene.parent
            while genes[above].field != "depth":
                above = genes[above].parent
            found[number] = above
    return found


def _with_pairs(space: Space, values: Sequence[float], pairs: Mapping[int, tuple[float, float]]) -> Arch:
    """The arch with these values of its genes, except for depths and expand ratios: those choices nearest to the pairs."""
    chosen = list(values)

    def nearest(gene: int, value: float) -> Any:
        return min(space.choices[gene], key=lambda choice: abs(choice - value))

    for gene, depth in _depth_of(space).items():
        chosen[depth], chosen[gene] = nearest(depth, pairs[depth][0]), nearest(gene, pairs[depth][1])
    return space.arch(chosen)


def _at_one_resolution(space: Space, rng: random.Random) -> Space:
    return space.only(resolutions=[rng.choice(space.resolutions)])


def _chosen(weights: Sequence[float], rng: random.Random) -> int:
    return rng.choices(range(len(weights)), weights)[0]
