"""Fine-tune chosen networks in two phases, without the test split; leaves their weights and files in the run.

    ofa finetune configs/cifar10.toml --arch NAME --two-phase
    ofa finetune CONFIG --front --two-phase --exits all --weights MIX

Phase 1 trains on the training split and evaluates every epoch on the selection split, until `patience` epochs have passed
without a better top-1. Phase 2 starts again from the supernet's weights and trains on the images of both splits for as many
epochs as phase 1 took to its best one; its last weights are the result. A killed command continues to the same result.

Source: the post-processing of NATv2, arXiv:2307.00960, with exits that are trained together and added up as in AEP,
arXiv:2301.12168. The released code evaluates phase 2 on the test split, and ends phase 1 by the loss instead of the top-1.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from cluster.errors import InputError
from cluster.run import File, Step
from cluster.texts import json_text, sha256
from jobs import files
from jobs.evaluators import evaluator_of, tensors_of, trained_evaluator, weights_file
from jobs.export import write
from jobs.images.dataset import Dataset, load_joined
from jobs.job import Job
from jobs.train import plan_of, train
from ofa.arch import Arch
from ofa.cost import cost
from ofa.documents import Document
from ofa.draws import Given
from ofa.evaluate import Evaluator
from ofa.exits import SCHEMES, exit_weights, joint
from ofa.phases import Phase, Plan, best_epoch
from search.front import Front

PHASE = "finetune"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning(Document):
    """The settings of a fine-tuning in two phases; the defaults are the published values.

    exits: a name in `ofa.exits.SCHEMES`, with which all exits up to the network's own are trained and added up; None is its
    own exit alone. epochs: of phase 1 at most; the learning rate is a cosine over them in both phases, from `lr` to 0.
    """

    optimizer: str  # a name in `ofa.train.OPTIMIZERS`; published: adamw for a space with exits, otherwise sgd
    exits: str | None = None
    epochs: int = 150
    patience: int = 30  # epochs
    lr: float = 1e-4
    batch: int = 64
    weight_decay: float = 5e-4
    distil: float = 0.0  # weight of the soft labels of the supernet's largest network

    @property
    def weights(self) -> tuple[str, str]:
        """Names in `ofa.exits.WEIGHTS` of the losses and of the logits of the exits."""
        return ("last", "last") if self.exits is None else SCHEMES[self.exits]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned(Document):
    """`finetuned/<name>/result.json`: a network that was fine-tuned in two phases."""

    name: str
    arch: Arch
    tuning: Tuning
    before: float  # top-1 on the selection split with the supernet's weights, of the network's own exit
    top1: float  # the same after the best epoch of phase 1
    epochs: int  # that epoch, and the number of epochs of phase 2
    history: tuple[float, ...]  # top-1 on the selection split after each epoch of phase 1

    @property
    def weights(self) -> File:
        """The weights at the end of phase 2."""
        return replace(files.supernet(PHASE, folder(self.name, "second")), step="finetune")


def folder(name: str, part: str) -> str:
    """The folder of the training of one phase, "first" or "second"."""
    return f"{files.finetuning(name)}/{part}"


def front_archs(job: Job) -> list[Arch]:
    """The networks of the run's front."""
    return [member.arch for member in Front.from_json(json.loads(job.run.read(files.FRONT))).members]


def check(job: Job, archs: Sequence[Arch], tuning: Tuning) -> None:
    """Raises an `InputError` for settings that cannot work, or an `ArchError` for a network that is not in the space."""
    config = job.config
    for arch in archs:
        config.search_space.checked(arch)
    if tuning.exits is not None and not config.search_space.values("exit"):
        raise InputError(f"ofa finetune: the space {config.space} has a single exit; leave out --exits and --weights")
    if tuning.batch < config.train.most_workers:
        raise InputError(
            f"ofa finetune: --batch is {tuning.batch}, less than one image for each of train.workers "
            f"({config.train.most_workers}); use at least {config.train.most_workers}"
        )


def fine_tune(job: Job, archs: Sequence[Arch], tuning: Tuning) -> Iterator[Finetuned]:
    """The result of every network, which is trained unless it was before; `check` comes first."""

    @cache
    def joined() -> Dataset:
        return load_joined(job.config, job.data.scale, job.reporter)

    for arch in archs:
        yield fine_tuned(job, arch, tuning, joined)


