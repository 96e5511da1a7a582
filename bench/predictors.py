"""The rank correlation of predictors with real accuracies, for several numbers of rows, beside published figures.

    python -m bench.predictors [--seeds N]
    python -m bench.predictors --natv2 [--seeds N] [--measured runs/digits-1234/measured.jsonl]

On DyNAS-T's ImageNet measurements a fifth of the rows is held out; the predictor is fitted to some of the others. Prints
Kendall's tau, mean over seeds.

`--natv2` is the protocol of NATv2's study of predictors: the mean of ten experts, fitted to 300 networks and tested on 250
others; Spearman's rho, mean and standard deviation over seeds. The networks are those of DyNAS-T with 18 blocks or more, as
most in the study have, and those of `--measured`, the file of a run with `measure.archs=600`, without the extremes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from bench.imagenet import GENES, SPACE, reference_data, rows
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from ofa.spaces import get_space
from search.predict.predictor import KINDS, Averaged, cross_validated, fit, judge, tau

ROWS = (50, 100, 250, 1000, 1729)
# Published results on the same rows: with a one-hot encoding, and the best of the comparison.
PUBLISHED = {
    "DyNAS-T's ridge": (None, 0.874, 0.911, 0.929, 0.931),
    "gradient boosting on its one-hot": (None, 0.869, 0.914, 0.947, 0.952),
    "ridge + RBF-SVR residual": (0.877, 0.908, 0.933, 0.962, 0.966),
}

# NATv2's study: its names of the kinds that we have too, and its networks.
THEIR_KINDS = {"boosting": "lgb", "forest": "e2epp", **{kind: kind for kind in ("ridge", "gp", "rbf", "svr", "mlp", "knn")}}
THEIR_FEATURES = {"integers": "integer", "one-hot": "one-hot"}
NETWORKS = ("OFAMobileNetV3", "EE_B_OFAMobileNetV3", "SE_P_OFAMobileNetV3")
TRAIN, TEST, LEAST_BLOCKS = 300, 250, 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--natv2", action="store_true")
    parser.add_argument("--measured", metavar="FILE", type=Path)
    parser.add_argument("--space", default="digits", help="the space of --measured")
    arguments = parser.parse_args()
    if arguments.natv2:
        natv2(arguments.seeds, arguments.measured, get_space(arguments.space))
    else:
        imagenet(arguments.seeds)


def natv2(seeds: int, measured: Path | None, space: Space) -> None:
    """Prints Spearman's rho of every kind and features, beside the published values on three networks."""
    data = rows()
    deep = GENES.used(data.genes_BG).sum(axis=1) >= LEAST_BLOCKS
    sets = {"ImageNet": (GENES, data.genes_BG[deep], data.top1_B[deep] / 100)}
    if measured:
        lines = [Measured.from_json(json.loads(line)) for line in measured.read_text().splitlines()][2:]
        sets[space.name] = (Genes(space), Genes(space).encode([m.arch for m in lines]), np.array([m.top1 for m in lines]))
    published = json.loads((reference_data() / "ofav2_natv2_mlt" / "natv2_predictor_correlations.json").read_text())["rows"]
    for name, (_, genes_BG, top1_B) in sets.items():
        print(f"{name}: {len(genes_BG)} networks, top-1 {top1_B.mean():.2%} with a standard deviation of {top1_B.std():.2%}")
    print(f"| features, kind | {' | '.join(sets)} | {' | '.join(f'published: {network}' for network in NETWORKS)} |")
    print("|---" * (1 + len(sets) + len(NETWORKS)) + "|")
    for features in (*THEIR_FEATURES, "architecture"):
        for kind, theirs in THEIR_KINDS.items():
            cells = [_spread([_rho(*one, kind, features, seed) for seed in range(seeds)]) for one in sets.values()]
            key = (theirs, THEIR_FEATURES.get(features), TRAIN)
            for network in NETWORKS:
                values = [
                    row["values"]["rho"]
                    for row in published
                    if (row["predictor"], row["encoding"], row["n_train"], row["network"]) == (*key, network)
                ]
                cells.append(_spread(values[0]) if values else "")
            print(f"| {features}, `{kind}` | {' | '.join(cells)} |", flush=True)


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def _rho(genes: Genes, genes_BG: np.ndarray, top1_B: np.ndarray, kind: str, features: str, seed: int) -> float:
    """Spearman's rho on 250 random networks of a predictor of 300 others."""
    from scipy.stats import spearmanr

    order = np.random.default_rng(seed).permutation(len(top1_B))
    test, train = order[:TEST], order[TEST : TEST + TRAIN]
    predictor = Averaged(genes, genes_BG[train], top1_B[train], "top1", kind, features)
    return float(spearmanr(predictor.predict(genes_BG[test]), top1_B[test]).statistic)


