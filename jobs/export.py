"""Export networks; leaves safetensors, ONNX, torch.export's .pt2 and a description of the inputs.

    ofa export configs/digits.toml --store ./runs                       the knee of the front and the best ensemble
    ofa export configs/digits.toml --store ./runs --arch r28-d112-...   any sub-network, by its name
    ofa export CONFIG --arch NAME --exits 1,3,5                         several exits of it, or all: one output each
    ofa export CONFIG --arch NAME --average-macs 2e6                    a cascade of its exits within an average cost

With `export.finetune_epochs` the step also trains every network of the front further, alone, and exports it. Every ONNX
and .pt2 file was run and agrees with the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from statistics import mean
from typing import Any

from torch import nn

from cluster.errors import InputError, StepError
from cluster.run import Step
from ensemble.cascade import curve, tuned
from ensemble.document import Ensembles, TunedCascade
from ensemble.errors import SelectionError
from ensemble.network import (
    SOFT,
    CascadeDescription,
    CascadeNetwork,
    Combination,
    EnsembleDescription,
    EnsembleNetwork,
)
from jobs import files
from jobs.evaluators import evaluator_of, tensors_of, trained_evaluator, weights_file
from jobs.exits import Predictions, cascade_costs, tuned_cascade
from jobs.job import Job
from jobs.train import plan_of, train
from ofa.arch import Arch
from ofa.draws import Given
from ofa.evaluate import Evaluator
from ofa.export import (
    D,
    Decoding,
    Description,
    onnx_difference,
    pt2_difference,
    to_onnx,
    to_program,
    to_pt2,
    to_safetensors,
)
from ofa.extract import extract
from ofa.phases import Phase
from search.front import Front, knee
from search.objective import first_cost, minimised, values

TOLERANCE = 1e-4
SUFFIXES = (".safetensors", ".onnx", ".pt2", ".json")  # of the files of an exported network


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
    if job.config.export.finetune_epochs:
        finetune_front(job, step, evaluator, front)
    step.finish(job.config.seed, knee=chosen.arch.key, ensemble=[arch.key for arch in archs])
    job.reporter.say(
        f"export: the knee ({cost.text(cost.of(chosen))} {cost.words}, top-1 {chosen.top1:.4f}) and an ensemble "
        f"of {len(archs)} in {job.run.url}/subnets"
    )


def finetune_front(job: Job, step: Step, evaluator: Evaluator, front: Front) -> None:
    """Trains every network of the front further and exports it as `subnets/NAME-finetuned`; writes `subnets/finetuned.json`.

    That has the top-1 of each on the selection split before and after. evaluator: of the supernet. A step that was killed
    goes on with the networks that are left.
    """
    job.close_pool()  # the workers of a training need its places
    setting = job.config.export
    rows = {row["name"]: row for row in step.ledger.rows()}
    start = f"{job.run.url}/{weights_file(job.config)}"
    for number, member in enumerate(front.members, 1):
        arch, name = member.arch, f"{member.arch.key}-finetuned"
        if name in rows:
            for suffix in SUFFIXES:
                step.adopt(files.subnet(name, suffix))
            continue
        before = evaluator.top1(arch, job.data.selection)
        title = f"fine-tuning {number} of {len(front.members)}"
        tuned = fine_tuned(job, arch, setting.finetune_epochs, setting.finetune_lr, setting.finetune_distil, start, title)
        write(job, step, tuned, name, [arch])
        after = tuned.top1(arch, job.data.selection)
        rows[name] = {"name": name, "arch": arch.to_json(), "macs": member.macs, "params": member.params,
                      "before": before, "top1": after}  # fmt: skip
        step.ledger.append([rows[name]])
        remove_finetuning(job, arch, setting.finetune_epochs)
    found = [rows[f"{member.arch.key}-finetuned"] for member in front.members]
    step.write_json(files.FINETUNED_FRONT, {"epochs": setting.finetune_epochs, "members": found})
    gains = [row["top1"] - row["before"] for row in found]
    job.reporter.say(
        f"export: {len(found)} networks of the front trained further: top-1 on the selection split {mean(gains):+.4f} on "
        f"average ({min(gains):+.4f} to {max(gains):+.4f}), in {job.run.url}/{files.FINETUNED_FRONT}"
    )


def fine_tuned(
    job: Job, arch: Arch, epochs: int, lr: float, distil: float, weights: str, title: str = "fine-tuning"
) -> Evaluator:
    """An evaluator of the weights with which `arch` alone was trained for `epochs` more epochs, from a cosine's peak `lr`.

    distil: weight of the soft labels of the largest network with the weights from which it starts. weights: their URL.
    """
    base = plan_of(job.config, job.data.classes)
    phase = Phase(files.FINETUNING, base.space, epochs=epochs, lr=lr, draw=Given((arch,)), distil=distil)
    plan = replace(base, phases=(phase,), weights=weights, head="kept", schedule="phase", validate_every=epochs)
    trained = train(job, plan, files.finetuning(f"{arch.key}-{epochs}"), title=title)
    key = trained.files[0].key
    return evaluator_of(job, tensors_of(job.run.raw(key), f"{job.run.url}/{key}"))


def remove_finetuning(job: Job, arch: Arch, epochs: int) -> None:
    """Removes the training that `fine_tuned` leaves, with the weights of a whole supernet."""
    for key in job.run.keys(f"{files.finetuning(f'{arch.key}-{epochs}')}/"):
        job.run.store.delete(f"{job.run.id}/{key}")


def export_as(
    job: Job, arch: Arch | None, kind: str, suffix: str, made: Callable[[Evaluator, Arch, str], tuple[bytes, dict[str, Any]]]
) -> tuple[str, dict[str, Any]]:
    """Exports `arch`, or the knee of the front, in another form, `subnets/NAME-KIND`; returns its address and description.

    suffix: of the file. made: gives the file and its description from the supernet's evaluator, the arch and the name; it is
    not called where they were exported before.
    """
    if arch is None:
        members, objectives = Front.from_json(json.loads(job.run.read(files.FRONT))).members, job.config.objectives
        arch = members[knee(minimised(objectives, values(objectives, members)))].arch
    name = f"{job.config.search_space.checked(arch).key}-{kind}"
    described, step_name = files.subnet(name, ".json"), f"export-{name}"
    if not job.run.finished(step_name):
        step = job.run.begin(step_name)
        content, description = made(trained_evaluator(job, step), arch, name)
        step.write(files.subnet(name, suffix), content)
        step.write_json(described, description)
        step.finish(job.config.seed)
    return f"{job.run.url}/{files.subnet(name, suffix)}", json.loads(job.run.read(described))


def export_arch(job: Job, arch: Arch, exits: str | None = None, average_macs: float | None = None) -> None:
    """Exports one sub-network, on the front or not.

    exits: those that are outputs, such as "1,3,5", or "all". average_macs: exports a cascade of all exits, with thresholds
    tuned on the selection split: an image costs at most as many MACs on average. What cannot be is an `InputError`.
    """
    chosen = exits_of(job, job.config.search_space.checked(arch), exits, average_macs)
    name = arch.key
    if average_macs is not None:
        name += f"-macs{average_macs:.0f}"
    elif chosen:
        name += f"-exits{''.join(map(str, chosen))}"
    step_name = f"export-{name}"
    if job.run.finished(step_name):
        return job.reporter.say(f"export: {job.run.url}/{files.subnet(name, '.onnx')} exists already")
    step = Step(job.run, step_name)
    evaluator = trained_evaluator(job, step)
    if average_macs is None:
        write(job, step, evaluator, name, [arch], exits=chosen)
    else:
        write_cascade(job, step, evaluator, name, arch, average_macs)
    step.finish(job.config.seed)
    return job.reporter.say(f"export: {job.run.url}/{files.subnet(name, '.onnx')}, .safetensors and .json")


def exits_of(job: Job, arch: Arch, exits: str | None, average_macs: float | None) -> tuple[int, ...]:
    """The exits that are asked for, in their order; () for the arch's own alone."""
    if exits is None and average_macs is None:
        return ()
    if exits is not None and average_macs is not None:
        raise InputError("ofa export: --exits and --average-macs exclude each other; a cascade has all exits")
    if not arch.exit:
        raise InputError(f"ofa export: the space {job.config.space} has a single exit; leave out --exits and --average-macs")
    if exits is None or exits == "all":
        return tuple(range(1, arch.exit + 1))
    words = exits.split(",")
    known = {str(after): after for after in range(1, arch.exit + 1)}
    if any(word not in known for word in words) or len(set(words)) < len(words):
        raise InputError(f"ofa export: --exits is {exits!r}; {arch.key} has the exits 1 to {arch.exit}: give some, such as "
                         f"1,{arch.exit}, or all")  # fmt: skip
    return tuple(sorted(known[word] for word in words))


