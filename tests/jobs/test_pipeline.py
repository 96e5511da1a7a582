"""Whole runs: what they leave, and that nothing that happens to them changes it."""

import json
import os
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import TINY, Running, kill, ofa, run_id

from cluster.progress import Reporter
from ensemble.network import from_safetensors
from jobs.config import load
from jobs.images.dataset import load as load_data
from ofa.arch import Arch
from ofa.cost import cost
from ofa.images import resize
from ofa.spaces import get_space

SPACE = get_space("digits")
COMPARED = ("front.json", "ensembles.json", "measured.jsonl", "search.jsonl")


class TestWhatARunLeaves:
    def test_every_step_is_recorded_and_every_object_is_whole(self, tiny_run):
        done = ofa("results", "verify", "--store", tiny_run.store)
        assert done.returncode == 0, done.stdout
        assert done.stdout.endswith(" 0 problems\n")
        steps = ("train", "measure", "fit", "search", "validate", "predict", "ensemble", "report", "export")
        for step in steps:
            record = tiny_run.read(f"{step}.done.json")
            assert record["seed"] == 1
            assert {"code", "seconds", "machine", "inputs", "outputs"} <= set(record)
        assert [path.name for path in (tiny_run.folder / "partial").iterdir()] == ["attempts"]
        assert not list(tiny_run.folder.glob("supernet/**/checkpoint*"))

    def test_a_changed_a_missing_and_a_strange_object_are_found(self, tiny_run, tmp_path):
        shutil.copytree(tiny_run.store, tmp_path / "copy")
        folder = tmp_path / "copy" / tiny_run.id
        (folder / "front.json").write_text("{}")
        (folder / "measured.jsonl").unlink()
        (folder / "strange").write_text("")
        done = ofa("results", "verify", "--store", tmp_path / "copy", "--json")
        assert done.returncode == 1
        problems = json.loads(done.stdout)["problems"]
        assert sorted(problem.split(":")[0] for problem in problems) == ["front.json", "measured.jsonl", "strange"]

    def test_measured_archs_are_distinct_and_cost_what_they_say(self, tiny_run):
        rows = [json.loads(line) for line in (tiny_run.folder / "measured.jsonl").read_text().splitlines()]
        archs = [Arch.from_json(row["arch"]) for row in rows]
        assert len(archs) == len(set(archs)) == 60
        assert {SPACE.smallest(), SPACE.largest()} <= set(archs)
        for row, arch in zip(rows, archs, strict=True):
            assert (row["macs"], row["params"]) == cost(SPACE, arch, 10)
            assert row["split"] == "selection"

    def test_no_arch_was_evaluated_twice(self, tiny_run):
        keys = []
        for name in ("measured.jsonl", "search.jsonl"):
            lines = (tiny_run.folder / name).read_text().splitlines()
            keys += [Arch.from_json(json.loads(line)["arch"]).key for line in lines]
        assert len(keys) == len(set(keys))
        record = tiny_run.read("search.done.json")
        assert record["evaluations"] == 80
        assert len(keys) <= 60 + 80 + record["predicted"]

    def test_the_front_is_what_nothing_measured_dominates(self, tiny_run):
        rows = []
        for name in ("measured.jsonl", "search.jsonl"):
            rows += [json.loads(line) for line in (tiny_run.folder / name).read_text().splitlines()]
        values = {(row["top1"], row["macs"]) for row in rows}
        best = {v for v in values if not any(o != v and o[0] >= v[0] and o[1] <= v[1] for o in values)}
        front = tiny_run.read("front.json")
        assert front["space"] == "digits"
        assert {(m["top1"], m["macs"]) for m in front["members"]} == best
        assert not any("latency_ms" in member for member in front["members"])

    def test_latency_was_measured_with_its_spread_and_device(self, tiny_run):
        latency = tiny_run.read("latency.json")
        assert latency["device"]
        assert (latency["threads"], latency["batch"], latency["runs"]) == (1, 1, 9)
        assert len(latency["rows"]) == 10
        assert all(row["latency_ms"] > 0 and row["latency_spread_ms"] >= 0 for row in latency["rows"])

    def test_predictors_say_how_good_they_are(self, tiny_run):
        quality = tiny_run.read("predictor/quality.json")
        for name, held_out in (("accuracy", 12), ("latency", 2)):
            assert quality[name]["held_out"] == held_out == len(quality[name]["truth"])
            assert quality[name]["rmse"] > 0
            assert -1 <= quality[name]["kendall_tau"] <= 1

    def test_ensembles_are_scored_on_selection_and_on_test(self, tiny_run):
        """Against votes counted by hand from the tables."""
        doc = tiny_run.read("ensembles.json")
        assert doc["cost"] == "max"
        assert [other["cost"] for other in doc["other_costs"]] == ["sum"]
        tables = {split: np.load(tiny_run.folder / f"predictions/{split}.npz") for split in ("selection", "test")}
        macs = [member["macs"] for member in tiny_run.read("front.json")["members"]]
        assert tables["test"]["cost"].tolist() == macs
        for front in (doc, *doc["other_costs"]):
            for row in front["members"]:
                costs = [macs[index] for index in row["members"]]
                assert row["cost"] == (max if front["cost"] == "max" else sum)(costs)
                for split, name in (("selection", "top1"), ("test", "test_top1")):
                    table = tables[split]
                    votes = np.zeros((len(table["labels"]), 10))
                    for index in row["members"]:
                        np.put_along_axis(
                            votes,
                            table["classes"][index],
                            np.take_along_axis(votes, table["classes"][index], 1) + table["probs"][index],
                            1,
                        )
                    assert row[name] == pytest.approx((votes.argmax(1) == table["labels"]).mean())
                low, high = row["test_interval"]
                assert low <= row["test_top1"] <= high
                if len(row["members"]) > 1:
                    single = doc["singles"][row["single"]]
                    assert single["cost"] <= row["cost"]
                    assert row["gain"] == pytest.approx(row["test_top1"] - single["test_top1"])
                    assert row["gain_interval"][0] <= row["gain"] <= row["gain_interval"][1]
            best, drops = front["members"][-1], [one["top1"] - one["test_top1"] for one in doc["singles"]]
            assert front["curse"]["gap"] == pytest.approx(best["top1"] - best["test_top1"] - np.mean(drops))

    def test_tables_agree_with_the_front(self, tiny_run):
        table = np.load(tiny_run.folder / "predictions/selection.npz")
        top1 = (table["classes"][:, :, 0] == table["labels"]).mean(axis=1)
        assert top1.tolist() == pytest.approx([member["top1"] for member in tiny_run.read("front.json")["members"]])

    @pytest.mark.parametrize("name", ["knee", "ensemble"])
    def test_exported_networks_work_and_onnx_agrees(self, tiny_run, name):
        data = load_data(load(str(TINY)), Reporter("plain"))
        network, description = from_safetensors(str(tiny_run.folder / f"subnets/{name}.safetensors"))
        said = tiny_run.read(f"subnets/{name}.json")
        assert said["input"]["resolution"] == description.input_resolution
        images = resize(description.scale(data.selection.pixels), description.input_resolution)
        with torch.inference_mode():
            output = network(images)
        session = onnxruntime.InferenceSession(str(tiny_run.folder / f"subnets/{name}.onnx"))
        [onnx_output] = session.run(None, {"images": images.contiguous().numpy()})
        assert np.abs(onnx_output - output.numpy()).max() < 1e-4
        accuracy = (output.argmax(1) == data.selection.labels).float().mean().item()
        members = tiny_run.read("front.json")["members"]
        if name == "knee":
            assert accuracy == pytest.approx({m["top1"] for m in members if m["arch"] == said["archs"][0]}.pop())
        else:
            front = tiny_run.read("ensembles.json")["members"]
            indices = [[m["arch"] for m in members].index(arch) for arch in said["archs"]]
            assert accuracy == pytest.approx(next(row["top1"] for row in front if row["members"] == indices))

    def test_asking_again_does_nothing_again(self, tiny_run):
        before = {path: path.stat().st_mtime_ns for path in tiny_run.folder.rglob("*")}
        done = ofa("run", TINY, "--store", tiny_run.store)
        assert done.returncode == 0
        assert done.stderr.count("finished before, nothing to do") == 9
        assert {path: path.stat().st_mtime_ns for path in tiny_run.folder.rglob("*")} == before

    @pytest.mark.slow  # README's command does so in every suite
    def test_any_arch_is_exported_by_its_name(self, tiny_run, tmp_path):
        shutil.copytree(tiny_run.store, tmp_path / "copy")
        arch = SPACE.uniform(28, 2, 5, 2)
        done = ofa("export", TINY, "--store", tmp_path / "copy", "--arch", arch.key)
        assert done.returncode == 0, done.stderr
        network, description = from_safetensors(str(tmp_path / "copy" / tiny_run.id / f"subnets/{arch.key}.safetensors"))
        assert description.archs == (arch,)
        assert network(torch.zeros(1, 3, 28, 28)).shape == (1, 10)
        assert ofa("results", "verify", "--store", tmp_path / "copy").returncode == 0


