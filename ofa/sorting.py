"""Sorts channels by importance, so that a narrower block keeps the most important ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from ofa.supernet import Supernet


@torch.no_grad()
def sort_channels(net: Supernet, trained_expands: tuple[float, ...]) -> None:
    """Reorders the inner channels of every block by the L1 norm of the weights that consume them, largest first.

    The largest network computes the same function as before. Widths in `trained_expands` keep their set of channels:
    channels are sorted only between one trained width and the next.
    Source: Once-for-All, arXiv:1908.09791, sec. 3.3 (channel sorting).
    """
    space = net.space
    choices = space.choices[space.forest.fields.get("expand", slice(0))]  # of every slot, which may lack some of the ratios
    for full in space.wholes:
        archs = []
        for expand in sorted(trained_expands):
            ratios = zip(choices, full.expand, strict=True)
            archs.append(replace(full, expand=tuple(expand if expand in here else most for here, most in ratios)))
        trained = [{node.name: node.part for node in net.graph(arch).nodes} for arch in archs]
        for node in net.graph(full).nodes:
            net.part(node.name).sort([parts[node.name] for parts in trained if node.name in parts])
