"""Settings by name in the document of a config: reads them, and changes them as the trials of `ofa tune` do.

A name is that of docs/configuration.md, such as `train.weight_decay`. `train.phases.lr` is the setting of every phase whose
number is not 0, which turns a thing off; `train.phases.kernel.lr` is that of the phase `kernel`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from cluster.config import ConfigError

Value = bool | int | float | str
PHASES = "train.phases"
# The settings that trials may change, by section: none of them changes the images of a split, or where anything runs.
TUNABLE: dict[str, tuple[str, ...]] = {
    "train": (
        *("batch", "lr_batch", "precision", "schedule", "momentum", "momentum_across_phases", "weight_decay"),
        *("label_smoothing", "dropout", "clip_norm", "gradients", "draws", "distil_loss", "teacher_norm", "teacher_exits"),
        *("zero_last_gamma", "average"),
    ),
    PHASES: (
        *("epochs", "lr", "warmup_epochs", "ramp_epochs"),
        *("subnets", "largest", "sandwich", "distil", "teacher", "joint_exits"),
    ),
    "data": ("min_crop", "flip", "alternating_flip", "brightness", "contrast", "saturation", "randaugment", "magnitude"),
    "search": ("algorithm", "population", "islands", "migrate_every"),
}


def values_of(doc: Mapping[str, Any], name: str) -> list[Value]:
    """The values of a setting, one for each place where it is changed; a `ConfigError` if trials cannot change it."""
    return [section[key] for section, key in _places(doc, name)]


def changed(doc: Mapping[str, Any], settings: Mapping[str, Value], relative: Collection[str] = ()) -> dict[str, Any]:
    """A copy of a config's document with these settings; those of `relative` are factors of the values that are there."""
    found: dict[str, Any] = copy.deepcopy(dict(doc))
    for name, value in settings.items():
        for section, key in _places(found, name):
            section[key] = _scaled(section[key], float(value)) if name in relative else value
    return found


def _scaled(before: Value, factor: float) -> Value:
    assert not isinstance(before, str)
    return max(1, round(before * factor)) if isinstance(before, int) else before * factor


def _places(doc: Mapping[str, Any], name: str) -> list[tuple[dict[str, Any], str]]:
    """The sections that have the setting, and its key there."""
    section, _, key = name.rpartition(".")
    phases = [phase["name"] for phase in doc["train"]["phases"]]
    if section.startswith(f"{PHASES}."):
        of_phase = section.removeprefix(f"{PHASES}.")
        if of_phase not in phases:
            raise ConfigError(f"tune.settings: {name!r}: no phase is called {of_phase!r}; there are {', '.join(phases)}")
        section = PHASES
        found = [phase for phase in doc["train"]["phases"] if phase["name"] == of_phase]
    elif section == PHASES:
        found = [phase for phase in doc["train"]["phases"] if not _is_off(phase.get(key))]
    else:
        found = [doc[section]] if section in TUNABLE else []
    if section not in TUNABLE:
        raise ConfigError(f"tune.settings: trials cannot change {name!r}; they can change settings of {', '.join(TUNABLE)}")
    if key not in TUNABLE[section]:
        raise ConfigError(
            f"tune.settings: {section} has no setting {key!r} that trials can change; here you may give "
            f"{', '.join(TUNABLE[section])}"
        )
    if not found:
        raise ConfigError(f"tune.settings: {name!r} is 0 in every phase, which turns it off; name a phase, or leave it out")
    return [(place, key) for place in found]


def _is_off(value: Any) -> bool:
    return not isinstance(value, bool | str) and value == 0