@pytest.mark.slow
def test_a_run_that_is_killed_in_train_measure_and_search_ends_with_the_same_front(tiny_run, tmp_path):
    """SIGKILL to a Train worker and to evaluators, which the run survives, and to the driver, after which it runs again."""
    folder = tmp_path / run_id()
    command = ("run", TINY, "--store", tmp_path)

    def parts(step):
        return len(list((folder / "partial" / step).glob("*"))) if not (folder / f"{step}.done.json").exists() else 0

    def checkpoint():
        try:
            return json.loads((folder / "supernet/checkpoint.json").read_text())["number"]
        except (OSError, ValueError):
            return 0

    running = Running(*command)
    running.wait_for(lambda: checkpoint() >= 1)
    kill(running.workers("ray::RayTrainWorker")[0])
    seen = checkpoint()
    running.wait_for(lambda: checkpoint() > seen + 1)  # it went on by itself
    assert not (folder / "train.done.json").exists()
    running.kill()

    running = Running(*command)
    running.wait_for(lambda: parts("measure") >= 1)
    kill(running.workers("ray::_Actor")[0])
    seen = parts("measure")
    running.wait_for(lambda: parts("measure") > seen)
    assert not (folder / "measure.done.json").exists()
    running.kill()
    assert parts("measure") > seen

    running = Running(*command)
    running.wait_for(lambda: parts("search") >= 2)
    kill(running.workers("ray::_Actor")[0])
    seen = parts("search")
    running.wait_for(lambda: parts("search") > seen)
    assert not (folder / "search.done.json").exists()
    running.kill()

    Running(*command).finish()
    for name in COMPARED:
        assert (folder / name).read_bytes() == (tiny_run.folder / name).read_bytes(), name
    weights = "supernet/width/weights.safetensors"
    assert (folder / weights).read_bytes() == (tiny_run.folder / weights).read_bytes()
    assert ofa("results", "verify", "--store", tmp_path).returncode == 0


