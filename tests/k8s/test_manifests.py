"""Facts about k8s/, on the golden files; where kubectl is, those are what it renders."""

import base64
import copy
import json
import re
import shutil

import pytest
import yaml
from manifests import (
    CUSTOM,
    GOLDEN,
    KUBERNETES,
    RENDERED,
    ROOT,
    golden,
    kubectl_is_missing,
    objections,
    of_kind,
    pods,
    render,
    restricted,
    selects,
)

OVERLAYS = ("local", "eks", "gke")
HEAD = {"ray.io/cluster": "c", "ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "ray.io/group": "headgroup"}
WORKER = {"ray.io/cluster": "c", "ray.io/is-ray-node": "yes", "ray.io/node-type": "worker", "ray.io/group": "search"}


@pytest.fixture
def kubectl():
    if why := kubectl_is_missing():
        pytest.skip(why)


def distinct():
    """Every object that is in any golden file, once, with the file's name."""
    seen = {}
    for name in RENDERED:
        for doc in golden(name):
            seen.setdefault(json.dumps(doc, sort_keys=True), (name, doc))
    return list(seen.values())


def every_object():
    return [pytest.param(doc, id=f"{name}-{doc['kind']}-{doc['metadata']['name']}") for name, doc in distinct()]


class TestRendering:
    @pytest.mark.parametrize("name", RENDERED)
    def test_what_kustomize_renders_is_the_golden_file(self, kubectl, name):
        assert render(name) == (GOLDEN / f"{name}.yaml").read_text(), "if this is meant: python tests/manifests.py"

    def test_every_golden_file_every_overlay_and_every_component_is_rendered(self):
        assert {path.stem for path in GOLDEN.glob("*")} == set(RENDERED)
        assert {parts[0] for parts in RENDERED.values()} == {path.name for path in (ROOT / "k8s/overlays").iterdir()}
        assert {part for parts in RENDERED.values() for part in parts[1:]} == {
            path.name for path in (ROOT / "k8s/components").iterdir()
        }

    @pytest.mark.parametrize("name", RENDERED)
    def test_no_object_is_there_twice(self, name):
        ids = [(doc["kind"], doc["metadata"].get("namespace"), doc["metadata"]["name"]) for doc in golden(name)]
        assert len(ids) == len(set(ids))

    @pytest.mark.parametrize("doc", every_object())
    def test_an_object_is_ours_and_where_it_belongs(self, doc):
        assert doc["metadata"]["labels"]["app.kubernetes.io/part-of"] == "ofa-cluster"
        everywhere = {
            "Namespace",
            "PriorityClass",
            "ClusterRole",
            "ClusterRoleBinding",
            "ClusterQueue",
            "ResourceFlavor",
            "NodePool",
        }
        assert doc["metadata"].get("namespace") == (None if doc["kind"] in everywhere else "ofa")


class TestStrictly:
    @pytest.mark.parametrize("doc", every_object())
    def test_an_object_satisfies_the_strict_schema_of_its_kind(self, doc):
        assert objections(doc) == []

    @pytest.mark.parametrize("kubernetes", KUBERNETES[1:])
    def test_objects_satisfy_older_and_newer_schemas_too(self, kubernetes):
        oldest = re.search(r"Requires Kubernetes ([\d.]+) or newer", (ROOT / "docs/kubernetes.md").read_text())[1]
        assert oldest == min(KUBERNETES)
        assert [line for _, doc in distinct() for line in objections(doc, kubernetes)] == []

    def test_only_components_have_kinds_that_kubernetes_does_not_know(self):
        assert not any((doc["apiVersion"], doc["kind"]) in CUSTOM for name in OVERLAYS for doc in golden(name))
        assert {(doc["apiVersion"], doc["kind"]) for name in RENDERED for doc in golden(name)} >= CUSTOM

    @pytest.mark.parametrize(
        ("kind", "name", "path", "value", "line"),
        [
            ("Deployment", "ofa-s3", "spec.replica", 1, "Deployment ofa-s3: spec: .*'replica' was unexpected"),
            ("Deployment", "ofa-s3", "spec.replicas", "one", "Deployment ofa-s3: spec.replicas: 'one' is not of type"),
            ("Deployment", "ofa-s3", "spec.template.spec.containers.0.imag", "x", "containers.0: .*'imag'"),
            ("Deployment", "ofa-s3", "spec.template.spec.securityContext.runAsUser", "me", "runAsUser: 'me' is not"),
            ("Deployment", "ofa-s3", "spec.template.spec.containers.0.ports.0.containerPort", None, ".*'containerPort'"),
            ("NetworkPolicy", "ofa-ray", "spec.podSelecter", {}, "NetworkPolicy ofa-ray: spec: .*podSelecter"),
            ("NetworkPolicy", "ofa-store", "spec.egress.0.to.0.ipBlock.exept", [], "spec.egress.0.to.0.ipBlock: .*'exept'"),
            ("PodDisruptionBudget", "ofa-head", "spec.minAvailable", [1], "spec.minAvailable: "),
            ("PodDisruptionBudget", "ofa-head", "spec.selectors", {}, "PodDisruptionBudget ofa-head: spec: .*'selectors'"),
            ("Role", "ofa-user", "rules.0.verb", ["get"], "Role ofa-user: rules.0: .*'verb'"),
            ("ResourceQuota", "ofa", "spec.hard", ["pods"], "ResourceQuota ofa: spec.hard: "),
            ("LimitRange", "ofa", "spec.limits.0.type", None, "spec.limits.0: 'type' is a required property"),
            ("ServiceAccount", "ofa-worker", "automountServiceAccountToken", "no", "Token: 'no' is not"),
            ("PriorityClass", "ofa-head", "value", "high", "PriorityClass ofa-head: value: 'high' is not of type"),
            ("Namespace", "ofa", "apiVersion", "v2", "Namespace ofa: no kind Namespace in v2"),
        ],
    )  # fmt: skip
    def test_a_mistake_is_refused_with_its_line(self, kind, name, path, value, line):
        doc = copy.deepcopy(of_kind(golden("local"), kind)[name])
        *parents, last = path.split(".")
        place = doc
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
        [said] = objections(doc)
        assert re.search(line, said), said

    def test_the_component_of_metrics_selects_heads_and_workers_at_the_port_that_prometheus_may_reach(self):
        docs = golden("eks-history-monitoring")
        [monitor] = of_kind(docs, "PodMonitor").values()
        assert selects(monitor["spec"]["selector"], HEAD)
        assert selects(monitor["spec"]["selector"], WORKER)
        assert set(monitor["spec"]["podTargetLabels"]) <= set(HEAD)
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["port"] == "metrics"  # KubeRay's name of 8080
        [rule] = of_kind(docs, "NetworkPolicy")["ofa-metrics"]["spec"]["ingress"]
        assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]

    def test_a_component_of_kueue_queues_into_a_queue_with_a_flavor_that_is_there(self):
        docs = golden("eks-gpu-spot-kueue")
        [local], queues = of_kind(docs, "LocalQueue").values(), of_kind(docs, "ClusterQueue")
        queue = queues[local["spec"]["clusterQueue"]]
        assert (local["metadata"]["name"], local["metadata"]["namespace"]) == ("ofa", "ofa")
        assert selects(queue["spec"]["namespaceSelector"], {"kubernetes.io/metadata.name": "ofa"})
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                assert flavor["name"] in of_kind(docs, "ResourceFlavor")
                assert [resource["name"] for resource in flavor["resources"]] == group["coveredResources"]


