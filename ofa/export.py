"""Networks as files: safetensors with everything needed to rebuild them, `torch.export` programs, and ONNX."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ofa.arch import Arch, ArchError
from ofa.documents import Document, DocumentError
from ofa.extract import PlainNet, extract
from ofa.images import Scale
from ofa.spaces import get_space
from ofa.supernet import Supernet

D = TypeVar("D", bound="Description")

_META = "ofa"  # the key of our description among a safetensors file's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Document):
    """The size and scaling of the images that a network takes."""

    layout: str
    resolution: int  # side, in pixels; the members of an ensemble resize the images to their own resolutions
    mean: tuple[float, float, float]  # subtracted from pixels on the 0..1 scale,
    std: tuple[float, float, float]  # which are then divided by this

    @classmethod
    def of(cls, scale: Scale, resolution: int) -> Input:
        """The input of images of this resolution (pixels), scaled by `scale`."""
        return cls(layout="NCHW", resolution=resolution, mean=scale.mean, std=scale.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Document):
    """How image files become the images on which a network was evaluated: `ofa.decode.centre` with these arguments."""

    side: int  # of the square, in pixels; the network's own resolution may be smaller
    crop: float  # centre-crop ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Description(Document):
    """The description of an exported network: archs of a space, the classes, and the scaling of pixels."""

    space: str
    classes: int
    archs: tuple[Arch, ...]  # one, or those of an ensemble's members
    input: Input
    output: str
    exits: tuple[int, ...] = ()  # of one network: the exits that are outputs, in this order; () is its last one alone
    exit_weights: tuple[float, ...] = ()  # of the logits of these exits, whose weighted sum is then the only output
    names: tuple[str, ...] = ()  # of the classes, in the order of the outputs
    decoding: Decoding | None = None  # of image files

    @classmethod
    def of(
        cls,
        space: str,
        classes: int,
        arch: Arch,
        scale: Scale,
        resolution: int,
        exits: tuple[int, ...] = (),
        exit_weights: tuple[float, ...] = (),
    ) -> Description:
        """The description of one sub-network of a space; resolution: of the input images, in pixels."""
        taken = Input.of(scale, resolution)
        return cls(space=space, classes=classes, archs=(arch,), input=taken, output="logits", exits=exits,
                   exit_weights=exit_weights)  # fmt: skip

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs in ONNX."""
        several = () if self.exit_weights else self.exits
        return [f"exit{after}" for after in several] or ["output"]

    @property
    def scale(self) -> Scale:
        """uint8 images scaled as in the network's training."""
        return Scale(self.input.mean, self.input.std)

    @property
    def input_resolution(self) -> int:
        """The side of the input images, in pixels."""
        return self.input.resolution


def to_safetensors(network: nn.Module, description: Description) -> bytes:
    """The content of a safetensors file with weights and statistics, and the description in its metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return safetensors.torch.save(tensors, metadata={_META: json.dumps(description.to_json(), allow_nan=False)})


def from_safetensors(path: str) -> tuple[nn.Module, Description]:
    """The network that `to_safetensors` wrote, in evaluation mode; any other file is an `ArchError`.

    Files of ensembles are read by `ensemble.network.from_safetensors`.
    """
    doc, tensors = file_of(path)
    if isinstance(doc, dict) and "combination" in doc:
        raise ArchError(f"{path}: is an ensemble; read it with `ensemble.network.from_safetensors`")
    description = described(Description, doc, tensors, path)
    [network] = extracted(description)
    return filled(network, tensors, path), description


def file_of(path: str) -> tuple[Any, dict[str, Tensor]]:
    """The description (as JSON) and the tensors in a file of `to_safetensors`; any other file is an `ArchError`."""
    try:
        with safetensors.safe_open(os.path.expanduser(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return json.loads(metadata.get(_META, "")), tensors
    except (OSError, safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ArchError(f"{path}: is no exported network ({error}); `ofa export` makes them") from None


def described(kind: type[D], doc: Any, tensors: Mapping[str, Tensor], path: str) -> D:
    """The description in `doc`; one of other values, or that cannot be of these tensors, is an `ArchError`."""
    try:
        found = kind.from_json(doc, path)
        space = get_space(found.space).at([arch.resolution for arch in found.archs])
        for arch in found.archs:
            space.checked(arch)
    except (DocumentError, ArchError) as error:
        where = "" if str(error).startswith(path) else f"{path}: "
        raise ArchError(f"{where}{error}; this is no exported network: `ofa export` makes them") from None
    several = kind is not Description and "combination" in doc
    classes = {tensor.shape[0] for tensor in tensors.values() if tensor.ndim}
    exits, last = space.values("exit"), min((arch.exit for arch in found.archs), default=0)
    wrong = [
        (len(found.archs) != 1 and not several, f"has {len(found.archs)} networks, but no rule that combines them"),
        (
            found.classes not in classes,
            f"has no layer of {found.classes} classes",
        ),
        (not 0 < found.input.resolution <= 2**16, f"takes images of {found.input.resolution} pixels"),
        (len(found.names) not in (0, found.classes), f"has {len(found.names)} names for {found.classes} classes"),
        (
            found.decoding is not None and not (0 < found.decoding.side <= 2**16 and 0 < found.decoding.crop <= 1),
            "decodes images in no possible way",
        ),
        (min(found.input.std) <= 0, f"divides pixels by {min(found.input.std):g}"),
        (any(after not in exits for after in found.exits), f"has the exits {list(found.exits)}, the space {list(exits)}"),
        (
            len(found.exit_weights) not in (0, len(found.exits)),
            f"has {len(found.exit_weights)} weights for {len(found.exits)} exits",
        ),
        (list(found.exits) != sorted(set(found.exits)), f"has the exits {list(found.exits)}, which do not ascend"),
        (
            any(after > last for after in found.exits),
            f"has the exits {list(found.exits)}, its network none after {last}",
        ),
    ]
    if reason := next((reason for holds, reason in wrong if holds), None):
        raise ArchError(f"{path}: {reason}; this is no exported network: `ofa export` makes them")
    return found


def filled(network: nn.Module, tensors: Mapping[str, Tensor], path: str) -> nn.Module:
    """`network` with these weights, in evaluation mode; weights of another network, or not finite, are an `ArchError`."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        raise ArchError(f"{path}: its weights are not of the network that it describes: {reason}") from None
    if broken := next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None):
        raise ArchError(f"{path}: its weights {broken} are not finite; export the network again")
    return network.eval()


