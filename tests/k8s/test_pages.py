"""docs/kubernetes: a shell runs every command of a page in its order, with programs that only note how they were called."""

import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from functools import cache

import pytest
import yaml
from manifests import ROOT, kubectl_is_missing
from test_docs import objection

PAGES = sorted((ROOT / "docs/kubernetes").glob("*.md"))
FOREIGN = {"aws", "docker", "eksctl", "gcloud", "helm", "kind"}  # what they can do is not known here
NOTED = {*FOREIGN, "kubectl", "make", "ofa", "python", "sleep"}
OPERATOR = "1.7.0"
SAYS = {  # what the next commands of a page go on with
    "aws sts": "111122223333",
    "aws ecr get-login-password": "password",
    "gcloud config": "a-project",
    "docker inspect": "registry.example/ofa-cluster@sha256:" + "0" * 64,
    "ofa list": json.dumps({"run": "digits-1a2b3c4d"}),
}
STUB = """#!{python} -IS
import json, os, sys
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
if "--password-stdin" in call:
    sys.stdin.read()
if call[0] == "python" and "json.loads(input())" in call[-1]:
    exec(call[-1])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps({{"call": call, "store": os.environ.get("AWS_ENDPOINT_URL_S3", "")}}) + "\\n")
for start, answer in json.loads(os.environ["SAYS"]).items():
    if " ".join(call).startswith(start):
        print(answer)
"""


