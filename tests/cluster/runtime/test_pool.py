"""Actors, tasks and training on a real Ray cluster."""

import itertools
import os
import signal
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError

from cluster.errors import InputError, StepError
from cluster.run import Ledger, Run
from cluster.runtime import metrics
from cluster.runtime import pool as pools
from cluster.runtime.pool import PENDING_PER_ACTOR, Lost, Pool, Remote
from cluster.runtime.session import session
from cluster.runtime.tasks import ray_map
from cluster.runtime.training import train_on_ray
from cluster.runtime.workers import Progressed


class Adder:
    """Adds to what is in the arrays; can be told to die."""

    def __init__(self, arrays):
        self.arrays = arrays

    def add(self, number):
        return int(self.arrays["base"][0]) + number, os.getpid()

    def slowly(self, number):
        time.sleep(0.05)
        return number, os.getpid()

    def gpus(self, _):
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def die(self, number):
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, number):
        raise InputError(f"no {number}")

    def until_released(self, task):
        """Of (folder, number): 0 waits in every process but the second, until the folder has `release`, and is then 100."""
        folder, number = task
        if number:
            return number
        begun = len(list(folder.iterdir()))
        (folder / f"{begun}-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while (begun != 1 or (folder / "both").exists()) and not (folder / "release").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return 100

    def renew(self, arrays):
        if arrays["base"][0] < 0:
            raise InputError("less than nothing")
        self.arrays = {**self.arrays, **arrays}

    def memory(self, _):
        base = self.arrays["base"]
        return bool(base.flags.writeable), bool(base.flags.owndata)

    def further(self, number, arrays):
        there = arrays["more"]
        return int(there[number]) + int(self.arrays["base"][0]), bool(there.flags.owndata)


@pytest.fixture(scope="module")
def lasting(ray_cluster):
    """One pool for several tests that leave its actors as they are, for its actors take seconds to start."""
    pool = Pool(Adder, {"base": np.full(100_000, 10)}, workers=2)
    pool.wait_until_built()
    yield pool
    pool.close()


@pytest.fixture
def pool(ray_cluster):
    pool = Pool(Adder, {"base": np.full(100_000, 10)}, workers=2)
    pool.wait_until_built()
    yield pool
    pool.close()


def test_every_argument_gets_its_answer_from_several_processes(lasting):
    answers = dict(lasting.map("slowly", range(30)))
    assert {index: answer[0] for index, answer in answers.items()} == {n: n for n in range(30)}
    assert len({pid for _, pid in answers.values()}) == 2


def test_newer_arrays_reach_every_actor_which_is_not_built_again_and_an_actor_that_replaces_one(pool):
    before = {pid for _, (_, pid) in pool.map("slowly", range(30))}
    pool.renew({"base": np.full(10, 20)})
    answers = dict(pool.map("add", range(30)))
    assert {index: answer[0] for index, answer in answers.items()} == {n: 20 + n for n in range(30)}
    assert {pid for _, pid in answers.values()} <= before
    os.kill(before.pop(), signal.SIGKILL)
    assert {index: answer[0] for index, answer in pool.map("add", range(30))} == {n: 20 + n for n in range(30)}
    pool.renew({"base": np.full(10, -1)})
    with pytest.raises(InputError, match="less than nothing"):
        dict(pool.map("add", [1]))


def test_calls_may_get_further_arrays_which_are_shared_too(lasting):
    more = np.arange(100_000)
    assert dict(lasting.map("further", [3, 5], {"more": more})) == {0: (13, False), 1: (15, False)}
    assert dict(lasting.map("add", [1]))[0][0] == 11  # the next calls do not get them


def test_actors_read_one_shared_copy_of_the_arrays(lasting):
    """Read-only and not theirs: it lies in the object store."""
    assert [answer for _, answer in lasting.map("memory", [0, 1])] == [(False, False)] * 2


def test_a_killed_actor_is_replaced_and_no_answer_is_lost(pool):
    victims, answers = [], {}
    for index, (number, pid) in pool.map("slowly", range(60)):
        answers[index] = number
        if len(answers) in (5, 20):
            victims.append(pid)
            os.kill(pid, signal.SIGKILL)
    assert answers == {n: n for n in range(60)}
    assert len(victims) == 2
    assert dict(pool.map("add", [1]))[0][0] == 11  # and the pool goes on


def test_an_answer_that_is_lost_with_its_node_is_computed_again(pool, monkeypatch):
    """A large answer stays on the actor's node until it is read."""
    get, lost = ray.get, []

    def get_after_a_loss(reference):
        if not lost:
            lost.append(reference)
            raise ObjectLostError(reference.hex(), b"", "")
        return get(reference)

    monkeypatch.setattr("cluster.runtime.pool.ray.get", get_after_a_loss)
    assert {index: answer[0] for index, answer in pool.map("add", range(10))} == {n: 10 + n for n in range(10)}
    assert lost
    assert pool.workers == 2


def test_a_task_that_always_kills_its_actor_is_a_failure_after_some_attempts(pool):
    with pytest.raises(StepError, match="die lost its process 4 times at 7"):
        list(pool.map("die", [7]))


def test_an_error_in_an_actor_is_that_error_here(lasting):
    with pytest.raises(InputError, match="no 3"):
        list(lasting.map("fail", [3]))


def answers(pool, tickets):
    """Everything that was submitted, by ticket."""
    found = {}
    while len(found) < len(tickets):
        found.update(pool.finished())
    return found


def visible(pool, tasks):
    """The GPUs that the actors of a pool may use, by process."""
    return {pid: gpus for _, (pid, gpus) in pool.map("gpus", range(tasks))}


@pytest.fixture
def hedges(monkeypatch):
    """Hedges early; the names of all metrics that are recorded."""
    recorded = []
    monkeypatch.setattr(pools, "HEDGE_LEAST_S", 0.2)
    monkeypatch.setattr(metrics, "record", lambda name, value, **tags: recorded.append(name))
    return recorded


class TestASlowTask:
    def test_is_run_by_an_idle_actor_too_and_so_is_the_one_behind_it_and_the_first_result_counts(
        self, lasting, hedges, tmp_path
    ):
        pool = lasting
        found = list(pool.map("until_released", [(tmp_path, n) for n in range(9)]))
        assert sorted(found) == [(0, 100), *((n, n) for n in range(1, 9))]
        assert hedges.count("ofa_hedges") in (1, 2)  # two if another was queued behind it
        assert pool.pending == 0
        (tmp_path / "release").touch()  # the other result comes now, and is dropped
        assert dict(pool.map("slowly", range(20))).keys() == set(range(20))

    def test_whose_first_actor_dies_goes_on_in_the_second(self, lasting, hedges, tmp_path):
        pool = lasting
        (tmp_path / "both").touch()
        for n in range(9):
            pool.submit("until_released", (tmp_path, n))
        found, deadline = [], time.monotonic() + 60
        while len(begun := sorted(path.name for path in tmp_path.iterdir() if "-" in path.name)) < 2:
            assert time.monotonic() < deadline
            found += pool.finished(timeout_s=0.1)
        os.kill(int(begun[0].split("-")[1]), signal.SIGKILL)
        while "ofa_lost_actors" not in hedges:
            assert time.monotonic() < deadline
            found += pool.finished(timeout_s=0.1)
        (tmp_path / "release").touch()
        while pool.pending:
            found += pool.finished()
        assert sorted(result for _, result in found) == [*range(1, 9), 100]
        assert len([path for path in tmp_path.iterdir() if "-" in path.name]) == 2


class FakeActor:
    """Records its calls as [method, argument, outcome], which the test sets."""

    def __init__(self):
        self.building, self.calls = ["ready", None], []
        self.ready = SimpleNamespace(remote=lambda: Reference(self.building))
        self.call = SimpleNamespace(remote=self._call)

    def _call(self, method, arguments, *rest):
        self.calls.append([method, *arguments])
        return Reference(self.calls[-1])


class Reference:
    """Of a call; it has ended once there is an outcome."""

    def __init__(self, call):
        self.call = call


class FakePool(Pool):
    """A pool of such actors, with a clock that stands still but for waiting."""

    def __init__(self, workers, patch):
        self.actors, self.now = [], 0.0
        patch.setattr(
            pools, "ray", SimpleNamespace(put=lambda x: x, get=self._get, wait=self._wait, kill=lambda actor: None)
        )
        patch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: self.now))
        super().__init__(None, {}, workers)

    def _actor(self):
        self.actors.append(FakeActor())
        return self.actors[-1]

    def _get(self, reference):
        outcome = reference.call[2]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _wait(self, references, num_returns, timeout=None):
        ended = [reference for reference in references if len(reference.call) == 3][:num_returns]
        self.now += 0 if ended else timeout
        return ended, []

    def built(self):
        """Builds all actors; then each runs three tasks of one second."""
        for actor in self.actors:
            actor.building.append(None)
        self.wait_until_built()
        for _ in range(3 * len(self.actors)):
            self.submit("measure", 0)
            self.end(self.submit_to(), 0)
        return self

    def submit_to(self):
        """The call that was begun last."""
        return next(call for actor in self.actors for call in actor.calls if len(call) == 2)

    def end(self, call, result):
        call.append((1.0, result))
        return self.finished()


