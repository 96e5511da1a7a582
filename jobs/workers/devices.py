"""The devices on which the actors of a run compute."""

from __future__ import annotations

import torch

from cluster.errors import InputError
from cluster.texts import machine


def usable(device: str, setting: str) -> str:
    """`device`, or an `InputError` that names the setting in a process that has no GPU although it is cuda."""
    if device == "cuda" and not torch.cuda.is_available():
        build = "" if torch.version.cuda else ": this build of PyTorch has no CUDA"
        raise InputError(
            f"{setting}: an actor on {machine()} finds no GPU{build}; use the CPU, or nodes and an image with GPUs"
        )
    return device


def name_of(device: str) -> str:
    """The name of the device, for records of a latency."""
    return machine() if device == "cpu" else torch.cuda.get_device_name()
