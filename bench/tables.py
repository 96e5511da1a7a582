"""Random prediction tables like those of a searched ImageNet front, from a seed.

The published members (100 sub-networks of one supernet, arXiv:2303.13683) classify 69.8 to 78.9 % of ImageNet's validation
images correctly, 89.0 to 94.3 % within five classes; two or three of about equal accuracy gain 0.8 points together, the best
subset 0.3 points over the best single network, all together lose 1 point. `realistic` samples tables of that form: members
share most of every image's difficulty, as networks of one supernet do, and costlier members have larger margins.
"""

from __future__ import annotations

import numpy as np

from ensemble.table import Table

_WORST, _BEST = 4.42, 5.14  # margin of the right class for the cheapest and the costliest member, in logits
_DIFFICULTY, _RIVAL = 2.1, 1.4  # spread of the right class over images, and of rivals: the same for all members
_FACTORS, _SHARED, _OWN = (
    4,
    0.33,
    0.33,
)  # differences between members: directions that neighbours share, and each member's noise
_SHARPNESS = 1.0
_RIVALS = 40  # rival classes of an image
_REST = 4.0  # weight of all other classes together


def realistic(members: int = 100, images: int = 50_000, classes: int = 1000, k: int = 5, seed: int = 1) -> Table:
    """A table of classes int16 [members, images, k], probabilities and labels, with costs like latencies of 10 to 53 ms."""
    rng = np.random.default_rng(seed)
    rivals = min(_RIVALS, classes - 1)
    k = min(k, rivals + 1)
    place = np.linspace(0, 1, members)
    margin = (_WORST + (_BEST - _WORST) * (1 - (1 - place) ** 2)).astype(np.float32)
    centres = np.linspace(0, 1, _FACTORS)
    loading = np.exp(-(((place[:, None] - centres) / 0.25) ** 2)) + 0.3 * rng.normal(size=(members, _FACTORS))
    loading = (loading / np.linalg.norm(loading, axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(0, classes, images)
    kept = np.empty((members, images, k), dtype=np.int16 if classes < 2**15 else np.int32)
    probs = np.empty((members, images, k), dtype=np.float32)
    step = 2000
    for start in range(0, images, step):
        here = slice(start, min(start + step, images))
        n = here.stop - start
        shared = _RIVAL * rng.standard_normal((n, rivals + 1), dtype=np.float32)
        shared[:, 0] = _DIFFICULTY * rng.standard_normal(n, dtype=np.float32)
        factors = rng.standard_normal((_FACTORS, n * (rivals + 1)), dtype=np.float32)
        offsets = np.argsort(rng.random((n, min(classes - 1, 4 * rivals))), axis=1)[:, :rivals] + 1
        named = np.concatenate([labels[here, None], (labels[here, None] + offsets) % classes], axis=1)
        for m in range(members):
            z = shared + _SHARED * (loading[m] @ factors).reshape(n, -1)
            z += _OWN * rng.standard_normal(z.shape, dtype=np.float32)
            z[:, 0] += margin[m]
            odds = np.exp(_SHARPNESS * z)
            odds /= odds.sum(axis=1, keepdims=True) + _REST
            top = np.argsort(-odds, axis=1, kind="stable")[:, :k]
            kept[m, here] = np.take_along_axis(named, top, axis=1)
            probs[m, here] = np.take_along_axis(odds, top, axis=1)
    cost = 10 * (5.3 ** (place**1.1)) * (1 + 0.01 * np.sin(np.arange(members)))
    return Table(kept, probs, labels, cost)
