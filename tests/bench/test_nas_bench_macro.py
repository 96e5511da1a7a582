"""The bench of rankings on NAS-Bench-Macro: one accuracy for each network, equal updates, and nothing evaluated twice."""

import itertools
import random
from dataclasses import replace

import pytest

from bench.nas_bench_macro import CONFIG, RECIPES, SPACE, Score, Truth, evaluate, known, parsed, settings_of, table
from jobs.config import load


@pytest.fixture(scope="module")
def truth():
    """A made table: what blocks bring, and a little noise."""
    rng = random.Random(0)
    rows = {}
    for digits in itertools.product("012", repeat=8):
        key = "".join(digits)
        rows[key] = {"test_acc": [80 + sum(map(int, key)) / 2 + rng.gauss(0, 0.1) for _ in range(3)]}
    return Truth.of(rows)


def options(*more):
    return parsed(["--data", "images", "--table", "table.json", *more])


def test_keys_of_one_network_have_one_accuracy():
    rows = {key: {"test_acc": [value, value + 1, value + 2]} for key, value in (("20001201", 80.0), ("20010210", 90.0))}
    truth = Truth.of(rows)
    assert truth.mean == {"20010210": 86.0}
    assert truth.alone == {"20010210": (90.0, 91.0, 92.0)}


def test_a_sample_has_different_networks_and_a_larger_one_only_adds_some(truth):
    assert len(truth.mean) == SPACE.size
    small, large = truth.sample(20, 1), truth.sample(200, 1)
    assert large[:20] == small and len(set(large)) == 200
    assert truth.sample(20, 2) != small
    assert sorted(truth.sample(SPACE.size, 1)) == sorted(truth.mean)


def test_scores_are_taus_and_distances_from_the_best(truth):
    keys = ["22222222", "11111111", "00000000"]
    right = Score.of(truth, {key: float(-i) for i, key in enumerate(keys)})
    assert (right.tau, right.best, right.regret_in_sample) == (1.0, truth.mean[keys[0]], 0.0)
    wrong = Score.of(truth, {key: float(i) for i, key in enumerate(keys)})
    assert (wrong.tau, wrong.best) == (-1.0, truth.mean[keys[2]])
    assert wrong.regret_in_sample == truth.mean[keys[0]] - truth.mean[keys[2]]
    assert wrong.regret == max(truth.mean.values()) - truth.mean[keys[2]]


def test_the_table_has_each_recipe_and_the_rankings_to_compare_with(truth):
    keys = truth.sample(40, 1)
    lines = table(truth, keys, {"mine": [{key: truth.mean[key] for key in keys}] * 2}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| mine", "| multiply-accumulates", "| one training alone, against the other two"
    ]  # fmt: skip
    assert lines[2].split(" | ")[1] == "1.000 (1.000 to 1.000)"


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_equally_many_epochs_and_ends_with_the_whole_space(name):
    config = load(CONFIG, settings_of(name, 1, options("--epochs", "12")))
    assert sum(phase.epochs for phase in config.phases) == 12
    assert config.phases[-1].space == config.search_space == SPACE
    other = load(CONFIG, settings_of(name, 2, options("--epochs", "12")))
    assert other.train == config.train and other.id != config.id


def test_the_config_has_the_recipe_of_delayed_shrinking():
    shipped, delayed = load(CONFIG), load(CONFIG, settings_of("delayed", 1, options("--epochs", "12")))
    assert shipped.phases == delayed.phases
    assert replace(delayed.train, backend="ray", workers=2, validate_every=3) == shipped.train


def test_a_recipe_with_an_extra_and_settings_of_all_trainings():
    found = options("--only", "whole+smoothing", "--set", "choices.resolutions=[16]")
    config = load(CONFIG, settings_of("whole+smoothing", 1, found))
    assert (config.train.label_smoothing, config.search_space.resolutions) == (0.1, (16,))


@pytest.mark.parametrize("name", ["while", "whole+flop"])
def test_an_unknown_recipe_is_refused(capsys, name):
    with pytest.raises(SystemExit):
        options("--only", name)
    assert f"{name!r} is no recipe; there are shrinking, whole, sandwich, extremes, delayed" in capsys.readouterr().err


def test_an_evaluation_that_was_killed_goes_on_with_what_is_missing(tmp_path):
    file, asked = tmp_path / "top1.jsonl", []

    def top1(key):
        asked.append(key)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return float(key) / 100

    with pytest.raises(KeyboardInterrupt):
        evaluate(file, ["10", "20", "30"], top1)
    with file.open("a") as cut:
        cut.write('{"key": "3')
    evaluate(file, ["10", "20", "30"], top1)
    assert asked == ["10", "20", "30", "30"]
    assert known(file) == {"10": 0.1, "20": 0.2, "30": 0.3}
