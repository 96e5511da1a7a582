"""What a command loads before it does anything: a new interpreter runs many, and says what was loaded after each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import helpers
import pytest

ROOT = Path(__file__).parent.parent.parent.parent
HEAVY = {
    *("torch", "ray", "pandas", "plotly", "sklearn", "optuna", "scipy", "pyarrow", "numba"),
    *("safetensors", "PIL", "boto3", "kubernetes", "jsonschema", "yaml", "onnxruntime"),
}
MOST_MODULES = 600  # of all kinds; `ofa cost` loads 385, torch alone 1,100

PROGRAM = f"""
import contextlib, io, json, sys
from jobs.cli.main import main
heavy = {HEAVY!r}
for arguments in json.load(sys.stdin):
    sys.argv = ["ofa", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([arguments, code, sorted(heavy & sys.modules.keys()), len(sys.modules)]))
"""


def loaded(commands):
    """Of each command line: its exit code, the heavy libraries there after it, and how many modules there are."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(commands), capture_output=True, text=True, check=True
    )
    return {tuple(arguments): rest for arguments, *rest in map(json.loads, done.stdout.splitlines())}


def names():
    """Every command, those of `ofa results` too."""
    import typer

    from jobs.cli.main import app

    for name, command in typer.main.get_command(app).commands.items():
        yield [name]
        yield from ([name, inner] for inner in getattr(command, "commands", {}))


def test_help_version_cost_and_results_load_nothing_heavy(tmp_path):
    arch = "r24-d111-k300.300.300-e100.100.100"
    commands = [["--help"], ["--version"], *([*name, "--help"] for name in names()),
                ["results", "list", "--store", str(tmp_path)], ["cost", "--space", "digits", "--arch", arch]]  # fmt: skip
    found = loaded(commands)
    assert len(found) == len(commands) > 30
    assert {arguments: heavy for arguments, (_, heavy, _) in found.items() if heavy} == {}
    assert max(count for _, _, count in found.values()) < MOST_MODULES
    assert {arguments[:2] for arguments, (code, _, _) in found.items() if code != 0} == set()


@pytest.mark.parametrize("command", ["run", "train", "tune", "search", "ensemble", "export"])
def test_a_config_that_cannot_be_used_is_refused_before_anything_heavy_is_loaded(command):
    commands = [[command, "nowhere.toml"], [command, str(helpers.TINY), "--set", "search.trails=3"], [command, "--nothing"]]
    assert [found[:2] for found in loaded(commands).values()] == [[2, []]] * 3


def test_what_trains_does_load_them():
    """The test above can fail: a step's own file is seen."""
    done = subprocess.run([sys.executable, "-c", "import sys, jobs.train; print('torch' in sys.modules)"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "True\n"


@pytest.mark.parametrize("package", ["cluster", "ensemble", "ofa", "search"])
def test_a_module_of_another_project_with_the_name_of_a_package_is_one_line(tmp_path, package):
    (tmp_path / f"{package}.py").touch()
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run([sys.executable, "-m", "jobs", "--version"], capture_output=True, text=True, check=False,
                          cwd=tmp_path.parent, env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ofa: {tmp_path / package}.py is imported for the package {package} of ofa-cluster; "
        "take its directory out of PYTHONPATH, or rename it\n"
    )
