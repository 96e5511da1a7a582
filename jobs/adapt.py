"""Adapt the supernet to the search; leaves its new weights and an archive of evaluated sub-networks.

    ofa adapt configs/cifar10_nat.toml --store ./runs

Every iteration fits predictors to the archive, searches their predictions, evaluates a batch of the results, estimates the
distribution of every gene among the archive's survivors, fine-tunes the supernet on sub-networks sampled from it, and
evaluates the archive again (NAT, arXiv:2005.05859; NATv2, arXiv:2307.00960). The evaluators stay while the supernet trains
and take its new weights. A killed job continues within the iteration: evaluations and trainings that are finished are in its
ledger, everything else follows from them and the seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.run import Step
from cluster.texts import jsonl
from jobs import files
from jobs.batches import batch_of
from jobs.costs import objectives_of
from jobs.evaluators import evaluators, measure_all, tensors_of
from jobs.job import Job
from jobs.train import plan_of, train
from jobs.workers.evaluator import weight_arrays
from ofa.arch import Arch
from ofa.draws import Weighted
from ofa.genes import Genes
from ofa.phases import Phase, Plan
from ofa.record import Measured
from search.adapt.history import Adaptation, Iteration
from search.adapt.laws import INITIAL, LAWS, Rows
from search.adapt.pick import PICKS
from search.adapt.survival import survivors
from search.adapt.tradeoff import high_tradeoff
from search.front import hypervolume, nondominated
from search.history import reference_point
from search.islands.breeder import Individual
from search.islands.proposal import bred, propose
from search.objective import Objective, first_quality, minimised, values
from search.predict.columns import learned_columns


def adapt(job: Job) -> None:
    """Runs the step `adapt`: writes the weights, the archive as evaluated with them, and the progress."""
    setting, step = job.config.adapt, job.run.begin("adapt")
    objectives = objectives_of(job, step)
    trained = files.supernet(job.config.last_phase)
    step.read(trained)  # records it as an input
    batch_of(job, step)
    work = Work(job, step)
    archive = first_archive(job, work)
    reference = reference_point(objectives, values(objectives, archive))
    reference_M = minimised(objectives, np.array(reference))
    rows: list[Iteration] = []

    def note(iteration: int) -> None:
        points_NM = minimised(objectives, values(objectives, archive))
        inside_NM = points_NM[(points_NM < reference_M).all(axis=1)]
        volume = float(hypervolume(inside_NM, reference_M)) if len(inside_NM) else 0.0
        quality = first_quality(objectives)
        best = quality.of(max(archive, key=quality.of))
        evaluations, seconds = len(work.requested), work.device_seconds
        rows.append(
            Iteration(
                iteration=iteration, evaluations=evaluations, device_seconds=seconds, hypervolume=volume, best=best,
                archive=len(archive), front=int(nondominated(points_NM).sum()),
            )
        )  # fmt: skip
        job.reporter.say(
            f"adapt: iteration {iteration} of {setting.iterations}: hypervolume {volume:.4g}, {quality.label} "
            f"{quality.text(best)}, {evaluations} evaluations, {seconds:.0f} device-seconds"
        )

    note(0)
    for iteration in range(1, setting.iterations + 1):
        work.iteration = iteration
        new = work.measured(iteration - 1, proposed(job, objectives, archive, iteration))
        archive = [*archive, *new]
        if setting.archive == "constant":
            archive = kept(job, archive, setting.archs, iteration)
        work.train(iteration, law(job, archive, iteration))
        archive = work.measured(iteration, [m.arch for m in archive])
        note(iteration)
    step.write(files.ARCHIVE, jsonl([m.to_json() for m in archive]))
    best = [archive[i] for i in np.flatnonzero(nondominated(minimised(objectives, values(objectives, archive))))]
    chosen = [best[i].arch for i in high_tradeoff(objectives, values(objectives, best))]
    document = Adaptation.of(objectives, reference, rows, chosen)
    step.write_json(files.ADAPTATION, document.to_json())
    for file in (files.adapted(setting.iterations), files.adapted_meta(setting.iterations)):
        step.adopt(file)
    work.remove_before(setting.iterations)
    step.finish(job.config.seed, iterations=setting.iterations, evaluations=rows[-1].evaluations)


class Work:
    """The evaluations and trainings of an adaptation, each done once: they are in the step's ledger.

    Iteration 0 has the weights of the training, iteration i those after the i-th fine-tuning. iteration: the present one.
    """

    iteration = 0

    def __init__(self, job: Job, step: Step) -> None:
        self.job, self.step = job, step
        self.known: dict[int, dict[str, Measured]] = {}
        self.requested: set[tuple[int, str]] = set()  # the evaluations so far: iterations of weights, and archs
        self.seconds: dict[int, float] = {}  # by iteration, of all evaluators and training workers
        self.trained = 0  # the last iteration that is trained
        self.loaded: int | None = None  # the iteration whose weights the evaluators have
        for row in step.ledger.rows():
            self._count(row)

    def measured(self, iteration: int, archs: Sequence[Arch]) -> list[Measured]:
        """The records of archs with the weights of an iteration."""
        known = self.known.setdefault(iteration, {})
        self.requested.update((iteration, arch.key) for arch in archs)
        missing = {arch.key for arch in archs if arch.key not in known}
        title = f"adapt {iteration}/{self.job.config.adapt.iterations} (evaluating)"
        with self.job.reporter.track(title, len({arch.key for arch in archs}), "archs") as tracker:
            tracker.resumed(len({arch.key for arch in archs}) - len(missing))
            if not missing:
                return [known[arch.key] for arch in archs]
            self._load(iteration)
            started = time.monotonic()
            found = measure_all(
                self.job, self.step, archs, known, lambda m: tracker.advance(),
                lambda m: {"iteration": iteration, "measured": m.to_json()},
            )  # fmt: skip
        self._append({"iteration": self.iteration, "seconds": (time.monotonic() - started) * self.job.config.ray.evaluators})
        return found

    def train(self, iteration: int, rows: Rows) -> None:
        """Fine-tunes the supernet on sub-networks sampled by `rows`, from the weights of the iteration before."""
        if self.trained >= iteration:
            return
        started = time.monotonic()
        plan = plan_of_iteration(self.job, iteration, self._weights(iteration - 1), rows)
        title = f"adapt {iteration}/{self.job.config.adapt.iterations} (training)"
        train(self.job, plan, files.adapted_folder(iteration), title=title)
        seconds = (time.monotonic() - started) * self.job.config.train.most_workers
        self._append({"iteration": iteration, "trained": True, "seconds": seconds})
        self.remove_before(iteration)

    @property
    def device_seconds(self) -> float:
        """The seconds up to the present iteration, that one included; of all attempts."""
        return sum(seconds for iteration, seconds in self.seconds.items() if iteration <= self.iteration)

    def remove_before(self, iteration: int) -> None:
        """Removes the weights of earlier iterations, which are not needed once this one is trained."""
        now = f"{files.adapted_folder(iteration)}/"
        for key in self.job.run.keys(f"{files.ADAPTED}/"):
            if not key.startswith(now):
                self.job.run.store.delete(f"{self.job.run.id}/{key}")

    def _weights(self, iteration: int) -> str:
        """The key of the weights of an iteration."""
        return (files.adapted(iteration) if iteration else files.supernet(self.job.config.last_phase)).key

    def _load(self, iteration: int) -> None:
        """Gives the evaluators the weights of an iteration."""
        if self.loaded == iteration:
            return
        key = self._weights(iteration)
        arrays = tensors_of(self.job.run.raw(key), f"{self.job.run.url}/{key}")
        pool = evaluators(self.job, arrays)
        if self.loaded is not None:
            pool.renew(weight_arrays(arrays))
        self.loaded = iteration

    def _append(self, row: dict[str, Any]) -> None:
        self.step.ledger.append([row])
        self._count(row)

    def _count(self, row: dict[str, Any]) -> None:
        iteration = row["iteration"]
        if "measured" in row:
            found = Measured.from_json(row["measured"])
            self.known.setdefault(iteration, {})[found.arch.key] = found
        self.seconds[iteration] = self.seconds.get(iteration, 0.0) + row.get("seconds", 0.0)
        if row.get("trained"):
            self.trained = max(self.trained, iteration)


def first_archive(job: Job, work: Work) -> list[Measured]:
    """The first archive: the smallest and the largest sub-network, and others of the initial law, the best of many."""
    setting, space = job.config.adapt, job.config.search_space
    sampled = sample(job, setting.archs * setting.oversample, [space.smallest(), space.largest()])
    found = work.measured(0, sampled)
    return [*found[:2], *kept(job, found[2:], setting.archs - 2, 0)]


def sample(job: Job, count: int, first: Sequence[Arch]) -> list[Arch]:
    """`count` distinct archs: the given ones, then samples of the initial law, or uniform ones where it has too few."""
    setting, genes = job.config.adapt, Genes(job.config.search_space)
    rng = generator(job, "first")
    archs = {arch.key: arch for arch in first}
    for law_of in (*[INITIAL[setting.initial]] * 20, *[INITIAL["uniform"]] * 1000):
        for arch in genes.decode(law_of(genes, count, rng)):
            if len(archs) < count:
                archs.setdefault(arch.key, arch)
        if len(archs) == count:
            break
    return list(archs.values())


def kept(job: Job, archive: Sequence[Measured], count: int, iteration: int) -> list[Measured]:
    """The survivors of an archive, in its order."""
    objectives = job.config.objectives
    chosen = survivors(objectives, values(objectives, archive), count, job.config.seed + iteration)
    return [archive[i] for i in sorted(chosen)]


def law(job: Job, archive: Sequence[Measured], iteration: int) -> Rows:
    """The distribution of every gene among the archive's survivors."""
    setting, genes = job.config.adapt, Genes(job.config.search_space)
    best = kept(job, archive, min(setting.survivors, len(archive)), iteration)
    return LAWS[setting.law](genes, genes.encode([m.arch for m in best]))


