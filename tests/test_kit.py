"""What surrounds the code: citation, hooks before a commit, templates, types for users of the packages."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOOKS = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]]


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    links = {reference.get("url") or f"https://doi.org/{reference['doi']}" for reference in citation["references"]}
    assert links == set(PROJECT["project"]["urls"].values())


def test_every_package_says_that_it_is_typed():
    packages = [pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
    assert len(packages) == 5
    assert all((ROOT / package / "py.typed").is_file() for package in packages)
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["*"]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_refuses_a_bad_file_and_takes_a_good_one(hook, tmp_path):
    assert hook["language"] == "system"  # nothing is fetched
    program, *options = hook["entry"].split()
    command = [str(Path(sys.executable).parent / Path(program).name), *options]
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text("import os\nx=1")
    good.write_text('"""A module."""\n\nx = 1\n')
    assert subprocess.run([*command, str(bad)], cwd=ROOT, capture_output=True, check=False).returncode == 1
    assert subprocess.run([*command, str(good)], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_issue_forms_ask_for_something_once_each():
    forms = [path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
    assert len(forms) >= 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form), path
        names = [field["id"] for field in form["body"]]
        assert len(names) == len(set(names)) > 0, path
        assert all(field["attributes"]["label"] for field in form["body"]), path