def write_cascade(job: Job, step: Step, evaluator: Evaluator, name: str, arch: Arch, average_macs: float) -> None:
    """Exports all exits of `arch`, with the most accurate thresholds within an average cost."""
    selection = Predictions.of(evaluator, arch, job.data.selection)
    cost_E = cascade_costs(job.config, arch, job.data.classes)
    try:
        chosen = tuned(curve(selection.confidence_EN, selection.right_EN, cost_E), average_macs)
    except SelectionError as error:
        raise InputError(f"ofa export: --average-macs: {error}") from None
    found = tuned_cascade(chosen, selection)
    write(job, step, evaluator, name, [arch], exits=tuple(range(1, arch.exit + 1)), cascade=found)
    job.reporter.say(
        f"export: thresholds {', '.join(f'{threshold:.3f}' for threshold in found.thresholds)}: on the selection split, on "
        f"which they were tuned, top-1 {found.top1:.4f} at {found.macs:,.0f} MACs on average"
    )


def combination_of(job: Job, ensembles: Ensembles) -> Combination:
    """The vote, weights and temperatures with which the best ensemble was scored."""
    best, temperatures, kept = ensembles.best_of_several, ensembles.temperatures, job.config.ensemble.top_k
    return Combination(
        vote=ensembles.vote,
        keep=kept if kept < job.data.classes else 0,
        weights=best.weights,
        temperatures=tuple(temperatures[index] for index in best.members) if temperatures else (),
    )


