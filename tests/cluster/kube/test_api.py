"""The thin client against an apiserver that behaves, and against one that does not."""

import threading
import time
from contextlib import suppress
from typing import ClassVar

import pytest
from kube.apiserver import Refusal

from cluster.errors import InputError
from cluster.kube.api import Api, Conflict, Lost, NotThere


def config_map(name="c", **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "ofa"}, "data": data}


def test_what_is_created_is_read_changed_and_deleted(api):
    made = api.create(config_map(a="1"))
    assert api.get("ConfigMap", "c")["data"] == {"a": "1"}
    made["data"]["b"] = "2"
    assert api.replace(made)["data"] == {"a": "1", "b": "2"}
    with pytest.raises(Conflict, match="has been modified"):
        api.replace(made)  # its resourceVersion is an old one
    assert api.merge("ConfigMap", "c", {"data": {"a": None}})["data"] == {"b": "2"}
    assert [doc["metadata"]["name"] for doc in api.list("ConfigMap")] == ["c"]
    api.delete("ConfigMap", "c")
    assert api.find("ConfigMap", "c") is None
    with pytest.raises(NotThere):
        api.get("ConfigMap", "c")


def test_a_dry_run_leaves_nothing(api):
    api.create(config_map(), dry_run=True)
    assert api.list("ConfigMap") == []


def test_who_is_there_already_is_a_conflict(api):
    api.create(config_map())
    with pytest.raises(Conflict, match='configmaps "c" already exists'):
        api.create(config_map())


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"entrypoint": "x", "entrypoynt": "y"}, 'strict decoding error: unknown field "spec.entrypoynt"'),
        ({"entrypoint": 5}, "spec.entrypoint: 5 is no string"),
    ],
)
def test_what_the_server_refuses_is_one_line_with_its_reason(api, spec, says):
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "r", "namespace": "ofa"}, "spec": spec}
    with pytest.raises(InputError, match="the cluster refuses it") as caught:
        api.create(job)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rights_and_credentials_are_one_line(api, server):
    server.forbidden.add(("create", "configmaps"))
    with pytest.raises(InputError, match=r"not allowed: configmaps is forbidden.*see `ofa doctor` and the role ofa-user"):
        api.create(config_map())
    server.token = "another"
    with pytest.raises(InputError, match=r"the cluster does not know you \(401\)"):
        api.list("ConfigMap")


@pytest.mark.parametrize("content", ["junk", "[train]\nbatch = 64\n", "a: [", "{}"])
def test_a_file_that_is_no_kubeconfig_is_one_line(monkeypatch, tmp_path, content):
    (tmp_path / "config").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(InputError, match="neither a kubeconfig nor a pod's service account") as refused:
        Api.connect("ofa")
    assert "\n" not in str(refused.value)


def test_no_cluster_is_one_line(monkeypatch, tmp_path, api, server):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="neither a kubeconfig nor a pod's service account"):
        Api.connect("ofa")
    server.close()
    with pytest.raises(Lost, match="no answer"):
        api.list("ConfigMap")


class Watching:
    """A watch of one object in a thread."""

    def __init__(self, api, name="c"):
        self.seen = []
        self.thread = threading.Thread(target=self._watch, args=(api, name), daemon=True)
        self.thread.start()

    def _watch(self, api, name):
        with suppress(Lost):  # when the test is over, and the server gone
            for doc in api.watch("ConfigMap", name):
                self.seen.append(doc and doc["data"].get("n"))

    def wait_for(self, n):
        deadline = time.monotonic() + 20
        while n not in self.seen:
            assert time.monotonic() < deadline, self.seen
            time.sleep(0.01)


def wait_for_watches(server, count):
    deadline = time.monotonic() + 20
    while server.watches < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_watch_sees_every_change_of_its_object_alone_and_its_end(api, server):
    watching = Watching(api)
    watching.wait_for(None)  # not there yet
    wait_for_watches(server, 1)
    api.create(config_map("other", n="x"))
    api.create(config_map(n="1"))
    for n in "23":
        api.merge("ConfigMap", "c", {"data": {"n": n}})
    watching.wait_for("3")
    api.delete("ConfigMap", "c")
    deadline = time.monotonic() + 10
    while len(watching.seen) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watching.seen == [None, "1", "2", "3", None]