def failed(error):
    return RayTaskError("measure", str(error), error)


class TestOutcomesOfCopies:
    @pytest.fixture
    def pool(self, monkeypatch, hedges):
        pool = FakePool(2, monkeypatch).built()
        pool.ticket, pool.first = pool.submit("measure", "slow"), pool.submit_to()
        assert pool.finished(timeout_s=2.9) == []
        assert "ofa_hedges" not in hedges
        assert pool.finished(timeout_s=1) == []
        assert hedges.count("ofa_hedges") == 1
        [pool.second] = [c for a in pool.actors for c in a.calls if len(c) == 2 and c is not pool.first]
        assert pool.first == pool.second == ["measure", "slow"]
        return pool

    def test_a_result_is_returned_once(self, pool):
        assert pool.end(pool.second, 7) == [(pool.ticket, 7)]
        pool.first.append((9.0, 7))
        other = pool.submit("measure", 1)
        assert pool.end(pool.submit_to(), 8) == [(other, 8)]

    def test_an_exception_that_comes_first_is_raised_and_a_later_result_dropped(self, pool):
        pool.second.append(failed(InputError("no")))
        with pytest.raises(InputError, match="no"):
            pool.finished()
        pool.first.append((9.0, 7))
        other = pool.submit("measure", 1)
        assert pool.end(pool.submit_to(), 8) == [(other, 8)]

    def test_an_exception_after_a_result_is_dropped(self, pool):
        assert pool.end(pool.second, 7) == [(pool.ticket, 7)]
        pool.first.append(failed(InputError("no")))
        other = pool.submit("measure", 1)
        assert pool.end(pool.submit_to(), 8) == [(other, 8)]

    def test_two_lost_actors_count_as_two_losses_and_the_task_waits_again_once(self, pool):
        for call in (pool.first, pool.second):
            call.append(ActorDiedError())
        assert pool.finished(timeout_s=0) == []
        assert pool.pending == len(pool._waiting) == 1
        assert pool._tasks[pool.ticket].lost == 2


