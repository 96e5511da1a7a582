"""Export networks; leaves safetensors, ONNX, torch.export's .pt2 and a description of the inputs.

    ofa export configs/digits.toml --store ./runs                       the knee of the front and the best ensemble
    ofa export configs/digits.toml --store ./runs --arch r28-d112-...   any sub-network, by its name

Every ONNX and .pt2 file was run and agrees with the network.
"""

from __future__ import annotations

from torch import nn

from cluster.errors import StepError
from cluster.run import Step
from ensemble.document import Ensembles
from ensemble.network import SOFT, Combination, EnsembleDescription, EnsembleNetwork
from jobs import files
from jobs.evaluators import trained_evaluator
from jobs.job import Job
from ofa.arch import Arch
from ofa.evaluate import Evaluator
from ofa.export import (
    Description,
    onnx_difference,
    pt2_difference,
    to_onnx,
    to_program,
    to_pt2,
    to_safetensors,
)
from ofa.extract import extract
from search.front import Front, knee
from search.objective import first_cost, minimised, values

TOLERANCE = 1e-4


def export(job: Job) -> None:
    """Runs the step `export`: writes the knee of the front and the best ensemble as files for deployment."""
    step = job.run.begin("export")
    front = Front.from_json(step.read_json(files.FRONT))
    ensembles = Ensembles.from_bytes(step.read(files.ENSEMBLES), files.ENSEMBLES.key)
    evaluator = trained_evaluator(job, step)
    objectives = job.config.objectives
    chosen = front.members[knee(minimised(objectives, values(objectives, front.members)))]
    archs = [front.members[index].arch for index in ensembles.best_of_several.members]
    cost = first_cost(objectives)
    with job.reporter.track("export", 2, "networks") as tracker:
        write(job, step, evaluator, "knee", [chosen.arch])
        tracker.advance()
        write(job, step, evaluator, "ensemble", archs, combination_of(job, ensembles))
        tracker.advance()
    step.finish(job.config.seed, knee=chosen.arch.key, ensemble=[arch.key for arch in archs])
    job.reporter.say(
        f"export: the knee ({cost.text(cost.of(chosen))} {cost.label}, top-1 {chosen.top1:.4f}) and an ensemble "
        f"of {len(archs)} in {job.run.url}/subnets"
    )


def export_arch(job: Job, arch: Arch) -> None:
    """Exports one sub-network, on the front or not."""
    name = job.config.search_space.checked(arch).key
    step_name = f"export-{name}"
    if job.run.finished(step_name):
        return job.reporter.say(f"export: {job.run.url}/{files.subnet(name, '.onnx')} exists already")
    step = job.run.begin(step_name)
    write(job, step, trained_evaluator(job, step), name, [arch])
    step.finish(job.config.seed)
    return job.reporter.say(f"export: {job.run.url}/{files.subnet(name, '.onnx')}, .safetensors and .json")


def combination_of(job: Job, ensembles: Ensembles) -> Combination:
    """The vote, weights and temperatures with which the best ensemble was scored."""
    best, temperatures, kept = ensembles.best_of_several, ensembles.temperatures, job.config.ensemble.top_k
    return Combination(
        vote=ensembles.vote,
        keep=kept if kept < job.data.classes else 0,
        weights=best.weights,
        temperatures=tuple(temperatures[index] for index in best.members) if temperatures else (),
    )


def write(job: Job, step: Step, evaluator: Evaluator, name: str, archs: list[Arch], combination: Combination = SOFT) -> None:
    """Exports `archs` as one network under `name`, if ONNX Runtime agrees with PyTorch on real images."""
    space, classes = job.config.space, job.data.classes
    members = [extract(evaluator.net, arch, evaluator.statistics(arch)) for arch in archs]
    network: nn.Module
    if len(archs) == 1:
        [network], side = members, archs[0].resolution
        description = Description.of(space, classes, archs[0], evaluator.scale, side)
    else:
        side = job.config.search_space.resolutions[-1]
        network = EnsembleNetwork(members, [arch.resolution for arch in archs], combination)
        description = EnsembleDescription.of_members(space, classes, archs, evaluator.scale, side, combination)
    program = to_program(network.eval(), side)
    onnx, pt2 = to_onnx(program), to_pt2(program)
    images = next(evaluator.batches(job.data.selection[:64], side))
    differences = {
        "onnx_difference": onnx_difference(onnx, network, images),
        "pt2_difference": pt2_difference(pt2, network, images),
    }
    for kind, difference in differences.items():
        if not difference <= TOLERANCE:
            raise StepError(
                f"export: {name}: {kind} from PyTorch is {difference:.2g}, allowed is {TOLERANCE:g}; "
                "the installed torch, onnxscript and onnxruntime do not fit each other: install those of constraints.txt"
            )
    step.write(files.subnet(name, ".safetensors"), to_safetensors(network, description))
    step.write(files.subnet(name, ".onnx"), onnx)
    step.write(files.subnet(name, ".pt2"), pt2)
    step.write_json(files.subnet(name, ".json"), {**description.to_json(), **differences})
