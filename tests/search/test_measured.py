import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from ofa.cost import cost
from ofa.genes import Genes
from ofa.record import Measured
from ofa.spaces import get_space
from search import predicted
from search.front import front, hypervolume
from search.measured import search
from search.objective import MACS, PARAMS, TOP1, minimised, values

SPACE = get_space("digits")
OBJECTIVES = (TOP1, MACS)


def toy(arch):
    """More is better with diminishing returns, and some kernels are better than their cost says."""
    macs, params = cost(SPACE, arch, 10)
    bonus = sum(kernel == 5 for kernel in arch.kernel) * 0.004
    return Measured(arch, round(1 - 0.2 * (4e4 / macs) ** 0.5 + bonus, 6), macs, params)


class Recorder:
    """Evaluates the toy and remembers what it was asked, in which batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, archs):
        self.batches.append([arch.key for arch in archs])
        return [toy(arch) for arch in archs]

    @property
    def asked(self):
        return [key for batch in self.batches for key in batch]


def volume(found):
    points = minimised(OBJECTIVES, values(OBJECTIVES, found.front.members))
    return hypervolume(points / np.array([1.0, 1e6]), np.array([-0.7, 1.1]))


def run(seed=1, evaluations=200, **settings):
    recorder = Recorder()
    found = search(SPACE, OBJECTIVES, recorder, evaluations=evaluations, batch=20, seed=seed, **settings)
    return found, recorder


@pytest.mark.parametrize("algorithm", ["default", "nsga2", "nsga3", "sms-emoa", "spea2", "random"])
@pytest.mark.parametrize("islands", [1, 2, 3])
def test_nothing_is_evaluated_twice_and_the_budget_is_used(algorithm, islands):
    found, recorder = run(algorithm=algorithm, islands=islands)
    assert len(recorder.asked) == len(set(recorder.asked)) == 200
    assert [m.arch.key for m in found.history] == recorder.asked


def test_the_extremes_are_in_the_first_generation():
    _, recorder = run()
    assert {SPACE.smallest().key, SPACE.largest().key} <= set(recorder.batches[0])
    assert len(recorder.batches[0]) == 20


def test_one_seed_gives_one_result_and_another_seed_another():
    one, same, other = run(seed=1, islands=2), run(seed=1, islands=2), run(seed=2, islands=2)
    assert one[0] == same[0]
    assert one[1].batches == same[1].batches
    assert one[0].history != other[0].history


def test_it_does_not_matter_where_islands_run():
    with ThreadPoolExecutor(2) as threads:
        elsewhere = run(islands=2, run_islands=threads.map)[0]
    assert elsewhere == run(islands=2)[0]


def test_a_search_that_starts_again_with_what_it_knew_asks_for_the_same():
    """Resume: the evaluations of the killed search come from a ledger, and the rest follows."""
    whole, recorder = run(islands=2)
    ledger = {m.arch.key: m for m in whole.history[:90]}
    fresh = []

    def evaluate(archs):
        fresh.extend(arch.key for arch in archs if arch.key not in ledger)
        return [ledger.get(arch.key) or toy(arch) for arch in archs]

    again = search(SPACE, OBJECTIVES, evaluate, evaluations=200, batch=20, seed=1, islands=2)
    assert again == whole
    assert fresh == recorder.asked[90:]


def test_what_is_known_is_never_asked_for_and_counts_for_the_front():
    rng = random.Random(0)
    archs = {a.key: a for a in [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(60))]}
    known = [toy(arch) for arch in archs.values()]
    found, recorder = run(known=known, evaluations=40, islands=2)
    assert not set(recorder.asked) & set(archs)
    assert len(recorder.asked) == 40
    assert SPACE.smallest() in [m.arch for m in found.front.members]


def test_nsga2_beats_random_search_on_the_same_budget():
    ours = [volume(run(seed=seed, evaluations=300)[0]) for seed in range(5)]
    random_search = [volume(run(seed=seed, evaluations=300, algorithm="random")[0]) for seed in range(5)]
    assert min(ours) > max(random_search), (ours, random_search)


def test_the_guided_search_never_asks_twice_and_beats_nsga2():
    found, recorder = run(algorithm="guided", evaluations=60)
    assert len(recorder.asked) == len(set(recorder.asked)) == 60
    assert volume(found) > volume(run(evaluations=60)[0])
    assert run(algorithm="guided", evaluations=40)[0] == run(algorithm="guided", evaluations=40, islands=2)[0]


def test_migration_reaches_every_island():
    """Islands that exchange their best end at least as well, in the mean, as islands that never do."""
    mixed = np.mean([volume(run(seed=s, islands=4, evaluations=400, migrate_every=2)[0]) for s in range(4)])
    apart = np.mean([volume(run(seed=s, islands=4, evaluations=400, migrate_every=10**6)[0]) for s in range(4)])
    assert mixed > apart


def test_a_space_smaller_than_the_budget_is_searched_whole_and_the_search_ends():
    tiny = SPACE.only(resolutions=(24,), depths=(1,), kernels=(3, 5), expands=(1, 2))
    recorder = Recorder()
    found = search(tiny, OBJECTIVES, recorder, evaluations=500, batch=20, seed=1, islands=2)
    assert len(set(recorder.asked)) == len(recorder.asked) == tiny.size == 64
    everything = {(m.top1, m.macs) for m in found.history}
    best = {v for v in everything if not any(o[0] >= v[0] and o[1] <= v[1] and o != v for o in everything)}
    assert {(m.top1, m.macs) for m in found.front.members} == best


def test_an_unknown_algorithm_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="there are default, nsga2, nsga3, sms-emoa, spea2, guided, random"):
        run(algorithm="nsga9")


@pytest.mark.parametrize(("later", "found"), [(100, 100), (45, 45), (30, 40)])
def test_the_budget_may_change_while_it_searches(later, found):
    """Raised, lowered, and lowered below what is done already: then nothing more is asked for."""
    recorder, budget = Recorder(), [60]

    def evaluate(archs):
        answers = recorder(archs)
        if len(recorder.asked) == 40:
            budget[0] = later
        return answers

    result = search(SPACE, OBJECTIVES, evaluate, evaluations=lambda: budget[0], batch=20, seed=1, islands=2)
    assert len(result.history) == found
    assert len({m.arch.key for m in result.history}) == found


LIMITED = (replace(TOP1, bound=0.85), replace(MACS, bound=1e5))


@pytest.mark.parametrize("algorithm", ["nsga2", "nsga3", "sms-emoa", "spea2", "guided", "random"])
def test_limits_hold_on_every_member_and_are_searched_for(algorithm):
    evaluations = 60 if algorithm == "guided" else 120
    found = search(SPACE, LIMITED, Recorder(), evaluations=evaluations, batch=20, seed=1, algorithm=algorithm)
    assert found.front.members
    assert all(m.top1 >= 0.85 and m.macs <= 1e5 for m in found.front.members)
    later = found.history[-60:] if algorithm != "guided" else found.history[-20:]
    inside = np.mean([m.top1 >= 0.85 and m.macs <= 1e5 for m in later])
    free = search(SPACE, OBJECTIVES, Recorder(), evaluations=evaluations, batch=20, seed=1, algorithm=algorithm)
    before = np.mean([m.top1 >= 0.85 and m.macs <= 1e5 for m in free.history[-len(later) :]])
    assert inside > before or algorithm == "random"


def test_limits_that_nothing_keeps_leave_an_empty_front():
    limited = (TOP1, replace(MACS, bound=1.0))
    for algorithm in ("nsga2", "guided"):
        found = search(SPACE, limited, Recorder(), evaluations=30, batch=10, seed=1, algorithm=algorithm)
        assert found.front.members == () and len(found.history) == 30


TINY_SPACE = SPACE.only(resolutions=(24, 32), depths=(1, 2), kernels=(3, 5), expands=(4,))


def test_a_front_of_three_objectives_is_that_of_brute_force():
    wanted = (TOP1, MACS, PARAMS)
    space = TINY_SPACE
    every = [
        toy(arch) for arch in Genes(space).decode(np.unique(Genes(space).random(8000, np.random.default_rng(0)), axis=0))
    ]
    assert len(every) == space.size
    points = minimised(wanted, values(wanted, every))
    beaten = [((points <= p).all(axis=1) & (points < p).any(axis=1)).any() for p in points]
    best = {tuple(p) for p, no in zip(points, beaten, strict=True) if not no}
    assert {tuple(p) for p in minimised(wanted, values(wanted, front(space.name, wanted, every).members))} == best
    costs = {m.arch.key: m for m in every}

    def evaluate(genes_BG):
        return values(wanted, [costs[arch.key] for arch in Genes(space).decode(genes_BG)])

    found = predicted.search(space, wanted, evaluate, costs=evaluate, evaluations=1500, members=500, seed=1)
    assert {tuple(p) for p in minimised(wanted, found.values)} == best
