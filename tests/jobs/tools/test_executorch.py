"""Programs for ExecuTorch in a run, with a stand-in for the package, which is not installed where tests run."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from helpers import TINY

from cluster.config import dump
from cluster.errors import StepError
from cluster.progress import Reporter
from cluster.run import Run
from jobs import export, files
from jobs.config import load
from jobs.tools import executorch
from ofa.evaluate import Evaluator
from ofa.images import Scale, Split
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
ARCH = SPACE.smallest()
SPLIT = Split(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
              torch.arange(16) % 10)  # fmt: skip


@pytest.fixture
def package(monkeypatch):
    """Modules with the functions that are called; the outputs of the runtime are those of the program plus `error`."""
    made = SimpleNamespace(error=0.0, programs=[])

    def lower(program, partitioner):
        made.programs.append((program, partitioner))
        return SimpleNamespace(to_executorch=lambda: SimpleNamespace(buffer=b"a program"))

    def forward(inputs):
        return [made.programs[-1][0].module()(*inputs) + made.error]

    method = SimpleNamespace(execute=forward)
    runtime = SimpleNamespace(load_program=lambda data: SimpleNamespace(load_method=lambda name: method))
    parts = {
        "executorch.exir": {"to_edge_transform_and_lower": lower},
        "executorch.backends.xnnpack.partition.xnnpack_partitioner": {"XnnpackPartitioner": lambda: "xnnpack"},
        "executorch.runtime": {"Runtime": SimpleNamespace(get=lambda: runtime)},
    }
    for name, attributes in parts.items():
        words = name.split(".")
        for count in range(1, len(words) + 1):
            monkeypatch.setitem(sys.modules, ".".join(words[:count]), ModuleType(".".join(words[:count])))
        for attribute, value in attributes.items():
            setattr(sys.modules[name], attribute, value)
    return made


@pytest.fixture
def job(tmp_path, monkeypatch):
    config = load(str(TINY))
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()
    evaluator = Evaluator(net, Scale((0.5,) * 3, (0.3,) * 3), SPLIT, 16)
    monkeypatch.setattr(export, "trained_evaluator", lambda job, step: evaluator)
    data = SimpleNamespace(selection=SPLIT, classes=10, description=None)
    run = Run.open(str(tmp_path / "store"), config.id, dump(config), "test")
    return SimpleNamespace(config=config, data=data, run=run, reporter=Reporter())


def test_a_program_for_one_image_is_written_once_with_its_difference(package, job):
    for _ in range(2):
        executorch.export_executorch(job, ARCH)
    [(program, partitioner)] = package.programs
    assert partitioner == ["xnnpack"]
    assert program.module()(torch.zeros(1, 3, 24, 24)).shape == (1, 10)
    assert job.run.read(files.subnet(f"{ARCH.key}-executorch", ".pte")) == b"a program"
    assert json.loads(job.run.read(files.subnet(f"{ARCH.key}-executorch", ".json")))["executorch_difference"] < 1e-5


def test_a_program_with_other_outputs_is_not_written(package, job):
    package.error = 0.01
    with pytest.raises(StepError, match=r"the outputs of ExecuTorch differ by 0.01 from PyTorch's"):
        executorch.export_executorch(job, ARCH)
    assert not job.run.keys("subnets/")


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ([], "the package executorch is not installed here; pip install 'executorch>=1.5,<2'"),
        (["--int8"], "--int8 and --target are different files; give one after the other"),
        (["--exits", "1"], "--target goes with neither --exits nor --average-macs"),
    ],
)
def test_what_cannot_be_exported_is_one_line(ofa, monkeypatch, asked, line):
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    code, _, error = ofa("export", TINY, "--target", "executorch", *asked)
    assert (code, error.strip().count("\n")) == (2, 0)
    assert line in error
