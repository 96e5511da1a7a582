import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ofa.images import Augment, Scale, Split, mirrored, resize, shard_size, shards, steps_per_epoch, torch_generator

PLAIN = Scale((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_workers_share_an_epoch_without_overlap(world):
    parts = [list(shards(100, 24, random.Random("e"), number=number, count=world)) for number in range(world)]
    alone = list(shards(100, 24, random.Random("e"), number=0, count=1))
    assert len(alone) == steps_per_epoch(100, 24) == 4
    for step, whole in enumerate(alone):
        together = torch.cat([part[step] for part in parts])
        assert len(whole) == 24
        assert sorted(together.tolist()) == sorted(whole.tolist())
    assert len(set(torch.cat(alone).tolist())) == 96


def test_fewer_images_than_a_batch_are_one_step():
    assert [len(index) for index in shards(10, 64, random.Random(0), number=0, count=1)] == [10]


@pytest.mark.parametrize(("batch", "count"), [(24, 5), (7, 7), (64, 3)])
def test_shards_of_an_uneven_batch_differ_by_one_image(batch, count):
    found = [len(next(shards(100, batch, random.Random("e"), number=number, count=count))) for number in range(count)]
    assert found == [shard_size(batch, number, count) for number in range(count)]
    assert sum(found) == batch and max(found) - min(found) <= 1


def test_one_stream_crops_alike_and_another_does_not():
    x = pixels()
    augment = Augment(min_area=0.5, flip=True)
    one, same, other = (augment(x, PLAIN, torch_generator(random.Random(seed))) for seed in ("a", "a", "b"))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == x.shape


def test_a_crop_of_everything_without_flip_changes_only_the_shape_of_things():
    """With the whole area and the aspect ratio clamped to the image, at most one side is cut."""
    x = (
        torch.arange(32, dtype=torch.uint8).view(1, 1, 1, 32).expand(64, 3, 32, 32).contiguous()
    )  # brightness grows to the right
    cropped = Augment(min_area=1.0, flip=False)(x, PLAIN, torch_generator(random.Random(0)))
    assert (cropped[:, :, :, 1:] >= cropped[:, :, :, :-1] - 1e-4).all()  # never mirrored


def test_flip_mirrors_about_half():
    x = torch.arange(32, dtype=torch.uint8).expand(400, 3, 32, 32).contiguous()
    flipped = Augment(min_area=1.0, flip=True)(x, PLAIN, torch_generator(random.Random(0)))
    share = (flipped[:, 0, 0, -1] < flipped[:, 0, 0, 0]).float().mean().item()
    assert 0.4 < share < 0.6


def test_colours_change_as_pillow_changes_them():
    """Each at a factor of 1.5, against PIL.ImageEnhance, which rounds to whole levels."""
    from PIL import Image, ImageEnhance, ImageOps

    from ofa import images as ours

    levels = pixels(1)[0]
    picture = Image.fromarray(levels.permute(1, 2, 0).numpy())
    x, half = levels[None].float() / 255, torch.tensor([0.5])
    theirs = {
        ours._brightness: ImageEnhance.Brightness(picture).enhance(1.5),
        ours._contrast: ImageEnhance.Contrast(picture).enhance(1.5),
        ours._saturation: ImageEnhance.Color(picture).enhance(1.5),
        ours._autocontrast: ImageOps.autocontrast(picture),
    }
    for change, picture_then in theirs.items():
        expected = torch.from_numpy(np.asarray(picture_then).copy()).permute(2, 0, 1)
        assert (change(x, half)[0] * 255 - expected).abs().max() < 3.0, change
    sharp = torch.from_numpy(np.asarray(ImageEnhance.Sharpness(picture).enhance(1.5)).copy()).permute(2, 0, 1)
    inside = (ours._sharpness(x, half)[0] * 255 - sharp)[:, 1:-1, 1:-1]  # Pillow leaves the border as it is
    assert inside.abs().max() < 3.0
    assert torch.equal(ours._solarise(x, torch.ones(1)), 1 - x)
    posterised = ours._posterise(x, torch.ones(1))[0] * 16
    assert torch.equal(posterised, (levels // 16).float())


def test_randaugment_moves_and_colours_and_stays_in_range():
    x = pixels(200)
    still = Augment(1.0, False, crop=False)(x, PLAIN, torch_generator(random.Random(0)))
    torch.testing.assert_close(still, x.float() / 255)
    augment = Augment(1.0, False, crop=False, operations=2, magnitude=1.0)
    changed = augment(x, PLAIN, torch_generator(random.Random(0)))
    assert torch.equal(changed, augment(x, PLAIN, torch_generator(random.Random(0))))
    assert changed.min() >= 0 and changed.max() <= 1
    apart = (changed - still).abs().amax((1, 2, 3)) > 1e-3
    assert 0.85 < apart.float().mean() <= 1  # two draws of thirteen, one of which changes nothing
    weak = Augment(1.0, False, crop=False, operations=2, magnitude=0.0)(x, PLAIN, torch_generator(random.Random(0)))
    assert (weak - still).abs().mean() < 0.02  # only autocontrast has no strength


def test_a_rotation_by_randaugment_is_a_rotation():
    """By 30 degrees at full strength, against Pillow's."""
    from PIL import Image

    from ofa import images as ours

    levels = torch.zeros(32, 32, dtype=torch.uint8)
    levels[6:26, 14:18] = 255  # an upright bar
    theta = ours._geometry(torch.tensor([1]), torch.tensor([1.0]))
    grid = F.affine_grid(theta, [1, 1, 32, 32], align_corners=False)
    turned = F.grid_sample(levels[None, None].float(), grid, align_corners=False)[0, 0]
    theirs = [np.asarray(Image.fromarray(levels.numpy()).rotate(way, Image.Resampling.BILINEAR)) for way in (30, -30)]
    assert min(np.abs(turned.numpy() - other).mean() for other in theirs) < 2.0


@pytest.mark.parametrize("operations", [0, 2])
def test_augmenting_runs_on_the_images_own_device(operations):
    """On torch's meta device, which refuses tensors of another device as a GPU does; the random numbers are the CPU's."""
    augment = Augment(0.5, True, colours=(0.2, 0.2, 0.2) if operations else (0.0, 0.0, 0.0), operations=operations)
    x = augment(pixels().to("meta"), PLAIN, torch_generator(random.Random(0)))
    assert x.device.type == "meta"
    assert x.shape == (6, 3, 32, 32)


def test_alternating_flips_show_every_image_in_both_forms_in_two_epochs():
    turned = [mirrored(1000, random.Random(3), epoch) for epoch in range(4)]
    assert torch.equal(turned[0], ~turned[1]) and torch.equal(turned[0], turned[2]) and torch.equal(turned[1], turned[3])
    assert 400 < int(turned[0].sum()) < 600
    assert not torch.equal(turned[0], mirrored(1000, random.Random(4), 0))
