"""What is Google's own about its buckets; that they are stores like all others is in test_store.py."""

import pytest

from cluster.errors import InputError
from cluster.store import open_store
from cluster.stores.google import is_google


def test_cloud_storage_is_known_by_its_endpoint():
    assert is_google("https://storage.googleapis.com")
    assert is_google("https://my-bucket.storage.googleapis.com/")
    for other in ("https://s3.amazonaws.com", "http://ofa-s3.ofa.svc:8333", "https://storage.googleapis.com.evil.example"):
        assert not is_google(other)


def test_one_token_serves_many_requests(cloud_storage):
    store = open_store("s3://results/one-token")
    for number in range(5):
        store.write(str(number), b"data")
    assert cloud_storage.tokens == 1


def test_a_pod_that_gets_no_token_is_one_line(cloud_storage):
    cloud_storage.refused = "no service account"
    with pytest.raises(
        InputError, match=r"no token for 127\.0\.0\.1: .*; check who the pods' accounts are for Google"
    ) as error:
        open_store("s3://results/refused")
    assert "\n" not in str(error.value)


def test_nobody_logged_in_is_one_line(cloud_storage, monkeypatch):
    monkeypatch.setattr("google.auth.compute_engine._metadata.is_on_gce", lambda *_, **__: False)
    with pytest.raises(InputError, match=r"no Google credentials .* `gcloud auth application-default login`"):
        open_store("s3://results/nobody")
