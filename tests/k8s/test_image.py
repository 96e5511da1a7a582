"""Facts about the image's Dockerfile; where there is a builder, docs/kubernetes.md says how to build it."""

import fnmatch
import re
import subprocess
import sys
import tomllib

import pytest
from manifests import ROOT

DOCKERFILE = (ROOT / "k8s/Dockerfile").read_text()
INSTRUCTIONS = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def stages():
    """Of each stage what it is from and its instructions, those of the stage that it is from first."""
    found = {}
    for line in INSTRUCTIONS:
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = (match[1], list(found[match[1]][1]) if match[1] in found else [])
        else:
            found[name][1].append(line)
    return found


def test_there_is_a_target_for_cpus_and_one_for_gpus_and_the_first_is_what_one_gets():
    assert {"cpu", "cuda"} <= set(stages())
    assert list(stages())[-1] == "cpu"


def test_the_image_starts_from_the_ray_that_the_project_is_pinned_to():
    [base] = {source for source, _ in stages().values() if source not in stages()}
    match = re.fullmatch(r"docker\.io/rayproject/ray:(\d+\.\d+\.\d+)-py(3)(\d+)-cpu", base)
    assert match, base
    assert match[1] == CONSTRAINTS["ray"]
    assert (int(match[2]), int(match[3])) in ((3, 11), (3, 12))  # requires-python


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_nothing_runs_as_root(target):
    users = [line.split()[1] for line in stages()[target][1] if line.startswith("USER ")]
    assert users == ["1000:100"]  # a number, so that Kubernetes can tell that it is not root
    assert stages()[target][1][0] == "USER 1000:100"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_is_installed_is_what_was_tested(target):
    installs = [line for line in stages()[target][1] if "pip install" in line]
    assert len(installs) == 2
    assert "-c constraints.txt -r requirements.txt" in installs[0]
    assert "--no-deps" in installs[1]
    assert ("https://download.pytorch.org/whl/cpu" in installs[0]) is (target == "cpu")
    assert "ofa --help" in installs[1]  # a wheel that cannot be imported is no image


def test_the_requirements_are_the_projects():
    [command] = {line.removeprefix("RUN ") for line in INSTRUCTIONS if "requirements.txt" in line and "python -c" in line}
    command = command.removesuffix(" > requirements.txt").replace("python ", f"{sys.executable} ", 1)
    printed = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == PROJECT["project"]["dependencies"]


def test_no_secret_is_built_in():
    for line in INSTRUCTIONS:
        assert not re.search(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|\.env\b", line, re.I), line
        assert not line.startswith(("ARG ", "ADD "))


def sent(path):
    """Whether a builder gets a file: the last pattern of .dockerignore that matches decides."""
    decided = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        wanted = pattern.startswith("!")
        pattern = pattern.lstrip("!").rstrip("/")
        parts = path.split("/")
        above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            matches = any("/" not in found and fnmatch.fnmatch(found, pattern) for found in above)
        decided = wanted if matches else decided
    return decided


def test_a_builder_gets_the_packages_and_nothing_else():
    names = [pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    packages = [path.relative_to(ROOT).as_posix() for name in names for path in (ROOT / name).rglob("__init__.py")]
    assert {"cluster/kube/__init__.py", "jobs/cli/__init__.py", "ofa/spaces/__init__.py"} <= set(packages)
    assert all(sent(path) for path in packages)
    assert all(sent(name) for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"))
    for path in (
        ".git/config",
        "store.env",
        "cluster/store.env",
        "jobs/__pycache__/cli.pyc",
        "tests/conftest.py",
        "runs/a/b",
        ".venv/x",
    ):
        assert not sent(path), path
