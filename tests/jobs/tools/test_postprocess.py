"""Fine-tuning in two phases, in this process: a tiny space with exits on the digits."""

import json
import random
from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch

from cluster.checkpoint import Checkpoints
from cluster.progress import Reporter
from jobs import files
from jobs.config import load
from jobs.job import opened
from jobs.tools import postprocess
from jobs.tools.postprocess import Tuning, fine_tune, folder
from jobs.train import train_supernet
from jobs.workers import trainer
from ofa.exits import combined
from ofa.export import from_safetensors
from ofa.images import resize
from ofa.norms import calibrate

TINY = str(helpers.TINY)
SPACE = "ofav2_mbv3_ee_b_w0.1_32px"
SETS = [f"space={SPACE}", "choices.resolutions=[12]", "train.backend=local", "train.workers=1", "train.checkpoint_s=0",
        "data.selection=0.1", "data.test=0.8", 'train.phases=[{name="a",epochs=1,lr=0.1,joint_exits="uniform"}]',
        "measure.calibration_images=64"]  # fmt: skip
SHORT = Tuning(optimizer="sgd", epochs=4, patience=2, lr=0.02)


class Stop(Exception):
    """What kills a training here."""


@pytest.fixture(scope="module")
def config():
    return load(TINY, SETS)


@pytest.fixture(scope="module")
def store(config, tmp_path_factory):
    """A store with the trained run."""
    store = str(tmp_path_factory.mktemp("runs"))
    with opened(config, store, Reporter("plain"), "") as job:
        train_supernet(job)
    return store


@pytest.fixture
def job(config, store):
    with opened(config, store, Reporter("plain"), "CONFIG") as job:
        yield job


@pytest.fixture(scope="module")
def arch(config):
    return config.search_space.uniform(12, 3, 2, 3, 3)


@pytest.fixture(scope="module")
def mixed(config, store, arch):
    """The result of a network whose exits were trained together and are added up."""
    with opened(config, store, Reporter("plain"), "CONFIG") as job:
        [found] = fine_tune(job, [arch], replace(SHORT, exits="MIX", optimizer="adamw", lr=0.005))
    return found


def history(job, found, part):
    """The reports of one phase."""
    file = files.supernet_meta(postprocess.PHASE, folder(found.name, part))
    return json.loads(job.run.read(file))["history"]


