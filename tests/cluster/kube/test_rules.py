"""Texts and objects that Kubernetes refuses, and those that it takes."""

import pytest

from cluster.kube import rules

TAKEN = {
    rules.dns_label: ["a", "ofa", "team-1", "1a", "a" * 63],
    rules.dns_subdomain: ["a", "a.b", "ofa-head", "a" * 253],
    rules.qualified: ["a", "A_b.c", "example.com/a", "app.kubernetes.io/part-of", "a" * 63],
    rules.label_value: ["", "a", "A_b.c-1", "a" * 63],
    rules.queue_name: ["ofa", "team.queue"],
    rules.image: ["ofa-cluster", "ofa-cluster:0.1.0", "registry/ofa", "registry.example:5000/team/ofa:v1",
                  "localhost:5000/a", "[::1]:5000/a", "a:V_1.0-x",
                  "a/b__c/d-e@sha256:" + "0" * 64, "ghcr.io/a/b:v1@sha256:" + "a" * 64],
}  # fmt: skip
REFUSED = {
    rules.dns_label: ["", "Bad_NS", "a.b", "-a", "a-", "a" * 64, "a b", "a\n", "\u00e4"],
    rules.dns_subdomain: ["", "A", "a..b", ".a", "a_b", "a" * 254],
    rules.qualified: ["", "/a", "a/", "a b", "A.com/a", "a/b/c", "a" * 64, "-a"],
    rules.label_value: ["a b", "-a", "a.", "a" * 64, "a/b", "\u00e4"],
    rules.queue_name: ["My Queue!", "A", "a" * 64],
    rules.image: ["", "a b", " a", "a ", "Ofa", "a/B", "UPPER/x", "a:", "a:-x", "a:" + "v" * 129, "a@sha256:12", "a@md5:0",
                  "a//b", "/a", "a/", "https://a/b", "a:b:c", "a" * 256, "a\n", "a_"],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in TAKEN.items() for text in texts])
def test_it_is_taken(rule, text):
    assert rule(text) is None


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in REFUSED.items() for text in texts])
def test_it_is_refused_with_what_is_expected(rule, text):
    assert rule(text).startswith("expected ")


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("2Gi", 2**31), (2, 2), ("1.5", 1.5), (".5", 0.5), ("1k", 1000), ("1E", 1e18), ("1e3", 1000),
     ("1Ei", 2**60), ("100u", 1e-4), ("5n", 5e-9), ("-1", -1)],
)  # fmt: skip
def test_a_quantity_is_a_number(text, number):
    assert rules.quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "two", "1Gb", "1 Gi", "0x1", "nan", "inf", "1_000", "1Gi\n", "--1", "1e"])
def test_what_is_no_quantity_is_an_error(text):
    with pytest.raises(ValueError, match="is no quantity"):
        rules.quantity(text)


@pytest.mark.parametrize(
    ("resources", "line"),
    [
        ({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}, "r.requests.cpu: '2' is more than its limit"),
        ({"requests": {"memory": "1G"}, "limits": {"memory": "1Gi"}}, None),
        ({"limits": {"nvidia.com/gpu": "0.5"}}, "r.limits.nvidia.com/gpu: '0.5' is no whole number"),
        ({"requests": {"nvidia.com/gpu": "1"}}, "r.requests.nvidia.com/gpu: needs a limit of the same number"),
        ({"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}, None),
        ({"limits": {"memory": "16Ei"}}, "r.limits.memory: '16Ei' is more than 2^63"),
        ({"limits": {"cpu": "1e400"}}, "r.limits.cpu: '1e400' is more than 2^63"),
        ({"limits": {"a b": "1"}}, "r.limits: 'a b' is refused by Kubernetes"),
    ],
)
def test_requests_and_limits(resources, line):
    found = list(rules.resource_mistakes(resources, "r"))
    assert found == [] if line is None else found[0].startswith(line)


@pytest.mark.parametrize(
    ("doc", "line"),
    [
        ({"metadata": {"name": "a-config"}, "data": {"run.toml": "x"}}, None),
        ({"metadata": {"name": "a_b"}}, "metadata.name: 'a_b' is refused"),
        ({"metadata": {"name": "a"}, "data": {"a/b": ""}}, "data: 'a/b' is no key"),
        (
            {"metadata": {"name": "a"}, "data": {"a": "x" * (2**20 + 1)}},
            "data: has 1048577 bytes; a ConfigMap may have 1048576",
        ),
        ({"metadata": {"name": "a", "namespace": "A"}}, "metadata.namespace: 'A' is refused"),
    ],
)
def test_a_config_map(doc, line):
    found = list(rules.config_map_mistakes(doc))
    assert found == [] if line is None else found[0].startswith(line)


def test_names_in_a_pod_are_given_once():
    twice = {"containers": [{"name": "a", "image": "i"}] * 2, "volumes": [{"name": "v"}] * 2}
    found = list(rules.template_mistakes({"spec": twice}, "t"))
    assert found == ["t.spec.containers: 'a' is given 2 times", "t.spec.volumes: 'v' is given 2 times"]
