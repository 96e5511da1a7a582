"""The ProxylessNAS space of Once-for-All's released code (`ofa_proxyless.py`); published at width 1.3."""

from __future__ import annotations

import re

from ofa.arch import ArchError
from ofa.parts.conv import make_divisible
from ofa.spaces.mobile import MobileSpace, Stage
from ofa.spaces.mobilenetv3 import NARROWEST, WIDEST

NAMES = ("ofa_proxyless_w1.3",)


def find(name: str) -> MobileSpace | None:
    """The space of this name, or None; a width multiplier that no network can have is an `ArchError`."""
    found = re.fullmatch(r"ofa_proxyless_w([0-9]+\.[0-9]+)", name)
    if found is None:
        return None
    multiplier = float(found[1])
    if not NARROWEST <= multiplier <= WIDEST:
        raise ArchError(f"space {name}: the width multiplier is {multiplier}; use {NARROWEST} to {WIDEST}")
    stem, first, *widths, feature = (make_divisible(w * multiplier) for w in (32, 16, 24, 40, 80, 96, 192, 320, 1280))
    return MobileSpace(
        name=name,
        resolutions=tuple(range(128, 225, 4)),
        depths=(2, 3, 4),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        stages=tuple(
            Stage(width, stride, act="relu6", se=False) for width, stride in zip(widths, (2, 2, 2, 1, 2, 1), strict=True)
        ),
        stage_slots=4,
        stem_width=stem,
        stem_stride=2,
        first_width=first,
        final_width=None,
        feature_width=feature,
        stem_act="relu6",
        first_act="relu6",
        eps=1e-3,
    )
