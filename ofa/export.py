"""Networks as files: safetensors with everything needed to build them again, and ONNX that was checked."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ofa.arch import Arch, ArchError
from ofa.extract import PlainNet, extract
from ofa.images import Scale, resize
from ofa.spaces import get_space
from ofa.supernet import Supernet

_META = "ofa"  # the key of our description among a safetensors file's metadata


@dataclass(frozen=True, slots=True)
class Ballot:
    """How members of an ensemble vote, as `ensemble/` scored them.

    keep: classes that a member's vote counts for, its likeliest; 0 counts all. hard: its likeliest class gets 1, others
    nothing. weights: of the members' votes; () is all alike. temperatures: of the members; () is 1 for all.
    """

    keep: int = 0
    hard: bool = False
    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()

    def vote(self, logits_NC: Tensor, member: int) -> Tensor:
        """What a member's logits add to the sum over all members: [N, C]."""
        probs = logits_NC.softmax(1)
        keep = 1 if self.hard else self.keep
        kept = probs.topk(keep, dim=1) if keep else None
        if kept is not None:
            probs = torch.zeros_like(probs).scatter(1, kept.indices, kept.values)
        if self.hard:
            probs = (probs > 0).to(probs.dtype)
        elif self.temperatures:  # the classes that were not kept are one more class together
            rest = (1 - probs.sum(1, keepdim=True)).clamp_min(0)
            power = 1 / self.temperatures[member]
            probs = probs**power / ((probs**power).sum(1, keepdim=True) + rest**power)
        return probs * self.weights[member] if self.weights else probs


ALIKE = Ballot()  # every member's probabilities, all classes


class Vote(nn.Module):
    """Several networks as one: images at one size in, the mean of the members' votes out; its argmax is the answer.

    Every member sees the images at its own resolution. Members are branches of one graph, which may run in parallel.
    """

    def __init__(self, members: Sequence[PlainNet], resolutions: Sequence[int], ballot: Ballot = ALIKE) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.resolutions = list(resolutions)
        self.ballot = ballot

    def forward(self, images: Tensor) -> Tensor:
        votes = torch.stack([self.vote(member, images) for member in range(len(self.members))])
        return votes.sum(0) if self.ballot.weights else votes.mean(0)

    def vote(self, member: int, images: Tensor) -> Tensor:
        """One member's part of the sum."""
        return self.ballot.vote(self.members[member](resize(images, self.resolutions[member])), member)


@dataclass(frozen=True, slots=True)
class Description:
    """What one must know to use exported networks: archs of a space, its classes, and how pixels are scaled."""

    space: str
    classes: int
    archs: tuple[Arch, ...]
    scale: Scale
    input_resolution: int  # side of the images that go in, in pixels: an ensemble's members shrink them to their own
    ballot: Ballot = ALIKE  # of an ensemble

    def to_json(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "classes": self.classes,
            "archs": [arch.to_json() for arch in self.archs],
            "input": {
                "layout": "NCHW",
                "resolution": self.input_resolution,
                "mean": list(self.scale.mean),  # subtracted from pixels on the 0..1 scale,
                "std": list(self.scale.std),  # which are then divided by this
            },
            "output": "logits" if len(self.archs) == 1 else "probabilities",
            "ballot": asdict(self.ballot),
        }

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Description:
        mean, std = doc["input"]["mean"], doc["input"]["std"]
        archs = tuple(Arch.from_json(arch) for arch in doc["archs"])
        scale, resolution = Scale(tuple(mean), tuple(std)), doc["input"]["resolution"]
        ballot: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in doc["ballot"].items()
        }
        return cls(doc["space"], doc["classes"], archs, scale, resolution, Ballot(**ballot))


def to_safetensors(network: nn.Module, description: Description) -> bytes:
    """Weights and statistics, with the description in the file's metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={_META: json.dumps(description.to_json())})


def from_safetensors(path: str) -> tuple[nn.Module, Description]:
    """The network that `to_safetensors` wrote, in evaluation mode; any other file is an `ArchError`."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = Description.from_json(json.loads(file.metadata()[_META]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArchError(f"{path}: is no exported network ({error}); `ofa export` makes them") from None
    space = get_space(description.space).at([arch.resolution for arch in description.archs])
    blank = Supernet(space, description.classes, torch.Generator().manual_seed(0))
    members = [extract(blank, arch) for arch in description.archs]
    network = members[0] if len(members) == 1 else Vote(
        members, [arch.resolution for arch in description.archs], description.ballot
    )  # fmt: skip
    network.load_state_dict(tensors)
    return network.eval(), description


def to_program(network: nn.Module, resolution: int) -> torch.export.ExportedProgram:
    """`network` as `torch.export` has it, for `images` [N, 3, resolution, resolution]; N is free."""
    images = torch.zeros(2, 3, resolution, resolution)
    return torch.export.export(network.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))


def to_pt2(program: torch.export.ExportedProgram) -> bytes:
    """A file for `torch.export.load`, AOTInductor and ExecuTorch."""
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def to_onnx(program: torch.export.ExportedProgram) -> bytes:
    """The program as an ONNX model from `images` to `output`."""
    with _quiet():
        model = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=["output"], verbose=False)
    assert model is not None
    return model.model_proto.SerializeToString()


@torch.inference_mode()
def pt2_difference(file: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest difference between what an exported program and `network` make of `images`, in one batch and singly."""
    module = torch.export.load(io.BytesIO(file)).module()
    return max(float((module(batch) - network(batch)).abs().max()) for batch in (images, images[:1]))


@torch.inference_mode()
def onnx_difference(model: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest difference between what ONNX Runtime and PyTorch make of `images`, in one batch and singly."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (images, images[:1]):
        [output] = session.run(None, {"images": batch.contiguous().numpy()})
        worst = max(worst, float((torch.from_numpy(output) - network(batch)).abs().max()))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of torchvision, which nothing here needs, and of its own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
