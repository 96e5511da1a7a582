"""The search without generations, with evaluators that are simulated in this process."""

import random

import numpy as np
import pytest

from ofa.cost import cost
from ofa.record import Measured
from ofa.spaces import get_space
from search.asynchronous import search
from search.front import hypervolume
from search.islands.port import LocalPort, Lost
from search.measured import distinct
from search.measured import search as search_in_generations
from search.objective import MACS, TOP1, minimised, values

SPACE = get_space("digits")
OBJECTIVES = (TOP1, MACS)


def toy(arch):
    """More is better with diminishing returns, and some kernels are better than their cost says."""
    macs, params = cost(SPACE, arch, 10)
    bonus = sum(kernel == 5 for kernel in arch.kernel) * 0.004
    return Measured(arch, round(1 - 0.2 * (4e4 / macs) ** 0.5 + bonus, 6), macs, params)


def volume(found):
    points = minimised(OBJECTIVES, values(OBJECTIVES, found.front.members))
    return hypervolume(points / np.array([1.0, 1e6]), np.array([-0.7, 1.1]))


class Simulated:
    """`workers` that take random times, some ten times longer; `slowest`, if given, is never done before all else."""

    def __init__(self, workers=5, seed=0, slowest=None):
        self.workers, self.rng, self.slowest = workers, random.Random(seed), slowest
        self.clock, self.running, self.asked, self.idle = 0.0, [], [], 0

    @property
    def free(self):
        return self.workers - len(self.running)

    def submit(self, arch):
        assert self.free > 0, "more than there are workers"
        self.asked.append(arch)
        takes = self.rng.choice([1, 1, 1, 10]) * self.rng.uniform(0.5, 1.5)
        self.running.append((self.clock + takes if arch != self.slowest else float("inf"), len(self.asked), arch))

    def finished(self, timeout_s):
        self.idle += self.free
        first = min(self.running)
        self.running.remove(first)
        self.clock = max(self.clock, first[0]) if first[0] < float("inf") else self.clock
        return [toy(first[2])]


def run(evaluators=None, evaluations=200, **settings):
    evaluators = evaluators or Simulated()
    found = search(SPACE, OBJECTIVES, evaluators, evaluations=evaluations, population=20, **{"seed": 1, **settings})
    return found, evaluators


@pytest.mark.parametrize("algorithm", ["default", "nsga2", "nsga3", "sms-emoa", "spea2", "random"])
@pytest.mark.parametrize("islands", [1, 3])
def test_nothing_is_evaluated_twice_and_the_budget_is_used(algorithm, islands):
    found, evaluators = run(algorithm=algorithm, islands=islands)
    keys = [arch.key for arch in evaluators.asked]
    assert len(keys) == len(set(keys)) == len(found.history) == 200
    assert {m.arch.key for m in found.history} == set(keys)
    assert {SPACE.smallest().key, SPACE.largest().key} <= set(keys[:20])


def test_nobody_waits_for_an_evaluation_that_takes_long():
    found, evaluators = run(Simulated(slowest=SPACE.largest()), islands=2)
    assert found.history[-1].arch == SPACE.largest()
    assert evaluators.idle < 20, "evaluators were idle although there is always something to ask for"


@pytest.mark.parametrize(("known", "started"), [(0, 60), (40, 2)])
def test_more_evaluators_than_the_population_start_at_once_unless_an_island_knows_better(known, started):
    class Silent(LocalPort):
        def finished(self):
            return evaluators.clock > 0

    evaluators, at = Simulated(workers=60), []
    before = [toy(arch) for arch in distinct(SPACE, known, random.Random(7))]

    def count(measured):
        at.append(len(evaluators.asked))

    found, _ = run(evaluators, open_port=Silent, evaluations=100, known=before, on_measured=count)
    assert len(found.history) == 100
    assert at[0] == started, "archs that had been submitted when the first was measured"


