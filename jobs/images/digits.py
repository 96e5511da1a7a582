"""Reads scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, part of its package."""

from __future__ import annotations

import numpy as np

from jobs.images.stored import ArrayImages, Source


def read() -> Source:
    """The digits 0 to 9; they have no test split, and selection and test are sampled jointly."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = images.reshape(-1, 1, 8, 8) * (255 / 16)
    names = tuple(str(digit) for digit in range(10))
    return Source(names, ArrayImages(grey, labels.astype(np.int64)), joint_holdout=True)