class TestTheTwoPhases:
    def test_the_second_trains_as_many_epochs_as_were_best_on_both_splits_from_the_supernets_weights(
        self, job, arch, monkeypatch
    ):
        plans, trained = [], postprocess.train

        def train(job, plan, at, data=None):
            plans.append((plan, data))
            return trained(job, plan, at, data)

        monkeypatch.setattr(postprocess, "train", train)
        monkeypatch.setattr(postprocess, "write", lambda *arguments, **settings: None)
        [found] = fine_tune(job, [arch], SHORT)
        (first, own), (second, joined) = plans
        start = files.supernet("a").key
        assert own is None and first.weights == second.weights and second.weights.endswith(start)
        assert set(joined.splits) == {"train"} and joined.held_out is None and joined.scale == job.data.scale
        both = torch.cat([job.data.train.labels, job.data.selection.labels])
        assert torch.equal(joined.train.labels, both)
        assert torch.equal(joined.train.pixels, torch.cat([job.data.train.pixels, job.data.selection.pixels]))
        rows = history(job, found, "second")
        assert [row["epoch"] for row in rows] == list(range(1, found.epochs + 1))
        assert not any("largest" in row for row in rows)
        assert found.top1 == found.history[found.epochs - 1] == max(found.history)
        assert found.history.index(found.top1) == found.epochs - 1
        assert [row["largest"] for row in history(job, found, "first")] == list(found.history)
        for plan, images in ((first, len(job.data.train)), (second, len(both))):  # one cosine over the epochs at most
            steps = images // 64
            half = plan.lr_at(0, 2 * steps, steps)
            assert half == pytest.approx(0.01) and plan.lr_at(0, 0, steps) == pytest.approx(0.02)

    def test_the_first_ends_once_patience_has_passed_without_a_better_epoch(self, job, arch, monkeypatch):
        """At a learning rate that changes nothing the first epoch is the best."""
        monkeypatch.setattr(postprocess, "write", lambda *arguments, **settings: None)
        [found] = fine_tune(job, [arch], replace(SHORT, lr=1e-30, weight_decay=0.0))
        assert (found.epochs, len(found.history)) == (1, 3)
        assert found.before == found.top1 == found.history[-1]
        [patient] = fine_tune(job, [arch], replace(SHORT, lr=1e-30, weight_decay=0.0, patience=9))
        assert (patient.epochs, len(patient.history)) == (1, 4)

    @pytest.mark.slow
    def test_killed_after_every_few_checkpoints_it_ends_with_the_same_bytes(self, job, config, arch, mixed, tmp_path):
        saved = 0

        class Stopping(Checkpoints):
            def _publish(self, *arguments):
                nonlocal saved
                super()._publish(*arguments)
                saved += 1
                if saved % 17 == 0:
                    raise Stop

        with opened(config, str(tmp_path), Reporter("plain"), "CONFIG") as other:
            for key in [*job.run.keys("supernet/"), "train.done.json", "config.toml"]:
                other.run.store.write(f"{other.run.id}/{key}", job.run.raw(key))
        stops = 0
        original, trainer.Checkpoints = trainer.Checkpoints, Stopping
        try:
            while True:
                try:
                    with opened(config, str(tmp_path), Reporter("plain"), "CONFIG") as other:
                        [found] = fine_tune(other, [arch], mixed.tuning)
                        break
                except Stop:
                    stops += 1
        finally:
            trainer.Checkpoints = original
        assert stops >= 2 and found == mixed
        for file in (found.weights, files.finetuned(found.name), files.subnet(found.name, ".safetensors")):
            assert other.run.read(file) == job.run.read(file)

    def test_its_objects_are_recorded_and_a_finished_one_is_not_repeated(self, job, mixed, monkeypatch):
        assert not list(job.run.problems())
        assert not [key for key in job.run.keys(files.finetuning(mixed.name)) if "checkpoint" in key]
        monkeypatch.setattr(postprocess, "train", lambda *arguments: pytest.fail("it was trained before"))
        [again] = fine_tune(job, [mixed.arch], mixed.tuning)
        assert again == mixed


class TestExitsTogether:
    def test_losses_and_logits_have_the_weights_of_the_scheme(self, job, arch):
        plan = postprocess.plan_for(job, arch, replace(SHORT, exits="MIX"), "")
        [lesson] = plan.phases[0].lessons(random.Random(0))
        assert lesson.exits == (1, 2, 3) and lesson.weights == pytest.approx((3 / 6, 2 / 6, 1 / 6))
        assert plan.phases[0].summed_exits == "rising"

    def test_the_exported_network_and_the_test_top1_are_those_of_the_sum(self, ofa, job, store, mixed):
        """Against the logits of every exit of the trained weights, added up here."""
        evaluator = postprocess.evaluator(job, mixed)
        weights, exits = (1 / 6, 2 / 6, 3 / 6), (1, 2, 3)
        batches = list(evaluator.batches(evaluator.calibration, 12))
        statistics = calibrate(evaluator.net, mixed.arch, batches, exits)
        images = resize(evaluator.scale(job.test.pixels), 12)
        with torch.no_grad():
            logits = evaluator.net.eval()(images, mixed.arch, statistics, exits=exits)
            wanted = sum(weight * one for weight, one in zip(weights, logits, strict=True))
            path = f"{job.run.url}/{files.subnet(mixed.name, '.safetensors')}"
            network, description = from_safetensors(path)
            torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-5)
        assert description.exits == exits and description.exit_weights == pytest.approx(weights)
        assert description.outputs == ["output"]
        top1 = float(np.mean(wanted.argmax(1).numpy() == job.test.labels.numpy()))
        words = [TINY, "--store", store, *(word for setting in SETS for word in ("--set", setting))]
        code, out, err = ofa("eval", *words, "--finetuned", mixed.name, "--json")
        assert code == 0, err
        row = json.loads(out.splitlines()[-1])
        assert (row["key"], row["split"], row["images"]) == (mixed.name, "test", len(job.test))
        assert row["top1"] == pytest.approx(top1, abs=1.5 / len(job.test))

    def test_the_sum_is_not_the_last_exit(self, job, mixed):
        evaluator = postprocess.evaluator(job, mixed)
        summed = evaluator.summed_logits(mixed.arch, "rising", job.data.selection)
        every = evaluator.logits_by_exit(mixed.arch, (1, 2, 3), job.data.selection)
        assert torch.equal(summed, combined(list(every), (1 / 6, 2 / 6, 3 / 6)))
        assert not torch.equal(summed.argmax(1), every[-1].argmax(1))


