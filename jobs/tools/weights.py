"""Convert a released checkpoint of Once-for-All to weights of a supernet; leaves weights.safetensors in a directory.

    ofa import ofa_mbv3_d234_e346_k357_w1.0 --space ofa_mbv3_w1.0 --out published/mbv3

`train.weights` takes the file: a run without phases searches the supernet as it is, others train it further.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.reading import read_bytes, shortened
from cluster.store import open_output
from cluster.texts import json_text, sha256
from jobs import files
from ofa.checks import shown
from ofa.published import SPACES, has_checkpoints, is_transform, meta_supernet, published_names, simplified
from ofa.space import Space
from ofa.spaces import get_space

EXPECTED = "a checkpoint that torch.save wrote"
_META = "supernet"  # the key of the description among the metadata of the file; of several keys the order would be random
_COUNTS = "num_batches_tracked"  # of norms, of no use to us
_HEADER = 8  # bytes at the beginning of a safetensors file: the length of its JSON header


@dataclass(frozen=True, slots=True)
class Imported:
    """A supernet's tensors from a checkpoint, as `Supernet.state_dict()` names them.

    read: tensors of the checkpoint. transforms: kernel transforms that it has; without any they are identities. params:
    trainable values, kernel transforms included.
    """

    space: str
    classes: int
    tensors: Mapping[str, Tensor]
    read: int
    transforms: int
    params: int

    def to_safetensors(self) -> bytes:
        """The content of the file; equal tensors give equal bytes."""
        description = json_text({"space": self.space, "classes": self.classes})
        return safetensors.torch.save(dict(self.tensors), metadata={_META: description})


def import_weights(checkpoint: str, space: str, out: str, reporter: Reporter) -> Imported:
    """Writes the weights of a checkpoint to the directory `out`, and reports what it has."""
    found = converted(read_checkpoint(checkpoint), get_space(space), shortened(checkpoint))
    folder, data = open_output(out), found.to_safetensors()
    folder.write(files.IMPORTED.key, data)
    place = f"{out.rstrip('/') or out}/{files.IMPORTED}"
    transforms = f"{found.transforms} kernel transforms"
    reporter.say(
        f"{place}: {found.params:,} parameters of {space} with {found.classes} classes, {transforms}; {found.read} tensors "
        "were read",
        event="result", weights=place, sha256=sha256(data), space=space, classes=found.classes, tensors=found.read,
        kernel_transforms=found.transforms, params=found.params,
    )  # fmt: skip
    return found


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """The state dict of a checkpoint, bare or under `state_dict`, without counters of norms; nothing in it is executed.

    Raises an `InputError` for a file that has something else, or that is cut short.
    """
    where, data = shortened(path), read_bytes(path, EXPECTED)
    if not data:
        raise InputError(f"{where}: is empty; give {EXPECTED}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            doc = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"{where}: {_reason(data, str(error))}; give {EXPECTED}") from None
    if isinstance(doc, dict) and isinstance(doc.get("state_dict"), dict):
        doc = doc["state_dict"]
    if not isinstance(doc, dict) or not doc:
        raise InputError(f"{where}: has no state dict but a {type(doc).__name__}; give {EXPECTED}")
    for name, value in doc.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{where}: {shown(name)} is a {type(value).__name__}, no tensor; give the state dict alone")
    return {name: tensor for name, tensor in doc.items() if not name.endswith(_COUNTS)}


def _reason(data: bytes, message: str) -> str:
    """Why a file could not be loaded, from PyTorch's message."""
    if code := re.search(r"GLOBAL ([\w.]+)", message):
        return f"has code or objects ({code[1]}) beside tensors, which are never loaded"
    if "TorchScript" in message:
        return "is a TorchScript program, no state dict"
    if data[:2] in (b"PK", b"\x80\x02"):
        return "is damaged, or cut short"
    return "is no file of PyTorch"


