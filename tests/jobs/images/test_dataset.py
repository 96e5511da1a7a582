import json
from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch
from pictures import with_test

from cluster.progress import Reporter
from jobs.config import load
from jobs.images.dataset import Dataset, Description, load_joined
from jobs.images.dataset import load as load_data
from jobs.images.decoding import DecodingCounts
from jobs.images.source import open_source
from jobs.train import plan_of

TINY = str(helpers.TINY)


def dataset(*overrides):
    return load_data(load(TINY, list(overrides)), Reporter("plain"))


def digits(side):
    """All digits as pixels [N, 3, side, side] and labels [N]."""
    return open_source("digits").train.decoded(side, 1.0, DecodingCounts("digits", 0))


def test_splits_share_no_image_and_lose_none():
    data = dataset()
    splits = with_test(data)
    images = [tuple(pixels.flatten().tolist()) for split in splits.values() for pixels in split.pixels]
    pixels, _ = digits(32)
    assert len(images) == len(pixels) == 1797
    assert sorted(images) == sorted(tuple(p.flatten().tolist()) for p in pixels)
    assert abs(len(data.selection) - 0.2 * 1797) <= 1
    assert abs(len(splits["test"]) - 0.2 * 1797) <= 1
    assert data.sizes == {name: len(split) for name, split in splits.items()}


def test_every_split_has_its_share_of_every_class():
    whole = np.bincount(digits(32)[1])
    for split in with_test(dataset()).values():
        counts = np.bincount(split.labels.numpy(), minlength=10)
        assert np.abs(counts - whole * len(split) / 1797).max() <= 2


def test_the_split_is_the_seeds():
    assert torch.equal(dataset().train.pixels, dataset().train.pixels)
    assert not torch.equal(dataset().train.labels, dataset("seed=2").train.labels)


def test_digits_are_grey_and_as_large_as_the_space_wants():
    data = dataset()
    assert data.train.pixels.shape[1:] == (3, 32, 32)
    assert data.train.pixels.dtype == torch.uint8
    assert torch.equal(data.train.pixels[:, 0], data.train.pixels[:, 2])
    assert int(data.train.pixels.max()) == 255


def test_arrays_bring_the_same_data_set_back():
    data = dataset()
    again = Dataset.of(data.arrays())
    assert again.classes == 10
    assert again.scale == data.scale
    assert set(again.splits) == set(data.splits) == {"train", "selection"}  # the test split goes to no other process
    for name, split in data.splits.items():
        assert torch.equal(split.pixels, again.splits[name].pixels)
        assert torch.equal(split.labels, again.splits[name].labels)


def test_training_and_selection_images_together_are_those_of_both_and_keep_the_scale():
    data, config = dataset(), load(TINY, [])
    joined = load_joined(config, data.scale, Reporter("plain"))
    assert joined.sizes == {"train": data.sizes["train"] + data.sizes["selection"]}
    assert torch.equal(joined.train.pixels, torch.cat([data.train.pixels, data.selection.pixels]))
    assert torch.equal(joined.train.labels, torch.cat([data.train.labels, data.selection.labels]))
    assert Dataset.of(joined.arrays()).scale == joined.scale == data.scale
    alone = Dataset(joined.splits, 10).scale
    assert alone != data.scale and alone.mean == pytest.approx(data.scale.mean, abs=0.01)


def test_the_line_on_a_source_names_what_is_first_and_counts_the_rest():
    classes = [f"class{number}" for number in range(12)]
    left_out = {
        ".txt": ["a\nb.txt"],
        "folders without images": [f"{n}/" for n in range(5)],
        "images in no folder": ["x.png"],
    }
    found = Description("here", classes, {"train": 7, "selection": 2, "test": 1}, left_out)
    assert str(found) == (
        "here: 12 classes (class0, class1, class2, class3, class4, class5, class6, class7 and 4 more), "
        "images: 7 train, 2 selection, 1 test; left out: 1 .txt (a\\nb.txt), "
        "5 folders without images (0/, 1/, 2/ and 2 more), 1 image in no folder (x.png)"
    )
    assert found.to_json()["left_out"]["folders without images"] == {"count": 5, "first": ["0/", "1/", "2/"]}
    many = Description("here", classes, {}, {f".{number}": ["x"] for number in range(11)})
    assert str(many).endswith(".7 (x), and 3 more kinds")


def test_the_line_on_a_source_is_an_event(capsys):
    data = load_data(load(TINY, []), Reporter("json"))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [event] = [event for event in events if event["event"] == "source"]
    assert event == {"event": "source", "text": f"data: {data.description}", **data.description.to_json()}
    assert event["images"] == data.sizes


def test_an_alternating_flip_mirrors_each_image_in_every_other_epoch_across_phases():
    """Against the batches without it, whose order is the same; the augmentation then mirrors nothing."""
    phases = 'train.phases=[{name="a",epochs=1,lr=1},{name="b",epochs=2,lr=1}]'
    config = load(TINY, [phases, "data.flip=true", "data.alternating_flip=true"])
    plain = replace(config.data, alternating_flip=False)
    data, plan, counts = dataset(), plan_of(config, 10), DecodingCounts("digits", 0)
    turned = {}
    for number, (phase, epoch) in enumerate((("a", 0), ("b", 0), ("b", 1))):
        pairs = zip(*(data.batches(plan, images, phase, epoch, (0, 1), counts, 0) for images in (config.data, plain)),
                    strict=True)  # fmt: skip
        for (_, found, labels), (_, before, same_labels) in pairs:
            assert torch.equal(labels, same_labels)
            for one, other in zip(found, before, strict=True):
                flipped = not torch.equal(one, other)
                assert torch.equal(one, other.flip(2) if flipped else other)
                turned.setdefault(tuple(other[0].flatten().tolist()), {})[number] = flipped
    seen = [one for one in turned.values() if len(one) == 3 and any(one.values())]  # without symmetric images
    assert len(seen) > 800
    assert sum(one[0] != one[1] and one[0] == one[2] for one in seen) == len(seen)
    assert 0.4 < sum(one[0] for one in seen) / len(seen) < 0.6
    assert data.augment(plain).flip and not data.augment(config.data).flip
