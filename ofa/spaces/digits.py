"""A small MobileNetV3-style space for the embedded digits: it trains in two minutes on two cores.

The digits are 8 by 8 pixels before they are enlarged, so a stem with a stride of 4 pixels skips none of them.
"""

from __future__ import annotations

from ofa.spaces.mobile import MobileSpace, Stage

NAMES = ("digits",)


def find(name: str) -> MobileSpace | None:
    """The space if `name` is its name, else None."""
    return DIGITS if name in NAMES else None


DIGITS = MobileSpace(
    name="digits",
    resolutions=(24, 28, 32),
    depths=(1, 2, 3),
    kernels=(3, 5, 7),
    expands=(1, 2, 4),
    stages=(
        Stage(8, stride=1, act="relu", se=False),
        Stage(16, stride=2, act="h_swish", se=True),
        Stage(24, stride=1, act="h_swish", se=True),
    ),
    stage_slots=3,
    stem_width=8,
    stem_stride=4,
    final_width=32,
    feature_width=64,
)
