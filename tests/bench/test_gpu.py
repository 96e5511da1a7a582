"""The GPU bench on a CPU: every part runs with few libraries, and none loses the results of another."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench import gpu, recipes_gpu
from jobs.config import load
from ofa.phases import Phase

ROOT = Path(__file__).parent.parent.parent
ABSENT = (
    "ray", "pydantic", "boto3", "typer", "rich", "plotly", "optuna", "sklearn", "scipy", "kubernetes", "onnx", "pandas",
)  # fmt: skip
BLOCKED = f"""
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv[0] = "gpu"
runpy.run_module("bench.gpu", run_name="__main__")
"""


def png(pixels_3SS):
    file = io.BytesIO()
    Image.fromarray(pixels_3SS.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of Parquet files like CIFAR-10's, and the pixels in it by split."""
    folder, rng, pixels = tmp_path_factory.mktemp("images"), np.random.default_rng(0), {}
    for split, files, count in (("train", 2, 45), ("test", 1, 30)):
        pixels[split] = rng.integers(0, 256, (files * count, 3, 32, 32), dtype=np.uint8)
        for number in range(files):
            here = range(number * count, (number + 1) * count)
            stored = [{"bytes": png(pixels[split][i]), "path": f"{i}.png"} for i in here]
            table = pa.table({"image": stored, "label": [i % 10 for i in here]})
            pq.write_table(table, folder / f"{split}-{number:05}-of-{files:05}.parquet")
    return folder, pixels


def rows(path, part):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line.get("part") == part and "error" not in line]


def test_every_part_runs_on_a_cpu_with_few_libraries(images, tmp_path):
    out = tmp_path / "gpu.jsonl"
    command = [sys.executable, "-c", BLOCKED, "--tiny", "--data", str(images[0]), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["precision"] for row in rows(out, "steps")] == ["float32", "bfloat16"]
    assert all(row["elastic / plain"] > 0 for row in rows(out, "steps"))
    assert rows(out, "subsets")
    assert all(row["same counts"] is True for row in rows(out, "subsets"))
    assert [row["evaluations/s"] > 0 for row in rows(out, "evaluate")] == [True, True]
    assert [row["batch"] for row in rows(out, "train: batches")] == list(gpu.TINY.batches)
    assert [row["phase"] for row in rows(out, "train: phases")] == ["largest", "kernel", "depth", "width", "sandwich"]
    scores = rows(out, "train: test top-1")
    assert [row["recipe"] for row in scores] == list(gpu.RECIPES)
    assert all(0 <= row[name] <= 1 for row in scores for name in ("smallest", "middle", "largest", "mean of 2"))
    assert "| recipe | batch | epochs |" in done.stdout
    assert "90 training and 30 test images" in done.stdout


@pytest.mark.parametrize("name", list(recipes_gpu.STUDIES))
@pytest.mark.parametrize("epochs", [4, 11])
def test_recipes_on_a_gpu_make_equally_many_epochs(name, epochs):
    counts = recipes_gpu.parts(epochs, [phase.epochs for phase in recipes_gpu.STUDIES[name].phases])
    assert sum(counts) == epochs and min(counts) >= 1


def test_a_training_that_is_late_ends_and_keeps_the_rows_before(tmp_path):
    bench = gpu.Bench(gpu.Report(tmp_path / "gpu.jsonl"), gpu.TINY, torch.device("cpu"), "", 32)
    recipes_gpu.train_one(bench, "whole space", tmp_path, time.monotonic() - 1)
    assert not rows(tmp_path / "gpu.jsonl", "recipes: trainings") and rows(tmp_path / "gpu.jsonl", "recipes: plans")


def test_the_summary_of_a_recipe_has_the_range_over_its_seeds():
    """Of the smallest network alone there are no others."""
    found = [{"epochs": 5, **dict.fromkeys(recipes_gpu.LABELS, value)} for value in (0.5, 0.6)]
    cells = dict.fromkeys(recipes_gpu.LABELS, "55.0 (50.0 to 60.0)")
    assert recipes_gpu.summary("whole space", found) == {"recipe": "whole space", "epochs": 5, "seeds": 2, **cells}
    alone = recipes_gpu.summary("smallest alone", found)
    assert (alone["smallest"], alone["largest"]) == ("55.0 (50.0 to 60.0)", "")


