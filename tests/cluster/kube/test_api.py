"""The thin client against an apiserver that behaves, and against one that does not."""

import gc
import json
import threading
import time
from contextlib import suppress
from typing import ClassVar

import pytest
import urllib3
from kube.apiserver import UNCHECKED, Refusal

from cluster.errors import InputError
from cluster.kube import api as api_module
from cluster.kube.api import Api, Conflict, Forbidden, Lost, NotThere
from cluster.kube.outages import Outages

RAYJOB = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "r", "namespace": "ofa"},
          "spec": {"entrypoint": "x"}}  # fmt: skip


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


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({"server": "junk"}, {"token": "t"}, "server 'junk' of the kubeconfig is not https://HOST:PORT"),
        ({"server": "ftp://x"}, {"token": "t"}, "server 'ftp://x' of the kubeconfig is not https://HOST:PORT"),
        ({}, {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}},
         "credentials cannot be used (exec: process returned 1"),
        ({}, {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nowhere/plugin",
                       "interactiveMode": "Never"}}, "credentials cannot be used"),
    ],
)  # fmt: skip
def test_a_kubeconfig_that_cannot_work_is_one_line(server, monkeypatch, tmp_path, capfd, cluster, user, says):
    there = server.kubeconfig()
    there["clusters"][0]["cluster"] |= cluster
    there["users"][0]["user"] = user
    (tmp_path / "config").write_text(json.dumps(there))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(InputError) as refused:
        Api.connect("ofa")
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_an_address_that_cannot_be_one_is_bad_input(server, monkeypatch, tmp_path):
    there = server.kubeconfig()
    for address in ("https://", "https://127.0.0.1:99999"):
        there["clusters"][0]["cluster"]["server"] = address
        (tmp_path / "config").write_text(json.dumps(there))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(InputError, match="correct"):
            Api.connect("ofa").list("ConfigMap")


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
        self.seen, self.outages = [], Outages()
        self.thread = threading.Thread(target=self._watch, args=(api, name), daemon=True)
        self.thread.start()

    def _watch(self, api, name):
        with suppress(Lost):  # when the test is over, and the server gone
            for doc in api.watch("ConfigMap", name, self.outages):
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


QUOTA = "requested: count/rayjobs.ray.io=1, used: count/rayjobs.ray.io=2, limited: count/rayjobs.ray.io=2"


class TestRefusals:
    """What the server's Status objects become: one line, with what to do about its cause."""

    @pytest.mark.parametrize(
        ("message", "says", "silent"),
        [
            (f'rayjobs "r" is forbidden: exceeded quota: ofa, {QUOTA}', "`kubectl describe resourcequota -n ofa`", "role"),
            ('pods "r" is forbidden: failed quota: ofa: must specify limits.cpu', "`kubectl describe resourcequota", "role"),
            ("maximum cpu usage per Container is 2, but limit is 4", "`kubectl describe limitrange -n ofa`", "role"),
            (
                "unable to create new content in namespace ofa because it is being terminated",
                "is being deleted: wait",
                "role",
            ),
            ('pods "r" is forbidden: violates PodSecurity "restricted:latest"', "pod security does not allow it", "role"),
            ('admission webhook "v.example" denied the request: no', "refuses it: admission webhook", "role"),
            ("ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", "refuses it: Validating", "role"),
            ('User "u" cannot create resource "rayjobs"', "see `ofa doctor` and the role ofa-user", "quota"),
        ],
    )
    def test_403_is_advised_by_its_cause(self, message, says, silent):
        error = api_module._error(403, {"message": message}, "POST rayjobs", "ofa")
        assert isinstance(error, InputError)
        assert message in str(error) and says in str(error)
        assert silent not in str(error).replace(message, "")

    def test_an_exceeded_quota_of_a_run_keeps_what_is_used_and_limited(self, api, server):
        server.quota = QUOTA
        with pytest.raises(
            InputError, match=r"used: count/rayjobs.ray.io=2, limited: count/rayjobs.ray.io=2; .*groups smaller"
        ):
            api.create(RAYJOB)

    def test_rules_that_were_not_checked_are_not_among_the_causes(self, api):
        with pytest.raises(InputError) as caught:
            api.create({**RAYJOB, "spec": {"entrypoint": 5}})
        assert str(caught.value).endswith("the cluster refuses it: spec.entrypoint: 5 is no string")

    @pytest.mark.parametrize(
        ("causes", "message", "says"),
        [
            ([], f"r is invalid: [spec.a: Required value, <nil>: {UNCHECKED}]", "r is invalid: [spec.a: Required value]"),
            ([("<nil>", UNCHECKED)], "r is invalid", "r is invalid"),
            ([("<nil>", "too many"), ("spec.a", "no"), ("spec.a", "no")], "", "too many; spec.a: no"),
            ([(f"spec.{n}", "no") for n in range(5)], "", "spec.0: no; spec.1: no; spec.2: no; and 2 more"),
        ],
    )
    def test_causes_are_named_once(self, causes, message, says):
        details = {"causes": [{"field": field, "message": text} for field, text in causes]}
        error = api_module._error(422, {"message": message, "details": details}, "POST", "ofa")
        assert str(error) == f"POST: the cluster refuses it: {says}"


