"""The times of evaluations by batch size, and what depends on the batch."""

import random

import pytest
import torch

from ofa.batches import HOST_BYTES, LEAST, MOST, ROUNDS, evaluation_times_ms, sizes, times_ms
from ofa.evaluate import Evaluator
from ofa.images import Scale, Split
from ofa.memory import peak_bytes
from ofa.spaces import get_space
from ofa.supernet import Supernet

SPACE = get_space("digits")
SIZES = [32, 64, 128, 256, 512, 1024]


class Device:
    """Evaluations that take the given milliseconds for an image, by their own clock; the first of each size takes longer."""

    def __init__(self, image_ms, fits=MOST):
        self.image_ms, self.fits, self.now_s, self.asked = image_ms, fits, 0.0, []

    def evaluate(self, size):
        if size > self.fits:
            raise torch.OutOfMemoryError
        first = size not in self.asked
        self.asked.append(size)
        self.now_s += size * self.image_ms[size] / 1e3 + 10 * first

    def times(self):
        return times_ms(self.evaluate, SIZES, clock=lambda: self.now_s)


def test_each_size_has_its_time_without_its_first_evaluation():
    device = Device({32: 5.0, 64: 4.0, 128: 3.0, 256: 2.5, 512: 2.25, 1024: 2.5})
    assert device.times() == pytest.approx(device.image_ms)
    assert sorted(device.asked) == sorted(SIZES * (ROUNDS + 1))


def test_no_larger_one_is_tried_after_two_in_a_row_that_are_not_faster():
    device = Device({32: 3.0, 64: 4.0, 128: 2.0, 256: 2.0, 512: 3.0, 1024: 1.0})
    assert list(device.times()) == [32, 64, 128, 256, 512]


def test_what_does_not_fit_the_memory_is_left_out():
    assert list(Device(dict.fromkeys(SIZES, 1.0) | {64: 0.9, 128: 0.8}, fits=200).times()) == [32, 64, 128]
    with pytest.raises(torch.OutOfMemoryError):
        Device(dict.fromkeys(SIZES, 1.0), fits=16).times()


def test_one_slow_evaluation_does_not_decide():
    slow = iter([True])
    device = Device(dict.fromkeys(SIZES, 1.0) | {64: 0.5})
    evaluate = device.evaluate

    def disturbed(size):
        if size == 64 and device.asked.count(64) == 2 and next(slow, False):
            device.now_s += 60
        evaluate(size)

    device.evaluate = disturbed
    found = device.times()
    assert min(found, key=found.get) == 64 and found[64] == pytest.approx(0.5)


@pytest.mark.parametrize(("images", "expected"), [(10, [32]), (360, [32, 64, 128, 256]), (512, [32, 64, 128, 256, 512])])
def test_sizes_go_up_to_the_images_that_there_are(images, expected):
    assert sizes(Supernet(SPACE, 10), SPACE.largest(), images) == expected


def test_on_a_cpu_the_activations_of_a_batch_stay_within_a_gibibyte():
    large = get_space("ofa_mbv3_w1.0")
    with torch.device("meta"):
        net = Supernet(large, 1000)
    arch = large.largest()
    assert sizes(net, arch, 10**6)[-1] > LEAST, "on another device the images alone count"
    host = Supernet(SPACE, 10)
    host.graph = lambda arch: large.graph(arch, (), 1000)
    most = sizes(host, arch, 10**6)[-1]
    assert most * peak_bytes(large.graph(arch, (), 1000), arch.resolution) <= HOST_BYTES
    assert most < sizes(net, arch, 10**6)[-1] < MOST


def images(count, seed):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Split(pixels, torch.arange(count) % 10)


def evaluator(batch, calibration_batch):
    net = Supernet(SPACE, 10, torch.Generator().manual_seed(0)).eval()
    return Evaluator(net, Scale((0.5,) * 3, (0.3,) * 3), images(48, 1), batch, calibration_batch)


def test_an_evaluation_is_timed_at_every_size_with_the_given_network():
    found = evaluation_times_ms(evaluator(32, 0), SPACE.smallest(), images(64, 2))
    assert list(found) == [32, 64]
    assert all(took > 0 for took in found.values())


class TestTheBatchOfAnEvaluation:
    """With a calibration batch of its own."""

    def test_changes_nothing_but_rounding(self):
        rng, held_out = random.Random(1), images(100, 2)
        for arch in (SPACE.smallest(), SPACE.largest(), SPACE.sample(rng)):
            expected, *others = (evaluator(batch, 16).logits(arch, held_out) for batch in (16, 32, 64, 128))
            for logits in others:
                assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5
                assert logits.argmax(1).tolist() == expected.argmax(1).tolist()

    def test_without_one_changes_the_statistics(self):
        arch = SPACE.largest()
        same = [evaluator(batch, 16).statistics(arch) for batch in (16, 48)]
        other = evaluator(48, 0).statistics(arch)
        assert all(torch.equal(a, b) for name in same[0] for a, b in zip(same[0][name], same[1][name], strict=True))
        assert any(not torch.allclose(a, b) for name in other for a, b in zip(same[0][name], other[name], strict=True))