class TestNames:
    @pytest.mark.parametrize("name", RENDERED)
    def test_what_runs_refer_to_is_there(self, name):
        docs = golden(name)
        assert list(of_kind(docs, "Namespace")) == ["ofa"]
        assert set(of_kind(docs, "ServiceAccount")) == {"ofa-head", "ofa-worker", "ofa-submitter"}
        assert {"ofa-user", "ofa-viewer"} == set(of_kind(docs, "Role"))
        priority = {name: doc["value"] for name, doc in of_kind(docs, "PriorityClass").items()}
        assert priority["ofa-head"] > priority["ofa-worker"]
        assert len(priority) == 2

    def test_only_heads_call_the_kubernetes_api(self):
        mounts = {
            name: doc["automountServiceAccountToken"] for name, doc in of_kind(golden("local"), "ServiceAccount").items()
        }
        assert mounts == {"ofa-head": True, "ofa-worker": False, "ofa-submitter": False}

    @pytest.mark.parametrize(
        ("overlay", "key"), [("eks", "eks.amazonaws.com/role-arn"), ("gke", "iam.gke.io/gcp-service-account")]
    )
    def test_heads_and_workers_have_an_identity_for_the_bucket_and_submitters_have_none(self, overlay, key):
        accounts = of_kind(golden(overlay), "ServiceAccount")
        assert all(key in accounts[name]["metadata"]["annotations"] for name in ("ofa-head", "ofa-worker"))
        assert "annotations" not in accounts["ofa-submitter"]["metadata"]


