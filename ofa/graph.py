"""A network as a list of nodes: each adds up earlier outputs and is one part.

Costs, latency sums, the supernet, extraction and channel sorting are loops over the same nodes, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

IMAGES = "images"  # the input of a network
T = TypeVar("T", bound=Any)  # the values on the edges, which can be added


class Cost(NamedTuple):
    """The cost for one image: `macs` of convolutions, squeeze-and-excitation and classifiers; `params`: trainable values.

    The convention of the published counts (OFA's model zoo, DyNAS-T's logs): norms, activations, pooling and
    additions have no MACs, and running statistics are no parameters.
    """

    macs: int
    params: int

    def __add__(self, other: tuple[int, ...]) -> Cost:  # type: ignore[override]
        return Cost(self.macs + other[0], self.params + other[1])


class Part(Protocol):
    """The function of a node without its weights; frozen and hashable, since equal parts cost the same.

    `stride` divides the side of the feature map; 0 is global pooling, which leaves one pixel.
    """

    @property
    def stride(self) -> int: ...

    def cost(self, size: int) -> Cost:
        """The cost of the part on an input of `size` by `size` pixels."""
        ...


@dataclass(frozen=True, slots=True)
class Node:
    """One part of a network; its input is the sum of the outputs of `inputs`."""

    name: str
    part: Part
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The nodes of a network, each after its inputs; `outputs` are the names of its classifiers, one for each exit."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    @cached_property
    def strides(self) -> dict[str, int]:
        """The product of the strides before each node, by its name; 0 after global pooling."""
        after = {IMAGES: 1}
        before = {}
        for node in self.nodes:
            before[node.name] = after[node.inputs[0]]
            after[node.name] = before[node.name] * node.part.stride
        return before

    @cached_property
    def heads(self) -> frozenset[str]:
        """The nodes that follow global pooling."""
        return frozenset(name for name, stride in self.strides.items() if not stride)

    def sizes(self, resolution: int) -> list[int]:
        """The side of each node's input in pixels, for images of `resolution` pixels."""
        return [strided(resolution, stride) for stride in self.strides.values()]

    def flow(self, images: T, apply: Callable[[Node, T], T]) -> list[T]:
        """The outputs, where `apply` computes the output of a node; each output is freed after its last use."""
        held = {IMAGES: images}
        for node, done in zip(self.nodes, self.last_uses, strict=True):
            first, *others = node.inputs
            x = held[first]
            for name in others:
                x = x + held[name]
            for name in done:
                del held[name]
            held[node.name] = apply(node, x)
        return [held[name] for name in self.outputs]

    @cached_property
    def last_uses(self) -> list[list[str]]:
        """For each node the inputs that no later node uses."""
        seen, last = set(self.outputs), []
        for node in reversed(self.nodes):
            last.append([name for name in node.inputs if name not in seen])
            seen.update(node.inputs)
        return last[::-1]


def chain(parts: Iterable[tuple[str, Part]]) -> Graph:
    """The network in which the output of each part is the input of the next."""
    nodes: list[Node] = []
    for name, part in parts:
        nodes.append(Node(name, part, (nodes[-1].name if nodes else IMAGES,)))
    return Graph(tuple(nodes), (nodes[-1].name,))


def strided(size: int, stride: int) -> int:
    """The side of a feature map after a stride, in pixels (odd kernels with padding kernel // 2)."""
    return -(-size // stride) if stride else 1