def test_it_finds_what_the_search_in_generations_finds():
    def of(archs):
        return [toy(arch) for arch in archs]

    ours = [volume(run(Simulated(seed=s), evaluations=300, seed=s, islands=2)[0]) for s in range(3)]
    theirs = [
        volume(search_in_generations(SPACE, OBJECTIVES, of, evaluations=300, batch=20, seed=s, islands=2)) for s in range(5)
    ]
    drawn = [volume(run(Simulated(seed=s), evaluations=300, seed=s, algorithm="random")[0]) for s in range(3)]
    assert np.mean(ours) > np.mean(theirs) - np.std(theirs)
    assert min(ours) > np.mean(drawn)


def test_a_search_that_was_killed_goes_on_with_what_it_had_measured():
    kept = []

    class Killed(Exception):
        pass

    def keep(measured):
        kept.extend(measured)
        if len(kept) >= 90:
            raise Killed

    with pytest.raises(Killed):
        run(islands=2, on_measured=keep)
    found, evaluators = run(evaluations=200 - len(kept), islands=2, known=kept)
    again = {arch.key for arch in evaluators.asked}
    assert len(again) == 200 - len(kept)
    assert not again & {m.arch.key for m in kept}
    assert SPACE.smallest() in [m.arch for m in found.front.members]


class Mortal(LocalPort):
    """The port of an island that dies now and then."""

    deaths = 0

    def __init__(self, build):
        super().__init__(build)
        self.build, self.calls = build, 0

    def answer(self):
        self.calls += 1
        if self.calls % 7 == 0:
            Mortal.deaths += 1
            self.__init__(self.build)
            raise Lost
        return super().answer()


def test_islands_that_die_are_told_everything_again():
    before = Mortal.deaths
    found, evaluators = run(islands=2, open_port=Mortal)
    assert Mortal.deaths > before
    keys = [arch.key for arch in evaluators.asked]
    assert len(keys) == len(set(keys)) == 200
    assert volume(found) > volume(run(islands=2, algorithm="random")[0])


def test_evaluators_come_and_go():
    class Changing(Simulated):
        def finished(self, timeout_s):
            answers = super().finished(timeout_s)
            self.workers = [5, 9, 2, 6][len(self.asked) // 60 % 4]
            return answers

    found, evaluators = run(Changing(), islands=2)
    assert len({arch.key for arch in evaluators.asked}) == len(found.history) == 200


def test_the_guided_search_asks_for_batches_and_beats_genetic_search():
    guided, evaluators = run(evaluations=60, algorithm="guided", islands=2)
    assert len({arch.key for arch in evaluators.asked}) == len(guided.history) == 60
    assert volume(guided) > volume(run(evaluations=60)[0])


@pytest.mark.parametrize("algorithm", ["default", "random"])
def test_a_space_smaller_than_the_budget_is_searched_whole_and_the_search_ends(algorithm):
    tiny = SPACE.only(resolutions=(24,), depths=(1,), kernels=(3, 5), expands=(1, 2))
    evaluators = Simulated()
    found = search(tiny, OBJECTIVES, evaluators, evaluations=500, population=20, seed=1, islands=2, algorithm=algorithm)
    assert len({arch.key for arch in evaluators.asked}) == len(evaluators.asked) == len(found.history) == tiny.size == 64


def test_an_unknown_algorithm_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="there are default, nsga2, nsga3, sms-emoa, spea2, guided, random"):
        run(algorithm="nsga9")


@pytest.mark.parametrize(("later", "found"), [(150, 150), (80, 80), (20, 50)])
def test_the_budget_may_change_while_it_searches(later, found):
    """Raised, lowered, and lowered below what is under way already: what is under way is still told."""
    budget = [100]

    class Changing(Simulated):
        def finished(self, timeout_s):
            if len(self.asked) >= 50:
                budget[0] = later
            return super().finished(timeout_s)

    evaluators = Changing(workers=1)
    result = search(SPACE, OBJECTIVES, evaluators, evaluations=lambda: budget[0], population=20, seed=1)
    assert found <= len(result.history) == len(evaluators.asked) <= found + 20