def for_images(job: Job, description: D) -> D:
    """The description with the names of the run's classes, and how it decodes images."""
    config, data = job.config, job.data.description
    decoding = Decoding(side=config.search_space.resolutions[-1], crop=config.data.crop)
    return replace(description, names=() if data is None else tuple(data.classes), decoding=decoding)


def write(
    job: Job,
    step: Step,
    evaluator: Evaluator,
    name: str,
    archs: list[Arch],
    combination: Combination = SOFT,
    *,
    exits: tuple[int, ...] = (),
    exit_weights: tuple[float, ...] = (),
    cascade: TunedCascade | None = None,
) -> None:
    """Exports `archs` as one network under `name`, if ONNX Runtime agrees with PyTorch on real images.

    exits: of a single network, those that are outputs, or with `exit_weights` those whose weighted sum is the output.
    cascade: the safetensors file is a cascade of these exits.
    """
    space, classes, scale = job.config.space, job.data.classes, evaluator.scale
    members = [
        extract(evaluator.net, arch, evaluator.statistics(arch, exits), exits=exits, weights=exit_weights) for arch in archs
    ]
    network: nn.Module
    if len(archs) == 1:
        [network], side = members, archs[0].resolution
        description = Description.of(space, classes, archs[0], scale, side, exits, exit_weights)
    else:
        side = job.config.search_space.resolutions[-1]
        network = EnsembleNetwork(members, [arch.resolution for arch in archs], combination)
        description = EnsembleDescription.of_members(space, classes, archs, scale, side, combination)
    description = for_images(job, description)
    program = to_program(network.eval(), side)
    onnx, pt2 = to_onnx(program, description.outputs), to_pt2(program)
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
    reached: dict[str, Any] = {}
    if cascade is not None:
        network = CascadeNetwork(members[0], cascade.thresholds)
        description = for_images(
            job, CascadeDescription.of_exits(space, classes, archs[0], scale, exits, cascade.thresholds)
        )
        reached = {"cascade": cascade.to_json()}
    step.write(files.subnet(name, ".safetensors"), to_safetensors(network, description))
    step.write(files.subnet(name, ".onnx"), onnx)
    step.write(files.subnet(name, ".pt2"), pt2)
    step.write_json(files.subnet(name, ".json"), {**description.to_json(), **differences, **reached})
