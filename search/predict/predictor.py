"""Predictors of quantities that are slow to measure, learned from measurements.

Exact costs are never learned: `search.costs.exact.CostTable` computes them.
Shape letters in this file: B archs, G genes, F features, S stages, L block slots of all stages, K experts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ofa import npz
from ofa.checks import number, shown
from ofa.genes import Genes
from ofa.space import Space
from search.costs.exact import CostTable
from search.errors import PredictorError
from search.predict.models import FITS, LOADS, Model
from search.predict.quality import Quality, held_out_rows

Target = Literal["top1", "latency_ms"]
Features = Callable[[Genes, np.ndarray], np.ndarray]  # genes [B, G] to features [B, F]


def integers(genes: Genes, genes_BG: np.ndarray) -> np.ndarray:
    """The index of every gene's choice [B, G], -1 where the gene has no effect: few features, for trees (NATv2)."""
    return np.where(genes.matter(genes_BG), genes_BG, -1).astype(np.float64)


def choices(genes: Genes, genes_BG: np.ndarray) -> np.ndarray:
    """One-hot values [B, F] of every gene, 0 where it has no effect: genes of no slot, expand ratios, then kernels.

    So genes without effect are features without effect: on DyNAS-T's ImageNet measurements this masking is worth
    more than twice the data.
    """
    matter_BG, every = genes.matter(genes_BG), range(len(genes.sizes_G))
    slotted = [g for field in reversed(genes.forest.slotted) for g in every[genes.of(field)]]
    return np.concatenate(
        [np.eye(genes.sizes_G[g])[genes_BG[:, g]] * matter_BG[:, g, None] for g in [*genes.unslotted, *slotted]], axis=1
    )


def architecture(genes: Genes, genes_BG: np.ndarray) -> np.ndarray:
    """Features for accuracy [B, F]: the choices, and every stage's blocks and sums and means of kernels and expand ratios.

    On the same measurements the sums raise Kendall's tau of a ridge from .912 to .937 with 250 rows.
    """
    stage_LS = _stages(genes)
    matter_BG = genes.matter(genes_BG)
    blocks_BS = genes.used(genes_BG) @ stage_LS
    parts = [choices(genes, genes_BG), blocks_BS.sum(axis=1, keepdims=True)]
    for field in reversed(genes.forest.slotted):
        where = range(genes_BG.shape[1])[genes.of(field)]
        values_BL = np.stack([np.array(genes.choices[g])[genes_BG[:, g]] for g in where], axis=1)
        sums_BS = (values_BL * matter_BG[:, where]) @ stage_LS
        parts += [sums_BS, sums_BS / np.maximum(blocks_BS, 1)]
    return np.concatenate(parts, axis=1)


def totals(genes: Genes, genes_BG: np.ndarray) -> np.ndarray:
    """Features for latency [B, F], which is timed for few archs: the pixels, and of every stage its blocks and its MACs."""
    stage_LS = _stages(genes)
    blocks_BS = genes.used(genes_BG) @ stage_LS
    macs_BS = CostTable(genes.space, classes=1).block_macs(genes_BG) @ stage_LS
    pixels_B1 = np.array(genes.space.resolutions)[genes_BG[:, :1]] ** 2
    return np.concatenate([pixels_B1, blocks_BS, macs_BS], axis=1).astype(np.float64)


def _stages(genes: Genes) -> np.ndarray:
    """Whether each slot belongs to each stage: 0 or 1 [L, S]."""
    return np.eye(genes.space.stage_count)[[slot.stage for slot in genes.space.slots]]


FEATURES: dict[str, Features] = {"integers": integers, "one-hot": choices, "architecture": architecture}
_FEATURES: dict[str, Features] = {"top1": architecture, "latency_ms": totals}
KINDS = tuple(FITS)


