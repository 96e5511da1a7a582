"""Sums over a network's nodes, for many archs at once: MACs, params, or the entries of a latency table.

The cost of a node depends on few genes, in any space. These genes are found once by trying every value of
every gene; each node then has a table with an entry for every combination of the genes that determine it.

Shape letters in this file: B archs, G genes, N nodes, R resolutions, X entries of all tables, L block slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import cached_property, lru_cache
from itertools import product

import numpy as np

from ofa.arch import Arch
from ofa.compiled import compiled
from ofa.genes import Genes
from ofa.graph import Cost, Part, strided
from ofa.space import Space

Entry = tuple[Part, int]  # a node's variant, and the product of the strides before it
# Arguments: a node's name, its part, and the sides of its input and of the images in pixels.
Value = Callable[[str, Part, int, int], float]

_PROBES = 4  # random archs around which single genes are varied, beside the extremes
_CHECKS = 30  # random archs whose nodes must be those of the tables


class NodeTables:
    """The variants of each node of a space's networks, and the genes that determine it; `node_tables` caches them."""

    def __init__(self, space: Space, classes: int) -> None:
        self.space, self.classes, self.genes = space, classes, Genes(space)
        rng = np.random.default_rng([*b"exact/probes"])
        ends = [space.largest(), space.smallest()]
        if len(space.wholes) > 1:  # the largest of each network that shares no node with the others
            each = [replace(ends[0], width=whole.width) for whole in space.wholes]
            ends += [arch for arch in each if space.contains(arch)]
        extremes = self.genes.encode(ends)
        bases_BG = np.concatenate([extremes, self.genes.random(_PROBES, rng)])
        decides: dict[str, set[int]] = {}
        for base_G in bases_BG:
            there = self._network(base_G)
            for name in there:
                decides.setdefault(name, set())
            for gene, row_G in self._variants(base_G):
                found = self._network(row_G)
                for name in {**there, **found}:
                    if there.get(name) != found.get(name):
                        decides.setdefault(name, set()).add(gene)
        if len(space.wholes) > 1:
            for deciding in decides.values():
                deciding.update(range(self.genes.sizes_G.size)[self.genes.of("width")])
        self.decides = {name: sorted(found) for name, found in decides.items()}
        # Global pooling is added last, as the published sums of latencies do: their last bits depend on the order.
        exits = tuple(int(after) for after in space.values("exit"))
        nodes = sorted(
            (node for whole in space.wholes for node in space.build_graph(whole, exits, classes).nodes),
            key=lambda node: not node.part.stride,
        )
        order = {node.name: i for i, node in enumerate(nodes)}
        self.names = sorted(self.decides, key=lambda name: order.get(name, len(order)))
        self._places = {name: self._strides(name) for name in self.names}
        self.entries: dict[str, dict[int, Entry | None]] = {name: {} for name in self.names}
        for row_G in self._combinations(extremes[0], lambda name, place: place not in self.entries[name]):
            self._enter(row_G)
        for row_G in self.genes.random(_CHECKS, rng):
            there = self._network(row_G)
            for name in self.names:
                assert self.entries[name].get(self._place(name, row_G), ()) == there.get(name), (space.name, name)

    def _network(self, row_G: np.ndarray) -> dict[str, Entry]:
        [arch] = self.genes.decode(row_G[None])
        graph = self.space.build_graph(arch, (), self.classes)
        return {node.name: (node.part, graph.strides[node.name]) for node in graph.nodes}

    def _variants(self, base_G: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The arch with each gene but the resolution at each other value."""
        for gene, size in enumerate(self.genes.sizes_G.tolist()):
            for choice in range(size if gene else 0):
                if choice != base_G[gene]:
                    row_G = base_G.copy()
                    row_G[gene] = choice
                    yield gene, self.genes.canonical(row_G[None])[0]

    def covering(self, label: Callable[[str, Part, int], Hashable]) -> list[Arch]:
        """Some archs whose networks together have every label of a node, of its part and of the strides before it."""
        wanted = {label(name, *entry) for name, known in self.entries.items() for entry in filter(None, known.values())}

        def misses(name: str, place: int) -> bool:
            entry = self.entries[name][place]
            return entry is not None and label(name, *entry) in wanted

        found = []
        for row_G in self._combinations(self.genes.encode([self.space.largest()])[0], misses):
            there = {label(name, *entry) for name, entry in self._network(row_G).items()} & wanted
            if there:
                wanted -= there
                found.append(row_G)
        assert not wanted, (self.space.name, wanted)
        return self.genes.decode(np.array(found))

    def _combinations(self, base_G: np.ndarray, misses: Callable[[str, int], bool]) -> Iterator[np.ndarray]:
        """Archs with every variant of every node: first many nodes at once, then the variants that `misses` finds."""
        each = {name: list(product(*(range(self.genes.sizes_G[g]) for g in self.decides[name]))) for name in self.names}
        for i in range(max(len(combinations) for combinations in each.values())):
            row_G, taken = base_G.copy(), set()
            for name, combinations in each.items():
                for gene, choice in zip(self.decides[name], combinations[i % len(combinations)], strict=True):
                    if gene not in taken:
                        row_G[gene] = choice
                        taken.add(gene)
            yield self.genes.canonical(row_G[None])[0]
        for name, combinations in each.items():
            for combination in combinations:
                row_G = base_G.copy()
                row_G[self.decides[name]] = combination
                row_G = self.genes.canonical(row_G[None])[0]
                if misses(name, self._place(name, row_G)):
                    yield row_G

    def _enter(self, row_G: np.ndarray) -> None:
        there = self._network(row_G)
        for name in self.names:
            self.entries[name][self._place(name, row_G)] = there.get(name)

    def _strides(self, name: str) -> np.ndarray:
        sizes = self.genes.sizes_G[self.decides[name]]
        return np.concatenate([np.cumprod(sizes[:0:-1])[::-1], [1]])[: len(sizes)].astype(np.int64)

    def _place(self, name: str, row_G: np.ndarray) -> int:
        return int(row_G[self.decides[name]] @ self._places[name])

    @cached_property
    def varying(self) -> list[str]:
        """The nodes that some gene determines."""
        return [name for name in self.names if self.decides[name]]

    @cached_property
    def index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For `_places`: the genes of varying nodes, their strides, the start of each node's genes, its first entry."""
        genes = [gene for name in self.varying for gene in self.decides[name]]
        strides = [stride for name in self.varying for stride in self._places[name]]
        begin = np.cumsum([0, *(len(self.decides[name]) for name in self.varying)])
        start = np.cumsum([0, *(self._width(name) for name in self.varying)])
        return np.array(genes, dtype=np.int64), np.array(strides, dtype=np.int64), begin, start

    def _width(self, name: str) -> int:
        return int(np.prod(self.genes.sizes_G[self.decides[name]]))

    def places(self, genes_BG: np.ndarray) -> np.ndarray:
        """The entry of each varying node for canonical genes: int64 [B, N]."""
        places_BN = np.empty((len(genes_BG), len(self.varying)), dtype=np.int64)
        _places(genes_BG, *self.index, places_BN)
        return places_BN

    def fill(self, value: Value) -> tuple[np.ndarray, np.ndarray]:
        """For each resolution the value of every entry of the varying nodes [R, X], and the sum of all other nodes [R]."""
        start = dict(zip(self.varying, self.index[3].tolist(), strict=False))
        value_RX = np.zeros((len(self.space.resolutions), self.index[3][-1]))
        fixed_R = np.zeros(len(self.space.resolutions))
        for r, resolution in enumerate(self.space.resolutions):
            for name in self.names:
                for place, entry in self.entries[name].items():
                    if entry is None:
                        continue
                    found = value(name, entry[0], strided(resolution, entry[1]), resolution)
                    if name in start:
                        value_RX[r, start[name] + place] = found
                    else:
                        fixed_R[r] += found
        return value_RX, fixed_R

    @cached_property
    def slot_nodes(self) -> np.ndarray:
        """Whether each varying node belongs to each block slot: 0 or 1 [N, L]."""
        found_NL = np.zeros((len(self.varying), len(self.space.slots)), dtype=np.int64)
        for n, name in enumerate(self.varying):
            for gene in self.decides[name]:
                if gene in self.space.forest.slot_of:
                    found_NL[n, self.space.forest.slot_of[gene]] = 1
        return found_NL


@lru_cache(maxsize=64)
def node_tables(space: Space, classes: int = 1000) -> NodeTables:
    """The cached tables of a space; `classes` is the width of its classifiers."""
    return NodeTables(space, classes)


class Sums:
    """The sum of `value` over the nodes of each arch, for many archs at once.

    fixed_R: for each resolution, the sum over the nodes that no gene determines.
    """

    def __init__(self, nodes: NodeTables, value: Value) -> None:
        self.nodes = nodes
        value_RX, self.fixed_R = nodes.fill(value)
        self._flat, self._stride = value_RX.reshape(-1), value_RX.shape[1]

    def of_nodes(self, genes_BG: np.ndarray) -> np.ndarray:
        """The value of every varying node of canonical genes: float64 [B, N], 0 where it is absent."""
        resolution_B = genes_BG[:, 0].astype(np.int64)
        return self._flat.take(self.nodes.places(genes_BG) + (resolution_B * self._stride)[:, None])

    def __call__(self, genes_BG: np.ndarray) -> np.ndarray:
        """The sums of canonical genes: float64 [B]; integers are exact below 2^53."""
        sum_B = np.empty(len(genes_BG))
        _fill_sums(genes_BG, *self.nodes.index, self._flat, self._stride, self.fixed_R, sum_B)
        return sum_B


class CostTable:
    """The exact MACs and params of many archs at once."""

    def __init__(self, space: Space, classes: int) -> None:
        self.space, self.genes = space, Genes(space)
        self._macs, self._params = _costs(space, classes)

    def __call__(self, genes_BG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """MACs and params [B] of canonical genes, as int64."""
        return self._macs(genes_BG).astype(np.int64), self._params(genes_BG).astype(np.int64)

    def block_macs(self, genes_BG: np.ndarray) -> np.ndarray:
        """MACs of every block slot [B, L], 0 where it is not used."""
        return np.asarray(self._macs.of_nodes(genes_BG) @ self._macs.nodes.slot_nodes)


@lru_cache(maxsize=64)
def _costs(space: Space, classes: int) -> tuple[Sums, Sums]:
    nodes = node_tables(space, classes)

    known: dict[tuple[Part, int], Cost] = {}  # many entries have the same part

    def cost(part: Part, size: int) -> Cost:
        if (part, size) not in known:
            known[part, size] = part.cost(size)
        return known[part, size]

    return (
        Sums(nodes, lambda _name, part, size, _resolution: cost(part, size).macs),
        Sums(nodes, lambda _name, part, size, _resolution: cost(part, size).params),
    )


@compiled
def _places(genes_BG, gene_D, stride_D, begin_N, start_N, places_BN):  # type: ignore[no-untyped-def]
    """Fills `NodeTables.places`: the digits of an entry's index are the genes that determine it."""
    for b in range(places_BN.shape[0]):
        for n in range(places_BN.shape[1]):
            place = start_N[n]
            for d in range(begin_N[n], begin_N[n + 1]):
                place += genes_BG[b, gene_D[d]] * stride_D[d]
            places_BN[b, n] = place


@compiled
def _fill_sums(genes_BG, gene_D, stride_D, begin_N, start_N, flat, stride, fixed_R, sum_B):  # type: ignore[no-untyped-def]
    """Fills `Sums`: the values of the varying nodes, added in eight parts, then the rest, as NumPy adds."""
    nodes = len(begin_N) - 1
    eights = nodes // 8 * 8
    part = np.empty(8)
    for b in range(len(sum_B)):
        first = stride * genes_BG[b, 0]
        part[:] = 0
        total = 0.0
        for n in range(nodes):
            place = first + start_N[n]
            for d in range(begin_N[n], begin_N[n + 1]):
                place += genes_BG[b, gene_D[d]] * stride_D[d]
            if n < eights:
                part[n % 8] += flat[place]
                if n == eights - 1:
                    total = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]))
            else:
                total += flat[place]
        sum_B[b] = total + fixed_R[genes_BG[b, 0]]
