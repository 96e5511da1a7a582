"""Addresses: what is written is where the message says, or is refused; two addresses that differ are never one place."""

import os

import pytest

from cluster import address
from cluster.store import canonical, open_store, read_object
from cluster.stores.errors import StoreError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory; the home directory is `home` in it."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# The address of a directory, and the path under the working directory that it names; {} is the working directory.
PLACES = {
    "runs": "runs",
    "./runs": "runs",
    "runs/": "runs",
    "runs///a//b/": "runs/a/b",
    "runs/./a": "runs/a",
    "runs/../other": "other",
    "missing/../other": "other",
    "{}/runs": "runs",
    "/{}//runs": "runs",
    "file://{}/runs": "runs",
    "file:{}/runs": "runs",
    "FILE://localhost{}/runs": "runs",
    "file://{}/a%20b": "a b",
    "file://{}/a%23b%25": "a#b%",
    "file://{}/a#b?c=d&e": "a#b?c=d&e",
    "a b": "a b",
    "a#b": "a#b",
    "a?b": "a?b",
    "a%20b": "a%20b",
    "a=b&c": "a=b&c",
    "a\\b": "a\\b",
    "a:b/c": None,
    "./a:b": "a:b",
    "x/a:b": "x/a:b",
    "$HOME/x": "$HOME/x",
    "a'b\"c": "a'b\"c",
    "*": "*",
    "~": "home",
    "~/x": "home/x",
    "./~/x": "~/x",
    "a/~/x": "a/~/x",
    "file://{}/~/x": "~/x",
    "K\u00f6ln": "K\u00f6ln",  # composed
    "Ko\u0308ln": "Ko\u0308ln",  # decomposed: another directory
    "\u30c7\u30fc\u30bf": "\u30c7\u30fc\u30bf",
    "-x": "-x",
}


@pytest.mark.parametrize(("text", "place"), PLACES.items())
def test_an_object_is_written_where_the_url_of_the_store_says(here, text, place):
    text = text.replace("{}", str(here))
    if place is None:
        with pytest.raises(StoreError, match=r"not a:; a directory of this name is \./a:b/c"):
            open_store(text)
        return
    before = set(here.rglob("*"))
    store = open_store(text)
    assert store.url == str(here / place)
    store.write("k", b"1")
    assert (here / place / "k").read_bytes() == b"1"
    assert {path.relative_to(here).parts[0] for path in set(here.rglob("*")) - before} == {place.split("/")[0]}
    assert read_object(f"{text}{'' if text.endswith('/') else '/'}k") == b"1"
    assert open_store(store.url).url == store.url


def test_addresses_that_name_different_places_have_different_urls(here):
    named = {}
    for text, place in PLACES.items():
        if place is not None:
            named.setdefault(canonical(text.replace("{}", str(here))), set()).add(place)
    assert all(len(places) == 1 for places in named.values())
    assert len(named) == len({place for place in PLACES.values() if place is not None})


BUCKETS = {
    "s3://bucket": "s3://bucket",
    "s3://bucket/": "s3://bucket",
    "S3://bucket/a": "s3://bucket/a",
    "s3://bucket/a/": "s3://bucket/a",
    "s3://bucket/a#b?c%20d=e&f": "s3://bucket/a#b?c%20d=e&f",
    "s3://bucket/a b/K\u00f6ln": "s3://bucket/a b/K\u00f6ln",
    "s3://my.bucket-1/~/a": "s3://my.bucket-1/~/a",
}


@pytest.mark.parametrize(("text", "url"), BUCKETS.items())
def test_a_prefix_is_taken_literally(text, url):
    assert canonical(text) == url
    assert canonical(url) == url


