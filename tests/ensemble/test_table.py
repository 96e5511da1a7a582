import numpy as np
import pytest

from ensemble.errors import TableError
from ensemble.intervals import interval
from ensemble.table import Table


def table(**changes):
    arrays = {
        "classes_MNK": np.array([[[1, 0], [2, 1]], [[0, 2], [2, 0]]]),
        "probs_MNK": np.array([[[0.9, 0.1], [0.6, 0.3]], [[0.5, 0.5], [1.0, 0.0]]], dtype=np.float32),
        "labels_N": np.array([1, 2]),
        "cost_M": np.array([1.0, 2.0]),
    }
    return Table(**{**arrays, **changes})


def test_a_file_brings_the_same_table_back():
    loaded = Table.from_npz(table().to_npz(), "t.npz")
    for name in ("classes_MNK", "probs_MNK", "labels_N", "cost_M"):
        assert np.array_equal(getattr(loaded, name), getattr(table(), name))
    assert loaded.probs_MNK.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"probs_MNK": np.array([[[0.1, 0.9], [0.6, 0.3]], [[0.5, 0.5], [1, 0]]])},
            "member 0, image 0 are not in descending",
        ),
        ({"probs_MNK": np.full((2, 2, 2), np.nan)}, "0 to 1"),
        ({"probs_MNK": np.full((2, 2, 2), 1.5)}, "0 to 1"),
        ({"labels_N": np.array([1, 2, 3])}, r"labels are \(3,\)"),
        ({"labels_N": np.array([1, -2])}, "must not be negative"),
        ({"labels_N": np.array([1.0, 2.0])}, "whole numbers"),
        ({"classes_MNK": np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]]])}, "labels go up to 2, .* only to 1"),
        ({"cost_M": np.array([1.0])}, r"cost \(1,\)"),
        ({"cost_M": np.array([1.0, np.inf])}, "finite"),
        ({"classes_MNK": np.zeros((2, 2, 2), dtype=int)}, "same class twice"),
        ({"classes_MNK": np.zeros((2, 2), dtype=int)}, r"must be \[members, images, k\]"),
        ({"classes_MNK": np.zeros((0, 2, 2), dtype=int), "probs_MNK": np.zeros((0, 2, 2))}, "nothing to combine"),
    ],
)
def test_a_table_that_cannot_be_scored_gets_one_line(changes, says):
    with pytest.raises(TableError, match=says) as caught:
        Table.from_npz(table(**changes).to_npz(), "t.npz")
    assert str(caught.value).startswith("t.npz: ")
    assert "\n" not in str(caught.value)


def test_damaged_and_foreign_files_get_one_line():
    data = table().to_npz()
    for bad in (b"", b"rubbish", data[: len(data) // 2]):
        with pytest.raises(TableError, match=r"t.npz: it is not a"):
            Table.from_npz(bad, "t.npz")


def test_nothing_in_a_file_is_unpickled(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, classes=np.array([print], dtype=object), probs=1, labels=1, cost=1)
    with pytest.raises(TableError, match="Object arrays cannot be loaded"):
        Table.from_npz(path.read_bytes(), "t.npz")


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"), [(50, 100, 0.4038, 0.5962), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_intervals_are_wilsons(correct, images, low, high):
    """Values of Wilson's score interval as tabulated (Newcombe 1998, method 3)."""
    assert interval(correct, images) == pytest.approx((low, high), abs=1e-4)