def proposed(job: Job, objectives: Sequence[Objective], archive: Sequence[Measured], iteration: int) -> list[Arch]:
    """The batch of an iteration: archs that the predictors, fitted to the archive, expect to improve its front.

    Where they have too few new ones, others are bred from the archive's front.
    """
    setting, space = job.config.adapt, job.config.search_space
    genes, rng = Genes(space), generator(job, f"iteration{iteration}")
    genes_NG, values_NM = genes.encode([m.arch for m in archive]), values(objectives, archive)
    known = genes.pack_all(genes_NG)
    taken = set(known)
    packed = propose(
        space, objectives, values_NM, taken, setting.batch,
        columns=learned_columns(space, objectives, genes_NG, values_NM, setting.predictor, setting.features),
        pick=PICKS[setting.pick], evaluations=setting.predicted_evaluations, members=setting.candidates, rng=rng,
    )  # fmt: skip
    if len(packed) < setting.batch:
        individuals = [Individual(p, tuple(row)) for p, row in zip(known, values_NM.tolist(), strict=True)]
        taken.update(packed)
        packed += bred(genes, objectives, individuals, taken, setting.batch - len(packed), rng)
    return genes.decode(genes.unpack_all(packed))


def plan_of_iteration(job: Job, iteration: int, weights: str, rows: Rows) -> Plan:
    """The fine-tuning of an iteration; one cosine of the learning rate goes over all of them."""
    config = job.config
    setting = config.adapt
    phase = Phase(
        name=files.adapted_phase(iteration),
        space=config.search_space,
        epochs=setting.epochs,
        lr=setting.lr,
        draw=Weighted(rows, setting.subnets),
        distil=setting.distil,
        before=(iteration - 1) * setting.epochs,
        after=(setting.iterations - iteration) * setting.epochs,
    )
    plan = plan_of(config, job.data.classes)
    return replace(plan, phases=(phase,), weights=f"{job.run.url}/{weights}", head="kept", schedule="phase")


def generator(job: Job, purpose: str) -> np.random.Generator:
    """The random numbers of one purpose."""
    return np.random.default_rng([*f"{job.config.seed}/adapt/{purpose}".encode()])
