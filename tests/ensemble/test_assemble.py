import numpy as np
import pytest

from bench.tables import realistic
from ensemble.assemble import PART_BYTES, Assembly, part_images
from ensemble.errors import TableError
from ensemble.table import Table


def parts(table, members, step):
    for start in range(0, len(table.labels_N), step):
        here = slice(start, start + step)
        yield (
            start,
            Table(
                table.classes_MNK[members, here], table.probs_MNK[members, here], table.labels_N[here], table.cost_M[members]
            ),
        )


def test_parts_in_any_order_make_the_whole_table_and_its_file_reads_back(tmp_path):
    table = realistic(members=5, images=50, classes=20)
    assembly = Assembly(tmp_path, 5, 50, 5, 20)
    for members in ([4, 1], [0, 2, 3]):
        for start, part in reversed(list(parts(table, members, 16))):
            assembly.put(members, start, part, "part")
    assembly.table(table.labels_N, table.cost_M).save(tmp_path / "t.npz")
    loaded = Table.from_npz((tmp_path / "t.npz").read_bytes(), "t.npz")
    for name in ("classes_MNK", "probs_MNK", "labels_N", "cost_M"):
        assert np.array_equal(getattr(loaded, name), getattr(table, name))


def test_a_part_that_does_not_fit_gets_one_line(tmp_path):
    table = realistic(members=3, images=40, classes=20)
    assembly = Assembly(tmp_path, 3, 40, 5, 20)
    (_, part), *_ = parts(table, [0, 1], 16)
    for members, start in (([0, 1, 2], 0), ([0, 1], 32)):
        with pytest.raises(TableError, match=r"part 7: holds \(2, 16, 5\) predictions, expected .* delete it and run again"):
            assembly.put(members, start, part, "part 7")


def test_parts_stay_small_whatever_the_table():
    for members, k in ((1, 5), (32, 5), (32, 1000)):
        images = part_images(members, k, batch=128)
        assert images % 128 == 0
        assert images == 128 or images * members * k * 8 <= PART_BYTES
