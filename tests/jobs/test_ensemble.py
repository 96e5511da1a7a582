"""The step `ensemble`, in this process, on tables made here."""

from dataclasses import replace

import helpers
import numpy as np
import pytest

from bench.tables import realistic
from cluster.progress import Reporter
from ensemble.table import Table
from jobs import files
from jobs.config import load
from jobs.ensemble import ensemble
from jobs.job import opened

SCORES = {"test_top1", "test_interval", "gain", "gain_interval", "curse"}


def chosen(doc):
    """A document without the scores on the test split."""
    if isinstance(doc, dict):
        return {name: chosen(value) for name, value in doc.items() if name not in SCORES}
    return [chosen(one) for one in doc] if isinstance(doc, list) else doc


def ensembles(store, test: Table, *settings):
    config = load(str(helpers.TINY), list(settings))
    with opened(config, str(store), Reporter("plain"), "") as job:
        step = job.run.begin("predict")
        tables = {
            "selection": replace(realistic(members=9, images=300, classes=10), cost_M=np.arange(1.0, 10)),
            "test": test,
        }
        for split, table in tables.items():
            step.write(files.predictions(split), table.to_npz())
        step.finish(seed=1)
        ensemble(job)
        return helpers.TinyRun(store, config.id).read("ensembles.json")


@pytest.mark.parametrize("settings", [[], ["ensemble.vote=weighted"], ["ensemble.calibrate=true"]])
def test_nothing_is_chosen_by_the_test_split(tmp_path, settings):
    """With other test images all that changes are the scores on them."""
    table = replace(realistic(members=9, images=200, classes=10), cost_M=np.arange(1.0, 10))
    wrong = replace(table, labels_N=(table.labels_N + 1) % 10)
    one, other = (ensembles(tmp_path / name, test, *settings) for name, test in (("one", table), ("other", wrong)))
    assert one != other and chosen(one) == chosen(other)
    assert max(row["test_top1"] for row in other["singles"]) < min(row["test_top1"] for row in one["singles"])
