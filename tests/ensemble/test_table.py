import numpy as np
import pytest

from ensemble.errors import TableError
from ensemble.intervals import interval
from ensemble.rule import RULES
from ensemble.score import SubsetScorer
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
        ({"cost_M": np.array([1e308, 1e308])}, "costs go up to 1e[+]308, and their sum is beyond the range of numbers"),
        ({"cost_M": np.array([1, 1], dtype="g") * 10 ** np.longdouble(400)}, "costs must be finite"),
        ({"cost_M": np.array([1.0, -0.1])}, "costs must be finite and not negative"),
        ({"cost_M": np.array([True, False])}, "cost is bool; .* costs numbers"),
        ({"cost_M": np.array(["1", "2"])}, "cost is <U1; .* costs numbers"),
        ({"cost_M": np.array([1j, 2j])}, "its 'cost' is of the type 'complex128'"),
        ({"cost_M": np.array(1.0)}, r"cost \(\)"),
        ({"probs_MNK": np.array([[[1, 0], [1, 0]], [[1, 0], [1, 0]]])}, "probs are int64"),
        ({"probs_MNK": np.full((2, 2, 2), -0.5)}, "0 to 1"),
        ({"classes_MNK": np.array([[[1, 0], [2, 1]], [[0, 2], [2, 0]]], dtype=float)}, "classes are float64"),
        ({"classes_MNK": np.array([[[1, 0], [1, 0]], [[0, 1], [1, 0]]], dtype=bool)}, "classes are bool"),
        ({"classes_MNK": np.array([[[2**63, 0], [2, 1]], [[0, 2], [2, 0]]], dtype=np.uint64)}, "must be below 2\\^63"),
        ({"labels_N": np.array([2**63, 0], dtype=np.uint64)}, "must be below 2\\^63"),
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
        with pytest.raises(TableError, match=r"t.npz: it is not an npz file|t.npz: it is not a readable npz file"):
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


TYPES = [
    *(("classes_MNK", kind) for kind in (">i4", ">i8", "i1", "u1", ">u2", ">u8")),
    *(("probs_MNK", kind) for kind in ("f2", ">f2", ">f4", "f8", ">f8", "g")),
    *(("labels_N", kind) for kind in (">i4", ">i8", "i1", "u1", ">u8")),
    *(("cost_M", kind) for kind in (">i4", "i8", ">u8", "f2", ">f4", ">f8", "g")),
]


@pytest.mark.parametrize(("field", "kind"), TYPES)
def test_numbers_of_every_type_and_byte_order_score_alike(field, kind):
    halves = {"probs_MNK": np.array([[[0.75, 0.25], [0.5, 0.25]], [[0.5, 0.5], [1.0, 0.0]]], dtype=np.float32)}
    plain = table(**halves)
    given = table(**{**halves, field: getattr(plain, field).astype(kind)})
    loaded = Table.from_npz(given.to_npz(), "t.npz")
    masks = np.array([[True, False], [False, True], [True, True]])
    assert SubsetScorer.of(loaded).correct(masks).tolist() == SubsetScorer.of(plain).correct(masks).tolist()
    assert RULES["sum"].costs(masks, loaded.cost_M).tolist() == [1.0, 2.0, 3.0]


def test_whole_numbers_as_costs_do_not_overflow():
    loaded = Table.from_npz(table(cost_M=np.array([2**62, 2**62])).to_npz(), "t.npz")
    assert RULES["sum"].costs(np.ones((1, 2), dtype=bool), loaded.cost_M).tolist() == [2.0**63]
