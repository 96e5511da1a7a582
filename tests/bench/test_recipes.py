"""The study of recipes: equal updates, the sub-networks that are compared, and its table."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import content, write_folders

from bench import recipes
from cluster.store import open_store
from jobs.config import load

DATA = ["data.source=data/cifar10"]


def trained(name, seed=1, epochs=15):
    return recipes.trainings(name, seed, epochs, DATA)


@pytest.mark.parametrize("name", list(recipes.RECIPES))
@pytest.mark.parametrize("epochs", [15, 4, 40])
def test_every_recipe_makes_equally_many_updates(name, epochs):
    [one] = trained(name, epochs=epochs)
    assert sum(phase.epochs for phase in one.config.phases) == epochs
    assert one.config.train.batch == load(recipes.CONFIG).train.batch
    assert list(one.archs) == ["smallest", "middle", "largest", *(f"random {number}" for number in range(10))]
    space = one.config.search_space
    assert all(space.contains(space.named(key)) for key in one.archs.values())


def test_shrinking_is_the_shipped_config():
    [one] = trained("shrinking")
    assert one.config.phases == load(recipes.CONFIG).phases


def test_the_delayed_recipe_trains_the_largest_alone_and_then_all_with_a_ramp():
    [one] = trained("delayed")
    first, second = one.config.phases
    space = one.config.search_space
    assert {lesson.arch.depth for lesson in first.lessons(random.Random(0))} == {space.largest().depth}
    assert second.space == space and 0 < second.ramp_epochs < 1
    lessons = second.lessons(random.Random(0), 0.1)
    assert [lesson.learns_from for lesson in lessons] == ["labels", "first", "first", "first"]
    assert [lesson.share < 1 for lesson in lessons] == [False, True, True, True]
    train = one.config.train
    assert (train.schedule, train.momentum_across_phases, train.gradients) == ("whole", True, "sum")
    assert one.networks == 8 + 7 * 4


def test_variants_of_the_delayed_recipe_differ_in_one_thing():
    plain = trained("delayed")[0].config
    mean, at_once, average = (trained(f"delayed{end}")[0].config for end in ("-mean", "-no-ramp", "+average"))
    assert mean.train.gradients == "mean" and mean.phases == plain.phases
    assert [phase.ramp_epochs for phase in at_once.phases] == [0, 0]
    assert average.train.average == 0.998 and average.phases == plain.phases
    assert len({one.id for one in (plain, mean, at_once, average)}) == 4


def test_one_recipe_and_seed_has_one_result_whatever_else_is_asked_for(tmp_path):
    one, again, other = (trained("delayed", seed)[0].kept(tmp_path) for seed in (1, 1, 2))
    assert one == again != other != trained("delayed+flip", 2)[0].kept(tmp_path)


def test_the_random_networks_of_coupled_stages_are_coupled():
    [one] = trained("coupled")
    space = one.config.search_space
    for label, key in one.archs.items():
        arch = space.named(key)
        for stage in range(space.stage_count):
            expands = {arch.expand[i] for i, slot in enumerate(space.slots) if slot.stage == stage} - {0}
            assert len(expands) == 1 and (arch.depth[stage], *expands) in recipes.PAIRS, label


def test_networks_alone_have_all_updates_or_the_share_that_ten_have():
    full = trained("alone")
    assert [list(one.archs) for one in full] == [["smallest"], ["middle"], ["largest"]]
    assert [sum(p.epochs for p in one.config.phases) for one in full] == [15] * 3
    for one in full:  # without the kernels, and their transforms, and the widths of other networks
        assert [len(one.config.search_space.values(field)) for field in ("kernel", "expand")] == [1, 1]
    for name, count, epochs in (("alone", 3, 15), ("alone-tenth", 13, 2), ("alone-four-tenths", 13, 6)):
        ones = trained(name)
        assert len(ones) == count and {p.epochs for one in ones for p in one.config.phases} == {epochs}
        for one in ones:
            [key] = one.archs.values()
            [phase] = one.config.phases
            assert phase.extremes[0].key == phase.extremes[1].key == key
        assert len({one.config.id for one in ones}) == count


def test_a_row_has_the_mean_and_the_range_over_seeds():
    found = [{"smallest": 0.5, "random 0": 0.5, "random 1": 0.7}, {"smallest": 0.6, "random 0": 0.6, "random 1": 0.6}]
    assert recipes.row("x", found, 30) == "| x | 30 | 2 | 55.0 (50.0 to 60.0) |  |  | 60.0 (60.0 to 60.0) |"


def test_a_recipe_that_is_not_known_is_refused(capsys):
    for name in ("delay", "delayed+x"):
        with pytest.raises(SystemExit):
            recipes.main(["--data", "x", "--only", name])
        assert "is no recipe; there are shrinking, whole" in capsys.readouterr().err


def test_what_is_stored_is_not_trained_again(tmp_path, capsys):
    """With the results of all trainings in the store, the command only prints the table."""
    arguments = ["--data", "data/cifar10", "--store", str(tmp_path), "--only", "delayed", "alone", "--seeds", "1", "2"]
    for seed in (1, 2):
        for name in ("delayed", "alone"):
            for one in trained(name, seed):
                one.kept(tmp_path).write_text(json.dumps(dict.fromkeys(one.archs, 0.25 * seed)))
    recipes.main(arguments)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        f"| delayed | 36 | 2 | {' | '.join(['37.5 (25.0 to 50.0)'] * 4)} |",
        f"| alone | 45 | 2 | {' | '.join(['37.5 (25.0 to 50.0)'] * 3)} |  |",
    ]
    assert len(list(Path(tmp_path).iterdir())) == 8
    for seed in (1, 2):
        for one in trained("delayed", seed):
            path = one.kept(tmp_path, recipes.Tuning(2, 0.01))
            path.write_text(json.dumps(dict.fromkeys(one.archs, 0.3 * seed)))
    recipes.main([*arguments, "--finetune", "2"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[2] == f"| delayed@2x0.01 | 36 | 2 | {' | '.join(['45.0 (30.0 to 60.0)'] * 4)} |"
    assert [line.split(" | ")[0] for line in rows[1:]] == ["| delayed", "| delayed@2x0.01", "| alone"]


@pytest.mark.slow
def test_a_recipe_is_trained_evaluated_and_fine_tuned(tmp_path):
    """Of noise, in two phases of few steps; a second call trains nothing."""
    images = open_store(str(tmp_path / "images"))
    write_folders(images, content(200))
    sets = [f"data.source={images.url}", "data.selection=20", "train.batch=32", "measure.calibration_images=32"]
    [one] = recipes.trainings("delayed+average", 1, 4, sets)
    short = replace(one, archs={"smallest": one.archs["smallest"]})
    tuning = recipes.Tuning(1, 0.05)
    recipes.train(short, tmp_path, [tuning])
    first = {path: path.read_text() for path in (one.kept(tmp_path), one.kept(tmp_path, tuning))}
    assert all(0 <= json.loads(text)["smallest"] <= 1 for text in first.values())
    recipes.train(short, tmp_path, [tuning])
    assert first == {path: path.read_text() for path in first}