@pytest.mark.slow  # tests/jobs/operate/test_end_to_end.py has a whole run on a real server in every suite
def test_the_same_run_onto_a_real_s3_server_ends_with_the_same_front_and_is_pulled_whole(tiny_run, radosgw, tmp_path):
    environment = {**os.environ, **radosgw.environment}
    done = ofa("run", TINY, "--store", "s3://results/tiny", "--json", env=environment)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in events if event["event"] == "finished"][-1] == "export"
    assert events[-1]["event"] == "result"
    for text in (done.stdout, done.stderr):
        assert "testsecret" not in text

    pulled = ofa("results", "pull", "--store", "s3://results/tiny", "--to", tmp_path, env=environment)
    assert pulled.returncode == 0, pulled.stderr
    folder = tmp_path / tiny_run.id
    for name in COMPARED:
        assert (folder / name).read_bytes() == (tiny_run.folder / name).read_bytes(), name
    there = {path.relative_to(tiny_run.folder) for path in tiny_run.folder.rglob("*") if path.is_file()}
    there = {path for path in there if path.parts[0] != "partial"}  # which is not pulled
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} == there
    assert ofa("results", "verify", "--store", tmp_path).returncode == 0
    assert ofa("results", "verify", "--store", "s3://results/tiny", env=environment).returncode == 0

    (folder / "front.json").write_text("damaged")
    (folder / "report.html").unlink()
    assert ofa("results", "pull", "--store", "s3://results/tiny", "--to", tmp_path, env=environment).returncode == 0
    assert ofa("results", "verify", "--store", tmp_path).returncode == 0  # what was broken here was fetched again