class TestWhatIsNotHedged:
    def test_a_task_whose_method_has_not_finished_often_enough(self, monkeypatch, hedges):
        pool = FakePool(2, monkeypatch).built()
        pool.submit("latencies", "slow")
        assert pool.finished(timeout_s=1000) == []
        assert "ofa_hedges" not in hedges

    def test_a_task_while_others_wait(self, monkeypatch, hedges):
        pool = FakePool(2, monkeypatch).built()
        for _ in range(5):
            pool.submit("measure", "slow")
        assert pool.finished(timeout_s=1000) == []
        assert "ofa_hedges" not in hedges


class TestActorsThatDieWhileTheyStart:
    def test_together_as_on_a_lost_node_are_replaced(self, monkeypatch, hedges):
        pool = FakePool(6, monkeypatch)
        for actor in pool.actors:
            actor.building.append(ActorDiedError())
        ticket = pool.submit("measure", 1)
        assert pool.finished(timeout_s=0) == []
        assert (len(pool.actors), pool.workers, hedges.count("ofa_lost_actors")) == (12, 6, 6)
        for actor in pool.actors[6:]:
            actor.building.append(None)
        assert pool.finished(timeout_s=0) == []
        assert pool.end(pool.submit_to(), 5) == [(ticket, 5)]

    def test_four_times_in_one_place_are_an_error(self, monkeypatch, hedges):
        pool = FakePool(1, monkeypatch)
        pool.submit("measure", 1)
        for _ in range(3):
            pool.actors[-1].building.append(ActorDiedError())
            assert pool.finished(timeout_s=0) == []
        pool.actors[-1].building.append(ActorDiedError())
        with pytest.raises(StepError, match="starting an evaluator lost its process 4 times"):
            pool.finished(timeout_s=0)


