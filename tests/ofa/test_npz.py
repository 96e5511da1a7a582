"""Arrays as bytes: what is read, whatever wrote it, and the one line about what cannot be."""

import gzip
import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest

from ofa import npz


def test_arrays_survive():
    data = npz.pack(a=np.arange(3), b=0.5, c="word")
    a, b, c = npz.unpack(data, ("a", "b", "c"))
    assert a.tolist() == [0, 1, 2]
    assert float(b) == 0.5
    assert str(c) == "word"


def test_what_is_missing_is_named():
    with pytest.raises(npz.NpzError, match="it has no 'b'; expected a, b"):
        npz.unpack(npz.pack(a=np.arange(3)), ("a", "b"))


def test_every_cut_and_every_flipped_byte_is_a_value_error_or_the_same_arrays():
    data = npz.pack(a=np.arange(50))
    for cut in range(0, len(data), 7):
        with pytest.raises(npz.NpzError, match="it is not"):
            npz.unpack(data[:cut], ("a",))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        try:
            [a] = npz.unpack(bytes(damaged), ("a",))
        except npz.NpzError:
            continue
        assert a.tolist() == list(range(50)), position


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([print], dtype=object))
    with pytest.raises(npz.NpzError, match="Object arrays cannot be loaded"):
        npz.unpack((tmp_path / "a.npz").read_bytes(), ("a",))


def archive(members):
    """A zip file of (name, bytes)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def npy(array, shape=None):
    """The bytes of a .npy file, whose header may declare another shape of as many characters."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    data = buffer.getvalue()
    if shape is None:
        return data
    old = str(array.shape).encode()
    return data.replace(old + b", }" + b" " * (len(shape) - len(old)), shape.encode() + b", }")


@pytest.mark.parametrize("kind", [">i4", "<i4", ">i8", "i1", ">u2", "?", ">f2", ">f4", ">f8", "f2", "f4", "f8", "g", ">U3"])
def test_every_byte_order_and_width_is_read(kind):
    array = np.arange(6).reshape(2, 3).astype(kind)
    for given in (array, np.asfortranarray(array), array[::-1, ::2]):
        [found] = npz.unpack(npz.pack(a=given), ("a",))
        assert found.tolist() == given.tolist()
        assert found.dtype.isnative
        assert found.flags.c_contiguous
        assert found.dtype.itemsize <= 12
        assert found.dtype.kind != "f" or found.dtype in (np.float32, np.float64)


@pytest.mark.parametrize("kind", ["c8", "c16", "m8[s]", "M8[s]", "V4", [("a", "f4"), ("b", "i4")]])
def test_other_types_are_refused_by_their_name(kind):
    with pytest.raises(npz.NpzError, match=r"its 'a' is of the type .*; expected numbers or text"):
        npz.unpack(npz.pack(a=np.zeros(3, dtype=kind)), ("a",))


def test_long_doubles_beyond_floats_are_infinite():
    [found] = npz.unpack(npz.pack(a=np.array([1e308], dtype="g") ** 2), ("a",))
    assert found.tolist() == [np.inf]


def test_members_that_nobody_asked_for_are_not_read():
    members = [("a.npy", npy(np.arange(3))), ("notes.npy", pickle.dumps([print])), ("__MACOSX/a", b"x"), ("b.npy", b"x")]
    assert npz.unpack(archive(members), ("a",))[0].tolist() == [0, 1, 2]
    assert npz.names(archive(members)) == {"a", "notes", "b"}
    with pytest.raises(npz.NpzError, match="its 'notes' cannot be read"):
        npz.unpack_all(archive(members))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is not an npz file, but empty; numpy.savez makes them"),
        (b"rubbish", "it is not an npz file; numpy.savez makes them"),
        (b"PK", "it is not a readable npz file"),
        (b"PK\x03\x04" + bytes(100), "it is not a readable npz file"),
        (npy(np.arange(3)), r"it is not an npz file, but one array \(.npy\)"),
        (gzip.compress(b"x", mtime=0), "it is not an npz file, but compressed by gzip"),
        (pickle.dumps({"a": [1]}), "it is not an npz file, but a pickle"),
        (archive([]), "it is a zip file without arrays"),
        (archive([("word/document.xml", b"<x/>")]), "it is a zip file without arrays"),
        (archive([("a.npy", npy(np.arange(3))), ("a.npy", npy(np.arange(4)))]), "it has 'a' twice"),
        (archive([("a.npy", b"")]), "its 'a' cannot be read"),
        (archive([("a.npy", b"x" * 1000)]), "its 'a' cannot be read"),
        (archive([("a.npy", npy(np.arange(9))[:-8])]), "its 'a' cannot be read"),
        (archive([("a.npy", npy(np.arange(9)) + b"x")]), "its 'a' is longer than its shape"),
        (archive([("a.npy", npy(np.arange(9), shape="(99,)"))]), "its 'a' cannot be read"),
        (archive([("a.npy", npy(np.arange(9), shape="(9999999999999,)"))]), "its 'a' cannot be read"),
        (archive([("a.npy", npy(np.arange(9), shape="(4294967296, 4294967296)"))]), "its 'a' cannot be read"),
        (archive([("a.npy", npy(np.arange(9), shape="(-9,)"))]), "its 'a' "),
        (archive([("a.npy", npy(np.arange(9), shape="('9',)"))]), "its 'a' cannot be read"),
    ],
)
def test_what_holds_no_arrays_gets_one_line(data, says):
    with pytest.raises(npz.NpzError, match=says) as caught:
        npz.unpack(data, ("a",))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_an_array_larger_than_memory_is_not_read(monkeypatch):
    data = npz.pack(a=np.zeros(10**6))
    monkeypatch.setattr("os.sysconf", lambda name: 1000)
    with pytest.raises(npz.NpzError, match=r"its 'a' has 0.0 GiB, this machine 0.0 GiB of memory"):
        npz.unpack(data, ("a",))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(3), r"the shape \[3\]; expected numbers in the shape \[2, any\]"),
        (np.zeros((3, 2)), r"the shape \[3, 2\]"),
        (np.array("text"), "of the type <U4"),
        (np.array([[True], [False]]), "of the type bool"),
        (np.array([[1.0], [np.nan]]), "values that are not finite"),
        (np.array([[np.inf], [1]]), "values that are not finite"),
    ],
)
def test_numbers_of_another_shape_or_not_finite_get_one_line(array, says):
    assert npz.floats(np.zeros((2, 5)), "a", [2, None]).shape == (2, 5)
    with pytest.raises(npz.NpzError, match=f"its 'a' .*{says}"):
        npz.floats(array, "a", [2, None])
