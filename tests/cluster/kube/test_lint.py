"""Manifests that a cluster would refuse, or take and get wrong, are refused here with a line that names the place."""

import copy
import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest
import yaml
from helpers import TINY

from cluster.config import ConfigError
from cluster.kube import lint
from jobs.config import load
from jobs.operate.submit import as_text, rendered

ROOT = Path(__file__).parent.parent.parent.parent
STORE = "s3://bucket/prefix"


@pytest.fixture(scope="module")
def made():
    return rendered(load(str(TINY)), STORE, {})


def changed(job, path, value):
    """A copy of the job with something else at `a.b[0].c`; `...` takes it away."""
    job = copy.deepcopy(job)
    here, parts = job, [int(p) if p.isdigit() else p for p in path.replace("[", ".").replace("]", "").split(".")]
    for part in parts[:-1]:
        here = here[part]
    if value is ...:
        del here[parts[-1]]
    else:
        here[parts[-1]] = value
    return job


CLUSTER = "spec.rayClusterSpec"
GROUP = f"{CLUSTER}.workerGroupSpecs[0]"
POD = f"{CLUSTER}.headGroupSpec.template.spec"
NODES = "nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
MUTATIONS = [
    ("spec.backofLimit", 3, "spec.backofLimit: no such field; did you mean backoffLimit?"),
    (f"{GROUP}.template.spec.containers[0].imagee", "x", f"{GROUP}.template.spec.containers[0].imagee: no such field"),
    ("spec.backoffLimit", "3", 'spec.backoffLimit: "3" is no integer'),
    ("spec.backoffLimit", 2**31, "spec.backoffLimit: 2147483648 is more than the most that is allowed, 2147483647"),
    (f"{GROUP}.minReplicas", 9, f"{GROUP}: minReplicas is 9, more than maxReplicas"),
    (f"{GROUP}.maxReplicas", -1, f"{GROUP}.maxReplicas: -1 is negative"),
    (f"{GROUP}.rayStartParams.num-cpus", 4, f"{GROUP}.rayStartParams.num-cpus: 4 is no string"),
    (f"{GROUP}.template.spec.containers[0].resources.limits.cpu", [], "limits.cpu: [] is no integer or string"),
    (f"{GROUP}.template.spec.containers[0].resources.limits.cpu", "two", "limits.cpu: 'two' does not match"),
    (f"{GROUP}.template.spec.containers", [], f"{GROUP}.template.spec.containers: is empty"),
    (f"{GROUP}.groupName", "Search!", f"{GROUP}.groupName: 'Search!' is no DNS-1123 name"),
    (f"{GROUP}.groupName", "search", f"{GROUP}.groupName: 'search' stands twice"),
    (f"{GROUP}.template.spec.restartPolicy", "Always", "restartPolicy: is 'Always'; the autoscaler v2 needs Never"),
    (f"{GROUP}.template", ..., f"{GROUP}.template: is missing"),
    (f"{GROUP}.rayStartParams.labels", "a=b", f"{GROUP}.rayStartParams.labels: use labels of the group"),
    ("spec.submissionMode", "Carrier", "spec.submissionMode: is 'Carrier'; expected one of K8sJobMode"),
    ("spec.entrypoint", "ofa run a.toml; curl evil", "spec.entrypoint: ';' in 'ofa run a.toml; curl evil' would be read by"),
    ("spec.entrypoint", "ofa run $HOME/a.toml", "spec.entrypoint: '$' in"),
    ("spec.entrypoint", "ofa run (a)", "spec.entrypoint: '(' in"),
    ("spec.entrypoint", "ofa run a.toml --set 'name=x'", "spec.entrypoint: \"'\" in"),
    ("spec.entrypoint", "ofa run `id`", "spec.entrypoint: '`' in"),
    ("spec.entrypoint", "ofa run\nid", "spec.entrypoint: '\\n' in"),
    ("spec.entrypoint", "ofa  run", "spec.entrypoint: two spaces in"),
    ("spec.entrypoint", "A=b run", "spec.entrypoint: 'A=b' sets a variable"),
    ("spec.entrypoint", "", "spec.entrypoint: is missing"),
    ("spec.runtimeEnvYAML", "working_dir: $HOME", "spec.runtimeEnvYAML: stands in double quotes"),
    ("spec.runtimeEnvYAML", "a: [", "spec.runtimeEnvYAML: is not YAML"),
    ("metadata.name", "a" * 48, f"metadata.name: '{'a' * 48}' has 48 characters; a RayJob may have 47"),
    ("metadata.name", "1run", "metadata.name: '1run' is no DNS-1035 name"),
    ("spec.shutdownAfterJobFinishes", False, "spec.ttlSecondsAfterFinished: is 600 without shutdownAfterJobFinishes"),
    ("spec.activeDeadlineSeconds", 0, "spec.activeDeadlineSeconds: 0 is not positive"),
    ("spec.backoffLimit", -1, "spec.backoffLimit: -1 is negative"),
    ("spec.clusterSelector", {"ray.io/cluster": "x"}, "spec: expected one of rayClusterSpec and clusterSelector"),
    (f"{CLUSTER}.rayVersion", "2.40.0", f"{CLUSTER}.rayVersion: is '2.40.0'; token authentication needs 2.52"),
    (f"{CLUSTER}.authOptions.mode", "password", f"{CLUSTER}.authOptions.mode: is 'password'; expected one of"),
    (f"{CLUSTER}.authOptions.enableK8sTokenAuth", True, f"{CLUSTER}.authOptions.enableK8sTokenAuth: is not for RayJobs"),
    (f"{GROUP}.idleTimeoutSeconds", 5, None),
    (f"{GROUP}.priority", 5, None),
    ("spec.suspend", True, None),
    ("spec.submissionMode", "SidecarMode", "spec.submitterPodTemplate: SidecarMode forbids it"),
    ("metadata.namespace", "Bad_NS", "metadata.namespace: 'Bad_NS' is refused by Kubernetes; expected small letters"),
    ("metadata.labels.x/y/z", "a", "metadata.labels: 'x/y/z' is refused by Kubernetes; expected name or domain/name"),
    ("metadata.labels.a", "b c", "metadata.labels.a: 'b c' does not match"),
    ("metadata.labels.a", "b" * 64, "metadata.labels.a: 'bbb"),
    ("metadata.annotations.a", "b" * 2**18, "metadata.annotations: have 262"),
    (f"{POD}.containers[0].name", "Head", f"{POD}.containers[0].name: 'Head' is refused"),
    (f"{POD}.containers[0].image", "a b", f"{POD}.containers[0].image: 'a b' is refused by Kubernetes; expected [registry"),
    (f"{POD}.containers[0].env[0].name", "1A", f"{POD}.containers[0].env[0].name: '1A' is no variable"),
    (f"{POD}.containers[0].resources.requests.cpu", "3", f"{POD}.containers[0].resources.requests.cpu: '3' is more than"),
    (f"{POD}.containers[0].resources.limits.memory", "-1Gi", "resources.limits.memory: '-1Gi' is negative"),
    (f"{POD}.containers[0].resources.limits.cpu", "1.0001", "resources.limits.cpu: '1.0001' is finer than 1m"),
    (f"{POD}.containers[0].volumeMounts[0].name", "other", "volumeMounts[0].name: the pod has no volume 'other'"),
    (f"{POD}.containers[0].volumeMounts[0].mountPath", "/a:b", "mountPath: '/a:b' is no path without a colon"),
    (f"{POD}.containers[0].terminationMessagePolicy", "Logs", "terminationMessagePolicy: is 'Logs'; expected one of File"),
    (f"{POD}.containers[0].ports", [{"containerPort": 70000}], "ports[0].containerPort: 70000 is no port"),
    (f"{POD}.volumes[0].name", "Config", f"{POD}.volumes[0].name: 'Config' is refused"),
    (f"{POD}.volumes[0].configMap.name", "a/b", f"{POD}.volumes[0].configMap.name: 'a/b' is refused"),
    (f"{POD}.serviceAccountName", "ofa_head", f"{POD}.serviceAccountName: 'ofa_head' is refused"),
    (f"{POD}.priorityClassName", "A", f"{POD}.priorityClassName: 'A' is refused"),
    (f"{POD}.nodeSelector", {"a b": "c"}, f"{POD}.nodeSelector: 'a b' is refused"),
    (f"{POD}.nodeSelector", {"a": "c d"}, f"{POD}.nodeSelector.a: 'c d' is refused"),
    (f"{POD}.tolerations", [{"key": "a b", "operator": "Exists"}], f"{POD}.tolerations[0].key: 'a b' is refused"),
    (f"{POD}.tolerations", [{"key": "a", "operator": "Exists", "value": "b"}], "value: is 'b'; Exists has none"),
    (f"{POD}.tolerations", [{"operator": "Equal"}], f"{POD}.tolerations[0].operator: an empty key needs Exists"),
    (f"{POD}.tolerations", [{"key": "a", "operator": "Exists", "effect": "No"}], "effect: is 'No'; expected one of"),
    (f"{POD}.affinity.{NODES}.nodeSelectorTerms[0].matchExpressions[0].key", "a b", "matchExpressions[0].key: 'a b'"),
    (f"{POD}.affinity.{NODES}.nodeSelectorTerms[0].matchExpressions[0].operator", "Is", "operator: is 'Is'; expected"),
    (f"{POD}.affinity.{NODES}.nodeSelectorTerms[0].matchExpressions[0].values", [], "values: NotIn has at least one"),
    (f"{POD}.securityContext.runAsUser", -1, f"{POD}.securityContext.runAsUser: -1 is no id"),
    (f"{POD}.securityContext.runAsUser", 0, f"{POD}.securityContext.runAsUser: is 0 with runAsNonRoot: true"),
    (f"{POD}.terminationGracePeriodSeconds", -1, f"{POD}.terminationGracePeriodSeconds: is -1; expected at least 0"),
    (f"{POD}.imagePullSecrets", [{"name": "A"}], f"{POD}.imagePullSecrets[0].name: 'A' is refused"),
    (f"{GROUP}.template.metadata.labels.a", "b c", f"{GROUP}.template.metadata.labels.a: 'b c' is refused"),
    ("spec.submitterPodTemplate.spec.containers[0].image", "a@sha256:1", "containers[0].image: 'a@sha256:1' is refused"),
    (f"{CLUSTER}.autoscalerOptions.resources.limits.cpu", "100m", "autoscalerOptions.resources.requests.cpu: '500m'"),
    ("spec.deletionStrategy", {"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]},
     "spec.deletionStrategy.deletionRules: exclude shutdownAfterJobFinishes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "says"), MUTATIONS, ids=[f"{p.split('.')[-1]}={v!r}"[:50] for p, v, _ in MUTATIONS]
)
def test_a_mutation_is_refused_with_its_line(made, path, value, says):
    job = changed(made.job, path, value)
    found = list(lint.mistakes(job))
    if says is None:
        assert found == []
        return
    assert any(says in line for line in found), found
    with pytest.raises(lint.LintError) as caught:
        lint.check(job)
    assert "\n" not in str(caught.value)


def test_what_needs_the_autoscaler_v2_is_refused_without_it(made):
    for field in ("idleTimeoutSeconds", "priority"):
        job = changed(made.job, f"{GROUP}.{field}", 5)
        del job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"]
        assert any(f"{GROUP}.{field}: needs autoscalerOptions.version: v2" in line for line in lint.mistakes(job))


def test_keys_of_list_maps_stand_once(made):
    twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    job = changed(made.job, f"{CLUSTER}.headGroupSpec.template.spec.containers[0].env", twice)
    assert any('["A"] stands twice' in line for line in lint.mistakes(job))


def test_another_kind_is_refused():
    assert list(lint.mistakes({"apiVersion": "v1", "kind": "Pod"})) == [
        "kind: v1 Pod is neither a RayJob nor a RayCluster of ray.io/v1, nor a ConfigMap"
    ]


def test_the_schemas_are_those_of_kuberay(reference):
    """Byte for byte the reference's, with their notice beside them."""
    for kind in ("rayjob", "raycluster"):
        ours = gzip.decompress((ROOT / f"cluster/kube/schemas/{kind}-v1.json.gz").read_bytes())
        theirs = (reference / f"kuberay/{kind}-v1.strict.schema.json").read_bytes()
        assert hashlib.sha256(ours).hexdigest() == hashlib.sha256(theirs).hexdigest()
    version = (reference / "kuberay/VERSION").read_text()
    notice = (ROOT / "cluster/kube/schemas/NOTICE").read_text()
    assert "v1.7.0" in version and "1.7.0" in notice and "Apache License" in notice


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "settings", [[], ["kube.queue=ofa"], ["kube.spot=true", "kube.search.gpus=1", "kube.deadline_s=60"]]
)
def test_every_shipped_config_gives_a_valid_rayjob(path, settings):
    elsewhere = ["data.source=s3://bucket/images"] if path.stem != "digits" else []
    train = load(str(path)).train
    more = ["kube.train.max=32", "kube.train.gpus=1"] if train.device == "cuda" else []
    elsewhere += ["train.weights=s3://bucket/weights.safetensors"] if train.weights else []
    made = rendered(load(str(path), [*settings, *elsewhere, *more]), STORE, {})
    assert list(lint.mistakes(made.job)) == []


COLLECTOR = f"{CLUSTER}.historyServerOptions.collectorOptions"


@pytest.mark.parametrize("backend", ["s3", "gcs"])
def test_the_collector_of_the_history_server_has_no_credentials_but_references(backend):
    sets = ["kube.history=quay.io/kuberay/collector:v1.7.0", f"kube.history_backend={backend}"]
    job = rendered(load(str(TINY), sets), STORE, {}).job
    options = job["spec"]["rayClusterSpec"]["historyServerOptions"]["collectorOptions"]
    env = {variable["name"]: variable for variable in options["env"]}
    assert env["STORAGE_BACKEND"]["value"] == backend
    assert env["S3_BUCKET" if backend == "s3" else "GCS_BUCKET"]["value"] == "bucket"
    assert all("valueFrom" in env[name] for name in env if "KEY" in name)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (f"{COLLECTOR}.image", "", f"{COLLECTOR}.image: is missing"),
        (f"{COLLECTOR}.image", "a b", f"{COLLECTOR}.image: 'a b' is refused by Kubernetes"),
        (f"{COLLECTOR}.securityContext", {}, f"{COLLECTOR}.securityContext: no such field"),
        (f"{COLLECTOR}.resources.requests.cpu", "2", "resources.requests.cpu: '2' is more than its limit"),
        (f"{COLLECTOR}.env", [], f"{COLLECTOR}.env: STORAGE_BACKEND is missing"),
        (f"{COLLECTOR}.env", [{"name": "STORAGE_BACKEND", "value": "s3"}], "S3_REGION is missing; STORAGE_BACKEND s3 needs"),
        (f"{COLLECTOR}.env[0].name", "RAY_ROLE", "env: RAY_ROLE is set by KubeRay; leave it out"),
        (f"{CLUSTER}.rayVersion", "2.55.0", "is '2.55.0'; historyServerOptions need 2.58 or later"),
    ],
)
def test_a_mistake_of_the_collector_is_refused_with_its_line(path, value, says):
    job = rendered(load(str(TINY), ["kube.history=quay.io/kuberay/collector:v1.7.0"]), STORE, {}).job
    assert any(says in line for line in lint.mistakes(changed(job, path, value)))