def converted(tensors: Mapping[str, Tensor], space: Space, where: str) -> Imported:
    """The weights of a supernet of `space` from the state dict of a released checkpoint.

    Raises an `InputError` that begins with `where` unless every tensor of the supernet is there, with its shape, and no
    other.
    """
    if not has_checkpoints(space):
        raise InputError(f"--space {space.name}: there are no checkpoints of this space; give {', '.join(SPACES)}")
    given: dict[str, str] = {}  # names in the checkpoint by their simplified names
    for name in tensors:
        if (other := given.setdefault(simplified(name), name)) != name:
            raise InputError(
                f"{where}: {shown(other)} and {shown(name)} are the same tensor; give the state dict of one network"
            )
    expected = _expected(space, tensors, given)
    transforms = [ours for ours in expected if is_transform(ours)]
    known = [ours for ours in transforms if expected[ours][0] in given]
    if not known:  # a checkpoint whose kernels were trained without transforms
        expected = {ours: there for ours, there in expected.items() if not is_transform(ours)}
    if (wrong := _mismatch(expected, tensors, given, space.name)) is not None:
        others = (get_space(name) for name in SPACES if name != space.name)
        fits = [other.name for other in others if _mismatch(_expected(other, tensors, given), tensors, given, "") is None]
        advice = f"it is a checkpoint of {fits[0]}: give --space {fits[0]}" if fits else f"give a checkpoint of {space.name}"
        raise InputError(f"{where}: {wrong}; {advice}")
    found = {}
    for ours, (published, _) in expected.items():
        name = given[published]
        found[ours] = _usable(tensors[name], f"{where}: {name}")
    net = meta_supernet(space, len(found["classifier.bias"]))
    if not known:
        found |= {ours: torch.eye(net.state_dict()[ours].shape[0]) for ours in transforms}
    params = sum(p.numel() for p in net.parameters())
    return Imported(space.name, net.classes, found, len(tensors), len(known), params)


Expected = dict[
    str, tuple[str, tuple[int, ...]]
]  # by a tensor's name in our supernet: that in the checkpoint, and the shape


def _expected(space: Space, tensors: Mapping[str, Tensor], given: Mapping[str, str]) -> Expected:
    """What a checkpoint of `space` has, with as many classes as these tensors have."""
    bias = tensors.get(given.get("classifier.linear.bias", ""))
    net = meta_supernet(space, len(bias) if bias is not None and bias.ndim == 1 else 1000)
    names = published_names(net)
    return {ours: (names[ours], tuple(tensor.shape)) for ours, tensor in net.state_dict().items()}


def _mismatch(expected: Expected, tensors: Mapping[str, Tensor], given: Mapping[str, str], space: str) -> str | None:
    """The first difference between a checkpoint and what is expected of one of `space`, or None."""
    for published, shape in expected.values():
        name = given.get(published)
        if name is None:
            return f"has no tensor {published}, which a supernet of {space} has with shape {shape}"
        if tuple(tensors[name].shape) != shape:
            return f"{name} has shape {tuple(tensors[name].shape)}, in a supernet of {space} it has {shape}"
    known = {published for published, _ in expected.values()}
    unknown = next((name for published, name in given.items() if published not in known), None)
    return None if unknown is None else f"{shown(unknown)} is no tensor of a supernet of {space}"


def _usable(tensor: Tensor, where: str) -> Tensor:
    """A tensor as float32 in memory of its own; an `InputError` if it has no finite numbers."""
    if tensor.is_meta or tensor.layout != torch.strided or not tensor.is_floating_point():
        raise InputError(f"{where}: has no numbers of floating point; give {EXPECTED}")
    found = tensor.detach().to(torch.float32, copy=True).contiguous()
    if not bool(found.isfinite().all()):
        raise InputError(f"{where}: has values that are not finite; give a checkpoint of a sound training")
    return found


def space_of(data: bytes) -> str:
    """The space of a file of weights, if it is one that `ofa import` wrote, else ""."""
    header: Any
    try:
        header = json.loads(data[_HEADER : _HEADER + int.from_bytes(data[:_HEADER], "little")])
        return str(json.loads(header["__metadata__"][_META])["space"])
    except (ValueError, LookupError, TypeError):  # other files have no description, or are no safetensors files
        return ""
