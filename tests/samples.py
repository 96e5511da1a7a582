"""A valid file of every kind that a user or a run gives to a command, each small; with `nan`, one with a NaN in it."""

from __future__ import annotations

import json
import random

import helpers
import numpy as np

from ensemble.network import Combination, EnsembleDescription, EnsembleNetwork
from ensemble.table import Table
from ofa import npz
from ofa.export import Description, to_safetensors
from ofa.extract import extract
from ofa.genes import Genes
from ofa.graph import strided
from ofa.images import Scale
from ofa.norms import calibrate
from ofa.published import published_names
from ofa.record import Measured
from ofa.spaces import get_space
from ofa.supernet import Supernet
from search.costs.exact import node_tables
from search.costs.latency import keys
from search.front import Front
from search.predict.predictor import fit

DIGITS = get_space("digits")
SCALE = Scale((0.3,) * 3, (0.4,) * 3)


def write_config(place, nan=False):
    place.write_text(helpers.TINY.read_text().replace("lr = 0.1", "lr = nan" if nan else "lr = 0.1"))


def write_arch(place, nan=False):
    doc = DIGITS.smallest().to_json()
    place.write_text(json.dumps(doc | {"resolution": float("nan")} if nan else doc))


def members(nan):
    archs = [DIGITS.smallest(), DIGITS.largest()]
    return [Measured(arch, float("nan") if nan else 0.5 + i / 10, 1000 + i, 100 + i) for i, arch in enumerate(archs)]


def write_front(place, nan=False):
    place.write_text(json.dumps(Front("digits", tuple(members(nan))).to_json()))


def write_measured(place, nan=False):
    place.write_text("".join(json.dumps(member.to_json()) + "\n" for member in members(nan)))


def table(nan):
    nodes = node_tables(DIGITS, 1000)
    parts = [(name, *entry) for name in nodes.names for entry in filter(None, nodes.entries[name].values())]
    found = {
        str(size): {keys(name, part, strided(size, stride))[0]: {"mean": 0.01} for name, part, stride in parts}
        for size in DIGITS.resolutions
    }
    if nan:
        next(iter(found["24"].values()))["mean"] = float("nan")
    return found


def write_table(place, nan=False):
    place.write_text(json.dumps(table(nan)))


def write_yaml(place, nan=False):
    lines = [f"{size!r}:\n" + "".join(f"  {key!r}: {{mean: {entry['mean']}}}\n" for key, entry in rows.items())
             for size, rows in table(nan).items()]  # fmt: skip
    place.write_text("".join(lines).replace("nan", ".nan"))


def write_predictor(place, nan=False):
    rng = random.Random(1)
    genes_BG = Genes(DIGITS).encode([DIGITS.sample(rng) for _ in range(60)])
    data = fit(DIGITS, genes_BG, np.linspace(0.5, 0.9, 60), "top1").to_npz()
    if nan:
        arrays = npz.unpack_all(data)
        data = npz.pack(**(arrays | {"mean": arrays["mean"] * np.nan}))
    place.write_bytes(data)


def write_predictions(place, nan=False):
    rng = np.random.default_rng(0)
    probs = -np.sort(-rng.random((3, 100, 3)) / 3, axis=2).astype(np.float32)
    if nan:
        probs[0, 0, 0] = np.nan
    classes = np.argsort(rng.random((3, 100, 10)), axis=2)[:, :, :3]
    place.write_bytes(Table(classes, probs, rng.integers(0, 10, 100), np.arange(1.0, 4)).to_npz())


def member(nan):
    import torch

    net, arch = Supernet(DIGITS, 10, torch.Generator().manual_seed(1)).eval(), DIGITS.smallest()
    found = extract(net, arch, calibrate(net, arch, [torch.randn(8, 3, 24, 24)]))
    if nan:
        torch.nn.init.constant_(next(found.parameters()), float("nan"))
    return found


def write_network(place, nan=False):
    place.write_bytes(to_safetensors(member(nan), Description.of("digits", 10, DIGITS.smallest(), SCALE, 24)))


def write_ensemble(place, nan=False):
    arch, soft = DIGITS.smallest(), Combination()
    vote = EnsembleNetwork([member(nan)], [arch.resolution], soft).eval()
    place.write_bytes(to_safetensors(vote, EnsembleDescription.of_members("digits", 10, [arch], SCALE, 32, soft)))


def write_weights(place, nan=False):
    import torch
    from safetensors.torch import save

    net = Supernet(DIGITS, 10, torch.Generator().manual_seed(1))
    place.write_bytes(save({f"net.{name}": tensor * np.nan if nan else tensor for name, tensor in net.state_dict().items()}))


def write_checkpoint(place, nan=False):
    import torch

    net = Supernet(DIGITS, 10, torch.Generator().manual_seed(1))
    state, names = net.state_dict(), published_names(net)
    torch.save({names[name]: tensor * np.nan if nan else tensor for name, tensor in state.items()}, place)


# What a use needs: how it is written, and the end of its name.
def write_token(place, nan=False):
    place.write_text("0123456789abcdef" * 4)


THINGS = {
    "config": (write_config, "toml"),
    "arch": (write_arch, "json"),
    "front": (write_front, "json"),
    "measured": (write_measured, "jsonl"),
    "table": (write_table, "json"),
    "yaml": (write_yaml, "yaml"),
    "predictor": (write_predictor, "npz"),
    "predictions": (write_predictions, "npz"),
    "network": (write_network, "safetensors"),
    "ensemble": (write_ensemble, "safetensors"),
    "weights": (write_weights, "safetensors"),
    "checkpoint": (write_checkpoint, "pth"),
    "token": (write_token, "txt"),
}