def test_the_format_of_the_log_is_in_the_environment_of_the_driver():
    def env(*sets):
        job = rendered(load(str(TINY), list(sets)), STORE, {}).job
        [head] = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        return {variable["name"]: variable["value"] for variable in head["env"]}

    assert "OFA_LOG_FORMAT" not in env()
    assert env("kube.log_format=json")["OFA_LOG_FORMAT"] == "json"


class TestDeletionByRules:
    def test_every_end_that_a_rule_can_have_deletes_the_cluster_and_later_the_job(self):
        spec = rendered(load(str(TINY), ["kube.delete_job_s=3600", "kube.ttl_s=60"]), STORE, {}).job["spec"]
        assert "shutdownAfterJobFinishes" not in spec
        found = {}
        for rule in spec["deletionStrategy"]["deletionRules"]:
            condition = dict(rule["condition"])
            found.setdefault((rule["policy"], condition.pop("ttlSeconds")), []).append(condition)
        ends = [{"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"}]
        assert found == {("DeleteCluster", 60): ends, ("DeleteSelf", 3600): ends}

    def test_the_job_is_never_deleted_before_its_cluster(self):
        spec = rendered(load(str(TINY), ["kube.delete_job_s=1", "kube.ttl_s=60"]), STORE, {}).job["spec"]
        assert {rule["condition"]["ttlSeconds"] for rule in spec["deletionStrategy"]["deletionRules"]} == {60}

    def test_a_queue_is_refused(self):
        with pytest.raises(ConfigError, match=r"kube\.delete_job_s goes with no kube\.queue"):
            rendered(load(str(TINY), ["kube.delete_job_s=60", "kube.queue=ofa"]), STORE, {})


GOLDEN = {
    "digits": [],
    "digits-kueue": ["kube.queue=ofa"],
    "digits-spot": ["kube.spot=true", "kube.image=registry.example/ofa@sha256:" + "0" * 64],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_what_is_rendered_is_the_golden_file(name):
    """OFA_GOLDEN=write makes them anew, to be looked at with git diff."""
    path = ROOT / f"tests/cluster/kube/golden/{name}.yaml"
    text = as_text(rendered(load(str(ROOT / "configs/digits.toml"), GOLDEN[name]), STORE, {}), "yaml")
    if os.environ.get("OFA_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text
    assert [doc["kind"] for doc in yaml.safe_load_all(text)] == ["ConfigMap", "RayJob"]


def test_yaml_and_json_are_the_same_objects(made):
    assert list(yaml.safe_load_all(as_text(made, "yaml"))) == json.loads(as_text(made, "json"))["items"] == made.docs
