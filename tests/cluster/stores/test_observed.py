"""How long operations on a store take, and how often its requests are repeated."""

import pytest

from cluster.store import open_store
from cluster.stores import observed
from cluster.stores.errors import MissingObject


class Observer:
    """Keeps what it gets."""

    def __init__(self):
        self.seen, self.repetitions = [], 0

    def took(self, operation, seconds):
        self.seen.append((operation, seconds >= 0))

    def repeated(self):
        self.repetitions += 1


@pytest.fixture
def observer(monkeypatch):
    monkeypatch.setattr(observed, "_observers", [])
    observed.observe_by(observer := Observer())
    return observer


def operate(url):
    store = open_store(url)
    store.write("a/b", b"1")
    store.create("a/b", b"2")
    store.read("a/b")
    store.keys()
    store.delete("a/b")
    with pytest.raises(MissingObject):
        store.read("a/b")


EXPECTED = [(name, True) for name in ("write", "create", "read", "keys", "delete", "read")]


def test_every_operation_on_a_directory_is_timed_also_one_that_fails(observer, tmp_path):
    operate(str(tmp_path))
    assert observer.seen == EXPECTED


def test_every_operation_on_a_bucket_is_timed(observer, mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    operate("s3://results/timed")
    assert (observer.seen, observer.repetitions) == (EXPECTED, 0)
