"""How often an evaluation reads images."""

from collections import Counter

import pytest
import torch

from ofa.evaluate import Evaluator
from ofa.images import Scale, Split
from ofa.spaces import get_space
from ofa.supernet import Supernet


class CountingScale:
    """A scale that counts how often it gets each image."""

    def __init__(self):
        self.scale, self.seen = Scale((0.5,) * 3, (0.3,) * 3), Counter()

    def __call__(self, pixels):
        self.seen.update(image.numpy().tobytes() for image in pixels)
        return self.scale(pixels)


def images(count, seed):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Split(pixels, torch.arange(count) % 10)


@pytest.mark.parametrize(("name", "summed"), [("digits", "last"), ("ofav2_mbv3_ee_b_w0.25_32px", "uniform")])
def test_an_evaluation_reads_each_image_once_whatever_the_batch_and_the_exits(name, summed):
    space = get_space(name)
    arch, calibration, held_out = space.largest(), images(10, 1), images(13, 2)
    for batch in (4, 64):
        scale = CountingScale()
        evaluator = Evaluator(Supernet(space, 10, torch.Generator().manual_seed(0)), scale, calibration, batch)
        evaluator.top1(arch, held_out, summed)
        assert set(scale.seen.values()) <= {1, 2}
        once = {image.numpy().tobytes() for image in held_out.pixels}
        assert [scale.seen[image] for image in once] == [1] * 13
        again = sum(scale.seen.values())
        evaluator.top1(arch, held_out, summed)
        assert sum(scale.seen.values()) == again + 13, "statistics are known, and need no image"
        assert again <= 13 + 2 * 10, "calibration reads its images once for each set of exits"
