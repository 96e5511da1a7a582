"""The elastic layer for each type of part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ofa.graph import Part
from ofa.layers.base import Layer
from ofa.layers.bottleneck import ElasticBottleneck
from ofa.layers.conv import ElasticClassifier, ElasticGlobalPool, ElasticMaxPool, ElasticUnit
from ofa.layers.inverted import ElasticInverted
from ofa.layers.parallel import ElasticSumNorm, ElasticTransformation
from ofa.parts.bottleneck import Bottleneck
from ofa.parts.conv import Conv, MaxPool
from ofa.parts.head import Classifier, GlobalPool
from ofa.parts.inverted import Inverted
from ofa.parts.parallel import SumNorm, Transformation
from ofa.space import Space

# The layer of each type of part, made from the largest part of its node, with uninitialised weights.
LAYERS: dict[type, Callable[[Any, Space], Layer[Any]]] = {
    Conv: ElasticUnit,
    MaxPool: ElasticMaxPool,
    Inverted: ElasticInverted,
    Transformation: ElasticTransformation,
    SumNorm: ElasticSumNorm,
    Bottleneck: ElasticBottleneck,
    GlobalPool: ElasticGlobalPool,
    Classifier: ElasticClassifier,
}


def build(largest: Part, space: Space) -> Layer[Any]:
    """The layer that can run as `largest` and as every smaller part of its node; the space defines the smaller ones."""
    return LAYERS[type(largest)](largest, space)
