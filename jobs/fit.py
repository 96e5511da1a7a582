"""Fit predictors of accuracy and latency to the measurements; leaves them with their held-out errors.

    ofa fit configs/digits.toml --store ./runs

The kind of predictor with the best ranking in cross-validation is chosen; it is evaluated on rows that were used neither
for fitting nor for the choice, and then fitted to all rows.
"""

from __future__ import annotations

import json

import numpy as np

from cluster.run import File
from cluster.seeds import stream
from jobs import files
from jobs.job import Job
from ofa.arch import Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.timings import Latencies
from search.predict.predictor import KINDS, Target, fit, judge
from search.predict.quality import DeviceQuality, PredictorQuality, Quality


def fit_predictors(job: Job) -> None:
    """Runs the step `fit`: writes the predictors of accuracy and latency with their quality on held-out rows."""
    config, step, space = job.config, job.run.begin("fit"), job.config.search_space
    genes, rng = Genes(space), np.random.default_rng(stream(config.seed, "fit").getrandbits(64))

    def learn(archs: list[Arch], truth: list[float], target: Target, file: File) -> Quality:
        rows_BG, truth_B = genes.encode(archs), np.array(truth)
        kinds = KINDS if config.fit.predictor == "default" else (config.fit.predictor,)
        quality = judge(space, rows_BG, truth_B, target, config.fit.held_out, rng, kinds)
        step.write(file, fit(space, rows_BG, truth_B, target, quality.kind).to_npz())
        return quality

    measured = [Measured.from_json(json.loads(line)) for line in step.read(files.MEASURED).splitlines()]
    accuracy = learn([m.arch for m in measured], [m.top1 for m in measured], "top1", files.PREDICTOR)
    timed = Latencies.from_bytes(step.read(files.LATENCY), files.LATENCY.key)
    archs, latencies_ms = [row.arch for row in timed.rows], [row.latency_ms for row in timed.rows]
    latency = learn(archs, latencies_ms, "latency_ms", files.LATENCY_PREDICTOR)

    quality = PredictorQuality(accuracy, DeviceQuality.on(timed.device, latency))
    step.write_json(files.PREDICTOR_QUALITY, quality.to_json())
    step.finish(config.seed)
    job.reporter.say(f"fit: accuracy {_words(accuracy, 100, 'points')}; latency {_words(latency, 1, 'ms')}")


def _words(quality: Quality, scale: float, unit: str) -> str:
    return (
        f"by {quality.kind}: RMSE {quality.rmse * scale:.3g} {unit}, Kendall tau {quality.kendall_tau:.2f} "
        f"on {quality.held_out} rows held out of {quality.rows + quality.held_out}"
    )