def extracted(description: Description) -> list[PlainNet]:
    """The described networks, with random weights."""
    space = get_space(description.space).at([arch.resolution for arch in description.archs])
    blank = Supernet(space, description.classes, torch.Generator().manual_seed(0))
    weights = description.exit_weights
    return [extract(blank, arch, exits=description.exits, weights=weights) for arch in description.archs]


def to_program(network: nn.Module, resolution: int) -> torch.export.ExportedProgram:
    """`network` as a `torch.export` program for images [N, 3, resolution, resolution], for any N."""
    images = torch.zeros(2, 3, resolution, resolution)
    return torch.export.export(network.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))


def to_pt2(program: torch.export.ExportedProgram) -> bytes:
    """The content of a file for `torch.export.load`, AOTInductor and ExecuTorch."""
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def to_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str] = ("output",)) -> bytes:
    """The program as an ONNX model with the input `images` and these outputs."""
    with _quiet():
        model = torch.onnx.export(program, dynamo=True, input_names=["images"], output_names=list(outputs), verbose=False)
    assert model is not None
    return model.model_proto.SerializeToString()


def to_onnx_of_any_size(module: nn.Module, channels: int, side: int) -> bytes:
    """`module` as an ONNX model for one input [1, channels, H, W] of any size; side: a possible one, in pixels."""
    import onnx

    with torch.no_grad():
        program = torch.export.export(module.eval(), (torch.zeros(1, channels, side, side),))
    model = onnx.load_from_string(to_onnx(program))
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis >= 2:
                dim.dim_param = f"{value.name}_{'height' if axis == 2 else 'width'}"
    del model.graph.value_info[:]  # the shapes of this size
    return model.SerializeToString()


def to_executorch(network: nn.Module, resolution: int) -> bytes:
    """`network` as an ExecuTorch program (.pte) for one image [1, 3, resolution, resolution], with the ops of XNNPACK.

    Needs the package `executorch`, which is no dependency of this one.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with _quiet():
        program = torch.export.export(network.eval(), (torch.zeros(1, 3, resolution, resolution),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)


@torch.inference_mode()
def executorch_difference(file: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest difference between the outputs of ExecuTorch's runtime and of PyTorch, one image at a time."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    found = [method.execute([image.contiguous()])[0] for image in images.split(1)]
    return _largest_difference(torch.cat(found), network(images))


@torch.inference_mode()
def pt2_difference(file: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest difference between the outputs of an exported program and of `network`, in one batch and singly."""
    module = torch.export.load(io.BytesIO(file)).module()
    return max(_largest_difference(module(batch), network(batch)) for batch in (images, images[:1]))


@torch.inference_mode()
def onnx_difference(model: bytes, network: nn.Module, images: Tensor) -> float:
    """The largest difference between the outputs of ONNX Runtime and of PyTorch, in one batch and singly."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (images, images[:1]):
        outputs = [torch.from_numpy(output) for output in session.run(None, {"images": batch.contiguous().numpy()})]
        worst = max(worst, _largest_difference(outputs, network(batch)))
    return worst


def _largest_difference(found: Tensor | Sequence[Tensor], wanted: Tensor | Sequence[Tensor]) -> float:
    """The largest difference between outputs, of one exit or of several."""
    ours, theirs = ([one] if isinstance(one, Tensor) else list(one) for one in (found, wanted))
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's warnings about torchvision, which is not used here, and about its own deprecations."""
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
