"""Which Ray cluster a session connects to; Ray itself is imitated here."""

import os
import signal

import pytest
import ray

from cluster.errors import InputError
from cluster.runtime.session import RAY_SETTINGS, session


@pytest.fixture
def addresses(monkeypatch):
    """The addresses that Ray was to connect to."""
    seen = []
    monkeypatch.setattr(ray, "init", lambda address, **_: seen.append(address))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for name in ("RAY_ADDRESS", *RAY_SETTINGS):
        monkeypatch.delenv(name, raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield seen
    signal.signal(signal.SIGTERM, handler)
    for name in RAY_SETTINGS:
        os.environ.pop(name, None)


@pytest.mark.parametrize(("variable", "expected"), [(None, "local"), ("", "local"), ("auto", "auto")])
def test_an_empty_ray_address_is_no_address(addresses, monkeypatch, variable, expected):
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    with session("local", cpus=2, shared_bytes=0):
        pass
    assert addresses == [expected]


def test_a_cluster_that_does_not_answer_is_named_with_the_setting_that_names_it(addresses, monkeypatch):
    says = r"ray\.address is '127\.0\.0\.1:9': cannot connect: .*; start that cluster, or use 'local'"
    with pytest.raises(InputError, match=says), session("127.0.0.1:9", cpus=2, shared_bytes=0):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    says = r"RAY_ADDRESS is '127\.0\.0\.1:9': cannot connect: .*; start that cluster, or unset RAY_ADDRESS"
    with pytest.raises(InputError, match=says), session("local", cpus=2, shared_bytes=0):
        pass
    assert addresses == []


def test_settings_of_ray_that_are_empty_are_set_and_others_are_kept(addresses, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PRINT_PATCH", "1")
    with session("local", cpus=2, shared_bytes=0):
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
        assert os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] == "1"
