"""The simulated evaluators of the scaling bench."""

import asyncio
import time

import pytest

from bench.scaling import Host
from ofa.spaces import get_space

ARCH = get_space("digits").largest()


def test_a_simulated_evaluator_has_its_seconds_for_each_call_however_late_the_process_is():
    host = Host(0.5)

    async def calls(*numbers):
        waiting = [asyncio.ensure_future(host.call(number, "evaluate", (ARCH,))) for number in numbers]
        await asyncio.sleep(0)
        began = dict(host.free)
        time.sleep(0.1)  # the process returns nothing for a while
        await asyncio.gather(*waiting)
        await host.call(7, "evaluate", (ARCH,))
        return began

    started = time.monotonic()
    began = asyncio.run(calls(7, 7, 8))
    assert began[7] - began[8] == pytest.approx(0.5, abs=0.1)
    assert host.free[7] >= began[7] + 0.5
    assert time.monotonic() >= started + 1.5


def test_the_record_of_a_simulated_evaluator_depends_on_the_arch_alone():
    one, other = Host(0.0), Host(0.0)
    assert asyncio.run(one.call(1, "evaluate", (ARCH,))) == asyncio.run(other.call(2, "evaluate", (ARCH,)))