@pytest.mark.whole_run
@pytest.mark.slow
@pytest.mark.parametrize("signal", [2, 15])
def test_a_run_that_is_told_to_stop_says_so(tmp_path, signal):
    """Ctrl-C and SIGTERM, while Ray Train works."""
    running = Running("run", TINY, "--store", tmp_path)
    running.wait_for(lambda: (tmp_path / run_id() / "supernet/checkpoint.json").exists())
    running.process.send_signal(signal)
    output, _ = running.process.communicate(timeout=60)
    assert running.process.returncode == 130, output
    assert output.splitlines()[-1] == "ofa: stopped; the same command continues from here"
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["seed=2", "search.algorithm=optuna:NSGAIISampler"])
def test_another_seed_or_sampler_gives_another_front(tiny_run, tmp_path, setting):
    done = ofa("run", TINY, "--store", tmp_path, "--set", setting, "--until", "ensemble")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / run_id(setting)
    for name in ("front.json", "ensembles.json"):
        assert (folder / name).read_bytes() != (tiny_run.folder / name).read_bytes()
    searched = [len((run / "search.jsonl").read_bytes().splitlines()) for run in (folder, tiny_run.folder)]
    assert min(searched) > 4  # both are results of a search of the same size, but for archs that it met again


@pytest.mark.slow
def test_a_damaged_checkpoint_is_one_line_and_nothing_is_lost(tiny_run, tmp_path):
    folder = tmp_path / run_id()
    running = Running("run", TINY, "--store", tmp_path)
    running.wait_for(lambda: (folder / "supernet/checkpoint.json").exists())
    running.kill_all()
    state = folder / json.loads((folder / "supernet/checkpoint.json").read_text())["object"]
    state.write_bytes(state.read_bytes()[:1000])
    done = ofa("run", TINY, "--store", tmp_path)
    assert done.returncode == 2
    assert f"{state.name}: is damaged" in done.stderr.splitlines()[-1]
    assert "supernet to train anew" in done.stderr.splitlines()[-1]
    shutil.rmtree(folder / "supernet")


def test_a_damaged_input_is_one_line(tiny_run, tmp_path):
    shutil.copytree(tiny_run.store, tmp_path / "copy")
    folder = tmp_path / "copy" / tiny_run.id
    (folder / "ensemble.done.json").unlink()
    (folder / "predictions/test.npz").write_bytes(b"damaged")
    done = ofa("run", TINY, "--store", tmp_path / "copy")
    assert done.returncode == 2
    assert "predictions/test.npz: has sha256" in done.stderr.splitlines()[-1]
    assert "delete predict.done.json there and run the same command again" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_what_the_line_about_a_damaged_input_advises_brings_the_same_results(tiny_run, tmp_path):
    shutil.copytree(tiny_run.store, tmp_path / "copy")
    folder = tmp_path / "copy" / tiny_run.id
    (folder / "predictions/test.npz").write_bytes(b"damaged")
    for step in ("ensemble", "predict"):
        (folder / f"{step}.done.json").unlink()
    assert ofa("run", TINY, "--store", tmp_path / "copy").returncode == 0
    for name in COMPARED:
        assert (folder / name).read_bytes() == (tiny_run.folder / name).read_bytes(), name
