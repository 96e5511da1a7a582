"""The MobileNetV3 spaces of Once-for-All (arXiv:1908.09791, sec. 4.1; widths as its released code has them)."""

from __future__ import annotations

from ofa.space import Space, Stage

# Widths at 1.0 and at 1.2, each rounded to a multiple of 8: stem, five stages, final convolution, feature mix.
WIDTHS = {
    "1.0": (16, (24, 40, 80, 112, 160), 960, 1280),
    "1.2": (24, (32, 48, 96, 136, 192), 1152, 1536),
}

SPACES = tuple(
    Space(
        name=f"ofa_mbv3_w{multiplier}",
        resolutions=tuple(range(128, 225, 4)),
        depths=(2, 3, 4),
        kernels=(3, 5, 7),
        expands=(3, 4, 6),
        stages=(
            Stage(stages[0], stride=2, act="relu", se=False),
            Stage(stages[1], stride=2, act="relu", se=True),
            Stage(stages[2], stride=2, act="h_swish", se=False),
            Stage(stages[3], stride=1, act="h_swish", se=True),
            Stage(stages[4], stride=2, act="h_swish", se=True),
        ),
        slots=4,
        stem_width=stem,
        stem_stride=2,
        final_width=final,
        feature_width=feature,
    )
    for multiplier, (stem, stages, final, feature) in WIDTHS.items()
)