class TestAServerThatStarts:
    def test_403_before_its_rules_are_loaded_is_repeated(self, api, server):
        server.starting = 3
        assert api.list("ConfigMap") == []
        server.starting, server.hidden_readyz = 2, True
        assert api.list("ConfigMap") == []

    def test_a_server_that_does_not_get_ready_is_lost(self, api, server, monkeypatch):
        monkeypatch.setattr(api_module, "REPEATED_S", 0.5)
        server.starting = 100
        with pytest.raises(Lost, match=r"not allowed.*or the API server is still starting"):
            api.list("ConfigMap")

    def test_403_of_a_user_without_rights_is_not(self, api, server):
        server.forbidden.add(("list", "configmaps"))
        with pytest.raises(Forbidden, match="not allowed"):
            api.list("ConfigMap")
        assert len(server.requests) == 3  # the server says that it is ready, and refuses once more

    @pytest.mark.parametrize("words", ["not yet ready to handle request", 'RBAC: role "ofa-user" not found'])
    def test_a_write_is_repeated_where_the_message_shows_it(self, api, server, words):
        refusals = [Refusal(403, "Forbidden", f"configmaps is forbidden: {words}")] * 2
        server.refusals = refusals
        assert api.create(config_map())["metadata"]["name"] == "c"

    def test_a_read_at_a_busy_server_is_repeated_and_a_write_is_not(self, api, server):
        server.unavailable = 2
        assert api.list("ConfigMap") == []
        server.unavailable = 1
        with pytest.raises(Lost, match="the cluster answers 503"):
            api.create(config_map())

    def test_a_handshake_that_breaks_off_is_a_lost_server_and_an_unknown_authority_is_not(self, server):
        api = Api.connect("ofa")
        server.breaks_tls = True
        with pytest.raises(Lost, match="no answer"):
            api.list("ConfigMap")
        server.breaks_tls = False
        with pytest.raises(InputError, match="check certificate-authority"):
            Api(server.url, "ofa", api.configuration, urllib3.PoolManager()).list("ConfigMap")


class TestPages:
    @pytest.fixture
    def many(self, server):
        for number in range(20):
            server.create(config_map(f"c{number:02}"))
        return [f"c{number:02}" for number in range(20)]

    def names(self, api):
        return [doc["metadata"]["name"] for doc in api.list("ConfigMap")]

    def test_a_list_is_read_in_pages(self, api, server, many, monkeypatch):
        monkeypatch.setattr(api_module, "PAGE", 8)
        assert self.names(api) == many
        assert len(server.requests) == 3

    def test_a_page_that_has_expired_reads_the_list_anew(self, api, server, many, monkeypatch):
        monkeypatch.setattr(api_module, "PAGE", 8)
        server.expired_pages = 1
        assert self.names(api) == many
        assert ["continue=" in path for _, path in server.requests] == [False, True, False]

    def test_a_long_page_is_decoded_without_collecting_cycles(self, api, server, many, monkeypatch):
        runs, decode = [], api_module.json.loads

        def loads(data):
            before = sum(generation["collections"] for generation in gc.get_stats())
            found = decode(data)
            runs.append(sum(generation["collections"] for generation in gc.get_stats()) - before)
            return found

        server.create(config_map("large", text=json.dumps([{"a": {}}] * 10)))
        monkeypatch.setattr(api_module, "LONG", 100)
        threshold = gc.get_threshold()
        gc.set_threshold(10)
        try:
            monkeypatch.setattr(api_module.json, "loads", loads)
            assert len(self.names(api)) == 21
        finally:
            gc.set_threshold(*threshold)
        assert runs == [0]
        assert gc.isenabled()

    def test_a_response_that_is_no_list_is_a_lost_server(self, api, server, monkeypatch):
        monkeypatch.setattr(server.handler, "route", lambda *rest: {"items": 5})
        with pytest.raises(Lost, match="is it a Kubernetes API server"):
            api.list("ConfigMap")


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
