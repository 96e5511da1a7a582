"""The probabilities by which NAT (arXiv:2005.05859) and NATv2 (arXiv:2307.00960) sample networks.

`INITIAL` samples the first archive; `LAWS` estimates from the survivors of an archive how the training of the supernet
samples (`ofa.draws.Weighted`). Both are open: another law is one function and one line.
Shape letters in this file: B archs, N survivors, G genes, C choices of one gene, S steps in depth.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats

from ofa.genes import Genes

Rows = tuple[tuple[float, ...], ...]  # the weights of each gene's choices, in the order of `ofa.genes.Genes`

SMOOTHING = 0.5  # survivors added to each choice (the prior of Jeffreys), so that training never excludes a choice
SKIPPED = 1 / 3  # NATv2's probability that a layer is skipped at first


def uniform(genes: Genes, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` archs with every gene uniform and independent, so uniform over the depth of each stage: int64 [count, G]."""
    return genes.random(count, rng)


def natv2(genes: Genes, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` archs by NATv2's balanced initialisation: int64 [count, G], canonical.

    In the published space a stage's third layer is skipped with probability 1/3, and so is the fourth; a stage ends before
    its first skipped layer. So depths 2, 3 and 4 have probabilities 1/3, 2/9 and 4/9. In general each choice of a depth
    beyond the least is such a step: with n choices, choice i < n - 1 has probability (2/3)^i / 3. A depth that counts no
    slots (the stem's of ResNet-50D) and all other genes are uniform.
    """
    return _by_steps(genes, count, rng, lambda codes: SKIPPED, lambda used_BS: np.logical_and.accumulate(used_BS, axis=1))


def nat(genes: Genes, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` archs by NAT's initialisation: int64 [count, G], canonical.

    In the published space each layer has one of 10 codes, uniformly: 9 blocks, or that it is skipped, which the first two
    layers of a stage may not be; skipped layers are then moved to the end of their stage. So depths 2, 3 and 4 have
    probabilities 1/100, 18/100 and 81/100. In general each choice of a depth beyond the least is a step that is skipped with
    probability 1 / (1 + codes), where `codes` counts the blocks that may be in the first slot it adds (63 with parallel
    blocks). A depth that counts no slots and all other genes are uniform.
    """
    return _by_steps(genes, count, rng, lambda codes: 1 / (1 + codes), lambda used_BS: used_BS)


INITIAL: dict[str, Callable[[Genes, int, np.random.Generator], np.ndarray]] = {
    "uniform": uniform,
    "natv2": natv2,
    "nat": nat,
}


def _by_steps(
    genes: Genes,
    count: int,
    rng: np.random.Generator,
    skipped: Callable[[int], float],
    repaired: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """`count` archs, canonical, with uniform genes but for depths, which count the steps that are used after a repair.

    skipped: the probability that a step is skipped, from the number of codes of its layer.
    repaired: which steps [B, S] of a stage count, from those that were sampled as used.
    """
    drawn_BG = rng.integers(0, genes.sizes_G, (count, len(genes.sizes_G)))
    for depth, codes in _steps(genes).items():
        used_BS = rng.random((count, len(codes))) >= [skipped(here) for here in codes]
        drawn_BG[:, depth] = repaired(used_BS).sum(axis=1)
    return genes.canonical(drawn_BG)


def _steps(genes: Genes) -> dict[int, list[int]]:
    """For each gene that counts slots, the number of blocks that the first slot of each choice beyond the least may have."""
    found: dict[int, list[int]] = {}
    for slot, kinds in zip(genes.forest.slots, genes.kinds, strict=True):
        here = genes.forest.genes[slot.genes[0]]
        choices, codes = genes.choices[here.parent], found.setdefault(here.parent, [])
        # slots of a stage come in order: this one is the first that the next step adds, or one of an earlier step
        if len(codes) + 1 < len(choices) and choices[len(codes)] < here.least <= choices[len(codes) + 1]:
            codes.append(int(kinds) - 1)
    return found


def categorical(values_N: np.ndarray, choices: int) -> np.ndarray:
    """The probability of each choice [C], estimated by its smoothed share of the survivors' values (choices' indices)."""
    counts_C = np.bincount(values_N, minlength=choices) + SMOOTHING
    return counts_C / counts_C.sum()


def ksone(values_N: np.ndarray, choices: int) -> np.ndarray:
    """The probability of each choice [C] under the distribution that NAT's published code samples from in effect.

    That code means to select the best fit among SciPy's continuous distributions, but scores only the first one, `ksone`.
    Its shape stays where its fit begins, so the values are nearly uniform between the least and the greatest one observed,
    whatever their frequencies; samples are rounded and clipped to the choices. Kept to show its effect: on the survivors of
    a published run its total variation from their frequencies is 0.30, that of `categorical` 0.01. Without any value it is
    uniform.
    """
    if not len(values_N):
        return np.full(choices, 1 / choices)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the fit tries parameters for which the density is not defined
        fitted = stats.ksone.fit(values_N)
        below_C = stats.ksone.cdf(np.arange(choices - 1) + 0.5, *fitted)
    return np.diff(below_C, prepend=0.0, append=1.0)


def _each_gene(estimate: Callable[[np.ndarray, int], np.ndarray]) -> Callable[[Genes, np.ndarray], Rows]:
    """The law of all genes, each estimated on its own among the survivors in which it matters."""

    def law(genes: Genes, survivors_NG: np.ndarray) -> Rows:
        matter_NG = genes.matter(survivors_NG)
        return tuple(
            tuple(estimate(survivors_NG[matter_NG[:, g], g], int(size)).tolist()) for g, size in enumerate(genes.sizes_G)
        )

    return law


# Each takes the genes of a space and the survivors, canonical [N, G].
LAWS: dict[str, Callable[[Genes, np.ndarray], Rows]] = {
    "categorical": _each_gene(categorical),
    "ksone": _each_gene(ksone),
}
