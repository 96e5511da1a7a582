"""Temperature scaling: the confidence of calibrated members equals their accuracy, so members' votes are comparable.

Source: On Calibration of Modern Neural Networks, arXiv:1706.04599, sec. 4.2. Each member has one temperature, fitted on
the selection split; it changes no member's predicted class, only its probabilities relative to the other members'.
"""

from __future__ import annotations

import numpy as np

from ensemble.table import Table

_COLDEST, _WARMEST = 0.2, 5.0
_TINY = 1e-12


def temperatures(table: Table) -> np.ndarray:
    """The temperature of each member that maximises the likelihood of the labels: float64 [M].

    Only kept classes have probabilities: the rest of 1 is one more class, which is scaled by the same temperature; a label
    that a member did not keep counts as that class.
    """
    from scipy.optimize import minimize_scalar

    found = np.ones(len(table.cost_M))
    for m, (classes_NK, probs_NK) in enumerate(zip(table.classes_MNK, table.probs_MNK, strict=True)):
        log_NJ = np.log(np.maximum(_with_rest(probs_NK), _TINY))
        hit_NK = classes_NK == table.labels_N[:, None]
        slot_N = np.where(hit_NK.any(axis=1), hit_NK.argmax(axis=1), classes_NK.shape[1])
        if classes_NK.shape[1] == 1 + int(table.classes_MNK.max()):  # all classes are kept: there is no rest
            log_NJ = log_NJ[:, :-1]
        at_label_N = np.take_along_axis(log_NJ, np.minimum(slot_N, log_NJ.shape[1] - 1)[:, None], axis=1)[:, 0]

        def negative_log_likelihood(log_t: float, log_NJ: np.ndarray = log_NJ, at_label_N: np.ndarray = at_label_N) -> float:
            cooled = log_NJ / np.exp(log_t)
            highest = cooled.max(axis=1)
            total = highest + np.log(np.exp(cooled - highest[:, None]).sum(axis=1))
            return float((total - at_label_N / np.exp(log_t)).mean())

        best = minimize_scalar(negative_log_likelihood, bounds=(np.log(_COLDEST), np.log(_WARMEST)), method="bounded")
        found[m] = np.exp(best.x)
    return found


def calibrated(table: Table, temperature_M: np.ndarray) -> Table:
    """The table with every member's probabilities at its temperature; classes and their order are unchanged."""
    probs = np.empty_like(table.probs_MNK)
    for m, (probs_NK, t) in enumerate(zip(table.probs_MNK, temperature_M, strict=True)):
        powers = _with_rest(probs_NK) ** (1 / t)
        probs[m] = (powers[:, :-1] / powers.sum(axis=1, keepdims=True)).astype(probs.dtype)
    return Table(table.classes_MNK, probs, table.labels_N, table.cost_M)


def _with_rest(probs_NK: np.ndarray) -> np.ndarray:
    """Probabilities as float64 with one more column: 1 minus their sum."""
    probs = probs_NK.astype(np.float64)
    return np.concatenate([probs, np.maximum(0.0, 1.0 - probs.sum(axis=1, keepdims=True))], axis=1)
