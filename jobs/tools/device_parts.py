"""Export the parts of a space's networks as ONNX files, to time them on another device; leaves a directory.

    ofa measure --parts DIR --space ofa_mbv3_w1.0 --resolution 224
    python DIR/time_parts.py DIR table.json                           on the device, with numpy and onnxruntime

`parts.json` lists the files: for each key of the latency table the file and the shape of its input, and some whole networks
with the keys of their parts. One file serves every resolution.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from cluster.progress import Reporter
from cluster.store import open_output
from cluster.texts import json_lines
from jobs.tools.latency_table import CLASSES, check
from jobs.workers.parts import SEED, covering_archs, network_of, untrained
from ofa.export import to_onnx_of_any_size
from ofa.graph import Part, strided
from ofa.space import Space
from search.costs.latency import keys

SCRIPT = Path(__file__).with_name("time_parts.py")  # not imported: it is for the device


def export_parts(space: Space, resolutions: Sequence[int], networks: int, out: str, reporter: Reporter) -> None:
    """Writes the parts, `networks` whole networks, their list and the script that times them to the directory `out`."""
    check(space, resolutions, "--parts")
    folder = open_output(out)
    net = untrained(space, CLASSES)
    parts: list[dict[str, object]] = []
    wholes: list[dict[str, object]] = []
    written: dict[Part, str] = {}
    known: set[tuple[int, str]] = set()
    archs = covering_archs(space, CLASSES)
    with reporter.track("parts", len(archs) + networks, "networks") as tracker:
        for arch in archs:
            network = network_of(net, arch)
            for node in network.graph.nodes:
                for resolution, size in _sizes(network.graph.strides[node.name], resolutions):
                    key = keys(node.name, node.part, size)[0]
                    if (resolution, key) in known:
                        continue
                    known.add((resolution, key))
                    channels = node.part.in_channels  # type: ignore[attr-defined]  # parts with keys have them
                    if node.part not in written:
                        written[node.part] = name = f"part-{len(written):04d}.onnx"
                        folder.write(name, to_onnx_of_any_size(network.part(node.name), channels, size))
                    entry = {"file": written[node.part], "resolution": resolution, "key": key}
                    parts.append({**entry, "shape": [1, channels, size, size]})
            tracker.advance()
        rng = random.Random(f"{SEED}/parts")
        for index, arch in enumerate([space.largest(), space.smallest(), *(space.sample(rng) for _ in range(networks))]):
            if index == networks:
                break
            network, name = network_of(net, arch), f"network-{index:04d}.onnx"
            folder.write(name, to_onnx_of_any_size(network, 3, resolutions[-1]))
            for resolution in resolutions:
                at = zip(network.graph.nodes, network.graph.sizes(resolution), strict=True)
                entry = {"file": name, "resolution": resolution, "keys": [keys(n.name, n.part, size)[0] for n, size in at]}
                wholes.append({**entry, "shape": [1, 3, resolution, resolution]})
            tracker.advance()
    listed = {"space": space.name, "classes": CLASSES, "resolutions": list(resolutions), "parts": parts, "networks": wholes}
    folder.write("parts.json", json_lines(listed).encode())
    folder.write(SCRIPT.name, SCRIPT.read_bytes())
    reporter.say(
        f"{out}: {len(written)} parts and {networks} networks of {space.name} as ONNX; on the device: "
        f"python {out}/time_parts.py {out} table.json",
        event="result", out=out, parts=len(written), networks=networks, entries=len(parts),
    )  # fmt: skip


def _sizes(stride: int, resolutions: Sequence[int]) -> list[tuple[int, int]]:
    return [(resolution, strided(resolution, stride)) for resolution in resolutions]
