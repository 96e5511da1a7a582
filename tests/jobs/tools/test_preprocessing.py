"""ONNX with preprocessing in a run: what the file and its description have."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from helpers import TINY
from pictures import write_digits

from cluster.config import dump
from cluster.progress import Reporter
from cluster.run import Run
from jobs import export, files
from jobs.config import load
from jobs.images import dataset
from jobs.tools import preprocessing
from ofa.decode import resized
from ofa.int8 import session_of
from ofa.preprocessing import INPUT
from ofa.spaces import get_space
from ofa.supernet import Supernet

ARCH = get_space("digits").smallest()


def test_a_network_of_a_run_is_written_once_with_its_agreement(tmp_path, monkeypatch):
    write_digits(tmp_path / "digits", test=64)
    config = load(str(TINY), [f"data.source={tmp_path / 'digits'}", "data.crop=0.9"])
    data = dataset.load(config, Reporter(), check_test=False)
    run = Run.open(str(tmp_path / "store"), config.id, dump(config), "test")
    job, made = SimpleNamespace(config=config, data=data, run=run, reporter=Reporter()), []

    def evaluator(job, step):
        made.append(step)
        return data.evaluator(Supernet(get_space("digits"), 10, torch.Generator().manual_seed(0)).eval(), 64, 64)

    monkeypatch.setattr(export, "trained_evaluator", evaluator)
    for _ in range(2):
        preprocessing.export_preprocessed(job, ARCH)
    assert len(made) == 1
    doc = json.loads(run.read(files.subnet(f"{ARCH.key}-preprocess", ".json")))
    assert doc["names"] == [str(label) for label in range(10)]
    assert doc["decoding"] == {"side": 32, "crop": 0.9}
    assert doc["agreement"]["images"] == 64 and doc["agreement"]["same_class"] >= 0.9
    session = session_of(run.read(files.subnet(f"{ARCH.key}-preprocess", ".onnx")))
    image = resized(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), 71, 33)
    assert session.run(None, {INPUT: image})[0].shape == (1, 10)
