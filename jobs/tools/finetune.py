"""Fine-tune one sub-network from its supernet weights; leaves a run of its own beside the original one.

    ofa finetune configs/digits.toml --arch NAME --epochs 10 --lr 0.01

The new run trains this network alone on the same images and exports it, with its top-1 on the selection split before and
after. It is resumable like any training. (In Once-for-All, arXiv:1908.09791, tab. 1, 25 epochs gain 0.4 points.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.config import Adapt, Experiment, PhaseConfig
from jobs.evaluators import weights_file
from jobs.export import export_arch
from jobs.job import Job, opened
from jobs.pipeline import run_steps
from jobs.tools.eval import evaluate
from ofa.arch import Arch

PHASE = "finetune"


def finetune(job: Job, arch: Arch, epochs: int, lr: float, distil: float) -> dict[str, Any]:
    """Trains and exports the network; returns its top-1 before and after by split, and the new run's location."""
    config = job.config
    config.search_space.checked(arch)
    before = {"selection": next(evaluate(job, [arch], "selection"))}
    weights = f"{job.run.url}/{weights_file(config)}"
    with opened(tuned(config, weights, arch, epochs, lr, distil), job.run.store.url, job.reporter, job.asked) as own:
        own.data = job.data  # the same images
        run_steps(own, ["train"])
        after = {"selection": next(evaluate(own, [arch], "selection"))}
        export_arch(own, arch)
        return {"run": own.run.id, "url": own.run.url, "arch": arch.key, "before": before, "after": after}


def tuned(config: Experiment, weights: str, arch: Arch, epochs: int, lr: float, distil: float) -> Experiment:
    """The experiment that trains `arch` alone from `weights`; `distil` is the weight of the largest network as a teacher."""
    phase = PhaseConfig(PHASE, epochs, lr, archs=(arch.key,), distil=distil)
    train = replace(config.train, phases=(phase,), weights=weights, head="kept")
    return replace(config, name=f"{config.name}-{PHASE}", train=train, adapt=Adapt())
