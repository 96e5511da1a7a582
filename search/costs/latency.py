"""Latency tables: the latency of each part of a network on a device, by published keys; a network's is their sum.

Two published formats, as JSON or YAML:

- OFA's (github.com/mit-han-lab/once-for-all): a table for each resolution, `{"160": {key: {"mean": ms, ...}}}`, with
  keys like `expanded_conv-input:80x80x24-output:40x40x32-expand:72-kernel:3-stride:2-idskip:0-se:0-hs:0`, where
  `expand` counts channels; ProxylessNAS's have no `se` and `hs`, and `expand` is the ratio;
- NSGANetV2's: one table for all input sizes, `{key: {"mean": ms, ...}}`, with keys like
  `MBConv-input:80x80x24-output:40x40x32-expand:3-kernel:3-stride:2-idskip:0-se:0`, where `expand` is the ratio.

The branches of OFAv2's parallel blocks have keys in the same style, which no published table has: `parallel_conv-...`,
`transformation-...` and `sum_norm-...`; the heads of its exits have those of MobileNetV3's head.

Keys are made in this file alone: `ofa measure --latency-table` writes the first of the keys that are read.
Shape letters in this file: B archs, G genes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa.checks import number, shown
from ofa.graph import Part, strided
from ofa.parts.conv import Conv
from ofa.parts.head import Classifier, GlobalPool
from ofa.parts.inverted import Inverted
from ofa.parts.parallel import SumNorm, Transformation
from ofa.space import Space
from search.costs.exact import Sums, node_tables
from search.errors import ProblemError

PUBLISHED_CLASSES = 1000  # of the published tables
MOST_MS = 1e6  # the greatest latency that a part may have: a quarter of an hour


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Latency (ms) of parts by key, for each resolution (pixels) or, under None, for all; `where` names it in errors."""

    where: str
    ms: Mapping[int | None, Mapping[str, float]]

    @classmethod
    def parse(cls, doc: Any, where: str) -> LatencyTable:
        """The table of a JSON or YAML document in either format; raises a `ProblemError` for any other document."""
        if not isinstance(doc, Mapping) or not doc:
            raise ProblemError(f"{where}: is no latency table; expected entries like 'Conv-input:...': {{'mean': 0.5}}")
        sizes = {key: table for key, table in doc.items() if _is_size(key)}
        if sizes:
            others = {key: entry for key, entry in doc.items() if key not in sizes}
            if strange := _entries(others, where):
                raise ProblemError(f"{where}: has the key {shown(next(iter(strange)))} beside resolutions; expected pixels")
            if len({int(size) for size in sizes}) < len(sizes):
                raise ProblemError(f"{where}: has a resolution twice: {', '.join(map(str, sizes))}; give one table for each")
            return cls(where, {int(size): _entries(table, f"{where}: {size}") for size, table in sizes.items()})
        return cls(where, {None: _entries(doc, where)})

    def resolutions(self, space: Space) -> tuple[int, ...]:
        """The space's resolutions whose stem is in the table; raises a `ProblemError` if there is none."""
        name, stem = _published(space, self.where)[0]
        found = tuple(r for r in space.resolutions if _first(self.at(r), keys(name, stem, r)))
        if not found:
            sizes = ", ".join(str(size) for size in self.ms if size is not None) or "its keys"
            raise ProblemError(
                f"{self.where}: has none of the resolutions of {space.name}, or no stem of its width: "
                f"{' or '.join(keys(name, stem, space.resolutions[-1]))} is not in {sizes}; "
                "give the table of this space"
            )
        return found

    def ms_of(self, keys: Sequence[str], resolution: int) -> float:
        """The latency (ms) of the first of these keys that is in the table; a `ProblemError` if none is."""
        table = self.at(resolution)
        key = _first(table, keys)
        if key is None:
            raise ProblemError(
                f"{self.where}: has no key {' or '.join(keys)}, which resolution {resolution} needs; "
                "measure that part, or leave the resolution out"
            )
        return table[key]

    def at(self, resolution: int) -> Mapping[str, float]:
        """The table of a resolution; empty where there is none."""
        return self.ms.get(resolution, self.ms.get(None, {}))


class TableLatency:
    """The latency (ms) of many archs at once by a table: the sum over their nodes."""

    def __init__(self, table: LatencyTable, space: Space, classes: int = PUBLISHED_CLASSES) -> None:
        """classes: the width of the classifiers whose latency is counted."""
        _published(space, table.where)

        def ms(name: str, part: Part, size: int, resolution: int) -> float:
            known = _head_ms(table.at(resolution), part, size)
            return table.ms_of(keys(name, part, size), resolution) if known is None else known

        self._sums = Sums(node_tables(space, classes), ms)

    def __call__(self, genes_BG: np.ndarray) -> np.ndarray:
        """The latency (ms) of canonical genes: float64 [B]."""
        return self._sums(genes_BG)


@dataclass(frozen=True, slots=True)
class TableCost:
    """The exact latency of an objective (`Objective.exact`): by a table, with classifiers of some number of classes."""

    table: LatencyTable
    classes: int

    @classmethod
    def of(cls, table: LatencyTable, space: Space, classes: int) -> TableCost:
        """The cost with this number of classes where the table has their classifier, else with the published 1000."""
        whole = space.graph(space.largest(), (), classes).nodes
        heads = [key for node in whole if isinstance(node.part, Classifier) for key in keys(node.name, node.part, 1)]
        known = any(_first(table.at(resolution), heads) for resolution in space.resolutions)
        return cls(table, classes if known else PUBLISHED_CLASSES)

    def __call__(self, space: Space) -> TableLatency:
        """The latency of the space's archs."""
        return TableLatency(self.table, space, self.classes)


