"""An island whose archs a sampler of Optuna proposes, unchanged: one study in memory, a parameter for each gene.

Everything goes through Optuna's public interface: `study.ask`, `trial.suggest_categorical`, `trial.set_constraint`,
`study.tell`, `study.enqueue_trial`, `study.add_trial`. What a sampler proposes is therefore what it proposes in any other
study. Ours is only what happens around it: nothing is evaluated twice, and known archs are added to the study.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import Trial

from ofa.space import Space
from search.islands.breeder import Individual, Packed
from search.islands.island import quiet_study
from search.islands.parameters import Parameters, constraints_of
from search.objective import Objective

REPEATS = 30  # known archs that a sampler proposes one after the other, before it gets a random new one


@contextmanager
def quiet() -> Iterator[None]:
    """Leaves out Optuna's warnings, such as that a gene without effect is sampled independently."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


class Sampled:
    """The study of one sampler. A proposal that is known already gets its values at once, without another evaluation.

    An arch that is pending on another island is proposed if the sampler asks for it: the search reports its values.
    objectives: their bounds are constraints of the trials.
    seed: of the random archs that the sampler gets where it only proposes known ones.
    """

    parents: tuple[Individual, ...] = ()  # it keeps its population itself

    def __init__(self, space: Space, objectives: Sequence[Objective], sampler: BaseSampler, seed: int) -> None:
        self.parameters, self.objectives = Parameters(space), tuple(objectives)
        self.study = quiet_study([o.direction for o in objectives], sampler)
        self.rng = np.random.default_rng([seed, 1])
        self.known: dict[Packed, Individual] = {}  # all that are evaluated, here or elsewhere
        self.learned: set[Packed] = set()  # of which those that the study has
        self.pending: dict[Packed, list[Trial]] = {}  # proposed; more than one trial where the sampler repeats itself
        self.elsewhere: set[Packed] = set()  # pending on other islands
        self.next: list[Packed] = []  # to be proposed before others

    def enqueue(self, first: Sequence[Packed]) -> None:
        """Makes these the next archs to propose."""
        self.next += first

    def recall(self, evaluated: Iterable[Individual]) -> None:
        """Adds the values of archs that the sampler need not learn from, unless it proposes them."""
        self.known.update((individual.packed, individual) for individual in evaluated)

    def avoid(self, taken: Iterable[Packed]) -> None:
        """Adds archs that are pending elsewhere."""
        self.elsewhere.update(taken)

    def tell(self, evaluated: Sequence[Individual]) -> None:
        """Adds the values of archs that it proposed, and of others to learn from."""
        self.recall(evaluated)
        with quiet():
            others = []
            for individual in evaluated:
                self.elsewhere.discard(individual.packed)
                for trial in self.pending.pop(individual.packed, ()):
                    self._tell(trial, individual)
                if individual.packed not in self.learned:
                    self.learned.add(individual.packed)
                    others.append(individual)
            self._add(others)

    def ask(self, count: int) -> list[Packed]:
        """At most `count` archs without known values; fewer only where the space is nearly exhausted."""
        asked: list[Packed] = []
        repeats = 0
        with quiet():
            while len(asked) < count:
                if self.next:
                    self.study.enqueue_trial(self.parameters.of(self.next.pop(0)))
                trial = self.study.ask()
                packed = self._suggested(trial)
                if packed in self.known:
                    self._tell(trial, self.known[packed])
                    repeats += 1
                elif packed in self.pending:
                    self.pending[packed].append(trial)
                    repeats += 1
                else:
                    self.pending[packed] = [trial]
                    asked.append(packed)
                    repeats = 0
                if repeats == REPEATS:
                    fresh = self._fresh()
                    if fresh is None:
                        break
                    self.next.append(fresh)
                    repeats = 0
        return asked

    def _tell(self, trial: Trial, individual: Individual) -> None:
        self.learned.add(individual.packed)
        for name, value in constraints_of(self.objectives, individual.values).items():
            trial.set_constraint(name, value)
        self.study.tell(trial, individual.values)

    def _suggested(self, trial: Trial) -> Packed:
        """The arch of a new trial.

        A genetic sampler's population consists of the trials that it has given a generation. It gives one to a trial whose
        parameters it samples, so an enqueued trial gets its own here, by the sampler's method for that.
        """
        sampler = self.study.sampler
        packed = self.parameters.suggest(trial)
        if isinstance(sampler, BaseGASampler):
            sampler.get_trial_generation(self.study, self.study.get_trials(deepcopy=False)[trial.number])
        return packed

    def _add(self, others: Sequence[Individual]) -> None:
        """Adds archs that others proposed, to a genetic sampler as members of its current generation."""
        if not isinstance(self.study.sampler, BaseGASampler):
            for other in others:
                constraints = constraints_of(self.objectives, other.values)
                self.study.add_trial(self.parameters.trial(other.packed, other.values, constraints))
            return
        trials = []
        for individual in others:
            self.study.enqueue_trial(self.parameters.of(individual.packed))
            trials.append(self.study.ask())
            self._suggested(trials[-1])
        for trial, individual in zip(trials, others, strict=True):
            self._tell(trial, individual)

    def _fresh(self) -> Packed | None:
        """A random arch that is neither known nor pending; None where 1000 samples have none."""
        taken = {*self.known, *self.pending, *self.elsewhere}
        genes = self.parameters.genes
        return next((p for p in genes.pack_all(genes.random(1000, self.rng)) if p not in taken), None)