class Page:
    """The calls that a page makes, and what it leaves."""

    def __init__(self, path, folder):
        self.folder = folder
        for name in ("k8s", "configs"):
            shutil.copytree(ROOT / name, folder / name)
        binaries = folder / ".venv/bin"
        binaries.mkdir(parents=True)
        for name in NOTED:
            stub = binaries / name
            stub.write_text(STUB.format(python=sys.executable))
            stub.chmod(0o755)
        self.text = path.read_text(encoding="utf-8")
        script = "set -euo pipefail\n" + "\n".join(re.findall(r"```sh\n(.*?)```", self.text, re.S)) + "\nwait\n"
        environment = {
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CALLS": str(folder / "calls"),
            "SAYS": json.dumps(SAYS),
        }
        self.done = subprocess.run(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        lines = (folder / "calls").read_text().splitlines()
        self.calls = [json.loads(line)["call"] for line in lines]
        self.stores = {tuple(json.loads(line)["call"]): json.loads(line)["store"] for line in lines}

    def of(self, program):
        return [call[1:] for call in self.calls if call[0] == program]


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.stem)
def page(request, tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("no openssl, which the pages make secrets with")
    made = Page(request.param, tmp_path_factory.mktemp(request.param.stem))
    assert made.done.returncode == 0, made.done.stderr
    return made


def test_there_is_a_page_for_every_overlay():
    assert {path.stem for path in PAGES} == {path.name for path in (ROOT / "k8s/overlays").iterdir()}


def test_a_page_goes_the_whole_way(page):
    """From an operator to results on the disk."""
    steps = [" ".join(call) for call in page.calls]
    way = ["make setup", "helm install kuberay-operator", "docker build", "kubectl apply -k", "kubectl -n ofa create secret",
           "ofa doctor", "ofa submit", "ofa status", "ofa logs", "ofa scale", "ofa results pull"]  # fmt: skip
    for step in way:
        assert any(call.startswith(step) for call in steps), step
    assert any("--watch" in call for call in page.of("ofa") if call[0] == "status")
    assert any("--follow" in call or "-f" in call for call in page.of("ofa") if call[0] == "logs")
    assert [call[call.index("--version") + 1] for call in page.of("helm") if call[0] == "install"] == [OPERATOR]


def test_commands_of_ofa_exist_with_their_options_and_files(page):
    assert len(page.of("ofa")) >= 10
    for call in page.of("ofa"):
        assert (wrong := objection(call)) is None, f"ofa {' '.join(call)}: {wrong}"
        for word in call:
            if re.match(r"(k8s|configs|docs)/", word):
                assert (page.folder / word).exists(), word


def test_settings_of_a_page_are_settings(page):
    from jobs import config

    for call in page.of("ofa"):
        if call[0] == "submit":
            sets = [call[i + 1] for i, word in enumerate(call) if word == "--set"]
            assert config.load(str(ROOT / call[1]), sets).id.startswith("digits-")


def test_kubectl_has_the_verbs_and_options_and_the_files_and_objects_are_there(page):
    if why := kubectl_is_missing():
        pytest.skip(why)
    assert len(page.of("kubectl")) >= 4
    rendered = {}
    for call in page.of("kubectl"):
        words = call[2:] if call[0] == "-n" else call
        where = call[1] if call[0] == "-n" else None
        known = help_of(*itertools.takewhile(lambda word: word in SUBCOMMANDS, words))
        options = [word.split("=")[0] for word in words if word.startswith("-")]
        for option in options:
            assert option in known, f"kubectl {' '.join(call)}: no option {option}"
        for option in ("-f", "-k"):
            if option in words:
                target = page.folder / words[words.index(option) + 1]
                assert target.exists(), target
                if option == "-k":
                    text = subprocess.run(["kubectl", "kustomize", str(target)], capture_output=True, text=True, check=True)
                    rendered = {(d["kind"].lower(), d["metadata"]["name"]) for d in yaml.safe_load_all(text.stdout)}
        for word in words:
            if re.fullmatch(r"(service|deployment)/[\w-]+", word):
                assert tuple(word.split("/")) in rendered, word
        assert where in (None, "ofa")


SUBCOMMANDS = {"apply", "create", "rollout", "port-forward", "secret", "generic", "namespace", "status", "get", "delete"}


@cache
def help_of(*words):
    """The options that kubectl says it has for a command, which must be there."""
    lines = ([*words, "--help"], ["options"])
    asked = [subprocess.run(["kubectl", *line], capture_output=True, text=True, check=False) for line in lines]
    assert re.search(rf"^Usage:\n  kubectl {' '.join(words)}\b", asked[0].stdout, re.M), f"kubectl {' '.join(words)}"
    return set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", asked[0].stdout + asked[1].stdout))


def test_commands_that_kubectl_has_not_are_found():
    if why := kubectl_is_missing():
        pytest.skip(why)
    for words in (("fetch",), ("create", "secrets"), ("create", "secret", "gneric")):
        with pytest.raises(AssertionError, match="kubectl"):
            help_of(*words)
    assert "--from-fiel" not in help_of("create", "secret", "generic")


def test_files_that_others_get_are_there(page):
    for call in page.of("docker"):
        if call[0] == "build":
            assert (page.folder / call[call.index("-f") + 1]).exists()
            assert call[call.index("--target") + 1] in ("cpu", "cuda")
            assert call[-1] == "."
    for word in (word for call in page.of("aws") for word in call if word.startswith("file://")):
        json.loads((page.folder / word.removeprefix("file://")).read_text())


def test_python_of_a_page_compiles(page):
    for call in page.of("python"):
        assert call[0] == "-c"
        compile(call[1], "page", "exec")


def test_placeholders_are_filled_in(page):
    for name in ("eks", "gke"):
        text = (page.folder / f"k8s/overlays/{name}/kustomization.yaml").read_text()
        if f"k8s/overlays/{name}" in page.text:
            accounts = re.findall(r"(?:role-arn|gcp-service-account): (\S+)", text)
            assert len(accounts) in (1, 2)
            assert not any("my-project" in account for account in accounts)
            files = [*(page.folder / f"k8s/overlays/{name}").glob("*.json")]
            assert not any("my-bucket" in file.read_text() for file in files)
    for call in page.calls:
        assert "my-bucket" not in " ".join(call)
        assert "RUN" not in call


def test_secrets_are_in_private_files_and_on_no_command_line(page):
    secrets = {"ray.token": (page.folder / "ray.token").read_text()}
    assert re.fullmatch(r"[0-9a-f]{64}", secrets["ray.token"])
    for path in (page.folder / name for name in ("ray.token", "store.env")):
        if path.exists():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if (page.folder / "store.env").exists():
        found = dict(line.split("=", 1) for line in (page.folder / "store.env").read_text().splitlines())
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"} == set(found)
        assert len(found["AWS_SECRET_ACCESS_KEY"]) == 40
        secrets["store.env"] = found["AWS_SECRET_ACCESS_KEY"]
    for call in page.calls:
        assert not any(secret in word for secret in secrets.values() for word in call), call[0]
    assert set(page.folder.glob("*.*")) <= {page.folder / name for name in ("ray.token", "store.env", ".venv")}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"*.token", "*.env"} <= set(ignored)


def test_the_token_that_a_user_keeps_is_the_one_of_the_cluster(page):
    [made] = [call for call in page.of("kubectl") if "ofa-ray-token" in call]
    assert "--from-file=auth_token=ray.token" in made
    assert "export RAY_AUTH_TOKEN_PATH=$PWD/ray.token" in page.text
