"""The ResNet-50D space of Once-for-All's released code (`ofa_resnets.py`); resolutions as its predictor encodes them."""

from __future__ import annotations

from ofa.space import ResNetSpace

NAMES = ("ofa_resnet50",)


def find(name: str) -> ResNetSpace | None:
    return RESNET50 if name in NAMES else None


RESNET50 = ResNetSpace(
    name="ofa_resnet50",
    resolutions=(128, 144, 160, 176, 192, 224, 240, 256),
    depths=(0, 1, 2),
    kernels=(),
    expands=(0.2, 0.25, 0.35),
)