class TestSecurity:
    @pytest.mark.parametrize("name", RENDERED)
    def test_the_namespace_enforces_restricted_pods(self, name):
        labels = of_kind(golden(name), "Namespace")["ofa"]["metadata"]["labels"]
        history = "history" in RENDERED[name]
        assert labels["pod-security.kubernetes.io/enforce"] == ("baseline" if history else "restricted")
        assert labels["pod-security.kubernetes.io/warn"] == labels["pod-security.kubernetes.io/audit"] == "restricted"

    def test_every_pod_is_restricted_and_takes_no_more_than_it_says(self):
        found = [(doc["kind"], pod) for name in RENDERED for doc in golden(name) for _, pod in pods(doc)]
        assert [kind for kind, _ in found] == ["Deployment"]
        for _, pod in found:
            assert restricted(pod) == []
            assert pod["spec"]["automountServiceAccountToken"] is False
            for container in pod["spec"]["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"]
                assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]

    @pytest.mark.parametrize(
        ("path", "value", "line"),
        [
            ("hostNetwork", True, "hostNetwork is on"),
            ("securityContext.runAsNonRoot", False, "s3: runAsNonRoot is not true"),
            ("securityContext.runAsUser", 0, "s3: runAsUser is 0"),
            ("securityContext.seccompProfile.type", "Unconfined", "s3: seccompProfile is Unconfined"),
            ("containers.0.securityContext.allowPrivilegeEscalation", None, "s3: allowPrivilegeEscalation is not false"),
            ("containers.0.securityContext.privileged", True, "s3: is privileged"),
            ("containers.0.securityContext.capabilities.drop", ["NET_RAW"], "s3: does not drop ALL capabilities"),
            ("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"], "s3: adds capabilities"),
            ("containers.0.ports.0.hostPort", 80, "s3: port 80 of the host"),
            ("volumes.1", {"name": "etc", "hostPath": {"path": "/etc"}}, "volume etc is a hostPath"),
        ],
    )
    def test_a_pod_that_is_not_restricted_is_found(self, path, value, line):
        [(_, pod)] = pods(copy.deepcopy(of_kind(golden("local"), "Deployment")["ofa-s3"]))
        *parents, last = path.split(".")
        place = pod["spec"]
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[int(last) if isinstance(place, list) else last] = value
        assert line in restricted(pod)

    @pytest.mark.parametrize("name", RENDERED)
    def test_roles_reach_no_secret_make_no_pod_and_know_no_wildcard(self, name):
        roles = [*of_kind(golden(name), "Role").values(), *of_kind(golden(name), "ClusterRole").values()]
        assert len(roles) == 3
        for rule in (rule for role in roles for rule in role["rules"]):
            granted = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not any("*" in word for word in granted)
            assert not granted & {
                "secrets",
                "bind",
                "escalate",
                "impersonate",
                "nodes",
                "roles",
                "rolebindings",
                "serviceaccounts/token",
            }
            if "pods" in rule["resources"]:
                assert set(rule["verbs"]) == {"get", "list", "watch"}
            assert not {word for word in rule["resources"] if word.startswith("pods/")} - {"pods/log"}

    def test_viewers_change_nothing(self):
        verbs = {verb for rule in of_kind(golden("eks"), "Role")["ofa-viewer"]["rules"] for verb in rule["verbs"]}
        assert verbs == {"get", "list", "watch"}
        assert not any(
            "proxy" in word for rule in of_kind(golden("eks"), "Role")["ofa-viewer"]["rules"] for word in rule["resources"]
        )

    def test_what_is_granted_for_the_whole_cluster_is_looking_at_named_objects(self):
        [role] = of_kind(golden("local"), "ClusterRole").values()
        for rule in role["rules"]:
            assert rule["verbs"] == ["get"]
            assert rule["resourceNames"]
        named = {name for rule in role["rules"] for name in rule["resourceNames"]}
        assert {"ofa", "ofa-head", "ofa-worker", "rayjobs.ray.io", "rayclusters.ray.io", "kuberay-operator"} == named

    @pytest.mark.parametrize("name", RENDERED)
    def test_bindings_bind_what_is_there_to_groups(self, name):
        docs = golden(name)
        roles = {("Role", role) for role in of_kind(docs, "Role")} | {
            ("ClusterRole", role) for role in of_kind(docs, "ClusterRole")
        }
        for doc in [*of_kind(docs, "RoleBinding").values(), *of_kind(docs, "ClusterRoleBinding").values()]:
            assert (doc["roleRef"]["kind"], doc["roleRef"]["name"]) in roles
            assert {subject["kind"] for subject in doc["subjects"]} == {"Group"}

    def test_the_policy_for_a_bucket_on_s3_is_of_that_bucket_alone(self):
        policy = json.loads((ROOT / "k8s/overlays/eks/bucket.json").read_text())
        for statement in policy["Statement"]:
            assert statement["Resource"].startswith("arn:aws:s3:::my-bucket")
            assert "*" not in str(statement["Action"])

    def test_nothing_planted_is_rendered_and_no_secret_is_kept(self, kubectl, tmp_path, monkeypatch):
        """Secrets lie where users have them: in the environment, and in a file beside the overlay."""
        planted = {"AWS_SECRET_ACCESS_KEY": "pl4nted-s3cret-0f-a-test", "RAY_AUTH_TOKEN": "pl4nted-t0ken-0f-a-test"}
        shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
        for place in ("k8s", "k8s/overlays/local", "k8s/overlays/eks", "k8s/overlays/gke"):
            (tmp_path / place / "store.env").write_text("".join(f"{name}={value}\n" for name, value in planted.items()))
        for name, value in planted.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path / "k8s/overlays/local")
        for name in RENDERED:
            text = render(name, tmp_path / "k8s")
            assert text == (GOLDEN / f"{name}.yaml").read_text()
            for value in planted.values():
                assert not any(form in text for form in forms(value))

    def test_planted_values_would_be_found_in_any_form(self):
        value = "pl4nted-s3cret"
        for text in (value, f"key={value}\n", f"user:{value}", f'{{"a": "{value}"}}'):
            encoded = base64.b64encode(text.encode()).decode()
            assert any(form in encoded for form in forms(value))
            assert any(form in text for form in forms(value))

    @pytest.mark.parametrize("doc", every_object())
    def test_an_object_holds_no_secret_and_names_one_only_by_reference(self, doc):
        assert doc["kind"] != "Secret"
        for _, pod in pods(doc):
            for variable in (v for container in pod["spec"]["containers"] for v in container.get("env", [])):
                if re.search("KEY|SECRET|TOKEN|PASS", variable["name"]):
                    assert list(variable) == ["name", "valueFrom"]
                    assert variable["valueFrom"]["secretKeyRef"]["name"] in ("ofa-store", "ofa-ray-token")

    def test_files_with_credentials_are_neither_committed_nor_sent_to_a_builder(self):
        assert "*.env" in (ROOT / ".gitignore").read_text().splitlines()
        assert (ROOT / ".dockerignore").read_text().splitlines()[-1] == "**/*.env"


