"""The context of a step: who reads the test split."""

import ast
from pathlib import Path

import helpers
import pytest
from pictures import write_digits

from cluster.progress import Reporter
from jobs.config import load
from jobs.images.decoding import DataError
from jobs.job import Job, opened
from jobs.tools.eval import evaluate
from jobs.tools.finetune import finetune
from jobs.train import train_supernet

JOBS = Path(__file__).parents[2] / "jobs"
SETS = ["train.backend=local", "train.workers=1", 'train.phases=[{name="a",epochs=1,lr=0.1}]', "choices.resolutions=[16]",
        "measure.calibration_images=64", "data.selection=0.8"]  # fmt: skip


class TestTheTestSplit:
    """Its images are decoded where `Job.test` is read, and before training, where their pixels are not kept."""

    def test_evaluation_fine_tuning_and_export_do_not_read_it(self, tmp_path, monkeypatch):
        """With files that are no images in its place."""
        images = tmp_path / "images"
        write_digits(images)
        monkeypatch.setattr(Job, "need_ray", lambda job, gpus=0: pytest.fail("this run needs no Ray"))
        config = load(str(helpers.TINY), [*SETS, f"data.source={images}"])
        arch = config.search_space.smallest()
        with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
            train_supernet(job)
            assert set(job.data.splits) == {"train", "selection"}
        for path in (images / "test").rglob("*.png"):
            path.write_bytes(b"no image")
        with opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job:
            assert job.data.sizes["test"] == job.run.done("train")["images"]["test"] == 300
            found = finetune(job, arch, 1, 0.01, 0.0)
            assert set(found["before"]) == set(found["after"]) == {"selection"}
            assert Path(found["url"], "subnets", f"{arch.key}.onnx").exists()
            with pytest.raises(DataError, match=r"11 images cannot be decoded, .*: test/"):
                next(evaluate(job, [arch], "test"))

    def test_images_of_it_that_cannot_be_decoded_are_refused_before_training(self, tmp_path):
        images = tmp_path / "images"
        write_digits(images)
        for path in (images / "test").rglob("*.png"):
            path.write_bytes(b"no image")
        config = load(str(helpers.TINY), [*SETS, f"data.source={images}"])
        with (
            opened(config, str(tmp_path / "runs"), Reporter("plain"), "") as job,
            pytest.raises(DataError, match=r"11 images cannot be decoded, .*: test/"),
        ):
            train_supernet(job)
        assert not (tmp_path / "runs").exists()

    def test_only_predict_and_eval_open_it(self):
        found = set()
        for path in sorted(JOBS.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("test", "open"):
                    if node.attr == "test" and isinstance(node.value, ast.Name) and node.value.id in ("job", "own"):
                        found.add(path.relative_to(JOBS).as_posix())
                    if node.attr == "open" and isinstance(node.value, ast.Attribute) and node.value.attr == "held_out":
                        found.add(path.relative_to(JOBS).as_posix())
        assert found == {"predict.py", "tools/eval.py", "job.py"}
