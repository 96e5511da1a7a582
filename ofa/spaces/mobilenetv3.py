"""The MobileNetV3 spaces of Once-for-All (arXiv:1908.09791, sec. 4.1; with the widths of its released code).

`ofa_mbv3_w1.0` and `ofa_mbv3_w1.2` are the published ones; any other width multiplier has the same form. For small
images there are `ofa_mbv3_w0.5_32px` and the like, for any multiplier, at 32 or 64 pixels: fewer strides, so that the
last feature map still has 4 by 4 pixels.
"""

from __future__ import annotations

import re

from ofa.arch import ArchError
from ofa.parts.conv import make_divisible
from ofa.spaces.mobile import MobileSpace, Stage

NAMES = ("ofa_mbv3_w1.0", "ofa_mbv3_w1.2", "ofa_mbv3_w0.5_32px (any multiplier; 32px, 64px or neither)")
NARROWEST, WIDEST = 0.1, 4.0

# By the size of images: resolutions, the stem's stride, the stages' strides.
SIZES = {
    None: (tuple(range(128, 225, 4)), 2, (2, 2, 2, 1, 2)),
    "64": ((40, 48, 56, 64), 2, (2, 2, 2, 1, 1)),
    "32": ((20, 24, 28, 32), 1, (2, 2, 2, 1, 1)),
}


def find(name: str) -> MobileSpace | None:
    """The space of this name, or None; a width multiplier that no network can have is an `ArchError`."""
    found = re.fullmatch(r"ofa_mbv3_w([0-9]+\.[0-9]+)(?:_(32|64)px)?", name)
    if found is None:
        return None
    multiplier = float(found[1])
    if not NARROWEST <= multiplier <= WIDEST:
        raise ArchError(f"space {name}: the width multiplier is {multiplier}; use {NARROWEST} to {WIDEST}")
    resolutions, stem_stride, strides = SIZES[found[2]]
    stem, *widths, final, feature = (make_divisible(w * multiplier) for w in (16, 24, 40, 80, 112, 160, 960, 1280))
    return MobileSpace(
        name=name,
        resolutions=resolutions,
        depths=(2, 3, 4),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        stages=(
            Stage(widths[0], strides[0], act="relu", se=False),
            Stage(widths[1], strides[1], act="relu", se=True),
            Stage(widths[2], strides[2], act="h_swish", se=False),
            Stage(widths[3], strides[3], act="h_swish", se=True),
            Stage(widths[4], strides[4], act="h_swish", se=True),
        ),
        stage_slots=4,
        stem_width=stem,
        stem_stride=stem_stride,
        final_width=final,
        feature_width=feature,
    )
