"""ONNX models that take an image of any size: cropping, resizing and scaling are nodes in front of a network.

Decoding stays outside: the input is the upright RGB image that a decoder of JPEG or PNG gives. The nodes compute what
`ofa.decode.centre`, `ofa.images.Scale` and `ofa.images.resize` do, with one difference: an image whose sides differ by a
factor of more than 64 is resized without cutting its ends off first. ONNX Runtime rounds some resized pixels to the other
neighbour, as `Agreement` shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ofa.decode import central_square
from ofa.export import Decoding
from ofa.images import Scale, resize
from ofa.int8 import session_of

_PREFIX = "preprocessing/"  # of the names of the nodes, which must not be names of the network's
INPUT = "image"  # uint8 [height, width, 3]


def with_preprocessing(model: bytes, decoding: Decoding, scale: Scale, resolution: int) -> bytes:
    """The ONNX `model` of `ofa.export.to_onnx`, with an `image` of any size as its input: uint8 RGB [height, width, 3].

    decoding: how image files are decoded where the network is evaluated. resolution: of the model's input, in pixels.
    """
    import onnx
    from onnx.compose import add_prefix, merge_models

    network = onnx.load_from_string(model)
    before = add_prefix(_before(decoding, scale, resolution, network.opset_import), _PREFIX, rename_inputs=False)
    before.ir_version = network.ir_version
    return merge_models(before, network, io_map=[(f"{_PREFIX}scaled", "images")]).SerializeToString()


@dataclass(frozen=True, slots=True)
class Agreement:
    """A model with preprocessing against a network with our own: on how many images, and how close."""

    images: int
    same_class: float  # share of the images
    difference: float  # the largest of the outputs,
    of: float  # whose largest absolute value is this


@torch.inference_mode()
def agreement(
    whole: bytes, network: nn.Module, decoding: Decoding, scale: Scale, resolution: int, images: Iterable[np.ndarray]
) -> Agreement:
    """The agreement of the model of `with_preprocessing` with `network` on RGB images (uint8 [H, W, 3]) of any sizes."""
    session = session_of(whole)
    ours, theirs = [], []
    for image in images:
        pixels = torch.from_numpy(central_square(image, decoding.side, decoding.crop)[None])
        ours.append(network(resize(scale(pixels), resolution)).numpy()[0])
        theirs.append(session.run(None, {INPUT: image})[0][0])
    ours_NC, theirs_NC = np.stack(ours), np.stack(theirs)
    same_N = ours_NC.argmax(axis=1) == theirs_NC.argmax(axis=1)
    return Agreement(
        len(same_N), float(same_N.mean()), float(np.abs(ours_NC - theirs_NC).max()), float(np.abs(ours_NC).max())
    )


def _before(decoding: Decoding, scale: Scale, resolution: int, opsets: Any) -> Any:
    """The model of the nodes from `image` to `scaled`: float32 [1, 3, resolution, resolution]."""
    from onnx import TensorProto, helper, numpy_helper

    short = max(decoding.side, math.ceil(decoding.side / decoding.crop))
    constants = {
        "first": np.array([0]),
        "one_image": np.array([1, 3]),
        "short": np.array([short], np.float64),
        "side": np.array([decoding.side]),
        "two": np.array([2]),
        "across": np.array([2, 3]),
        "resolution": np.array([1, 3, resolution, resolution]),
        "top": np.array(255, np.float32),
        "mean": np.array(scale.mean, np.float32).reshape(3, 1, 1),
        "std": np.array(scale.std, np.float32).reshape(3, 1, 1),
    }
    resizing: dict[str, Any] = {
        "mode": "linear",
        "antialias": 1,
        "coordinate_transformation_mode": "half_pixel",
        "exclude_outside": 1,
    }
    small = "normalised" if resolution != decoding.side else "scaled"
    nodes = [
        helper.make_node("Transpose", [INPUT], ["channels_first"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["channels_first", "first"], ["batch"]),
        helper.make_node("Shape", ["batch"], ["sides"], start=2),
        helper.make_node("Cast", ["sides"], ["exact_sides"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMin", ["exact_sides"], ["shorter"], keepdims=0),
        helper.make_node("Div", ["short", "shorter"], ["ratio"]),
        helper.make_node("Mul", ["exact_sides", "ratio"], ["wanted"]),
        helper.make_node("Round", ["wanted"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Max", ["whole", "side"], ["new_sides"]),
        helper.make_node("Concat", ["one_image", "new_sides"], ["new_shape"], axis=0),
        helper.make_node("Resize", ["batch", "", "", "new_shape"], ["resized"], **resizing),
        helper.make_node("Sub", ["new_sides", "side"], ["rest"]),
        helper.make_node("Div", ["rest", "two"], ["start"]),
        helper.make_node("Add", ["start", "side"], ["end"]),
        helper.make_node("Slice", ["resized", "start", "end", "across"], ["square"]),
        helper.make_node("Cast", ["square"], ["colours"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["colours", "top"], ["fractions"]),
        helper.make_node("Sub", ["fractions", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [small]),
    ]
    if small != "scaled":
        nodes.append(helper.make_node("Resize", [small, "", "", "resolution"], ["scaled"], **resizing))
    else:
        del constants["resolution"]
    side = resolution
    graph = helper.make_graph(
        nodes,
        "preprocessing",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, [1, 3, side, side])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=opsets)