def test_the_command_prints_the_result_and_how_to_test_it(ofa, store, arch):
    words = [TINY, "--store", store, *(word for setting in SETS for word in ("--set", setting))]
    tuning = ["--two-phase", "--epochs", 1, "--patience", 1, "--lr", 0.001]
    code, out, err = ofa("finetune", *words, "--arch", arch.key, *tuning, "--exits", "all")
    assert code == 0, err
    name = out.split(": top-1 on selection")[0]
    assert name.startswith(f"{arch.key}-") and f"--finetuned {name}" in out
    assert "after epoch 1 of 1; trained on training and selection images for 1 epochs" in out
    code, out, _ = ofa("finetune", *words, "--arch", arch.key, *tuning, "--exits", "all", "--json")
    [result] = [row for row in map(json.loads, out.splitlines()) if row["event"] == "result"]
    assert code == 0 and result["name"] == name
    assert result["tuning"] == {"optimizer": "adamw", "exits": "UNIF", "epochs": 1, "patience": 1, "lr": 0.001, "batch": 64,
                                "weight_decay": 0.0005, "distil": 0.0}  # fmt: skip
    code, _, err = ofa("eval", *words, "--finetuned", name, "--split", "selection")
    assert code == 2 and "was trained on the selection split too" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arch", "{arch}", "--two-phase", "--patience", "0"], "--patience"),
        (["--arch", "{arch}", "--two-phase", "--weights", "MIX"], "--weights is of several exits; give --exits all too"),
        (["--arch", "{arch}", "--two-phase", "--exits", "all", "--weights", "MAX"], "there are UNIF, ASC, DESC, MIX"),
        (["--arch", "{arch}", "--two-phase", "--optimizer", "adam"], "--optimizer is 'adam'; there are sgd, adamw"),
        (["--arch", "{arch}", "--patience", "3"], "--patience is an option of a fine-tuning in two phases"),
        (["--arch", "{arch}", "--arch", "{arch}"], "2 networks are given; give one"),
        (["--two-phase"], "give networks, --arch NAME, or --front"),
        (["--two-phase", "--front"], "'front.json' is not in"),
        (["--arch", "r14-x1-d2-k33-e33", "--two-phase"], "is not in the space"),
    ],
)
def test_what_cannot_be_done_is_one_line(ofa, store, arch, words, says):
    words = [word.format(arch=arch.key) for word in words]
    settings = [TINY, "--store", store, *(word for setting in SETS for word in ("--set", setting))]
    code, _, err = ofa("finetune", *settings, *words)
    assert code == 2 and says in err and err.rstrip().splitlines()[-1].startswith("ofa"), err


def test_exits_of_a_space_with_one_are_one_line(ofa, tmp_path):
    one = load(TINY, ["train.backend=local", "train.workers=1", *SETS[4:7]]).search_space.smallest()
    sets = ["train.backend=local", "train.workers=1", 'train.phases=[{name="a",epochs=1,lr=0.1,choices={resolutions=[24]}}]',
            "data.selection=0.1", "data.test=0.8"]  # fmt: skip
    words = [TINY, "--store", tmp_path, *(word for setting in sets for word in ("--set", setting))]
    assert ofa("train", *words)[0] == 0
    code, _, err = ofa("finetune", *words, "--arch", one.key, "--two-phase", "--exits", "all")
    assert code == 2 and "the space digits has a single exit; leave out --exits and --weights" in err
    code, _, err = ofa("eval", *words, "--finetuned", "some")
    assert code == 2 and "called 'some'; there is none: `ofa finetune --two-phase` makes them" in err
