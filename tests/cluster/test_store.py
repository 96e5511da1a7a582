"""The same facts of every store: a directory, a scheme that a test adds, a mocked S3, and a real one."""

import errno
import hashlib
import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import memory
import pytest
from uses import REAL_SERVER

from cluster.errors import StepError
from cluster.store import open_known, open_store
from cluster.stores.directory import DirectoryStore
from cluster.stores.errors import MissingObject, StoreError


@pytest.fixture(
    params=[
        "directory",
        "added",
        pytest.param("mock", marks=pytest.mark.server),
        pytest.param("real", marks=REAL_SERVER),
        pytest.param("google", marks=pytest.mark.server),
    ]
)
def store(request, tmp_path, monkeypatch):
    if request.param == "directory":
        return open_store(str(tmp_path / "store"))
    if request.param == "added":
        memory.add_scheme(monkeypatch)
        return open_store("memory://store")
    if request.param == "google":
        request.getfixturevalue("cloud_storage")
        return open_store(f"s3://results/google/{request.node.name}")
    server = request.getfixturevalue("mock_s3" if request.param == "mock" else "radosgw")
    for name, value in (server if request.param == "mock" else server.environment).items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://results/{request.node.name}")


def test_what_is_written_is_read_back(store):
    for data in (b"", b"one", bytes(range(256)) * 5000):
        store.write("a/b.bin", data)
        assert store.read("a/b.bin") == data


def test_parts_of_an_object_are_read_where_a_file_is_wanted(store):
    data = bytes(range(256)) * 20000  # 5 MB, more than a reader takes at once
    store.write("a/b.bin", data)
    with store.open("a/b.bin") as file:
        assert file.seek(0, os.SEEK_END) == len(data)
        assert file.seek(-100, os.SEEK_END) == len(data) - 100
        assert file.read() == data[-100:]
        file.seek(3_000_000)
        assert file.tell() == 3_000_000
        assert file.read(5000) == data[3_000_000:3_005_000]
        file.seek(0)
        assert file.read() == data
    with pytest.raises(MissingObject):
        store.open("a/c.bin")


