"""Latency tables: what each part of a network takes on a device, by published keys; a network takes their sum.

Two published formats, as JSON or YAML:

- OFA's (github.com/mit-han-lab/once-for-all): a table for each resolution, `{"160": {key: {"mean": ms, ...}}}`, with
  keys like `expanded_conv-input:80x80x24-output:40x40x32-expand:72-kernel:3-stride:2-idskip:0-se:0-hs:0`, where
  `expand` counts channels; ProxylessNAS's have no `se` and `hs`, and `expand` is the ratio;
- NSGANetV2's: one table for all input sizes, `{key: {"mean": ms, ...}}`, with keys like
  `MBConv-input:80x80x24-output:40x40x32-expand:3-kernel:3-stride:2-idskip:0-se:0`, where `expand` is the ratio.

Shape letters in this file: B archs, G genes, L block slots, R resolutions, C kinds of blocks (0 is none).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa.blocks import Block, Conv, Head, head, mobile_block, parts, slot_name, whole
from ofa.cost import strided
from ofa.genes import Genes
from ofa.space import MobileSpace, Space
from search.errors import ProblemError


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Milliseconds of parts by key, for each resolution (pixels) or, under None, for all; `where` is what errors name."""

    where: str
    ms: Mapping[int | None, Mapping[str, float]]

    @classmethod
    def parse(cls, data: bytes, where: str) -> LatencyTable:
        """A table in either format; what is none is a `ProblemError`."""
        doc = _loaded(data, where)
        if not isinstance(doc, Mapping) or not doc:
            raise ProblemError(f"{where}: is no latency table; expected entries like 'Conv-input:...': {{'mean': 0.5}}")
        sizes = {key: value for key, value in doc.items() if str(key).isdigit()}
        if sizes:
            return cls(where, {int(size): _entries(table, f"{where}: {size}") for size, table in sizes.items()})
        return cls(where, {None: _entries(doc, where)})

    def resolutions(self, space: Space) -> tuple[int, ...]:
        """Those of the space's resolutions whose stem the table has; there must be one."""
        found = tuple(r for r in space.resolutions if _first(self.at(r), _stem_keys(_mobile(space, self.where), r)))
        if not found:
            sizes = ", ".join(str(size) for size in self.ms if size is not None) or "its keys"
            raise ProblemError(
                f"{self.where}: has none of the resolutions of {space.name}, or no stem of its width: "
                f"{' or '.join(_stem_keys(_mobile(space, self.where), space.resolutions[-1]))} is not in {sizes}; "
                "give the table of this space"
            )
        return found

    def ms_of(self, keys: Sequence[str], resolution: int) -> float:
        """What the first of these keys that there is takes; none of them is a `ProblemError`."""
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
    """The latency (ms) of many archs at once by a table: the sum of what is fixed and of each block."""

    def __init__(self, table: LatencyTable, space: Space) -> None:
        mobile = _mobile(space, table.where)
        self.genes = Genes(space)
        slots, kinds = len(space.slots), self.genes.block_kinds
        block_RLC = np.zeros((len(space.resolutions), slots, kinds))
        self._fixed_R = np.zeros(len(space.resolutions))
        for r, resolution in enumerate(space.resolutions):
            sizes, size, fixed = {}, resolution, 0.0
            names = {slot_name(slot.stage, slot.position) for slot in space.slots}
            for name, part in parts(space, whole(space)):
                sizes[name] = size
                if name not in names:
                    fixed += table.ms_of(_part_keys(part, name, size), resolution)
                size = strided(size, part.stride)
            for keys in _head_keys(head(space, whole(space)), size, table.at(resolution).__contains__):
                fixed += table.ms_of(keys, resolution)
            self._fixed_R[r] = fixed
            for i, slot in enumerate(space.slots):
                for k, kernel in enumerate(space.kernels):
                    for e, expand in enumerate(space.expands):
                        block = mobile_block(mobile, slot.stage, slot.position, kernel, expand)
                        keys = _block_keys(block, sizes[slot_name(slot.stage, slot.position)], expand)
                        block_RLC[r, i, 1 + k * len(space.expands) + e] = table.ms_of(keys, resolution)
        self._flat = block_RLC.reshape(-1)
        self._slot_L = np.arange(slots) * kinds
        self._stride = slots * kinds

    def __call__(self, genes_BG: np.ndarray) -> np.ndarray:
        """Milliseconds of archs [B]."""
        resolution_B = genes_BG[:, 0].astype(np.int64)
        place_BL = self.genes.blocks(genes_BG) + self._slot_L + (resolution_B * self._stride)[:, None]
        return self._flat.take(place_BL).sum(axis=1) + self._fixed_R[resolution_B]


