"""The rank correlation of predictors with real ImageNet accuracies, for several numbers of rows, beside published figures.

    python -m bench.predictors [--seeds N]

A fifth of the rows is held out; the predictor is fitted to some of the others. Prints Kendall's tau, mean over seeds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bench.imagenet import GENES, SPACE, rows
from search.predict.predictor import KINDS, cross_validated, fit, judge, tau

ROWS = (50, 100, 250, 1000, 1729)
# Published results on the same rows: with a one-hot encoding, and the best of the comparison.
PUBLISHED = {
    "DyNAS-T's ridge": (None, 0.874, 0.911, 0.929, 0.931),
    "gradient boosting on its one-hot": (None, 0.869, 0.914, 0.947, 0.952),
    "ridge + RBF-SVR residual": (0.877, 0.908, 0.933, 0.962, 0.966),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
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
