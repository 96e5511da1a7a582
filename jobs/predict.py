"""Predict with every member of the front; leaves the tables that ensembles are scored on.

ofa predict configs/digits.toml --store ./runs
"""

from __future__ import annotations

import numpy as np

from cluster import run as keys
from ensemble.table import Table
from jobs.evaluation import read_weights
from jobs.job import Job
from search.front import Front


def predict(job: Job) -> None:
    config, step = job.config, job.run.begin("predict")
    front = Front.from_json(step.read_json(keys.FRONT, made_by="search"))
    read_weights(step, config)  # what the evaluators hold
    k = config.ensemble.top_k or job.data.classes
    splits = ("selection", "test")
    questions = [(member.arch, split, k) for split in splits for member in front.members]
    answers = {}
    with job.reporter.track("predict", len(questions), "tables") as tracker:
        for index, answer in job.evaluators().map("table", questions):
            answers[index] = answer
            tracker.advance()
    count = len(front.members)
    for s, split in enumerate(splits):
        parts = [answers[s * count + i] for i in range(count)]
        table = Table(
            np.stack([classes for classes, _, _ in parts]),
            np.stack([probs for _, probs, _ in parts]),
            job.data.splits[split].labels.numpy(),
            np.array([getattr(member, config.ensemble.unit) for member in front.members], dtype=np.float64),
        )
        step.write(keys.predictions(split), table.checked(keys.predictions(split)).to_npz())
    step.finish(config.seed, top_k=k)
    job.reporter.say(f"predict: {count} members on {' and '.join(splits)}, {k} classes each")