def _loaded(data: bytes, where: str) -> Any:
    import yaml

    text = data.decode("utf-8", errors="replace")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ProblemError(f"{where}: is neither JSON nor YAML: {str(error).splitlines()[0]}") from None


def _entries(table: Any, where: str) -> dict[str, float]:
    if not isinstance(table, Mapping):
        raise ProblemError(f"{where}: found {table!r}; expected entries like 'Conv-input:...': {{'mean': 0.5}}")
    found = {}
    for key, entry in table.items():
        if str(key).startswith("_") or key == "unit":
            continue
        ms = entry.get("mean") if isinstance(entry, Mapping) else entry
        if isinstance(ms, bool) or not isinstance(ms, int | float) or not 0 <= ms < float("inf"):
            raise ProblemError(f"{where}: the entry {key} is {entry!r}; expected {{'mean': milliseconds}}")
        found[str(key)] = float(ms)
    return found


def _mobile(space: Space, where: str) -> MobileSpace:
    if not isinstance(space, MobileSpace):
        raise ProblemError(f"{where}: tables describe MobileNetV3 and ProxylessNAS blocks, {space.name} has others")
    return space


def _first(table: Mapping[str, float], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in table), None)


def _stem_keys(space: MobileSpace, resolution: int) -> list[str]:
    name, part = next(iter(parts(space, whole(space))))
    return _part_keys(part, name, resolution)


def _part_keys(part: Any, name: str, size: int) -> list[str]:
    """The keys of a part that is no choice; input `size` by `size` pixels."""
    if isinstance(part, Block):
        return _block_keys(part, size, 1)
    assert isinstance(part, Conv), part
    published = {"stem": ("Conv", "first_conv"), "final": ("Conv_1", "final_expand_layer")}
    published["mix"] = ("Conv_1", "feature_mix_layer")
    return [f"{prefix}-{_shapes(part, size)}" for prefix in published[name]]


def _block_keys(block: Block, size: int, expand: float) -> list[str]:
    shapes, tail = _shapes(block, size), f"kernel:{block.kernel}-stride:{block.stride}-idskip:{int(block.residual)}"
    se, hs = f"se:{int(block.se)}", f"hs:{int(block.act == 'h_swish')}"
    return [
        f"expanded_conv-{shapes}-expand:{block.mid}-{tail}-{se}-{hs}",
        f"expanded_conv-{shapes}-expand:{expand:g}-{tail}",
        f"MBConv-{shapes}-expand:{expand:g}-{tail}-{se}",
    ]


def _shapes(part: Any, size: int) -> str:
    after = strided(size, part.stride)
    return f"input:{size}x{size}x{part.in_channels}-output:{after}x{after}x{part.out_channels}"


def _head_keys(head: Head, size: int, has: Callable[[str], bool]) -> list[list[str]]:
    """The keys of mixing, classifier and pooling; NSGANetV2's tables have no pooling."""
    classifier = [f"Logits-input:1x1x{head.features}-output:1000", f"classifier-input:{head.features}-output:1000"]
    if head.mix is None:
        return [[f"Logits-input:{size}x{size}x{head.features}-output:1000", *classifier]]
    channels = head.mix.in_channels
    mix = f"input:1x1x{channels}-output:1x1x{head.mix.out_channels}"
    keys = [[f"Conv_2-{mix}", f"feature_mix_layer-{mix}"], classifier]
    pools = not has(keys[0][1])
    return keys + [[f"AvgPool2D-input:{size}x{size}x{channels}-output:1x1x{channels}"]] * pools
