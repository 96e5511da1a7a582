"""An objective, a predicted and a measured algorithm are added from this file alone, and run through what uses them."""

import json

import numpy as np
import pytest

from ofa.cost import cost
from ofa.genes import Genes
from ofa.meters import METERS
from ofa.record import Measured
from ofa.spaces import get_space
from search import asynchronous, measured, predicted
from search.choose import choose
from search.costs.exact import CostTable
from search.front import Front, front, nondominated
from search.history import Curve, History, reference_point
from search.islands.breeder import Individual
from search.objective import MACS, OBJECTIVES, TOP1, Objective, minimised, values
from search.predict.predictor import fit
from search.predict.terms import predicted_problem
from search.problem import Problem, Term

SPACE = get_space("digits")
GENES, COSTS = Genes(SPACE), CostTable(SPACE, 10)


def blocks(subject):
    """How many blocks a sub-network has."""
    return sum(subject.arch.depth)


@pytest.fixture
def an_objective(monkeypatch):
    """Fewer blocks are better."""
    objective = Objective("blocks", "minimize", label="blocks", text=lambda value: f"{value:.0f} blocks")
    monkeypatch.setitem(OBJECTIVES, "blocks", objective)
    monkeypatch.setitem(METERS, "blocks", blocks)
    return objective


def toy(arch, **extra):
    macs, params = cost(SPACE, arch, 10)
    bonus = sum(kernel == 5 for kernel in arch.kernel) * 0.004
    more = (("blocks", float(sum(arch.depth))),) if extra.get("blocks") else ()
    return Measured(arch, round(1 - 0.2 * (4e4 / macs) ** 0.5 + bonus, 6), macs, params, extra=more)


def test_an_objective_is_searched_by_measuring(an_objective):
    wanted = (TOP1, MACS, OBJECTIVES["blocks"])
    found = measured.search(
        SPACE, wanted, lambda archs: [toy(arch, blocks=True) for arch in archs], evaluations=120, batch=20, seed=1
    )
    every = minimised(wanted, values(wanted, found.history))
    best = {tuple(row) for row in every[nondominated(every)]}
    assert {tuple(row) for row in minimised(wanted, values(wanted, found.front.members))} == best
    assert len(found.front.members) > len(front(SPACE.name, (TOP1, MACS), found.history).members)
    assert Front.from_json(json.loads(json.dumps(found.front.to_json()))) == found.front
    fewest = choose(found.front.members, [OBJECTIVES["blocks"], TOP1]).member
    assert dict(fewest.extra)["blocks"] == min(dict(m.extra)["blocks"] for m in found.front.members)


def test_an_objective_is_searched_by_predicting_what_was_measured(an_objective):
    archs = GENES.decode(GENES.random(150, np.random.default_rng(0)))
    rows = [toy(arch, blocks=True) for arch in archs]
    predictor = fit(SPACE, GENES.encode(archs), np.array([m.top1 for m in rows]), "top1")
    wanted = (TOP1, MACS, OBJECTIVES["blocks"])
    problem = predicted_problem(SPACE, predictor.predict, wanted, 10, rows)
    fresh_BG = GENES.random(60, np.random.default_rng(1))
    truth = np.array([sum(arch.depth) for arch in GENES.decode(fresh_BG)])
    assert np.abs(problem.evaluate(fresh_BG)[:, 2] - truth).max() < 0.5
    assert np.array_equal(problem.evaluate(fresh_BG)[:, 1], COSTS(fresh_BG)[0])
    assert np.isnan(problem.costs(fresh_BG)[:, [0, 2]]).all()
    reference = reference_point(wanted, values(wanted, rows))
    curve = Curve(wanted, reference)
    found = predicted.solve(problem, evaluations=1500, members=30, seed=1, evaluated=curve.add)
    assert 2 <= len(found.archs) <= 30
    assert nondominated(minimised(wanted, found.values)).all()
    volumes = curve.progress("predicted", "default").hypervolume
    assert volumes[-1] > volumes[1] > 0
    assert sorted(volumes) == list(volumes)


def test_an_objective_that_was_not_measured_gets_its_line(an_objective):
    with pytest.raises(ValueError, match="has no blocks"):
        values((TOP1, OBJECTIVES["blocks"]), [toy(SPACE.smallest())])


