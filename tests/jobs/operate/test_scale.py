"""What is asked of a search under way: written by `ofa scale`, read now and then."""

import pytest

from cluster.errors import InputError
from cluster.run import Run
from jobs import files
from jobs.operate.scale import Overrides, Scale, override, read


@pytest.fixture
def run(tmp_path):
    run = Run.open(str(tmp_path), "r", "title = 1\n", code="test")
    run.begin("train")
    return run


def test_what_is_asked_is_read_and_what_is_not_asked_again_stays(run):
    assert read(run) == Overrides()
    assert override(run, evaluators=8) == read(run) == Overrides(evaluators=8)
    assert override(run, evaluations=500) == read(run) == Overrides(8, 500)
    assert override(run, evaluators=2) == Overrides(2, 500)
    assert list(run.problems()) == ["no step has finished"]


def test_a_run_looks_only_now_and_then(run):
    scale = Scale(run)
    assert scale.overrides() == Overrides()
    override(run, evaluators=3)
    assert scale.overrides() == Overrides()
    scale.read_at -= scale.interval_s
    assert scale.overrides() == Overrides(evaluators=3)


@pytest.mark.parametrize(
    ("gpus", "share", "evaluators"),
    [(None, 0.5, 8), (2, 0, 8), (2, 0.5, 4), (2, 0.4, 4), (2, 0.3, 6), (9, 0.5, 8), (5, 2, 2), (0, 0.5, 1)],
)
def test_no_more_evaluators_than_fit_the_gpus(run, gpus, share, evaluators):
    assert override(run, evaluators=8, gpus=gpus).evaluators_on(share) == evaluators
    assert Overrides(gpus=gpus).evaluators_on(share) is None


@pytest.mark.parametrize(
    "text", ["8", "{", '{"gpus": -1}', '{"evaluators": 0}', '{"evaluators": true}', '{"workers": 8}', '{"evaluations": "9"}']
)
def test_what_is_not_understood_is_one_line(run, text):
    run.store.write(f"r/{files.SCALE}", text.encode())
    with pytest.raises(InputError, match=r'partial/scale.json: is not like \{"evaluators": 8, "evaluations": 500\}'):
        read(run)