@dataclass(frozen=True)
class Predictor:
    """A model of standardised features: of the logarithm of the error, or of the latency itself.

    Each of its experts was fitted without one part of the rows; their predictions on those held-out rows give
    the expected error.
    """

    space: Space  # whose genes it takes
    fitted: Space  # whose archs it was fitted to: the same network, with every choice that `space` has
    target: Target
    kind: str
    mean_F: np.ndarray
    scale_F: np.ndarray
    centre: float
    unit: float
    model: Model
    experts: tuple[Model, ...]
    error: float  # root mean square of the experts' errors on held-out rows, in units

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """Top-1 (fractions) or latency (ms) of archs [B]."""
        return self._value(self.model.predict(self._features(genes_BG)))

    def spread(self, genes_BG: np.ndarray) -> np.ndarray:
        """The standard deviation of the truth around the prediction [B]: the experts' disagreement and held-out errors.

        Source: the variance of CV+, arXiv:1905.02928.
        """
        x_BF = self._features(genes_BG)
        experts_KB = np.array([expert.predict(x_BF) for expert in self.experts])
        spread_B = np.sqrt(experts_KB.var(axis=0) + self.error**2) * self.unit
        # of top-1: 1 - exp(y) changes by exp(y) where y changes by 1
        return spread_B * (1 - self.predict(genes_BG)) if self.target == "top1" else spread_B

    def _features(self, genes_BG: np.ndarray) -> np.ndarray:
        if self.space.choices != self.fitted.choices:
            genes_BG = _translated(self.space, self.fitted, genes_BG)
        return (_FEATURES[self.target](Genes(self.fitted), genes_BG) - self.mean_F) / self.scale_F

    def _value(self, standard_B: np.ndarray) -> np.ndarray:
        y_B = standard_B * self.unit + self.centre
        return 1 - np.exp(y_B) if self.target == "top1" else y_B

    def to_npz(self) -> bytes:
        """The predictor as the content of an npz file without objects."""
        models = {
            f"model{i}_{name}": array
            for i, model in enumerate([self.model, *self.experts])
            for name, array in model.arrays().items()
        }
        return npz.pack(
            target=self.target,
            space=self.fitted.name,
            choices=json.dumps({name: getattr(self.fitted, name) for name in self.fitted.choice_names}, allow_nan=False),
            kind=self.kind,
            mean=self.mean_F,
            scale=self.scale_F,
            standard=np.array([self.centre, self.unit, self.error]),
            experts=len(self.experts),
            **models,
        )

    @classmethod
    def fitted_space(cls, data: bytes, space: Space, where: str) -> Space:
        """The space that the predictor of `to_npz` was fitted on: that of the same name as `space`, with its own choices.

        Raises a `PredictorError` for a predictor of a space of another name, and for any other file.
        """
        try:
            name, choices = (_text(array, "space") for array in npz.unpack(data, ("space", "choices")))
            doc = json.loads(choices)
        except (npz.NpzError, ValueError, RecursionError) as error:
            raise PredictorError(f"{where}: is no predictor: {error}; run `ofa fit` again") from None
        if name != space.name:
            raise PredictorError(f"{where}: is of the space {shown(name)}, not of {space.name}; fit one on this space")
        if not isinstance(doc, dict) or set(doc) != set(space.choice_names) or not all(map(_are_choices, doc.values())):
            raise PredictorError(f"{where}: has the choices {shown(doc)}, which {name} cannot have; run `ofa fit` again")
        smaller: dict[str, Any] = {field: tuple(values) for field, values in doc.items()}
        return replace(space.at(smaller["resolutions"]), **smaller)

    @classmethod
    def from_npz(cls, data: bytes, space: Space, target: Target, where: str) -> Predictor:
        """The predictor of `target` that `to_npz` wrote, for genes of `space`, which may have fewer choices.

        Raises a `PredictorError` if it predicts something else, or does not know a choice of `space`.
        """
        try:
            names = ("target", "kind", "mean", "scale", "standard", "experts")
            named, kind, mean, scale, standard, experts = npz.unpack(data, names)
            name, kind_name = _text(named, "target"), _text(kind, "kind")
            if name != target:
                raise PredictorError(f"{where}: predicts {shown(name)}; expected a predictor of {target}")
            if kind_name not in LOADS:
                raise PredictorError(f"{where}: is of the kind {shown(kind_name)}; expected one of {', '.join(LOADS)}")
            fitted = cls.fitted_space(data, space, where)
            for field in space.choice_names:
                if strange := [value for value in getattr(space, field) if value not in getattr(fitted, field)]:
                    known = ", ".join(f"{value:g}" for value in getattr(fitted, field))
                    raise PredictorError(f"{where}: does not know {field} {strange[0]:g}; it knows {known}")
            genes = Genes(fitted)
            width = _FEATURES[target](genes, genes.encode([fitted.smallest()])).shape[1]
            for array, label, shape in ((mean, "mean", [width]), (scale, "scale", [width]), (standard, "standard", [3])):
                npz.floats(array, label, shape)
            count = int(npz.floats(experts, "experts", []))
            if not 0 < count <= _MOST_EXPERTS:
                raise npz.NpzError(f"it has {count} experts")
            arrays = npz.unpack_all(data)
            models = [
                LOADS[kind_name].checked(
                    {key.split("_", 1)[1]: array for key, array in arrays.items() if key.startswith(f"model{i}_")}, width
                )
                for i in range(count + 1)
            ]
        except npz.NpzError as error:
            raise PredictorError(f"{where}: is no predictor: {error}; run `ofa fit` again") from None
        centre, unit, unseen = (float(value) for value in standard)
        return cls(
            space, fitted, target, kind_name, mean, scale, centre, unit, models[0], tuple(models[1:]), unseen
        )  # fmt: skip