def test_the_rest_of_an_object_is_one_request(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://results/rest")
    store.write("a", bytes(3_000_000))
    asked = []
    monkeypatch.setattr(store, "part", lambda key, first, size: asked.append((first, size)) or bytes(size))
    with store.open("a") as file:
        assert len(file.read()) == 3_000_000
        assert file.read() == b""
    assert asked == [(0, 3_000_000)]


def test_a_published_file_is_read_back_and_replaces_what_was_there(store, tmp_path):
    for data in (b"small", bytes(range(256)) * 40000):  # the second, 10 MB, goes to a bucket in parts
        (tmp_path / "file").write_bytes(data)
        store.publish("a/b.bin", tmp_path / "file")
        assert store.read("a/b.bin") == data


def test_a_second_write_replaces_the_first(store):
    store.write("a", b"one")
    store.write("a", b"two")
    assert store.read("a") == b"two"


def test_create_never_replaces(store):
    assert store.create("a", b"one")
    assert not store.create("a", b"two")
    assert store.read("a") == b"one"


def test_of_many_that_create_at_once_one_succeeds(store):
    won = []
    barrier = threading.Barrier(8)

    def race(number):
        barrier.wait()
        if store.create("lock", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("lock") == str(won[0]).encode()


def together(*works):
    """Does all of it at once, each in a thread; the first error of one is raised."""
    with ThreadPoolExecutor(len(works)) as threads:
        for done in [threads.submit(work) for work in works]:
            done.result()


def test_readers_see_whole_objects_while_they_are_replaced(store):
    sizes = {number: 100_000 + 1000 * number for number in range(12)}
    store.write("a", bytes(sizes[0]))
    ended = threading.Event()

    def write():
        try:
            for number, size in sizes.items():
                store.write("a", bytes([number]) * size)
        finally:
            ended.set()

    def read():
        while not ended.is_set():
            data = store.read("a")
            assert len(set(data)) == 1 and len(data) == sizes[data[0]]

    together(write, read, read)


def test_concurrent_writers_lose_nothing_and_mix_nothing(store):
    def write(number):
        for place in range(4):
            store.write(f"w{number}/{place}", bytes([number, place]) * 100)
            store.write("shared", bytes([number]) * (1000 + number))

    together(*(partial(write, number) for number in range(6)))
    written = {f"w{number}/{place}": bytes([number, place]) * 100 for number in range(6) for place in range(4)}
    assert store.keys() == ["shared", *sorted(written)]
    assert {key: store.read(key) for key in written} == written
    last = store.read("shared")
    assert last == bytes([last[0]]) * (1000 + last[0])


LARGE = """
import sys
from pathlib import Path
from cluster.run import Run
from cluster.store import open_store
store = open_store(sys.argv[1])
store.publish("r/large", Path(sys.argv[2]))
print(*Run(store, "r", "test").digest("large"))
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(int(peak.split()[1]) // 1024)  # KiB; the peak that getrusage gives has the parent's in it
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["directory", pytest.param("radosgw", marks=REAL_SERVER)])
def test_a_gibibyte_is_published_and_read_in_200_mebibytes(where, request, tmp_path):
    """In parts to a bucket, and back in ranges."""
    server = request.getfixturevalue("radosgw").environment if where == "radosgw" else {}
    part, expected = os.urandom(2**20), hashlib.sha256()
    with (tmp_path / "file").open("wb") as file:
        for number in range(1024):
            file.write(part[number:] + part[:number])
            expected.update(part[number:] + part[:number])
    url = "s3://results/large" if server else str(tmp_path / "store")
    command = [sys.executable, "-c", LARGE, url, str(tmp_path / "file")]
    done = subprocess.run(command, env={**os.environ, **server}, capture_output=True, text=True, check=True, timeout=550)
    digest, mebibytes = done.stdout.splitlines()
    assert digest == f"{expected.hexdigest()} {2**30}"
    assert int(mebibytes) < 200, mebibytes


def test_keys_are_sorted_and_start_with_the_prefix(store):
    for key in ("b/2", "a/1", "a/10", "ab", "a/2/x"):
        store.write(key, b"")
    assert store.keys() == ["a/1", "a/10", "a/2/x", "ab", "b/2"]
    assert store.keys("a/") == ["a/1", "a/10", "a/2/x"]
    assert store.keys("a") == ["a/1", "a/10", "a/2/x", "ab"]
    assert store.keys("a/1") == ["a/1", "a/10"]
    assert store.keys("nothing") == store.keys("no/thing/") == store.keys("../") == store.keys("/") == []


def test_what_is_deleted_is_gone(store):
    store.write("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert store.keys() == []
    with pytest.raises(MissingObject, match="there is no a/b"):
        store.read("a/b")


def test_more_objects_than_a_page_are_listed(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # of a page; S3 has 1,000
    store = open_store("s3://results/many")
    written = [f"{number:04d}" for number in range(25)]
    for key in written:
        store.write(key, b"")
    client = store.client
    assert client.list_objects_v2(Bucket="results", Prefix="many/")["IsTruncated"]
    assert store.keys() == written


def test_a_real_server_that_crashes_keeps_what_it_acknowledged(radosgw, monkeypatch):
    for name, value in radosgw.environment.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://results/crash")
    written = {f"object{number}": os.urandom(5000) for number in range(20)}
    for key, data in written.items():
        store.write(key, data)
    radosgw.call("crash")
    radosgw.call("start")
    store = open_store("s3://results/crash")
    assert {key: store.read(key) for key in store.keys()} == written


@pytest.mark.slow
def test_a_server_that_crashes_and_starts_again_is_waited_for(radosgw, monkeypatch):
    for name, value in radosgw.environment.items():
        monkeypatch.setenv(name, value)
    store, ended = open_store("s3://results/restart"), threading.Event()
    written = []

    def write():
        while not ended.is_set() or not written:
            number = len(written)
            assert store.create(f"part{number:04d}", bytes([number % 256]) * 1000)
            written.append(number)

    def restart():
        radosgw.call("crash")
        threading.Timer(3, radosgw.call, ["start"]).start()
        try:
            assert open_known("s3://results/restart").keys() != []
        finally:
            ended.set()

    store.create("part", b"1")
    together(write, restart)
    assert {key: store.read(key) for key in store.keys("part0")} == {
        f"part{number:04d}": bytes([number % 256]) * 1000 for number in written
    }


@pytest.mark.parametrize(
    ("change", "url", "says"),
    [
        ({}, "s3://nowhere/x", "there is no bucket 'nowhere'; create it, or check its name"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "s3://results/x", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "s3://results/x", "the access key is not known there"),
        ({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, "s3://results/x", "nothing answers at the endpoint"),
    ],
)
def test_a_bucket_that_cannot_be_used_gets_one_line_without_secrets(radosgw, monkeypatch, change, url, says):
    for name, value in {**radosgw.environment, **change, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=says) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
    assert "testsecret" not in str(caught.value)


def test_missing_credentials_get_one_line(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(StoreError, match="no credentials found; set AWS_ACCESS_KEY_ID"):
        open_store("s3://results/x")


@pytest.mark.parametrize(
    ("url", "says"), [("s3:///x", "no bucket"), ("http://x/y", "not http://"), ("file://host/x", "not file://")]
)
def test_a_url_that_is_no_store_gets_one_line(url, says):
    with pytest.raises(StoreError, match=says):
        open_store(url)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        open_store(str(tmp_path / "f"))


def test_a_directory_that_cannot_be_written_gets_one_line(tmp_path):
    with pytest.raises(StoreError, match=r"cannot write a: .*choose another --store"):
        open_store("/proc/nowhere").write("a", b"x")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", ".tmp/x"])
def test_keys_stay_inside_the_store(tmp_path, key):
    with pytest.raises(StoreError, match="is not a key"):
        open_store(str(tmp_path)).write(key, b"")


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], check=False).returncode
    ):
        pytest.skip("only root can mount a small disk")
    try:
        store = DirectoryStore(mount)
        store.write("a", b"x" * 20000)
        with pytest.raises(StepError, match=r"no space left for a \(0.1 MiB\); free some and run the same command again"):
            store.write("a", b"y" * 100000)
        assert store.read("a") == b"x" * 20000
        assert [path for path in mount.rglob("*") if path.is_file()] == [mount / "a"]
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_file_that_grows_beyond_its_limit_is_a_failed_step(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = DirectoryStore(tmp_path)
    store.write("a", b"x")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StepError, match="no space left for a"):
            store.write("a", b"y" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.read("a") == b"x"
    assert errno.EFBIG  # what the limit gives


KILLED = """
import os, signal, sys, threading
from cluster.store import open_store
store = open_store(sys.argv[1])
threading.Timer(float(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
number = 0
while True:
    number += 1
    store.write("a", bytes([number % 256]) * 3_000_000)
"""


def test_a_killed_writer_leaves_whole_objects_and_its_rubbish_is_swept(tmp_path):
    for delay in (0.05, 0.08, 0.11):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(delay)], check=False)
        assert done.returncode == -9
        data = open_store(str(tmp_path)).read("a")
        assert len(data) == 3_000_000
        assert len(set(data)) == 1
    store = open_store(str(tmp_path))
    assert store.keys() == ["a"]  # what was half written is no object
    store.write("b", b"")
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_relative_folder_is_the_same_store_from_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    store.write("a/b", b"1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_store(store.url).read("a/b") == b"1"


def test_a_scheme_that_is_not_there_is_told_which_are(monkeypatch):
    with pytest.raises(StoreError, match="a store is a directory or s3://bucket/prefix, not memory://"):
        open_store("memory://x")
    memory.add_scheme(monkeypatch)
    with pytest.raises(StoreError, match="a store is a directory or s3://bucket/prefix or memory://name, not ftp://"):
        open_store("ftp://x")


def test_a_directory_store_loads_no_library_of_another_scheme():
    code = "import sys; from cluster.store import open_store; open_store('/tmp').keys('none/'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "cluster.stores.directory" in loaded
    assert not {"boto3", "botocore", "google", "google.auth", "cluster.stores.s3", "cluster.stores.google"} & set(loaded)


def test_a_file_url_is_a_path_with_percent_escapes_and_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store(f"file://{tmp_path}/a#b?c").url == f"{tmp_path}/a#b?c"
    assert open_store(f"file://{tmp_path}/a%20b").url == f"{tmp_path}/a b"
    assert open_store("~/runs").url == f"{tmp_path}/runs"


def test_linked_directories_are_listed_and_loops_are_not_followed(tmp_path):
    there, elsewhere = open_store(str(tmp_path / "store")), open_store(str(tmp_path / "elsewhere"))
    there.write("a/1", b"1")
    elsewhere.write("2", b"2")
    (tmp_path / "store" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "store" / "a" / "up").symlink_to(tmp_path / "store")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "store" / "a")
    assert there.read("linked/2") == b"2"
    assert {"a/1", "linked/2", "linked/back/1"} == set(there.keys())


def test_a_directory_that_cannot_be_listed_gets_a_line(tmp_path):
    script = (
        "import os, sys; from cluster.store import open_store; store = open_store(sys.argv[1])\n"
        "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
        "try: print(store.keys())\nexcept Exception as e: print(type(e).__name__, e)"
    )
    open_store(str(tmp_path)).write("secret/1", b"1")
    (tmp_path / "secret").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    (tmp_path / "secret").chmod(0o755)
    assert "StoreError" in done.stdout and "secret: cannot be listed: Permission denied" in done.stdout


def test_keys_that_consoles_write_for_folders_are_no_objects(mock_s3, monkeypatch):
    for name, value in mock_s3.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://results/folders")
    for key in ("", "a/", "a/b"):
        store.client.put_object(Bucket="results", Key=f"folders/{key}", Body=b"")
    assert store.keys() == ["a/b"]