class SlowStore:
    """A store whose requests take 20 ms."""

    def __init__(self, store):
        self.store = store

    def create(self, key, data):
        time.sleep(0.02)
        return self.store.create(key, data)

    def __getattr__(self, name):
        return getattr(self.store, name)


def test_a_slow_store_slows_the_actors_down_instead_of_filling_memory(lasting, tmp_path, monkeypatch):
    """So many tasks are pending at most, or have results that are not taken; and so many rows are not in the store."""
    monkeypatch.setattr("cluster.run.PART_S", 0.0)
    run = Run.open(str(tmp_path), "r", "title = 1\n", code="test")
    ledger = Ledger(replace(run, store=SlowStore(run.store)), "measure")
    pool, taken, most, pending = lasting, 0, 0, 0

    def arguments():
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield number

    with ledger.collecting() as collect:
        for done, (_, (answer, _)) in enumerate(pool.map("add", arguments())):
            collect(answer)
            most, pending = max(most, taken - done), max(pending, pool.pending)
            assert ledger.collected == []
            if done == 40:
                break
    assert pending <= most <= PENDING_PER_ACTOR * 2
    assert len(Ledger(run, "measure").rows()) == 41
    assert [answer for _, (answer, _) in pool.map("add", [1])] == [11]  # tasks that nobody waits for any more are dropped


def test_actors_that_the_cluster_has_no_room_for_are_demand_that_the_autoscaler_sees(lasting):
    lasting.resize(6)  # on four CPUs
    deadline = time.monotonic() + 60
    address = ray.get_runtime_context().gcs_address
    while True:
        demand = get_cluster_status(address).resource_demands.ray_task_actor_demand
        if [(dict(d.bundles_by_count[0].bundle), d.bundles_by_count[0].count) for d in demand] == [({"CPU": 1.0}, 2)]:
            break
        assert time.monotonic() < deadline, demand
        time.sleep(0.2)
    lasting.resize(2)


class TestGpus:
    """The cluster has one logical GPU; what an actor may use is in its CUDA_VISIBLE_DEVICES."""

    @pytest.fixture
    def pool_of(self, ray_cluster):
        pools = []

        def make(workers, gpus):
            pools.append(Pool(Adder, {"base": np.zeros(1)}, workers, gpus))
            return pools[-1]

        yield make
        for pool in pools:
            pool.close()

    def test_two_actors_share_one_and_a_third_is_placed_once_there_is_room(self, pool_of):
        pool = pool_of(2, 0.5)
        pool.wait_until_built()
        pool.resize(3)
        there = visible(pool, 12)
        assert len(there) == 2
        assert set(there.values()) == {"0"}
        assert [member.ready for member in pool.members] == [True, True, False]
        pool.resize(1)
        assert len(visible(pool, 4)) == 1
        pool.resize(2)
        pool.wait_until_built()
        assert set(visible(pool, 12).values()) == {"0"}

    def test_none_is_placed_where_there_is_none(self, pool_of):
        pool = pool_of(1, 2)
        ticket = pool.submit("gpus", 0)
        assert pool.finished(timeout_s=2) == []
        assert not pool.members[0].ready
        assert ticket == 0

    def test_actors_without_a_share_do_not_take_it(self, pool_of):
        without, sharing = pool_of(1, 0), pool_of(1, 1)
        without.wait_until_built()
        sharing.wait_until_built()
        assert set(visible(sharing, 2).values()) == {"0"}