def _entries(table: Any, where: str) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise ProblemError(f"{where}: found {shown(table)}; expected entries like 'Conv-input:...': {{'mean': 0.5}}")
    if (unit := table.get("unit", "ms")) != "ms":
        raise ProblemError(f"{where}: its unit is {shown(unit)}; expected 'ms': latencies are in milliseconds")
    found = {}
    for key, entry in table.items():
        if str(key).startswith("_") or key == "unit":
            continue
        ms = number(entry.get("mean") if isinstance(entry, Mapping) else entry, 0, MOST_MS)
        if ms is None:
            raise ProblemError(
                f"{where}: the entry {shown(key)} is {shown(entry)}; expected {{'mean': milliseconds}}, 0 to {MOST_MS:g}"
            )
        found[str(key)] = ms
    return found


def _is_size(key: Any) -> bool:
    """Whether a key of a table is a resolution in pixels."""
    return re.fullmatch("[0-9]{1,5}", str(key)) is not None


def _first(table: Mapping[str, float], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in table), None)


def keys(name: str, part: Part, size: int) -> list[str]:
    """The published keys of a node whose input is `size` by `size` pixels, OFA's first; none if its part has none."""
    known = KEYS.get(type(part))
    return known(name, part, size) if known else []


def has_keys(space: Space) -> bool:
    """Whether every part of the space's networks has published keys."""
    return all(keys(node.name, node.part, 1) for whole in space.wholes for node in space.graph(whole).nodes)


def _published(space: Space, where: str) -> list[tuple[str, Part]]:
    """The parts of the largest network; raises a `ProblemError` for one without keys."""
    if not has_keys(space):
        raise ProblemError(f"{where}: tables describe MobileNetV3 and ProxylessNAS blocks, {space.name} has others")
    return [(node.name, node.part) for whole in space.wholes for node in space.graph(whole).nodes]


def _conv_keys(name: str, part: Conv, size: int) -> list[str]:
    if name == "stem":
        prefixes = ("Conv", "first_conv")
    else:
        if name.endswith("_conv"):
            return [f"parallel_conv-{_shapes(part, size)}-{_tail(part)}"]
        final = name.endswith("final")
        prefixes = ("Conv_1" if part.norm else "Conv_2", "final_expand_layer" if final else "feature_mix_layer")
    return [f"{prefix}-{_shapes(part, size)}" for prefix in prefixes]


def _block_keys(name: str, part: Inverted, size: int) -> list[str]:
    shapes, tail = _shapes(part, size), f"kernel:{part.kernel}-stride:{part.stride}-idskip:{int(part.residual)}"
    se, hs = f"se:{int(part.se)}", f"hs:{int(part.act == 'h_swish')}"
    expand = f"{part.mid / part.in_channels:g}"
    return [
        f"expanded_conv-{shapes}-expand:{part.mid}-{tail}-{se}-{hs}",
        f"expanded_conv-{shapes}-expand:{expand}-{tail}",
        f"MBConv-{shapes}-expand:{expand}-{tail}-{se}",
    ]


def _transformation_keys(name: str, part: Transformation, size: int) -> list[str]:
    return [f"transformation-{_shapes(part, size)}-{_tail(part)}"]


def _sum_norm_keys(name: str, part: SumNorm, size: int) -> list[str]:
    return [f"sum_norm-input:{size}x{size}x{part.in_channels}"]


def _tail(part: Conv | Transformation) -> str:
    return f"stride:{part.stride}-hs:{int(part.act == 'h_swish')}"


def _pool_keys(name: str, part: GlobalPool, size: int) -> list[str]:
    return [f"AvgPool2D-input:{size}x{size}x{part.in_channels}-output:1x1x{part.in_channels}"]


def _classifier_keys(name: str, part: Classifier, size: int) -> list[str]:
    words = f"{part.in_channels}-output:{part.classes}"
    return [f"Logits-input:1x1x{words}", f"classifier-input:{words}"]


def _head_ms(table: Mapping[str, float], part: Part, size: int) -> float | None:
    """The latency (ms) of pooling and classifier by tables that do not have both.

    ProxylessNAS's tables time the two as one, NSGANetV2's have no pooling.
    """
    if isinstance(part, GlobalPool):
        both = f"Logits-input:{size}x{size}x{part.in_channels}-output:1000"
        if size > 1 and both in table:
            return table[both]
        return 0.0 if any(key.startswith("feature_mix_layer-") for key in table) else None
    if isinstance(part, Classifier) and _first(table, _classifier_keys("", part, size)) is None:
        rest = f"x{part.in_channels}-output:{part.classes}"
        return 0.0 if any(key.startswith("Logits-") and key.endswith(rest) for key in table) else None
    return None


def _shapes(part: Conv | Inverted | Transformation, size: int) -> str:
    after = strided(size, part.stride)
    return f"input:{size}x{size}x{part.in_channels}-output:{after}x{after}x{part.out_channels}"


# By type of part, the function that makes its keys from the node's name, the part, and its input's side in pixels.
KEYS: dict[type, Callable[[str, Any, int], list[str]]] = {
    Conv: _conv_keys,
    Inverted: _block_keys,
    Transformation: _transformation_keys,
    SumNorm: _sum_norm_keys,
    GlobalPool: _pool_keys,
    Classifier: _classifier_keys,
}