def imagenet(seeds: int) -> None:
    """Prints Kendall's tau on DyNAS-T's measurements."""
    data = rows()
    genes_BG, top1_B = data.genes_BG, data.top1_B / 100

    def splits(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        orders = [np.random.default_rng(seed).permutation(len(top1_B)) for seed in range(seeds)]
        return [(order[: len(order) // 5], order[len(order) // 5 :][:count]) for order in orders]

    print(f"| rows | {' | '.join(str(count) for count in ROWS)} |\n|{'---|' * (len(ROWS) + 1)}")
    for name, published in PUBLISHED.items():
        print(f"| published: {name} | {' | '.join('' if value is None else f'{value:.3f}' for value in published)} |")
    theirs = [np.mean([_dynast(genes_BG, top1_B, *split) for split in splits(count)]) for count in ROWS]
    print(f"| here: DyNAS-T's ridge | {' | '.join(f'{value:.3f}' for value in theirs)} |")
    for kind in KINDS:
        taus, started = [], time.process_time()
        for count in ROWS:
            found = []
            for test, train in splits(count):
                predictor = fit(SPACE, genes_BG[train], top1_B[train], "top1", kind)
                found.append(tau(top1_B[test], predictor.predict(genes_BG[test])))
            taus.append(np.mean(found))
        seconds = (time.process_time() - started) / seeds
        print(f"| `{kind}` | {' | '.join(f'{value:.3f}' for value in taus)} | {seconds:.1f} CPU s for the row", flush=True)
    for count in (250, 1000):
        test, train = splits(count)[0]
        taus_by_kind = cross_validated(SPACE, genes_BG[train], top1_B[train], "top1")
        order = np.concatenate([train, test])
        quality = judge(
            SPACE, genes_BG[order], top1_B[order], "top1", len(test) / len(order), np.random.default_rng(0),
            [next(iter(taus_by_kind))],
        )  # fmt: skip
        print(f"chosen from {count} rows: {', '.join(f'{kind} {value:.3f}' for kind, value in taus_by_kind.items())}; "
              f"{quality.coverage:.1%} of held-out truths within 1.96 spreads")  # fmt: skip


def _dynast(genes_BG: np.ndarray, top1_B: np.ndarray, test: np.ndarray, train: np.ndarray) -> float:
    """Kendall's tau of DyNAS-T's predictor: a ridge on one-hot genes, in which unused slots read 3 and are not marked."""
    from sklearn.linear_model import RidgeCV

    depth = genes_BG[:, GENES.of("depth")]
    slots = [
        np.eye(3)[genes_BG[:, where]] for where in (GENES.of("kernel"), GENES.of("expand"))
    ]  # a canonical gene is 0, the first
    x = np.concatenate([np.eye(3)[depth].reshape(len(depth), -1), *(part.reshape(len(depth), -1) for part in slots)], axis=1)
    model = RidgeCV(np.logspace(-3, 3, 25)).fit(x[train], top1_B[train])
    return tau(top1_B[test], model.predict(x[test]))


if __name__ == "__main__":
    main()