def test_a_watch_goes_on_where_its_connection_broke(api, server):
    """In the middle of a line, while the object changes; nothing is seen twice and nothing is left out."""
    api.create(config_map(n="0"))
    watching = Watching(api)
    for n in range(1, 6):
        wait_for_watches(server, n)
        server.drop_watches()
        api.merge("ConfigMap", "c", {"data": {"n": str(n)}})
        watching.wait_for(str(n))
    assert watching.seen == ["0", "1", "2", "3", "4", "5"]


def test_a_watch_that_is_told_410_reads_the_object_anew(api, server):
    api.create(config_map(n="0"))
    watching = Watching(api)
    wait_for_watches(server, 1)
    server.unavailable = 2  # so that it comes back late
    with server.lock:
        server.drop_watches()
        server.merge("configmaps", "ofa", "c", {"data": {"n": "1"}})
        server.merge("configmaps", "ofa", "c", {"data": {"n": "2"}})
        server.compact()
    watching.wait_for("2")
    server.merge("configmaps", "ofa", "c", {"data": {"n": "3"}})
    watching.wait_for("3")


class TestTheFakeIsFaithful:
    """What clients rely on, and what is easily forgotten."""

    JOB: ClassVar = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "k", "namespace": "ofa"},
           "spec": {"headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": []}}}}}  # fmt: skip

    def test_status_is_a_thing_of_its_own(self, server):
        made = server.create({**self.JOB, "status": {"state": "ready"}})
        assert "status" not in made
        server.update({**made, "status": {"state": "ready"}, "spec": {}}, sub="status")
        there = server.get("rayclusters", "ofa", "k")
        assert there["status"] == {"state": "ready"}
        assert there["spec"] == made["spec"]
        assert there["metadata"]["generation"] == 1
        there["spec"]["rayVersion"] = "2.60.0"
        assert server.update({**there, "status": {}})["metadata"]["generation"] == 2
        assert server.get("rayclusters", "ofa", "k")["status"] == {"state": "ready"}

    def test_unknown_fields_are_pruned_where_nobody_is_strict(self, server):
        made = server.create({**self.JOB, "spec": {**self.JOB["spec"], "colour": "red"}})
        assert "colour" not in made["spec"]
        with pytest.raises(Refusal):
            server.create({**self.JOB, "spec": {**self.JOB["spec"], "colour": "red"}}, strict=True)

    def test_finalizers_hold_an_object_back_and_owners_take_theirs_along(self, server):
        job = server.create({**self.JOB, "metadata": {"name": "o", "namespace": "ofa", "finalizers": ["f"]}})
        owner = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": "o", "uid": job["metadata"]["uid"]}
        server.create({**config_map(), "metadata": {"name": "c", "namespace": "ofa", "ownerReferences": [owner]}})
        held = server.delete("rayclusters", "ofa", "o")
        assert held["metadata"]["deletionTimestamp"]
        assert server.find("configmaps", "ofa", "c")
        server.update({**held, "metadata": {**held["metadata"], "finalizers": []}})
        assert server.find("rayclusters", "ofa", "o") is None
        assert server.find("configmaps", "ofa", "c") is None

    @pytest.mark.parametrize(
        ("selector", "names"),
        [("a=1", "xy"), ("a!=1", "z"), ("a in (1, 2)", "xyz"), ("a=1,b", "x"), ("!b", "yz"), ("a notin (1)", "z")],
    )
    def test_selectors(self, server, selector, names):
        for name, labels in (("x", {"a": "1", "b": ""}), ("y", {"a": "1"}), ("z", {"a": "2"})):
            server.create({**config_map(), "metadata": {"name": name, "namespace": "ofa", "labels": labels}})
        assert "".join(doc["metadata"]["name"] for doc in server.list("configmaps", "ofa", selector)) == names