REFUSED = {
    "": "the store is ''; a store is a directory or s3://bucket/prefix",
    "  ": "a store is a directory or s3://bucket/prefix",
    " runs": "begins or ends with white space",
    "runs\n": "begins or ends with white space",
    "ru\nns": "has the control character '\\n'",
    "ru\0ns": "has the control character '\\x00'",
    "ru\x1b[31mns": "has the control character",
    "ru\u2028ns": "has the control character",
    "ru\udce9ns": "has bytes that are not UTF-8",
    "x" * 256: "the name is too long",
    "/".join(["x" * 200] * 20): "the name is too long",
    "~nobody-of-this-name/x": "there is no user 'nobody-of-this-name'; a directory of this name is ./~nobody",
    "http://host/x": "not http://; a server of buckets is named by AWS_ENDPOINT_URL_S3",
    "https://bucket.s3.amazonaws.com/x": "not https://; a server of buckets is named by AWS_ENDPOINT_URL_S3",
    "hdfs://host/x": "a store is a directory or s3://bucket/prefix, not hdfs://",
    "gs://bucket/x": "a bucket of Google is written s3://bucket/prefix, with AWS_ENDPOINT_URL_S3=https://storage.googleapis.com",
    "s3a://bucket/x": "a bucket is written s3://bucket/prefix",
    "C:\\runs": "not c:; a directory of this name is ./C:",
    "run:1": "not run:; a directory of this name is ./run:1",
    "file:x": "a directory is written file:///directory, with its whole path",
    "file:": "a directory is written file:///directory",
    "file://": "a directory is written file:///directory",
    "file://host/x": "not file:// of another machine",
    "file:///a%2Fb": "a % itself is written %25",
    "file:///a%zz": "a % itself is written %25",
    "file:///100%": "a % itself is written %25",
    "file:///a%00b": "has the control character",
    "file:///a%0Ab": "has the control character",
    "file:///a%ff": "its escapes are not UTF-8",
    "s3:/bucket/x": "a bucket is written s3://bucket/prefix",
    "s3:bucket": "a bucket is written s3://bucket/prefix",
    "s3:\\\\bucket\\x": "a bucket is written s3://bucket/prefix",
    "s3://": "no bucket; a bucket is written s3://bucket/prefix",
    "s3:///x": "no bucket",
    "s3://bu": "no bucket is called 'bu'",
    "s3://Bucket/x": "no bucket is called 'Bucket'",
    "s3://buck et/x": "no bucket is called 'buck et'",
    "s3://bucket#x": "no bucket is called 'bucket#x'",
    "s3://bucket?x": "no bucket is called 'bucket?x'",
    "s3://-bucket": "no bucket is called '-bucket'",
    "s3://bucket-": "no bucket is called 'bucket-'",
    "s3://a..b/x": "no bucket is called 'a..b'",
    "s3://127.0.0.1/x": "no bucket is called '127.0.0.1'",
    "s3://" + "b" * 64: "no bucket is called",
    "s3://b\u00fccket/x": "no bucket is called",
    "s3://localhost:9000/bucket/x": "the server is named by AWS_ENDPOINT_URL_S3",
    "s3://bucket//x": "the prefix has an empty part",
    "s3://bucket/a//b": "the prefix has an empty part",
    "s3://bucket/a//": "the prefix has an empty part",
    "s3://bucket/a/../b": "the prefix has an empty part, . or ..",
    "s3://bucket/./a": "the prefix has an empty part, . or ..",
    "s3://bucket/" + "x/" * 400: "the prefix is too long",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_what_is_no_certain_address_is_refused_in_one_line(here, text, reason):
    with pytest.raises(StoreError) as caught:
        open_store(text)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert list(here.iterdir()) == [here / "home"]


def test_credentials_in_an_address_are_refused_and_not_repeated():
    with pytest.raises(StoreError, match="credentials are no part of an address") as caught:
        canonical("s3://key:secret@bucket/x")
    assert "secret" not in str(caught.value)


def test_a_working_directory_that_is_gone_is_named(here):
    (here / "gone").mkdir()
    os.chdir(here / "gone")
    (here / "gone").rmdir()
    with pytest.raises(StoreError, match="give an absolute path"):
        canonical("runs")


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_directory_that_is_none_is_named(here, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    with pytest.raises(StoreError, match=f"HOME is '{home}'"):
        canonical("~/runs")


@pytest.mark.parametrize(
    ("text", "one"),
    [
        ("images/", "images"),
        ("./images", "images"),
        ("a//b/./c", "a/b/c"),
        ("../images", "../images"),
        ("a/../b", "a/../b"),  # another place where a is a link
        ("//data/x", "/data/x"),
        ("file:///data/a%20b/", "/data/a b"),
        ("S3://bucket/x/", "s3://bucket/x"),
        ("~/x/", "~/x"),
        ("./~x", "./~x"),
        ("./a:b", "./a:b"),
        (".", "."),
        ("", ""),
    ],
)
def test_a_setting_has_one_spelling_of_an_address_on_all_machines(text, one):
    assert address.portable(text) == one
    assert address.portable(one) == one
