"""Facts about the image's Dockerfile; where there is a builder, docs/kubernetes.md says how to build it."""

import fnmatch
import re
import subprocess
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


def locked(text):
    """Of every package in a lock its version and its hashes."""
    entries = re.findall(r"^([\w.-]+)==(\S+)((?: \\\n {4}--hash=sha256:[0-9a-f]{64})+)$", text, re.M)
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.M)), "an entry without version or hashes"
    return {plain(name): (version, hashes.split("--hash=")[1:]) for name, version, hashes in entries}


def plain(name):
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


LOCK = (ROOT / "requirements.lock").read_text()
# What only torch's build for CUDA brings: not in constraints.txt, which a machine without a GPU made.
CUDA = re.compile(r"triton|cuda-.*|nvidia-.*")


def test_the_lock_has_the_versions_of_the_constraints():
    constraints = {plain(name): version for name, version in CONSTRAINTS.items()}
    for name, (version, _) in locked(LOCK).items():
        assert CUDA.fullmatch(name) or name == "setuptools" or constraints.get(name) == version, name  # setuptools: torch's


def test_the_lock_has_every_dependency_of_the_project():
    names = [plain(re.match(r"[\w.-]+", line)[0]) for line in PROJECT["project"]["dependencies"]]
    assert len(names) > 20
    assert set(names) <= set(locked(LOCK))


def test_an_image_with_cuda_installs_the_lock_and_checks_its_hashes():
    installs = [line for line in stages()["cuda"][1] if "pip install" in line]
    assert installs[0] == "RUN pip install --no-deps --require-hashes -r requirements.lock"
    assert len(installs) == 2


def test_an_image_without_cuda_installs_the_same_but_torchs_build(tmp_path):
    """Everything with its hash but torch, whose build for CPUs is in another index under the same version."""
    [command] = [line.removeprefix("RUN ") for line in stages()["cpu"][1] if "awk" in line]
    (tmp_path / "requirements.lock").write_text(LOCK)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    here, there = locked((tmp_path / "cpu.lock").read_text()), locked(LOCK)
    assert here == {name: entry for name, entry in there.items() if not CUDA.fullmatch(name) and name != "torch"}
    installs = [line.removeprefix("RUN pip install ") for line in stages()["cpu"][1] if "pip install" in line]
    assert installs[0] == "--no-deps --require-hashes -r cpu.lock"
    assert installs[1] == "--no-deps -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu"
    assert len(installs) == 3


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_wheel_that_cannot_be_imported_is_no_image(target):
    last = [line for line in stages()[target][1] if "pip install" in line][-1]
    assert "--no-deps /home/ray/wheel/*.whl && ofa --help" in last


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
    assert all(sent(f"{name}/py.typed") for name in names)
    assert all(sent(name) for name in ("pyproject.toml", "constraints.txt", "requirements.lock", "README.md", "LICENSE"))
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
