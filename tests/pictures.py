"""Small labelled images to train on, stored as people store them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from cluster.progress import Reporter
from jobs.config import Data, Experiment, PhaseConfig, Train
from jobs.images import dataset as data

CLASSES = 3


def picture(label, number, side=(40, 36), mode="RGB"):
    """An image whose colour tells its class and number."""
    pixels = np.full((side[1], side[0], 3), (40 + 60 * label, 5 * number % 256, 90), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def content(count, start=0):
    """(bytes, label) of `count` images, classes in turn."""
    return [(encoded(picture((start + n) % CLASSES, start + n)), (start + n) % CLASSES) for n in range(count)]


def write_parquet(store, key, rows, *, group=7, names=None, column="label", images="image"):
    image = pa.array(
        [{"bytes": b, "path": None} for b, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({images: image, column: pa.array([label for _, label in rows], pa.int64())})
    if names:
        features = {"info": {"features": {column: {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=group)
    store.write(key, file.getvalue())


def write_folders(store, rows, prefix=""):
    for number, (data_, label) in enumerate(rows):
        store.write(f"{prefix}class{label}/{number:03}.png", data_)


def write_digits(folder, test=300, kind="png"):
    """scikit-learn's digits as files in folders of classes, the last `test` of them as a test split."""
    digits = load_digits()
    whole = np.round(digits.images * 255 / 16).astype(np.uint8)
    for number, (pixels, label) in enumerate(zip(whole, digits.target, strict=True)):
        path = folder / ("test" if number >= len(whole) - test else "train") / str(label) / f"{number}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def experiment(url, **settings):
    held = {"selection": 0.2, "test": 0.2, **settings}
    return Experiment(Train((PhaseConfig("a", 1, 0.1),), batch=8), data=Data(source=url, **held))


def loaded(url, **settings):
    return data.load(experiment(url, **settings), Reporter("plain"))


def with_test(data_):
    """The decoded splits of a data set by name, its test split opened."""
    return {**data_.splits, "test": data_.held_out.open(Reporter("plain"))}


def spoilt(count):
    """Images some of which are cut off, one is no image at all."""
    rows = content(60)
    for number in range(count):
        whole = encoded(picture(number % CLASSES, number), "JPEG")
        rows[number] = ((whole[: len(whole) // 2], b"not an image")[number % 2], rows[number][1])
    return rows


def spoil(folder):
    """Replaces every file in a folder by one that is no image."""
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no image")
