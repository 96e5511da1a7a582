"""Published tables of trained networks as search problems, and the hypervolume of each problem's best known front.

NAS-Bench-Macro (arXiv:2103.11922): top-1 on CIFAR-10 and multiply-accumulates of the 3,969 networks of `nas_bench_macro`.
NAS-Bench-201 (arXiv:2001.00326): top-1 on CIFAR-100 and the latency on devices (HELP, arXiv:2106.08630) of 15,625 networks.
ImageNet: the surrogates of bench/imagenet.py, whose best known front is that of a long predicted search.

OFA_REFERENCE_DATA is the folder of the tables. Shape letters in this file: B archs, G genes, M objectives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product

import numpy as np

from bench.imagenet import COSTS, SPACE, Surrogate, reference_data, rows
from bench.nas_bench_macro import Truth
from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from ofa.spaces.nas_bench_macro import NAS_BENCH_MACRO
from search.front import hypervolume
from search.objective import LATENCY, MACS, TOP1, Column, Objective
from search.predicted import solve
from search.problem import Problem as Predicted
from search.problem import Term

# The devices on which HELP tests its predictions; the tables have more.
DEVICES = ("gold_6226", "titan_rtx_256", "pixel2", "raspi4", "eyeriss", "fpga")
OPERATIONS = (0, 1, 4, 2, 3)  # the published numbers of none, skip, average pooling, 1x1 and 3x3, in our order
EDGES = 6
LONG = 100_000  # evaluations of the search for a surrogate's best known front


@dataclass(frozen=True)
class CellSpace(Space):
    """The six edges of NAS-Bench-201's cell: the kernel gene of each is the operation, 1 for none to 5 for 3x3."""

    depths: tuple[int, ...] = (1,)
    kernels: tuple[int, ...] = (1, 2, 3, 4, 5)
    expands: tuple[int, ...] = (1,)

    @property
    def counts(self) -> dict[str, int]:
        return {"depth": EDGES, "kernel": EDGES, "expand": EDGES}


NAS_BENCH_201 = CellSpace("nas_bench_201", (32,))


@dataclass(frozen=True)
class Table:
    """A problem whose networks have known values; what is evaluated is looked up.

    values: canonical genes [B, G] to top-1 as a fraction and the costs: [B, M], the order of `objectives`.
    worst: the values of the reference point. unit: for each objective the length that is 1 in the hypervolume.
    """

    name: str
    space: Space
    objectives: tuple[Objective, ...]
    values: Column
    worst: tuple[float, ...]
    unit: tuple[float, ...]
    enumerable: bool = True

    @cached_property
    def genes(self) -> Genes:
        """The genes of the space."""
        return Genes(self.space)

    @cached_property
    def free(self) -> np.ndarray:
        """The indices of the genes that have more than one choice."""
        return np.flatnonzero(self.genes.sizes_G > 1)

    @property
    def extremes(self) -> np.ndarray:
        """The genes of the smallest and the largest network [2, G]."""
        return self.genes.encode([self.space.smallest(), self.space.largest()])

    def points(self, values_BM: np.ndarray) -> np.ndarray:
        """Values as points to minimise [B, M], in which the reference point is 1 and a unit is 1."""
        sign_M = np.array([1.0 if o.direction == "minimize" else -1.0 for o in self.objectives])
        return 1 + sign_M * (values_BM - np.array(self.worst)) / np.array(self.unit)

    def volume(self, values_BM: np.ndarray) -> float:
        """The hypervolume of values."""
        return hypervolume(self.points(values_BM), np.ones(len(self.objectives)))

    def measured(self, archs: Sequence[Arch]) -> list[Measured]:
        """The records of archs, as the measured search takes them."""
        values_BM = self.values(self.genes.encode(archs))
        found = []
        for arch, (top1, *costs) in zip(archs, values_BM.tolist(), strict=True):
            latencies = tuple((o.device, ms) for o, ms in zip(self.objectives[1:], costs, strict=True) if o.device)
            macs = 0 if latencies else int(costs[0])
            found.append(Measured(arch, top1, macs, 0, latencies_ms=latencies))
        return found

    def every(self) -> np.ndarray:
        """The canonical genes of all networks [B, G]."""
        choices = [range(int(size)) for size in self.genes.sizes_G]
        return np.unique(self.genes.canonical(np.array(list(product(*choices)), dtype=np.int64)), axis=0)

    def best(self) -> float:
        """The hypervolume of the whole table; of a surrogate that of the front of a predicted search."""
        if self.enumerable:
            return self.volume(self.values(self.every()))
        terms = tuple(
            Term(objective, lambda genes_BG, m=m: self.values(genes_BG)[:, m], exact=True)  # type: ignore[misc]
            for m, objective in enumerate(self.objectives)
        )
        return self.volume(solve(Predicted(self.space, terms), evaluations=LONG, members=1000, seed=1).values)


