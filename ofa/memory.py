"""The memory of a network on one image: the peak of its activations, and its weights, both exact.

The peak is the most values that are alive at once while the nodes run in their order and every tensor is freed after its
last use. An operation needs its inputs and its output; norms, activations and additions work
in place where no later operation needs their input. Values are float32.

Shapes are channels and sides; `alive` is whether a part's input is needed after the part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ofa.graph import IMAGES, Graph, Part, strided
from ofa.parts.bottleneck import Bottleneck
from ofa.parts.conv import Conv, MaxPool
from ofa.parts.head import Classifier, GlobalPool
from ofa.parts.inverted import Inverted, se_hidden
from ofa.parts.parallel import SumNorm, Transformation

BYTES = 4  # of a float32


class Shape(NamedTuple):
    """A feature map of one image: its channels, and its side in pixels."""

    channels: int
    side: int

    @property
    def values(self) -> int:
        """The number of values."""
        return self.channels * self.side**2


class Working(NamedTuple):
    """The most values that are alive within a part, its input and output among them, and the shape of its output."""

    peak: int
    out: Shape


def peak_bytes(graph: Graph, resolution: int) -> int:
    """The peak of a network's activations in bytes, for one image of `resolution` pixels."""
    shapes, alive, peak = {IMAGES: Shape(3, resolution)}, {IMAGES}, 0
    for node, done in zip(graph.nodes, graph.last_uses, strict=True):
        x = shapes[node.inputs[0]]
        others = sum(shapes[name].values for name in alive)
        if len(node.inputs) > 1:
            if not done:  # the sum is a tensor of its own
                others += x.values
                peak = max(peak, others)
            alive -= set(done)
            others = sum(shapes[name].values for name in alive)
            needed = False
        else:
            alive -= set(done)
            needed = not done
            others = sum(shapes[name].values for name in alive) - (x.values if needed else 0)
        found = working(node.part, x, alive=needed)
        peak = max(peak, others + found.peak)
        shapes[node.name] = found.out
        alive.add(node.name)
    return BYTES * peak


def working(part: Part, x: Shape, *, alive: bool = False) -> Working:
    """What a part needs for an input of this shape."""
    return WORKING[type(part)](part, x, alive)


def weight_bytes(graph: Graph) -> int:
    """The bytes of a network's trainable values and of its norms' running statistics."""
    return sum(part_weight_bytes(node.part) for node in graph.nodes)


def part_weight_bytes(part: Part) -> int:
    """The bytes of a part's trainable values and of its norms' running means and variances."""
    return BYTES * (part.cost(1).params + 2 * NORMED[type(part)](part))


def _conv(part: Conv, x: Shape, alive: bool) -> Working:
    out = Shape(part.out_channels, strided(x.side, part.stride))
    return Working(x.values + out.values, out)


def _inverted(part: Inverted, x: Shape, alive: bool) -> Working:
    kept = x.values if part.residual or alive else 0
    after = strided(x.side, part.stride)
    wide, out = Shape(part.mid, after), Shape(part.out_channels, after)
    if part.widens:
        before = Shape(part.mid, x.side)
        needs = [x.values + before.values, kept + before.values + wide.values]
    else:
        needs = [x.values + wide.values]
    if part.se:  # the means, and the hidden layer's input and output
        needs.append(kept + wide.values + part.mid + se_hidden(part.mid))
    return Working(max(*needs, kept + wide.values + out.values), out)


def _bottleneck(part: Bottleneck, x: Shape, alive: bool) -> Working:
    after = strided(x.side, part.stride)
    first, second, out = Shape(part.mid, x.side), Shape(part.mid, after), Shape(part.out_channels, after)
    if not part.projects:
        needs = [x.values + first.values, x.values + first.values + second.values, x.values + second.values + out.values]
        return Working(max(needs), out)
    kept, short = x.values if alive else 0, part.in_channels * after**2  # the shortcut comes first
    needs = [x.values + out.values + (short if part.stride > 1 else 0)]
    needs.append(x.values + out.values + first.values)
    needs.append(kept + out.values + first.values + second.values)
    needs.append(kept + 2 * out.values + second.values)
    return Working(max(needs), out)


def _transformation(part: Transformation, x: Shape, alive: bool) -> Working:
    needs, last, last_alive = [x.values], x, alive
    kept = x.values if alive else 0
    for changes, out in (
        (part.stride > 1, Shape(part.in_channels, strided(x.side, part.stride))),
        (part.projects, Shape(part.out_channels, strided(x.side, part.stride))),
    ):
        if changes:
            needs.append(last.values + out.values + (kept if last is not x else 0))
            last, last_alive = out, False
    if last_alive:  # the norm's output is a tensor of its own
        needs.append(2 * x.values)
    return Working(max(needs), last)


def _sum_norm(part: SumNorm, x: Shape, alive: bool) -> Working:
    return Working(2 * x.values if alive else x.values, x)


def _max_pool(part: MaxPool, x: Shape, alive: bool) -> Working:
    out = Shape(x.channels, strided(x.side, part.stride))
    return Working(x.values + out.values, out)


def _global_pool(part: GlobalPool, x: Shape, alive: bool) -> Working:
    return Working(x.values + x.channels, Shape(x.channels, 1))


def _classifier(part: Classifier, x: Shape, alive: bool) -> Working:
    return Working(x.values + part.classes, Shape(part.classes, 1))


# By type of part: what it needs for an input, which may be needed after it.
WORKING: dict[type, Callable[[Any, Shape, bool], Working]] = {
    Conv: _conv,
    MaxPool: _max_pool,
    Inverted: _inverted,
    Bottleneck: _bottleneck,
    Transformation: _transformation,
    SumNorm: _sum_norm,
    GlobalPool: _global_pool,
    Classifier: _classifier,
}
# By type of part: the channels of its norms.
NORMED: dict[type, Callable[[Any], int]] = {
    Conv: lambda part: part.out_channels if part.norm else 0,
    MaxPool: lambda part: 0,
    Inverted: lambda part: part.mid * (1 + part.widens) + part.out_channels,
    Bottleneck: lambda part: 2 * part.mid + part.out_channels * (1 + part.projects),
    Transformation: lambda part: part.out_channels,
    SumNorm: lambda part: part.in_channels,
    GlobalPool: lambda part: 0,
    Classifier: lambda part: 0,
}
