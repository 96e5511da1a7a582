"""What `ofa submit` sends, against what k8s/ has prepared for it."""

import tomllib

import pytest
from manifests import ROOT, Peer, allowed, golden, objections, of_kind, pods, restricted, selects

from cluster.kube.rayjob import SPOT_LABELS, Group, Kube, render
from cluster.kube.rules import quantity
from jobs.operate.doctor import ACCOUNTS, NEEDS, PRIORITIES
from jobs.operate.submit import plan

RAY = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())["ray"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
RUNS = {
    "usual": Kube(),
    "gpus": Kube(train=Group(min=1, max=2, gpus=1)),
    "spot": Kube(spot=True),
    "queued": Kube(queue="ofa"),
    "deleted": Kube(delete_job_s=3600),
    "history": Kube(history="quay.io/kuberay/collector:v1.7.0"),
}


@pytest.fixture(params=RUNS)
def job(request):
    return render(
        "digits-1a2b3c4d", "seed = 1\n", "s3://bucket/prefix", RUNS[request.param], version=VERSION, ray_version=RAY
    ).job


def run(name):
    return render("digits-1a2b3c4d", "seed = 1\n", "s3://bucket/prefix", RUNS[name], version=VERSION, ray_version=RAY).job


def templates(job):
    """Head, worker groups and submitter, by name, with the labels that KubeRay adds to their pods."""
    cluster = job["spec"]["rayClusterSpec"]
    ray = {"ray.io/is-ray-node": "yes", "ray.io/cluster": "digits-1a2b3c4d-xyz"}
    yield "head", cluster["headGroupSpec"]["template"], {**ray, "ray.io/node-type": "head", "ray.io/group": "headgroup"}
    for group in cluster["workerGroupSpecs"]:
        yield (
            group["groupName"],
            group["template"],
            {**ray, "ray.io/node-type": "worker", "ray.io/group": group["groupName"]},
        )
    yield "submitter", job["spec"]["submitterPodTemplate"], {"job-name": job["metadata"]["name"]}


def test_every_pod_is_one_that_the_namespace_takes(job):
    assert len(list(pods(job))) == 4
    for _, template in pods(job):
        assert restricted(template) == []
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", **template["metadata"]},
            "spec": template["spec"],
        }
        assert objections(pod) == []


def test_the_containers_that_kuberay_adds_to_a_head_are_restricted_too():
    options = run("usual")["spec"]["rayClusterSpec"]["autoscalerOptions"]
    head = {name: template for name, template, _ in templates(run("usual"))}["head"]
    beside = {"name": "autoscaler", "securityContext": options["securityContext"]}
    assert restricted({"spec": {**head["spec"], "containers": [beside]}}) == []


def test_accounts_priorities_and_secrets_are_those_of_the_overlays(job):
    docs = golden("local")
    for _, template, _ in templates(job):
        spec = template["spec"]
        account = of_kind(docs, "ServiceAccount")[spec["serviceAccountName"]]
        assert spec["automountServiceAccountToken"] is account["automountServiceAccountToken"]
        assert spec.get("priorityClassName", "ofa-head") in of_kind(docs, "PriorityClass")
    assert set(PRIORITIES) == set(of_kind(docs, "PriorityClass"))
    assert set(ACCOUNTS) == set(of_kind(docs, "ServiceAccount"))
    assert job["metadata"]["namespace"] in of_kind(docs, "Namespace")
    assert job["spec"]["rayClusterSpec"]["authOptions"]["secretName"] == "ofa-ray-token"
    for name, template, _ in templates(job):
        refers = [env["secretRef"] for container in template["spec"]["containers"] for env in container.get("envFrom", [])]
        assert refers == ([] if name == "submitter" else [{"name": "ofa-store", "optional": True}])


def test_the_image_and_ray_are_those_of_the_dockerfile(job):
    dockerfile = (ROOT / "k8s/Dockerfile").read_text()
    assert f"rayproject/ray:{job['spec']['rayClusterSpec']['rayVersion']}-py" in dockerfile
    for _, template in pods(job):
        [container] = template["spec"]["containers"]
        assert f"-t {container['image']} " in dockerfile


