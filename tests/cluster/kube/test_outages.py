"""Which failures a command that follows a run goes on over, which of them it reports, and when it gives up."""

import time

import pytest

from cluster.errors import InputError
from cluster.kube import outages as module
from cluster.kube.api import Forbidden, Lost, Refused
from cluster.kube.outages import Outages

LOST, REFUSED = Lost("no answer"), Refused("not allowed")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "REPORTED_S", 0.1)


def fail_for(outages, seconds, error=LOST):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        outages.failed(error)


def test_an_outage_is_two_lines_however_often_it_fails():
    reported = []
    outages = Outages(reported.append)
    for _ in range(2):
        outages.answered()
        fail_for(outages, 0.3)
        outages.answered()
    assert [outage.lost for outage in reported] == [True, False, True, False]
    assert "no answer; the run may be healthy; trying again for up to 30 min" in reported[0].message
    assert reported[1].message.startswith("the API server answers again, after ")
    assert 0.2 < reported[1].seconds < 5


def test_a_short_one_is_none():
    reported = []
    outages = Outages(reported.append)
    outages.answered()
    outages.failed(LOST)
    assert not outages.away
    outages.answered()
    assert reported == []


def test_it_gives_up_at_its_limit_and_without_one_never():
    outages = Outages(give_up_s=0.2)
    with pytest.raises(Lost, match="no answer for 0 s; the run may be healthy"):
        fail_for(outages, 5)
    fail_for(Outages(give_up_s=None), 0.4)


def test_a_refusal_at_first_is_an_error_and_later_an_outage(monkeypatch):
    with pytest.raises(Forbidden):
        Outages().failed(Forbidden("not allowed"))
    monkeypatch.setattr(module, "REFUSED_S", 0.2)
    for before in (Outages.answered, lambda outages: outages.failed(LOST)):  # after either, it may be a server that starts
        outages = Outages()
        before(outages)
        outages.failed(REFUSED)
        with pytest.raises(Lost, match=r"not allowed.*the run may be healthy"):
            fail_for(outages, 5, REFUSED)


def test_a_server_that_never_answered_is_away():
    assert Outages().away
    with pytest.raises(InputError):
        Outages().failed(InputError("no such kind"))


def test_a_closed_one_waits_for_nothing():
    outages = Outages()
    outages.close()
    with pytest.raises(Lost):
        outages.failed(LOST)
