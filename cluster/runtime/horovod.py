"""Horovod's workers: the processes that `horovodrun` started, and what they share with its Ray actors.

`horovodrun -np 2 --gloo ofa train CONFIG` starts the command twice. The first process runs it; the others receive the loop
and the arrays of each training from the first, run their part, and end with it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError, StepError
from cluster.runtime.workers import Event, Loop, Worker

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# Environment variables of Horovod that are set unless the user sets them; they are read when it starts.
SETTINGS = {
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",  # the default, 30, is too short for processes that start on a busy machine
    "HOROVOD_STALL_CHECK_DISABLE": "1",  # otherwise waiting for the first worker, which evaluates, is a warning
}
LOST = "train: a process of Horovod was lost; the same command continues from the last checkpoint"


def library() -> Any:
    """Horovod's module for PyTorch; an `InputError` if it is not installed, or was built for another PyTorch."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of 2023's Python in 2023's code
            import horovod.torch
    except ModuleNotFoundError:
        raise InputError("train.backend is 'horovod', which is not installed: make horovod") from None
    except ImportError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(
            f"train.backend is 'horovod', which was built for another PyTorch or Python ({reason}); build it again: "
            "make horovod"
        ) from None
    return horovod.torch


def started() -> Any:
    """Horovod's module for PyTorch, connected to the other workers, for which it waits at the first call."""
    hvd = library()
    if not hvd.is_initialized():
        for name, value in SETTINGS.items():
            os.environ[name] = os.environ.get(name) or value
        hvd.init()
    return hvd


def add(tensor: Tensor) -> None:
    """Replaces `tensor` by its sum over all workers of Horovod."""
    hvd = library()
    hvd.allreduce_(tensor, op=hvd.Sum)


def launched() -> tuple[int, int] | None:
    """The rank of this process and the number of processes if `horovodrun` started it, else None."""
    rank, world, server = (os.environ.get(f"HOROVOD_{name}", "") for name in ("RANK", "SIZE", "GLOO_RENDEZVOUS_ADDR"))
    return (int(rank), int(world)) if server and rank.isdecimal() and world.isdecimal() else None


def train_in_processes(
    loop: Loop, arrays: Mapping[str, np.ndarray], on_event: Callable[[Event], None], *, world: int, workers: int
) -> None:
    """Runs `loop` in this process, the first of `world` that `horovodrun` started, and in the others, which `follow`.

    An `InputError` if these are not `workers` processes, a `StepError` once one is lost.
    """
    if world != workers:
        raise InputError(
            f"train.workers is {workers}, and horovodrun started {world} processes; start {workers} with -np, or set "
            f"train.workers to {world}"
        )
    import numpy as np

    hvd = started()
    try:
        hvd.broadcast_object((loop, {name: (array.dtype, array.shape) for name, array in arrays.items()}), 0, name="loop")
        for name, array in arrays.items():
            _broadcast(hvd, name, np.array(array))  # a copy, which may be written to
        loop(Worker(0, world, on_event, add=add), arrays)
    except _lost() as error:
        raise StepError(LOST) from error


def follow() -> None:
    """Runs this process's part of the trainings of the first process, until that one ends."""
    import numpy as np

    hvd = started()
    while True:
        try:
            loop, described = hvd.broadcast_object(None, 0, name="loop")
        except _lost():  # Horovod ends with the first process
            return
        try:
            arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in described.items()}
            for name, array in arrays.items():
                _broadcast(hvd, name, array)
            loop(Worker(hvd.rank(), hvd.size(), _drop, add=add), arrays)
        except _lost() as error:
            raise StepError(LOST) from error


def _broadcast(hvd: Any, name: str, array: np.ndarray) -> None:
    """Fills a contiguous array with that of the first process."""
    import numpy as np
    import torch

    if array.size:
        hvd.broadcast_(torch.from_numpy(array.reshape(-1).view(np.uint8)), 0, name=f"array {name}")


def _lost() -> type[Exception]:
    """What Horovod raises once another process has ended."""
    from horovod.common.exceptions import HorovodInternalError

    return HorovodInternalError


def _drop(event: Event) -> None:
    """Events of the first worker alone are reported."""
