"""What may talk to what, by the NetworkPolicies of each overlay."""

import pytest
from manifests import Peer, allowed, golden, of_kind

RAY = {"ray.io/is-ray-node": "yes", "app.kubernetes.io/part-of": "ofa-cluster", "ofa-cluster.io/run": "r"}
HEAD = Peer({**RAY, "ray.io/node-type": "head"})
WORKER = Peer({**RAY, "ray.io/node-type": "worker"})
SUBMITTER = Peer({"ofa-cluster.io/run": "r", "job-name": "r", "app.kubernetes.io/part-of": "ofa-cluster"})
STRANGER = Peer({"app": "web"}, namespace="default")
NEIGHBOUR = Peer({"app": "web"})
OPERATOR = Peer({"app.kubernetes.io/component": "kuberay-operator"}, namespace="ray-system")
PRETENDER = Peer({"app.kubernetes.io/component": "kuberay-operator"}, namespace="default")
PROMETHEUS = Peer({"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
DNS = Peer({"k8s-app": "kube-dns"}, namespace="kube-system")
S3 = Peer({"app.kubernetes.io/name": "ofa-s3"})
OUTSIDE = Peer(address="52.218.0.1")
METADATA = Peer(address="169.254.169.254")
API_SERVER = Peer(address="172.18.0.2")
OVERLAYS = ("local", "eks", "gke")


@pytest.fixture(params=OVERLAYS)
def policies(request):
    return list(of_kind(golden(request.param), "NetworkPolicy").values())


def only(overlay):
    return list(of_kind(golden(overlay), "NetworkPolicy").values())


@pytest.mark.parametrize("port", [6379, 10001, 8076, 30000])
def test_ray_talks_to_itself_on_any_port(policies, port):
    assert allowed(policies, HEAD, WORKER, port)
    assert allowed(policies, WORKER, HEAD, port)
    assert allowed(policies, WORKER, WORKER, port)


@pytest.mark.parametrize("caller", [SUBMITTER, OPERATOR])
def test_submitters_and_the_operator_reach_the_heads_dashboard_and_nothing_else(policies, caller):
    assert allowed(policies, caller, HEAD, 8265)
    assert not allowed(policies, caller, HEAD, 6379)
    assert not allowed(policies, caller, HEAD, 10001)
    assert not allowed(policies, caller, WORKER, 8265)


def test_nobody_else_reaches_a_run(policies):
    for caller in (STRANGER, NEIGHBOUR, PRETENDER, OUTSIDE, Peer({}, namespace="ray-system")):
        for target in (HEAD, WORKER, SUBMITTER):
            for port in (8265, 6379, 10001, 8080, 443):
                assert not allowed(policies, caller, target, port)


def test_prometheus_reads_metrics_and_nothing_else(policies):
    assert allowed(policies, PROMETHEUS, HEAD, 8080)
    assert allowed(policies, PROMETHEUS, WORKER, 8080)
    assert not allowed(policies, PROMETHEUS, HEAD, 8265)


@pytest.mark.parametrize("caller", [HEAD, WORKER, SUBMITTER, NEIGHBOUR])
def test_everyone_resolves_names(policies, caller):
    assert allowed(policies, caller, DNS, 53, "UDP")
    assert allowed(policies, caller, DNS, 53, "TCP")
    assert not allowed(policies, caller, DNS, 80)


def test_heads_and_workers_reach_buckets_and_submitters_reach_nothing_outside(policies):
    assert allowed(policies, HEAD, OUTSIDE, 443)
    assert allowed(policies, WORKER, OUTSIDE, 443)
    assert not allowed(policies, WORKER, OUTSIDE, 80)
    assert not allowed(policies, SUBMITTER, OUTSIDE, 443)
    assert not allowed(policies, NEIGHBOUR, OUTSIDE, 443)


def test_heads_alone_reach_the_api_server_behind_its_service(policies):
    assert allowed(policies, HEAD, API_SERVER, 6443)
    assert allowed(policies, HEAD, API_SERVER, 443)
    assert not allowed(policies, WORKER, API_SERVER, 6443)
    assert not allowed(policies, SUBMITTER, API_SERVER, 6443)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_machines_metadata_is_out_of_reach_but_on_gke_where_it_lends_the_pods_identity(overlay):
    policies = only(overlay)
    for caller in (HEAD, WORKER):
        assert allowed(policies, caller, METADATA, 80) is (overlay == "gke")
        assert allowed(policies, caller, Peer(address="169.254.169.252"), 988) is (overlay == "gke")
        assert not allowed(policies, caller, METADATA, 443)
    assert not allowed(policies, SUBMITTER, METADATA, 80)


def test_on_gke_names_are_also_answered_by_what_is_no_pod():
    for address in ("169.254.20.10", "169.254.169.254"):
        assert allowed(only("gke"), SUBMITTER, Peer(address=address), 53, "UDP")
        assert not allowed(only("eks"), SUBMITTER, Peer(address=address), 53, "UDP")


def test_the_kubernetes_api_proxies_to_heads():
    on_gke = Peer({"k8s-app": "konnectivity-agent"}, namespace="kube-system")
    assert allowed(only("gke"), on_gke, HEAD, 8265)
    assert not allowed(only("gke"), on_gke, WORKER, 8265)
    assert allowed(only("eks"), Peer(address="192.168.7.1"), HEAD, 8265)
    assert not allowed(only("eks"), Peer(address="192.168.7.1"), HEAD, 6379)


def test_the_local_store_answers_heads_and_workers_on_one_port_and_calls_nobody():
    policies = only("local")
    assert allowed(policies, HEAD, S3, 8333)
    assert allowed(policies, WORKER, S3, 8333)
    for port in (8333, 9333, 8888, 8080):
        assert not allowed(policies, SUBMITTER, S3, port)
        assert not allowed(policies, STRANGER, S3, port)
        assert port == 8333 or not allowed(policies, WORKER, S3, port)
    for target in (OUTSIDE, METADATA, API_SERVER, HEAD):
        assert not allowed(policies, S3, target, 443)


def test_without_the_first_policy_strangers_come_in():
    """The reckoning tells the difference."""
    open_ones = [policy for policy in only("eks") if policy["metadata"]["name"] not in ("ofa-deny", "ofa-dns")]
    assert allowed(open_ones, STRANGER, NEIGHBOUR, 80)
    assert not allowed(only("eks"), STRANGER, NEIGHBOUR, 80)