def test_users_are_those_that_the_image_has(job):
    for _, template in pods(job):
        context = template["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (1000, 100)


@pytest.mark.parametrize("overlay", ["local", "eks", "gke"])
def test_its_pods_reach_each_other_the_bucket_and_nothing_more(job, overlay):
    policies = list(of_kind(golden(overlay), "NetworkPolicy").values())
    peers = {name: Peer({**template["metadata"]["labels"], **labels}) for name, template, labels in templates(job)}
    operator = Peer({"app.kubernetes.io/component": "kuberay-operator"}, namespace="ray-system")
    assert allowed(policies, peers["submitter"], peers["head"], 8265)
    assert allowed(policies, operator, peers["head"], 8265)
    for group in ("train", "search"):
        assert allowed(policies, peers[group], peers["head"], 6379)
        assert allowed(policies, peers["head"], peers[group], 10002)
        assert allowed(policies, peers[group], Peer(address="52.218.0.1"), 443)
        assert not allowed(policies, peers["submitter"], peers[group], 8265)
    assert not allowed(policies, peers["submitter"], Peer(address="52.218.0.1"), 443)


def test_its_head_alone_is_not_evicted(job):
    [budget] = of_kind(golden("eks"), "PodDisruptionBudget").values()
    kept = {
        name for name, template, labels in templates(job)
        if selects(budget["spec"]["selector"], {**template["metadata"]["labels"], **labels})
    }  # fmt: skip
    assert kept == {"head"}


@pytest.mark.parametrize("name", ["usual", "spot", "queued"])
def test_many_runs_fit_the_quota(name):
    hard = of_kind(golden("eks"), "ResourceQuota")["ofa"]["spec"]["hard"]
    most = plan(RUNS[name], "image", None)
    assert 10 * most.total("pods", most=True) < quantity(hard["pods"])
    assert 10 * most.total("cpus", most=True) < quantity(hard["requests.cpu"])
    assert 10 * most.total("memory_gib", most=True) * 2**30 < quantity(hard["requests.memory"])
    assert most.total("gpus", most=True) == 0


def test_gpus_fit_the_quota_with_their_component_alone():
    wanted = plan(RUNS["gpus"], "image", None).total("gpus", most=True)
    for name, enough in (("eks", False), ("eks-gpu-spot-kueue", True)):
        hard = of_kind(golden(name), "ResourceQuota")["ofa"]["spec"]["hard"]
        assert (wanted <= quantity(hard["requests.nvidia.com/gpu"])) is enough
    train = {name: template for name, template, _ in templates(run("gpus"))}["train"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in train["spec"]["tolerations"]


def test_search_workers_alone_go_to_spot_machines():
    [pool] = of_kind(golden("eks-gpu-spot-kueue"), "NodePool").values()
    labels, [taint] = pool["spec"]["template"]["metadata"]["labels"], pool["spec"]["template"]["spec"]["taints"]
    assert labels.items() <= SPOT_LABELS.items()

    def tolerated(template):
        return any(
            toleration["operator"] == "Exists" and toleration.get("key", taint["key"]) == taint["key"]
            for toleration in template["spec"].get("tolerations", [])
        )

    assert {name for name, template, _ in templates(run("spot")) if tolerated(template)} == {"search"}
    assert not any(tolerated(template) for _, template, _ in templates(run("usual")))
    head = next(template for name, template, _ in templates(run("usual")) if name == "head")
    rule = head["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert not any(selects(term, labels) for term in rule)
    assert all(selects(term, {"kubernetes.io/os": "linux"}) for term in rule)


def test_a_queued_run_names_the_queue_of_the_component():
    [queue] = of_kind(golden("eks-gpu-spot-kueue"), "LocalQueue").values()
    job = run("queued")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert job["metadata"]["namespace"] == queue["metadata"]["namespace"]


def test_ofa_user_may_do_what_the_command_line_does_and_changes_nothing_else():
    granted = {}
    for rule in of_kind(golden("eks"), "Role")["ofa-user"]["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, *[*resource.split("/"), ""][:2]), set()).update(rule["verbs"])
    for what, verbs in NEEDS.items():
        assert set(verbs) <= granted[what], what
    looking = {"get", "list", "watch"}
    for what, verbs in granted.items():
        assert verbs - looking == set(NEEDS.get(what, ())) - looking, what
    assert {"get"} <= granted["", "serviceaccounts", ""]
