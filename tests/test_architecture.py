"""Imports go down only, and foreign libraries stay in their files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("cluster", "ensemble", "jobs", "ofa", "search")

# What of our own each package may import; `ofa:light` are the files of ofa that need no torch.
MAY_USE = {
    "ofa": {"ofa"},
    "cluster": {"cluster"},
    "search": {"search", "ofa:light"},
    "ensemble": {"ensemble", "ofa:light"},
    "jobs": {"jobs", "search", "ensemble", "ofa", "cluster"},
}
# Where each library may be imported; a trailing slash is a folder.
AT_HOME = {
    "ray": ("cluster/",),
    "boto3": ("cluster/stores/s3.py",),
    "botocore": ("cluster/stores/",),
    "google": ("cluster/stores/google.py",),
    "kubernetes": ("cluster/kube/api.py",),
    "jsonschema": ("cluster/kube/lint.py",),
    "optuna": ("search/",),
    "plotly": ("jobs/report.py",),
    "typer": ("jobs/cli/",),
    "pydantic": ("cluster/config.py", "jobs/config.py"),
    "onnxruntime": ("ofa/export.py",),
}


def files(package=""):
    return [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")) if name == (package or name)]


def imported(path):
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def light_modules():
    """The files of ofa that load no torch, neither themselves nor through others."""
    uses = {f"ofa.{path.relative_to(ROOT / 'ofa').with_suffix('').as_posix().replace('/', '.')}": set(imported(path))
            for path in files("ofa")}  # fmt: skip
    heavy = {name for name, modules in uses.items() if any(m.split(".")[0] == "torch" for m in modules)}
    while True:
        more = {name for name, modules in uses.items() if name not in heavy and modules & heavy}
        if not more:
            return set(uses) - heavy
        heavy |= more


def test_light_modules_are_those_that_others_rely_on():
    assert {
        "ofa.arch",
        "ofa.record",
        "ofa.space",
        "ofa.genes",
        "ofa.cost",
        "ofa.graph",
        "ofa.parts.inverted",
        "ofa.npz",
    } <= light_modules()
    assert "ofa.supernet" not in light_modules()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards_only(package):
    light = light_modules() | {"ofa", "ofa.spaces"}
    for path in files(package):
        for module in imported(path):
            top = module.split(".")[0]
            if top not in PACKAGES or top in MAY_USE[package]:
                continue
            allowed = "ofa:light" in MAY_USE[package] and (module in light or module.rsplit(".", 1)[0] in light - {"ofa"})
            assert allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_libraries_stay_in_their_files():
    for path in files():
        where = path.relative_to(ROOT).as_posix()
        for module in imported(path):
            homes = AT_HOME.get(module.split(".")[0])
            assert homes is None or where.startswith(homes), f"{where} imports {module}"


def test_nobody_imports_jobs_but_jobs():
    for path in files():
        if path.relative_to(ROOT).parts[0] != "jobs":
            assert not any(module.split(".")[0] == "jobs" for module in imported(path)), path


def test_package_files_are_empty_but_the_one_that_finds_spaces():
    for path in ROOT.glob("*/__init__.py"):
        if path.parent.name in PACKAGES:
            assert path.read_text() == "", path


def test_importing_an_arch_does_not_load_torch():
    import subprocess
    import sys

    code = "import sys, ofa.arch, ofa.spaces, ofa.record, ofa.genes, ofa.cost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_nothing_is_unpickled_and_no_global_seed_is_set():
    unpickling = r"import pickle|pickle\.load|cloudpickle|(?<!safetensors\.)torch\.load\(|allow_pickle=True|joblib|shelve"
    seeding = r"random\.seed\(|(?<!Generator\(\)\.)manual_seed\(|manual_seed_all\("
    for path in files():
        assert not re.search(f"{unpickling}|{seeding}", path.read_text()), path


def test_every_dependency_says_which_file_needs_it():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    quoted = [
        line for line in lines if line.strip().startswith('"') and line.strip().rstrip(",").count('"') >= 1 and "=" in line
    ]
    assert len(quoted) > 15
    for line in quoted:
        assert "  # " in line, line
        named = line.split("  # ", 1)[1]
        assert any((ROOT / word.strip(",:()")).exists() for word in named.split()), line
