"""Tables of trained networks as problems: published values, and the known hypervolume of the whole table."""

import json

import numpy as np
import pytest

from bench import problems
from bench.problems import DEVICES, NAS_BENCH_201, PROBLEMS, cells, macro
from ofa.spaces.nas_bench_macro import NAS_BENCH_MACRO
from search import measured


@pytest.fixture(autouse=True)
def the_tables(reference, monkeypatch):
    monkeypatch.setattr(problems, "reference_data", lambda: reference)


def test_the_whole_of_nas_bench_macro_has_the_known_hypervolume(reference):
    table = macro()
    assert len(table.every()) == NAS_BENCH_MACRO.size == 3969
    assert table.best() == pytest.approx(0.48236, abs=5e-6)
    rows = json.loads((reference / "nas_bench" / "nas_bench_macro_cifar10.json").read_text()).values()
    by_keys = np.array([[row["mean_acc"] / 100, row["flops"]] for row in rows])
    assert table.volume(by_keys) == pytest.approx(table.best(), abs=5e-6)


def test_the_whole_of_nas_bench_201_has_the_known_hypervolume():
    table = cells("gold_6226")
    assert len(table.every()) == NAS_BENCH_201.size == 15_625
    assert table.best() == pytest.approx(0.6033, abs=5e-5)


def test_a_cell_has_its_published_values(reference):
    table = cells("gold_6226", "eyeriss")
    archs = table.genes.decode(table.genes.random(20, np.random.default_rng(1)))
    with np.load(reference / "nas_bench" / "nas_bench_201.npz") as file:
        for found in table.measured(archs):
            operations = [(0, 1, 4, 2, 3)[kernel - 1] for kernel in found.arch.kernel]
            [row] = np.flatnonzero((file["ops"] == operations).all(axis=1))
            assert found.top1 == pytest.approx(file["c100"][row] / 100)
            assert dict(found.latencies_ms) == {d: pytest.approx(float(file[d][row])) for d in ("gold_6226", "eyeriss")}


def test_the_extremes_of_a_cell_are_empty_and_all_3x3():
    none, all_3x3 = NAS_BENCH_201.smallest(), NAS_BENCH_201.largest()
    assert none.kernel == (1,) * 6
    assert all_3x3.kernel == (5,) * 6
    [worst, best] = cells("gold_6226").measured([none, all_3x3])
    assert worst.top1 == pytest.approx(0.01, abs=1e-3)
    assert best.top1 > 0.7


def test_there_is_a_problem_for_each_device():
    assert [f"201-{device}" for device in DEVICES] == [name for name in PROBLEMS if name.count("-") == 1 and "201" in name]


@pytest.mark.parametrize("algorithm", ["guided", "nsga2", "random"])
@pytest.mark.parametrize("make", [macro, lambda: cells("gold_6226", "eyeriss")], ids=["macro", "201"])
def test_our_searches_run_on_tables(make, algorithm):
    table = make()
    found = measured.search(
        table.space, table.objectives, table.measured, algorithm=algorithm, evaluations=20, batch=10, seed=1
    ).history
    assert len({one.arch for one in found}) == 20
    values = table.values(table.genes.encode([one.arch for one in found]))
    assert np.allclose(values, [[objective.of(one) for objective in table.objectives] for one in found], rtol=1e-6)
