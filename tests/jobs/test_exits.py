"""What the exits of a network reach, against a loop over exits and images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ensemble.document import Exits
from ensemble.intervals import interval
from jobs.config import load
from jobs.exits import Predictions, cascade_costs, exit_results, network_of
from jobs.report import exits_figure, exits_text
from ofa.cost import cost
from ofa.evaluate import Evaluator
from ofa.exits import exit_weights
from ofa.images import Scale, Split
from ofa.record import Measured
from ofa.supernet import Supernet

CONFIG = load("configs/cifar10_ofav2.toml", ["train.teacher_exits=ascending", "choices.resolutions=[16]"])
SPACE = CONFIG.search_space
ARCH = SPACE.uniform(16, 4, 2, 3, 3)


@pytest.fixture(scope="module")
def predictions():
    generator = torch.Generator().manual_seed(0)
    net = Supernet(SPACE, 4, generator)
    labels = torch.arange(96) % 4
    pixels = torch.randint(0, 200, (96, 3, 16, 16), dtype=torch.uint8, generator=generator) + (labels * 15).view(
        -1, 1, 1, 1
    ).to(torch.uint8)
    images = Split(pixels, labels)
    evaluator = Evaluator(net, Scale((0.4,) * 3, (0.3,) * 3), images, 32)
    return evaluator, [Predictions.of(evaluator, ARCH, part) for part in (images[:48], images[48:])], images


def test_predictions_are_those_of_each_exit_alone(predictions):
    evaluator, (selection, _), images = predictions
    assert selection.logits_ENC.shape == (4, 48, 4)
    for last in range(1, 5):
        alone = evaluator.logits(replace(ARCH, exit=last), images[:48])
        assert np.array_equal(selection.logits_ENC[last - 1], alone.double().numpy())
        assert selection.confidence_EN[last - 1] == pytest.approx(alone.softmax(1).max(1).values.numpy(), abs=1e-6)
        assert np.array_equal(selection.right_EN[last - 1], (alone.argmax(1) == images[:48].labels).numpy())


def test_results_are_those_of_sums_written_out(predictions):
    _, (selection, test), _ = predictions
    found = exit_results(CONFIG, ARCH, 4, selection, test)
    assert Exits.from_json(found.to_json(), "exits.json") == found
    weights = exit_weights("ascending", 4)

    def top1(split, exits):
        total = sum(weights[i - 1] * split.logits_ENC[i - 1] for i in exits)
        return float((total.argmax(axis=1) == split.labels_N).mean())

    for last, row in enumerate(found.singles, start=1):
        assert row.exits == (last,) and row.macs == cost(SPACE, replace(ARCH, exit=last), 4).macs
        assert (row.top1, row.test_top1) == pytest.approx((top1(selection, (last,)), top1(test, (last,))))
        assert row.test_interval == interval(round(row.test_top1 * 48), 48)
    subsets = [tuple(i for i in range(1, 5) if bits >> i - 1 & 1) for bits in range(1, 16)]
    assert found.kept.top1 == pytest.approx(max(top1(selection, exits) for exits in subsets))
    last = found.kept.exits[-1]
    assert found.kept.macs == cost(SPACE, replace(ARCH, exit=last), 4, found.kept.exits).macs


def test_a_cascade_pays_the_heads_of_the_exits_that_an_image_passes():
    first, *others = cascade_costs(CONFIG, ARCH, 4)
    assert first == cost(SPACE, replace(ARCH, exit=1), 4).macs
    for last, found in enumerate(others, start=2):
        assert found > cost(SPACE, replace(ARCH, exit=last), 4).macs
    assert others == sorted(others)


def test_the_cascades_test_results_are_a_loop_over_the_images(predictions):
    _, (selection, test), _ = predictions
    found = exit_results(CONFIG, ARCH, 4, selection, test)
    costs = cascade_costs(CONFIG, ARCH, 4)
    assert [row.macs for row in found.cascade] == sorted(row.macs for row in found.cascade)
    for row in found.cascade:
        spent, right = 0.0, 0
        for n in range(48):
            e = next((e for e, t in enumerate(row.thresholds) if test.confidence_EN[e, n] > t), 3)
            spent += costs[e]
            right += bool(test.right_EN[e, n])
        assert (row.test_macs, row.test_top1) == pytest.approx((spent / 48, right / 48))


def test_the_report_draws_exits_subset_and_cascade(predictions):
    _, (selection, test), _ = predictions
    found = exit_results(CONFIG, ARCH, 4, selection, test)
    figure = exits_figure(found)
    assert [trace.name for trace in figure.data] == ["each exit", "exits added up", "cascade"]
    assert len(figure.data[0].x) == 4 and len(figure.data[2].x) == len(found.cascade)
    assert ARCH.key in exits_text(found) and "ascending weights" in exits_text(found)


def test_the_network_is_the_most_accurate_one_with_several_exits():
    def row(last, top1):
        return Measured(arch=replace(ARCH, exit=last), top1=top1, macs=last, params=1)

    assert network_of((row(1, 0.9), row(2, 0.5), row(3, 0.7))).exit == 3
    assert network_of((row(1, 0.9),)) is None