def macro() -> Table:
    """NAS-Bench-Macro: MACs in units of the largest network's, error above 80 % in units of 20 % (reference .48236)."""
    table = json.loads((reference_data() / "nas_bench" / "nas_bench_macro_cifar10.json").read_text())
    truth, space = Truth.of(table), NAS_BENCH_MACRO
    most = float(max(row["flops"] for row in table.values()))

    def values(genes_BG: np.ndarray) -> np.ndarray:
        keys = [space.own_name(arch) for arch in Genes(space).decode(genes_BG)]
        return np.array([[truth.mean[key] / 100, table[key]["flops"]] for key in keys])

    return Table("macro", space, (TOP1, MACS), values, (0.8, most), (0.2, most))


def cells(*devices: str) -> Table:
    """NAS-Bench-201: each latency in units of the slowest network's, top-1 as a fraction (gold_6226: .6033).

    Latencies are exact costs of an arch, as in a device's latency table: a search that can use this need not learn them.
    """
    with np.load(reference_data() / "nas_bench" / "nas_bench_201.npz") as file:
        top1_B = file["c100"].astype(np.float64) / 100
        known_BM = np.stack([top1_B, *(file[device].astype(np.float64) for device in devices)], axis=1)
        operations_BE = file["ops"].astype(np.int64)
    place_O = np.argsort(OPERATIONS)  # the choice of each published number
    digits_E = len(OPERATIONS) ** np.arange(EDGES)
    row_X = np.empty(len(known_BM), dtype=np.int64)
    row_X[place_O[operations_BE] @ digits_E] = np.arange(len(known_BM))
    kernels = Genes(NAS_BENCH_201).of("kernel")

    def values(genes_BG: np.ndarray) -> np.ndarray:
        return known_BM[row_X[genes_BG[:, kernels] @ digits_E]]

    def exact(column: int, space: Space) -> Column:
        return lambda genes_BG: values(genes_BG)[:, column]

    latencies = [replace(LATENCY, device=d, exact=partial(exact, 1 + i)) for i, d in enumerate(devices)]
    most = tuple(known_BM[:, 1:].max(axis=0).tolist())
    return Table(f"201-{'-'.join(devices)}", NAS_BENCH_201, (TOP1, *latencies), values, (0.0, *most), (1.0, *most))


def imagenet(kind: str) -> Table:
    """A surrogate of DyNAS-T's measurements, with the published hypervolume (bench/imagenet.py)."""
    surrogate = Surrogate(rows(), kind)

    def values(genes_BG: np.ndarray) -> np.ndarray:
        macs_B, _ = COSTS(genes_BG)
        return np.stack([surrogate(genes_BG) / 100, macs_B.astype(np.float64)], axis=1)

    return Table(f"imagenet-{kind}", SPACE, (TOP1, MACS), values, (0.7, 600e6), (0.1, 600e6), enumerable=False)


# The problems by name; each is read or fitted when it is made.
PROBLEMS: Mapping[str, Callable[[], Table]] = {
    "macro": macro,
    **{f"201-{device}": partial(cells, device) for device in DEVICES},
    "201-gold_6226-eyeriss": partial(cells, "gold_6226", "eyeriss"),
    **{f"imagenet-{kind}": partial(imagenet, kind) for kind in ("ridge+svr", "boosting")},
}