def fine_tuned(job: Job, arch: Arch, tuning: Tuning, joined: Callable[[], Dataset]) -> Finetuned:
    """Fine-tunes and exports a network; returns its result, that of the run if it is there.

    joined: training and selection images together.
    """
    start = weights_file(job.config)
    name = name_of(arch, tuning, sha256(job.run.read(start)))
    step_name = f"finetune-{name}"
    if job.run.finished(step_name):
        job.run.sweep(step_name)
        job.reporter.say(f"finetune: {name}: finished before, nothing to do")
        return read(job, name)
    step = Step(job.run, step_name)
    before = trained_evaluator(job, step).top1(arch, job.data.selection)
    plan = plan_for(job, arch, tuning, f"{job.run.url}/{start}")
    first = train(job, plan, folder(name, "first"))
    history = tuple(row["largest"] for row in first.history)
    epochs = best_epoch(history)
    second = train(job, second_plan(plan, epochs), folder(name, "second"), joined())
    for file in (*first.files, *second.files):
        step.adopt(file)
    found = Finetuned(
        name=name,
        arch=arch,
        tuning=tuning,
        before=before,
        top1=history[epochs - 1],
        epochs=epochs,
        history=history,
    )
    step.write_json(files.finetuned(name), found.to_json())
    exits = joint(tuning.weights[1], arch.exit)
    weights = exit_weights(tuning.weights[1], len(exits)) if exits else ()
    data = job.run.raw(found.weights.key)
    tuned = evaluator_of(job, tensors_of(data, f"{job.run.url}/{found.weights}"))
    write(job, step, tuned, name, [arch], exits=exits, exit_weights=weights)
    step.finish(job.config.seed)
    return found


def name_of(arch: Arch, tuning: Tuning, weights: str) -> str:
    """The name of a fine-tuning in its run. weights: the sha256 of those that it starts from."""
    return f"{arch.key}-{sha256(json_text([tuning.to_json(), weights]).encode())[:8]}"


def plan_for(job: Job, arch: Arch, tuning: Tuning, weights: str) -> Plan:
    """The training of phase 1. weights: the URL of those that it starts from."""
    base = plan_of(job.config, job.data.classes)
    losses, logits = tuning.weights
    phase = Phase(
        PHASE,
        base.space,
        epochs=tuning.epochs,
        lr=tuning.lr,
        draw=Given((arch,)),
        distil=tuning.distil,
        joint_exits=losses,
        summed_exits=logits,
        patience=tuning.patience,
    )
    recipe = replace(
        base.recipe,
        optimizer=tuning.optimizer,
        momentum=0.9,
        weight_decay=tuning.weight_decay,
        label_smoothing=0.0,
        dropout=0.0,
    )
    return replace(
        base,
        phases=(phase,),
        recipe=recipe,
        batch=tuning.batch,
        weights=weights,
        head="kept",
        schedule="phase",
        validate_every=1,
        validate_images=len(job.data.selection),
    )


def second_plan(first: Plan, epochs: int) -> Plan:
    """The training of phase 2: exactly `epochs` epochs, with the learning rates of phase 1."""
    [phase] = first.phases
    return replace(first, phases=(replace(phase, epochs=epochs, after=phase.epochs - epochs, patience=0),))


def read(job: Job, name: str) -> Finetuned:
    """The result of a finished fine-tuning; an `InputError` with the names that there are if it has none."""
    there = sorted(key.split("/")[1] for key in job.run.recorded() if key.startswith(f"{files.FINETUNED}/")
                   and key.endswith("/result.json"))  # fmt: skip
    if name not in there:
        names = f"there is {', '.join(there)}" if there else "there is none: `ofa finetune --two-phase` makes them"
        raise InputError(f"{job.run.url}: no fine-tuned network is called {name!r}; {names}")
    file = files.finetuned(name)
    return Finetuned.from_bytes(job.run.read(file), f"{job.run.url}/{file}")


def evaluator(job: Job, found: Finetuned) -> Evaluator:
    """An evaluator of a fine-tuned network's weights."""
    return evaluator_of(job, tensors_of(job.run.read(found.weights), f"{job.run.url}/{found.weights}"))


def costs(job: Job, found: Finetuned) -> tuple[int, int]:
    """MACs and params of a fine-tuned network, with the heads of the exits that it adds up."""
    exits = joint(found.tuning.weights[1], found.arch.exit)
    macs, params = cost(job.config.search_space, found.arch, job.data.classes, exits)
    return macs, params