def forms(value):
    """A value as it is and as any base64 text has it: three alignments, without the characters that neighbours decide."""
    data = value.encode()
    yield value
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + data).decode()
        first, last = -(-shift * 4 // 3), -(-(len(data) + shift) // 3) * 4
        yield whole[first + (1 if shift else 0) : last - 4]


class TestResources:
    @pytest.mark.parametrize("name", RENDERED)
    def test_heads_alone_may_not_be_evicted(self, name):
        [budget] = of_kind(golden(name), "PodDisruptionBudget").values()
        assert selects(budget["spec"]["selector"], HEAD)
        assert not selects(budget["spec"]["selector"], WORKER)
        # an operator's pods have no scale, with which maxUnavailable and percentages are reckoned
        assert isinstance(budget["spec"]["minAvailable"], int)
        runs = int(of_kind(golden(name), "ResourceQuota")["ofa"]["spec"]["hard"]["count/rayjobs.ray.io"])
        assert budget["spec"]["minAvailable"] > runs

    def test_gpus_come_with_their_component_alone(self):
        gpus = {
            name: of_kind(golden(name), "ResourceQuota")["ofa"]["spec"]["hard"]["requests.nvidia.com/gpu"]
            for name in RENDERED
        }
        assert {name for name, count in gpus.items() if count != "0"} == {
            name for name, parts in RENDERED.items() if "gpu" in parts
        }

    def test_nothing_is_reachable_from_outside(self):
        hard = of_kind(golden("eks"), "ResourceQuota")["ofa"]["spec"]["hard"]
        assert hard["services.loadbalancers"] == hard["services.nodeports"] == "0"
        assert {doc["spec"]["type"] for name in RENDERED for doc in of_kind(golden(name), "Service").values()} == {
            "ClusterIP"
        }

    def test_images_are_pinned(self):
        for name in RENDERED:
            for doc in golden(name):
                for _, pod in pods(doc):
                    for container in pod["spec"]["containers"]:
                        assert re.fullmatch(
                            r"[\w.-]+\.[\w.-]+/[\w./-]+(:[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})", container["image"]
                        )

    def test_the_local_store_answers_on_its_s3_port_alone(self):
        [(_, pod)] = pods(of_kind(golden("local"), "Deployment")["ofa-s3"])
        args = pod["spec"]["containers"][0]["args"]
        assert {"-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", "-s3.port=8333"} <= set(args)
        [service] = of_kind(golden("local"), "Service").values()
        assert selects({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
        assert [port["port"] for port in service["spec"]["ports"]] == [8333]

    def test_spot_machines_are_marked_so_that_only_who_tolerates_it_goes_there(self):
        [pool] = of_kind(golden("eks-gpu-spot-kueue"), "NodePool").values()
        template = pool["spec"]["template"]
        assert template["metadata"]["labels"] == {"ofa-cluster.io/spot": "true"}
        assert template["spec"]["taints"] == [{"key": "ofa-cluster.io/spot", "value": "true", "effect": "NoSchedule"}]


def test_kustomizations_rename_nothing():
    """RayJobs are not in them, and would not be renamed along."""
    for path in (ROOT / "k8s").rglob("kustomization.yaml"):
        kustomization = yaml.safe_load(path.read_text())
        assert not {"namePrefix", "nameSuffix", "namespace", "secretGenerator", "configMapGenerator"} & set(kustomization), (
            path
        )
