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
        with pytest.raises(npz.NpzError, match="it "):
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
