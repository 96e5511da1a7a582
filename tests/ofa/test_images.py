import random

import pytest
import torch
from torch.nn import functional as F

from ofa.images import Augment, Scale, Split, resize, shards, steps_per_epoch, torch_generator


def pixels(count=6, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def test_scaled_pixels_have_zero_mean_and_unit_deviation():
    split = Split(pixels(50), torch.zeros(50, dtype=torch.int64))
    x = Scale.of(split)(split.pixels)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_resizing_is_torchs_antialiased_bilinear():
    x = pixels().float()
    assert torch.equal(resize(x, 24), F.interpolate(x, size=(24, 24), mode="bilinear", antialias=True))
    assert resize(x, 32) is x


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_share_an_epoch_without_overlap(world):
    parts = [list(shards(100, 24, random.Random("e"), rank=rank, world=world)) for rank in range(world)]
    alone = list(shards(100, 24, random.Random("e"), rank=0, world=1))
    assert len(alone) == steps_per_epoch(100, 24) == 4
    for step, whole in enumerate(alone):
        together = torch.cat([part[step] for part in parts])
        assert len(whole) == 24
        assert sorted(together.tolist()) == sorted(whole.tolist())
    assert len(set(torch.cat(alone).tolist())) == 96


def test_fewer_images_than_a_batch_are_one_step():
    assert [len(index) for index in shards(10, 64, random.Random(0), rank=0, world=1)] == [10]


def test_one_stream_crops_alike_and_another_does_not():
    x = pixels().float()
    augment = Augment(min_area=0.5, flip=True)
    one, same, other = (augment(x, torch_generator(random.Random(seed))) for seed in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == x.shape


def test_a_crop_of_everything_without_flip_changes_only_the_shape_of_things():
    """With the whole area and the aspect ratio clamped to the image, at most one side is cut."""
    x = torch.arange(32.0).view(1, 1, 1, 32).expand(64, 3, 32, 32).contiguous()  # brightness grows to the right
    cropped = Augment(min_area=1.0, flip=False)(x, torch_generator(random.Random(0)))
    assert (cropped[:, :, :, 1:] >= cropped[:, :, :, :-1] - 1e-4).all()  # never mirrored


def test_flip_mirrors_about_half():
    x = torch.arange(32.0).view(1, 1, 1, 32).expand(400, 3, 32, 32).contiguous()
    flipped = Augment(min_area=1.0, flip=True)(x, torch_generator(random.Random(0)))
    share = (flipped[:, 0, 0, -1] < flipped[:, 0, 0, 0]).float().mean().item()
    assert 0.4 < share < 0.6