def first_come(engine):
    """Evaluates archs as they are sampled, one batch, and returns them all."""
    genes_BG = engine.first(engine.evaluations)
    return genes_BG, engine.evaluate(genes_BG)


def test_a_predicted_algorithm_is_searched_with(monkeypatch):
    monkeypatch.setitem(predicted.ALGORITHMS, "first-come", first_come)
    terms = (
        Term(TOP1, lambda genes_BG: 1 - 0.2 * np.sqrt(4e4 / COSTS(genes_BG)[0]), exact=False),
        Term(MACS, lambda genes_BG: COSTS(genes_BG)[0].astype(float), exact=True),
    )
    found = predicted.solve(Problem(SPACE, terms), algorithm="first-come", evaluations=300, members=20, seed=1)
    assert found.evaluations == 300
    assert SPACE.smallest() in found.archs
    assert SPACE.largest() in found.archs
    with pytest.raises(ValueError, match=r"there are .*random, first-come"):
        predicted.solve(Problem(SPACE, terms), algorithm="last-come", evaluations=300, members=20, seed=1)


class Neighbours:
    """Proposes, of every arch that it was told, those that differ in one gene."""

    parents = ()

    def __init__(self, space, objectives, population, seed):
        self.genes, self.rng = Genes(space), np.random.default_rng([*seed.encode()])
        self.taken, self.around = set(), []

    def tell(self, evaluated):
        self.around += [individual.packed for individual in evaluated]
        self.taken.update(self.around)

    def avoid(self, taken):
        self.taken.update(taken)

    def ask(self, count):
        found = []
        for _ in range(100 * count):
            row = self.genes.unpack(self.around[self.rng.integers(len(self.around))]).copy()
            gene = self.rng.integers(len(row))
            row[gene] = self.rng.integers(self.genes.sizes_G[gene])
            packed = self.genes.pack(self.genes.canonical(row[None])[0])
            if packed not in self.taken and len(found) < count:
                self.taken.add(packed)
                found.append(packed)
        return found


class Evaluators:
    """Two workers that measure at once."""

    workers = free = 2

    def __init__(self):
        self.submitted = []

    def submit(self, arch):
        self.submitted.append(arch)

    def finished(self, timeout_s):
        archs, self.submitted = self.submitted, []
        return [toy(arch) for arch in archs]


def test_a_measured_algorithm_is_searched_with_in_generations_and_asynchronously(monkeypatch):
    monkeypatch.setitem(measured.ALGORITHMS, "neighbours", measured.Algorithm(Neighbours))
    for islands in (1, 2):
        found = measured.search(
            SPACE, (TOP1, MACS), lambda archs: [toy(arch) for arch in archs],
            algorithm="neighbours", evaluations=90, batch=15, seed=1, islands=islands,
        )  # fmt: skip
        assert len({m.arch for m in found.history}) == 90
        later = asynchronous.search(
            SPACE, (TOP1, MACS), Evaluators(),
            algorithm="neighbours", evaluations=60, population=20, seed=1, islands=islands,
        )  # fmt: skip
        assert len({m.arch for m in later.history}) == 60


def test_what_learns_from_everything_gets_everything(monkeypatch):
    """Of an algorithm that is `alone` there is one island, and it is told of every evaluation."""
    told = []

    class Reader(Neighbours):
        def tell(self, evaluated):
            told.append(len(evaluated))
            assert all(isinstance(individual, Individual) for individual in evaluated)
            super().tell(evaluated)

    monkeypatch.setitem(measured.ALGORITHMS, "reader", measured.Algorithm(Reader, alone=True))
    measured.search(
        SPACE, (TOP1, MACS), lambda archs: [toy(arch) for arch in archs],
        algorithm="reader", evaluations=60, batch=15, seed=1, islands=3,
    )  # fmt: skip
    assert told == [15, 30, 45]


def test_a_record_of_a_further_quantity_is_read_back(an_objective):
    record = toy(SPACE.largest(), blocks=True)
    assert Measured.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert OBJECTIVES["blocks"].of(record) == sum(SPACE.largest().depth)
    assert History.of((TOP1,), (0.0,), []).to_json()["objectives"][0]["reference"] == 0.0