def test_workers_are_added_and_leave_while_the_pool_works(lasting):
    """Who leaves does first what it has: every task is answered, and answered once."""
    pool, found, submitted, pids = lasting, {}, 0, set()

    def work(enough):
        nonlocal submitted
        deadline = time.monotonic() + 120
        while not enough():
            assert time.monotonic() < deadline, "waited in vain"
            while pool.free > 0:
                pool.submit("slowly", submitted)
                submitted += 1
            for ticket, (number, pid) in pool.finished():
                assert ticket not in found
                found[ticket] = number
                pids.add(pid)

    pool.resize(4)
    work(lambda: len(pids) == 4)
    pool.resize(1)
    assert pool.workers == 1
    work(lambda: len(pool.members) == 1)
    pids.clear()
    work(lambda: len(found) > 20)
    while len(found) < submitted:
        found.update({ticket: number for ticket, (number, _) in pool.finished()})
    assert sorted(found.values()) == list(range(submitted))
    pool.resize(2)


def test_a_pool_that_has_nothing_to_do_says_so_at_once_and_waits_no_longer_than_told(lasting):
    assert lasting.finished() == []
    ticket = lasting.submit("add", 5)
    assert answers(lasting, [ticket])[ticket][0] == 15
    lasting.submit("slowly", 1)
    started = time.monotonic()
    assert lasting.finished(timeout_s=0) == []
    assert time.monotonic() - started < 0.05


class Counter:
    """Counts, and can be told to die."""

    def __init__(self):
        self.count = 0

    def add(self, number, other=0):
        self.count += number + other
        return self.count

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self):
        raise InputError("no")


def test_a_remote_keeps_its_state_and_says_when_it_has_lost_it(ray_cluster):
    remote = Remote(Counter)
    remote.call("add", 2, 3)
    assert remote.busy
    assert remote.answer() == 5
    assert not remote.busy
    remote.call("add", 1)
    assert remote.answer() == 6
    remote.call("fail")
    with pytest.raises(InputError, match="no"):
        remote.answer()
    remote.call("die")
    with pytest.raises(Lost):
        remote.answer()
    remote.call("add", 1)
    assert remote.answer() == 1
    remote.close()


def test_tasks_answer_in_order(ray_cluster):
    assert ray_map(partial(pow, 2), range(8)) == [2**n for n in range(8)]


def averaged(worker, arrays):
    """What each worker of a training does in this test."""
    import torch

    tensor = torch.full((3,), float(worker.rank))
    worker.average(tensor)
    if worker.rank == 0:
        worker.report(Progressed(int(arrays["base"][0]), f"mean {tensor.tolist()} of {worker.world}"))


def dying(folder, after_s, worker, arrays):
    """The first time, the last worker dies."""
    marker = f"{folder}/died"
    if worker.rank == worker.world - 1 and not os.path.exists(marker):
        open(marker, "w").close()
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)
    averaged(worker, arrays)


def broken(worker, arrays):
    raise ValueError("this loop is broken")


@pytest.mark.parametrize("after_s", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_workers_average_and_the_driver_gets_their_events(ray_cluster, tmp_path, after_s):
    """Although one dies, while Ray is still starting it or later."""
    events = []
    loop = partial(dying, str(tmp_path), after_s)
    train_on_ray(loop, {"base": np.array([4])}, events.append, workers=2, max_failures=1)
    assert (tmp_path / "died").exists()
    assert events == [Progressed(4, "mean [0.5, 0.5, 0.5] of 2")]


def test_a_training_that_cannot_work_is_a_failed_step_with_its_reason(ray_cluster):
    with pytest.raises(StepError, match=r"training failed on 1 workers: .*this loop is broken") as caught:
        train_on_ray(broken, {}, print, workers=1)
    assert "\n" not in str(caught.value)


def test_a_cluster_that_is_not_there_gets_one_line():
    with (
        pytest.raises(InputError, match=r"ray.address is '127.0.0.1:9'.*start that cluster, or use 'local'") as caught,
        session("127.0.0.1:9", 1, 0),
    ):
        pass
    assert "\n" not in str(caught.value)
