"""Export a sub-network for ExecuTorch; leaves its program in the run.

    ofa export configs/digits.toml --target executorch                the knee of the front
    ofa export configs/digits.toml --target executorch --arch NAME    any sub-network

`subnets/NAME.pte` takes one scaled image, and its outputs were compared with PyTorch's by ExecuTorch's own runtime.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from cluster.errors import InputError, StepError
from jobs.export import TOLERANCE, export_as, for_images
from jobs.job import Job
from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.export import Description, executorch_difference, to_executorch
from ofa.extract import extract

IMAGES = 8  # on which the outputs are compared


def check_package() -> None:
    """Raises an `InputError` if ExecuTorch is not installed."""
    if find_spec("executorch") is None:
        raise InputError(
            "ofa export --target executorch: the package executorch is not installed here; pip install 'executorch>=1.5,<2'"
        )


def export_executorch(job: Job, arch: Arch | None) -> None:
    """Exports `arch`, or the knee of the front; a `StepError` if the outputs are not those of the network."""

    def made(evaluator: Evaluator, chosen: Arch, name: str) -> tuple[bytes, dict[str, Any]]:
        side = chosen.resolution
        network = extract(evaluator.net, chosen, evaluator.statistics(chosen))
        program = to_executorch(network, side)
        images = next(evaluator.batches(job.data.selection[:IMAGES], side))
        difference = executorch_difference(program, network, images)
        if not difference <= TOLERANCE:
            raise StepError(
                f"export: {name}: the outputs of ExecuTorch differ by {difference:.2g} from PyTorch's, allowed is "
                f"{TOLERANCE:g}; install the executorch that was made for this torch"
            )
        description = for_images(job, Description.of(job.config.space, job.data.classes, chosen, evaluator.scale, side))
        return program, {**description.to_json(), "executorch_difference": difference}

    where, found = export_as(job, arch, "executorch", ".pte", made)
    job.reporter.say(f"export: {where}; outputs differ by at most {found['executorch_difference']:.2g} from PyTorch's")