_MOST_EXPERTS = 1000


def _text(array: np.ndarray, name: str) -> str:
    if array.dtype.kind != "U" or array.ndim:
        raise npz.NpzError(f"its {name!r} is of the type {array.dtype}; expected a text")
    return str(array)


def _are_choices(values: Any) -> bool:
    """Whether a value of JSON is a list of ascending numbers of a gene."""
    known = isinstance(values, list) and values and all(number(value, 0, 2**16) is not None for value in values)
    return bool(known) and sorted(set(values)) == values


def _translated(space: Space, fitted: Space, genes_BG: np.ndarray) -> np.ndarray:
    """Genes of `space` as genes of `fitted`, which has the same genes and every choice of `space`."""
    matter_BG, translated_BG = Genes(space).matter(genes_BG), np.zeros_like(genes_BG)
    for g, (here, there) in enumerate(zip(space.choices, fitted.choices, strict=True)):
        place_C = np.array([there.index(value) for value in here], dtype=genes_BG.dtype)
        translated_BG[:, g] = np.where(matter_BG[:, g], place_C[genes_BG[:, g]], 0)
    return translated_BG


@dataclass(frozen=True)
class _Rows:
    """The standardised training rows of a predictor."""

    x_BF: np.ndarray
    y_B: np.ndarray
    mean_F: np.ndarray
    scale_F: np.ndarray
    centre: float
    unit: float
    parts: tuple[np.ndarray, ...]  # held-out rows of each expert

    def experts(self, kind: str) -> tuple[tuple[Model, ...], np.ndarray]:
        """A model for each part, fitted to the others; and their predictions of the held-out part."""
        models, unseen_B = [], np.zeros(len(self.y_B))
        for part in self.parts:
            seen = np.setdiff1d(np.arange(len(self.y_B)), part)
            models.append(FITS[kind](self.x_BF[seen], self.y_B[seen]))
            unseen_B[part] = models[-1].predict(self.x_BF[part])
        return tuple(models), unseen_B


def _rows(space: Space, genes_BG: np.ndarray, truth_B: np.ndarray, target: Target) -> _Rows:
    return _standardised(_FEATURES[target](Genes(space), genes_BG), learnable(truth_B, target), _FOLDS)


def learnable(truth_B: np.ndarray, target: str) -> np.ndarray:
    """What a model learns of a quantity: of top-1 the logarithm of the error, at least half an image in a thousand."""
    return np.log(np.maximum(1 - truth_B, 5e-4)) if target == "top1" else truth_B


def _standardised(x_BF: np.ndarray, y_B: np.ndarray, folds: int) -> _Rows:
    mean_F, spread_F = x_BF.mean(axis=0), x_BF.std(axis=0)
    scale_F = np.where(spread_F > 1e-9 * (1 + np.abs(mean_F)), spread_F, 1.0)
    centre, unit = float(y_B.mean()), float(y_B.std()) or 1.0
    order = np.random.default_rng([*b"predictor/folds"]).permutation(len(y_B))
    parts = tuple(np.sort(part) for part in np.array_split(order, min(folds, len(y_B))))
    return _Rows((x_BF - mean_F) / scale_F, (y_B - centre) / unit, mean_F, scale_F, centre, unit, parts)


