"""Int8 networks for ONNX Runtime: static quantisation, calibrated on images, and what it costs and brings."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def quantised(model: bytes, batches: Iterable[np.ndarray]) -> bytes:
    """The ONNX model with int8 weights, one scale for each channel, and uint8 activations, with one scale for each tensor.

    batches: images [N, 3, H, W], float32, scaled as the network takes them, on which the ranges of activations are
    measured; training images. Weights have 7 bits, so that products do not overflow on x86 without VNNI.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as name, _quiet():
        given, folded, small = (Path(name) / f"{part}.onnx" for part in ("given", "folded", "small"))
        given.write_bytes(model)
        quant_pre_process(given, folded, skip_symbolic_shape=True)  # folds batch norms into convolutions
        quantize_static(
            folded,
            small,
            _Batches(iter(batches)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return small.read_bytes()


def logits_of(model: bytes, batches: Iterable[np.ndarray]) -> np.ndarray:
    """The model's first output for every image: float32 [N, classes]. batches: as in `quantised`."""
    session = session_of(model)
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])


def median_ms(model: bytes, resolution: int, runs: int, warm_up: int = 3) -> float:
    """The median milliseconds for one image of this resolution (pixels), on one thread of this machine."""
    session, image = session_of(model), np.zeros((1, 3, resolution, resolution), np.float32)
    times = []
    for run in range(warm_up + runs):
        start = time.perf_counter()
        session.run(None, {"images": image})
        if run >= warm_up:
            times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


class _Batches:
    """Batches as ONNX Runtime takes them for calibration."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def session_of(model: bytes) -> Any:
    """A session of ONNX Runtime with the model, on one thread of this machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences ONNX Runtime's advice on its own steps, which it logs as warnings of the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