@pytest.mark.slow
def test_recipes_train_at_once_and_all_are_in_the_table(tmp_path):
    out, threads = tmp_path / "gpu.jsonl", torch.get_num_threads()
    try:
        assert gpu.main(["--tiny", "--recipes", "--minutes", "5", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    trained = rows(out, "recipes: trainings")
    assert {(row["recipe"], row["seed"], row["epochs"]) for row in trained} == {(name, 1, 4) for name in recipes_gpu.STUDIES}
    assert all(0 <= row["smallest"] <= 1 for row in trained)
    table = rows(out, "recipes: test top-1 in %, mean (lowest to highest)")
    assert [row["recipe"] for row in table] == list(recipes_gpu.STUDIES)
    assert len({row["epochs"] for row in table}) == 1
    assert not rows(out, "steps")


@pytest.mark.slow
def test_ofav2_trains_at_once_and_reports_the_best_sub_network_after_every_phase(tmp_path):
    out, threads = tmp_path / "gpu.jsonl", torch.get_num_threads()
    try:
        assert gpu.main(["--tiny", "--ofav2", "--minutes", "0.2", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    best = [row for row in rows(out, "ofav2: best sub-network") if row["training"] == "exits and dense, extracted teacher"]
    assert [row["phase"] for row in best] == ["full", "kernel", "height", "depth", "width"]
    assert best[0]["exit"] == 5 and all(0 <= row["test top-1"] <= 1 for row in best)
    one, two = rows(out, "ofav2: plans, seconds of an epoch")
    assert one["scale"] == two["scale"] >= 0
    table = rows(out, "ofav2: test top-1 of the best sub-network")
    assert [(row["of"], row["height"] != "") for row in table] == [("base", False), (best[0]["training"], True)]
    assert not rows(out, "steps")


def test_a_part_that_fails_leaves_the_results_of_the_others(tmp_path, monkeypatch, capsys):
    def broken(bench, until):
        raise RuntimeError("out of memory\nand more lines")

    monkeypatch.setitem(gpu.PARTS, "steps", replace(gpu.PARTS["steps"], run=broken))
    out, threads = tmp_path / "gpu.jsonl", torch.get_num_threads()
    try:
        assert gpu.main(["--tiny", "--steps", "--subsets", "--out", str(out)]) == 1
    finally:
        torch.set_num_threads(threads)
    assert "steps failed: RuntimeError: out of memory\n" in capsys.readouterr().out
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["error"] for line in lines if "error" in line] == ["RuntimeError: out of memory"]
    assert rows(out, "subsets")
    assert not rows(out, "train: batches")  # not asked for


def test_unequal_counts_are_a_failure(tmp_path, monkeypatch):
    def off_by_one(self, weights):
        return self.correct(weights) + 1

    monkeypatch.setattr(gpu.SubsetScorer, "correct_weighted", off_by_one)
    bench = gpu.Bench(gpu.Report(tmp_path / "gpu.jsonl"), gpu.TINY, torch.device("cpu"), "", 32)
    with pytest.raises(AssertionError, match="differ"):
        gpu.subsets(bench, float("inf"))
    assert [row["same counts"] for row in rows(tmp_path / "gpu.jsonl", "subsets")] == [False] * 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_what_to_do(capsys):
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 2
    assert "--tiny" in capsys.readouterr().err


def test_parquet_images_are_read_as_they_were_stored(images):
    folder, pixels = images
    split = gpu.read_parquet(folder, "train", 32)
    assert np.array_equal(split.pixels.numpy(), pixels["train"])
    assert split.labels.tolist() == [i % 10 for i in range(90)]
    with pytest.raises(AssertionError, match=r"there is no train-\*\.parquet"):
        gpu.read_parquet(folder / "elsewhere", "train", 32)


def test_the_progressive_recipe_is_that_of_the_cifar10_config():
    config = load(str(ROOT / "configs/cifar10.toml"))

    def of(phase: Phase):
        space = config.search_space
        closed = [name for name in ("depths", "kernels", "expands") if getattr(phase.space, name) != getattr(space, name)]
        assert all(getattr(phase.space, name) == getattr(space, name)[-1:] for name in closed)
        return phase.name, phase.epochs, phase.lr, phase.warmup_epochs, phase.distil, tuple(closed)

    plans = gpu.RECIPES["largest alone, then progressive phases"]
    ours = [(p.name, p.epochs, p.lr, p.warmup_epochs, p.distil, p.largest) for p in plans]
    assert ours == [of(phase) for phase in config.phases]
    assert (config.data.min_crop, config.data.flip) == (gpu.AUGMENT.min_area, gpu.AUGMENT.flip)
    assert config.train.batch == gpu.LR_BATCH