_FOLDS = 5
_EXPERTS = 10


def cross_validated(
    space: Space, genes_BG: np.ndarray, truth_B: np.ndarray, target: Target, kinds: Sequence[str] = KINDS
) -> dict[str, float]:
    """Kendall's tau of each kind between the truth and predictions of held-out rows, best first."""
    rows = _rows(space, genes_BG, truth_B, target)
    taus = {kind: tau(rows.y_B, rows.experts(kind)[1]) for kind in kinds}
    return dict(sorted(taus.items(), key=lambda item: -item[1]))


def fit(space: Space, genes_BG: np.ndarray, truth_B: np.ndarray, target: Target, kind: str = "ridge") -> Predictor:
    """A predictor of top-1 (fractions) or latency (ms) of one of `KINDS`."""
    rows = _rows(space, genes_BG, truth_B, target)
    experts, unseen_B = rows.experts(kind)
    error = float(np.sqrt(np.mean((rows.y_B - unseen_B) ** 2)))
    model = FITS[kind](rows.x_BF, rows.y_B)
    return Predictor(space, space, target, kind, rows.mean_F, rows.scale_F, rows.centre, rows.unit, model, experts, error)


class Averaged:
    """The mean prediction of ten experts, each fitted without a tenth of the rows, as all of NAT's predictors are.

    Its features are one of `FEATURES`, its experts of one of `KINDS`. Source: NAT (arXiv:2005.05859), surrogate_models.
    """

    def __init__(
        self, genes: Genes, genes_BG: np.ndarray, truth_B: np.ndarray, target: str, kind: str, features: str
    ) -> None:
        self.genes, self.target, self.features = genes, target, FEATURES[features]
        self.rows = _standardised(self.features(genes, genes_BG), learnable(truth_B, target), _EXPERTS)
        self.experts, _ = self.rows.experts(kind)

    def predict(self, genes_BG: np.ndarray) -> np.ndarray:
        """The expected quantity of archs [B], in its own unit."""
        x_BF = (self.features(self.genes, genes_BG) - self.rows.mean_F) / self.rows.scale_F
        y_B = np.mean([expert.predict(x_BF) for expert in self.experts], axis=0) * self.rows.unit + self.rows.centre
        return np.asarray(1 - np.exp(y_B) if self.target == "top1" else y_B)


def judge(
    space: Space,
    genes_BG: np.ndarray,
    truth_B: np.ndarray,
    target: Target,
    held_out: float,
    rng: np.random.Generator,
    kinds: Sequence[str] = KINDS,
) -> Quality:
    """Chooses the kind by cross-validation on a random part, fits it there, and predicts the remaining rows."""
    order = rng.permutation(len(truth_B))
    count = held_out_rows(len(truth_B), held_out)
    test, train = order[:count], order[count:]
    taus = cross_validated(space, genes_BG[train], truth_B[train], target, kinds) if len(kinds) > 1 else {}
    kind = next(iter(taus), kinds[0])
    predictor = fit(space, genes_BG[train], truth_B[train], target, kind)
    predicted, truth = predictor.predict(genes_BG[test]), truth_B[test]
    within = np.abs(predicted - truth) <= 1.96 * predictor.spread(genes_BG[test])
    return Quality(
        kind=kind,
        cross_validation=taus,
        rows=len(train),
        held_out=count,
        rmse=float(np.sqrt(np.mean((truth - predicted) ** 2))),
        kendall_tau=tau(truth, predicted),
        coverage=float(within.mean()),
        truth=tuple(truth.tolist()),
        predicted=tuple(predicted.tolist()),
    )


def tau(truth_B: np.ndarray, predicted_B: np.ndarray) -> float:
    """Kendall's tau-b; 0 where all values are equal."""
    from scipy.stats import kendalltau

    value = float(kendalltau(truth_B, predicted_B).statistic)
    return 0.0 if np.isnan(value) else value
