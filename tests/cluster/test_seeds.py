import random

from cluster.seeds import stream


def test_one_name_is_one_stream_and_another_name_another():
    assert stream(1, "a", 2).random() == stream(1, "a", 2).random()
    drawn = {stream(*names).random() for names in ((1, "a"), (2, "a"), (1, "b"), (1, "a", 1), (1, "a", 11))}
    assert len(drawn) == 5


def test_a_stream_is_pythons_generator_seeded_with_its_whole_name():
    """Which Python defines alike on every machine, whatever PYTHONHASHSEED is."""
    assert stream(1, "weights", 3).getrandbits(64) == random.Random("1/weights/3").getrandbits(64)
