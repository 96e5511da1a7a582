"""The bench of faults: its plan of faults, and what it counts."""

import json
from collections import Counter
from types import SimpleNamespace

from bench.chaos import (
    ANSWERS,
    ANY,
    FAULTS_A_RUN,
    KINDS,
    NODE,
    STEPS,
    TRAINER,
    Disturbed,
    Fault,
    Happened,
    Outcome,
    evaluated,
    plan,
    read,
    shortest,
    table,
    write,
)
from bench.fault_proxy import Request


def part(number, *archs, step="measure", status=200):
    rows = "".join(json.dumps({"arch": {"resolution": arch}, "top1": 0.5}) + "\n" for arch in archs)
    return Request(0.0, "PUT", f"/chaos/run/partial/{step}/{number:06d}.jsonl", status, True, rows.encode())


class TestThePlan:
    def test_it_follows_from_the_seed(self):
        assert plan(1, 4) == plan(1, 4)
        assert [plan(1, run) for run in range(20)] != [plan(2, run) for run in range(20)]

    def test_twenty_runs_have_every_kind_of_fault_about_equally_often(self):
        faults = [fault for run in range(20) for fault in plan(1, run)]
        times = Counter(fault.kind for fault in faults)
        assert len(faults) == 20 * FAULTS_A_RUN
        assert set(times) == set(KINDS) >= set(ANSWERS)
        assert max(times.values()) - min(times.values()) <= 1

    def test_faults_are_in_the_order_of_steps_and_begin_where_they_can(self):
        for run in range(20):
            faults = plan(1, run)
            steps = [ANY.index(fault.step) for fault in faults]
            assert steps == sorted(steps)
            assert all(fault.step in STEPS.get(fault.kind, ANY) and 0 < fault.share < 1 for fault in faults)


class TestEvaluationsInLedgers:
    def test_an_arch_in_two_parts_was_evaluated_twice(self):
        assert evaluated([part(1, 16, 20), part(2, 24)]) == (3, 0)
        assert evaluated([part(1, 16, 20), part(1, 20, 24, step="search")]) == (4, 1)

    def test_a_repeated_request_is_one_part_and_a_refused_one_is_none(self):
        assert evaluated([part(1, 16, 20), part(1, 16, 20), part(1, 16, status=412), part(2, 16, status=503)]) == (2, 0)


class TestOutcomes:
    def outcome(self, kind, step, **more):
        return Outcome(1, 80.0, [Happened(kind, step, 5.0, 7.5)], evaluations=100, **more)

    def test_one_is_read_as_it_was_written(self, tmp_path):
        outcome = self.outcome(NODE, "measure", missed=[Fault(TRAINER, "train", 0.5)], steps={"train": 3.0})
        write(tmp_path / "run-01.json", outcome)
        assert read(tmp_path / "run-01.json") == outcome

    def test_a_training_worker_is_lost_alone_or_with_its_node(self):
        assert self.outcome(TRAINER, "train").lost_trainer
        assert self.outcome(NODE, "train").lost_trainer
        assert not self.outcome(NODE, "measure").lost_trainer

    def test_the_table_has_a_row_for_each_kind_that_happened(self):
        rows = table(Outcome(0, 60.0), [self.outcome(NODE, "measure"), self.outcome("500", "train", differ=["front.json"])])
        assert rows[2:4] == [
            "| a node killed, another joins 10 s later | 1 | 7.5 (7.5 to 7.5) | 1 | 0 | 1 of 1 |",
            "| every answer is 500, for 10 s | 1 | 7.5 (7.5 to 7.5) | 1 | 0 | 0 of 1 |",
        ]
        assert "200 evaluations in ledgers, 0 of them" in rows[-1]

    def test_faults_are_timed_by_the_shortest_time_of_a_step(self):
        found = shortest([self.outcome(NODE, "train", steps={"train": 9.0, "fit": 1.0}), Outcome(2, steps={"train": 4.0})])
        assert found == {"train": 4.0, "fit": 1.0}


class TestAFault:
    def test_whose_step_and_target_are_gone_does_not_keep_the_next_one_from_happening(self):
        place = SimpleNamespace(proxy=SimpleNamespace(requests=[], fault=""), cluster=SimpleNamespace(nodes=[]))
        faults = [Fault(TRAINER, "train", 0.5), Fault("500", "measure", 0.1)]
        run = Disturbed(place, 1, faults, {"train": 10.0, "measure": 10.0}, 1)
        run.driver = SimpleNamespace(began={"train": 0.0})
        run._disturb(6.0)  # there is no training worker yet
        assert (run.outcome.missed, run.outcome.faults) == ([], [])
        run.driver.began["measure"] = 7.0
        run._disturb(8.5)
        run._disturb(8.7)
        assert run.outcome.missed == faults[:1]
        assert [fault.kind for fault in run.outcome.faults] == ["500"] == [place.proxy.fault]
