"""Choose ensembles of the front's members; leaves the best subsets with their scores on both splits.

    ofa ensemble configs/digits.toml --store ./runs
    ofa ensemble --predictions table.npz --cost max --out ./ensembles

Chosen on the selection split, which trained no member, and reported on the test split, which chose nothing. The published
protocol (OFA³ chose on images that its supernet was trained on) is `ensemble.chosen_on = "train"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cluster.errors import InputError
from cluster.seeds import stream
from cluster.store import open_store
from cluster.texts import json_lines
from ensemble.calibrate import calibrated, temperatures
from ensemble.errors import SelectionError, TableError
from ensemble.evolve import evolve
from ensemble.honest import curse, difference_interval, interval
from ensemble.score import Scorer, SubsetScorer
from ensemble.select import ALGORITHMS, Chosen, CostRule, Limits, select, weighted
from ensemble.table import Table, hard
from jobs import files
from jobs.job import Job
from jobs.workers.scorer import PooledScorer
from search.selection import SURVIVAL

PUBLISHED = ("nsga2", "sms-emoa", "spea2")  # on masks of members, as OFA³ has them


@dataclass(frozen=True, slots=True)
class Voting:
    """How members vote: soft, hard or weighted, and at which temperatures, if at their own."""

    vote: str
    temperature_M: np.ndarray | None

    @classmethod
    def of(cls, vote: str, calibrate: bool, chosen_on: Table) -> Voting:
        return cls(vote, temperatures(chosen_on) if calibrate else None)

    def prepared(self, table: Table) -> Table:
        """The votes themselves, to be added."""
        if self.temperature_M is not None:
            table = calibrated(table, self.temperature_M)
        return hard(table) if self.vote == "hard" else table

    def scorer(self, table: Table) -> SubsetScorer:
        table = self.prepared(table)
        return SubsetScorer(table.classes_MNK, table.probs_MNK, table.labels_N)

    def choose(
        self, scorer: Scorer, table: Table, rule: CostRule, algorithm: str, evaluations: int, seed: int, **more: Any
    ) -> list[Chosen]:
        """Subsets by one of our algorithms, or by a published one, which scores so many and draws from the seed."""
        if algorithm in PUBLISHED:
            survive = SURVIVAL[algorithm]
            found = evolve(scorer, table.cost_M, rule, survive, evaluations=evaluations, seed=seed, **more)
        else:
            found = select(scorer, table.cost_M, rule, algorithm, **more)
        return weighted(scorer, found) if self.vote == "weighted" else found


def ensemble(job: Job) -> None:
    config, step = job.config.ensemble, job.run.begin("ensemble")
    selection, test = (
        Table.from_npz(step.read(files.predictions(split)), files.predictions(split).key)
        for split in (config.chosen_on, "test")
    )
    check_same_members(selection, test, job.run.url)
    ballot = Voting.of(config.vote, config.calibrate, selection)
    judge = ballot.scorer(test)
    chooser = scorer_of(job, ballot, selection)
    limits = Limits(config.most_members or None, config.most_cost or None)
    right_M = chooser.correct(np.eye(chooser.members, dtype=bool))
    singles = [Chosen((i,), float(selection.cost_M[i]), int(right)) for i, right in enumerate(right_M)]
    report = Report(
        chooser.images, judge, singles, np.random.default_rng(stream(job.config.seed, "bootstrap").getrandbits(63))
    )
    fronts: list[dict[str, Any]] = []
    for rule in config.costs:
        with job.reporter.track(f"ensemble ({rule})", 0, "subsets") as tracker:
            try:
                chosen = ballot.choose(
                    chooser, selection, rule, config.algorithm, config.evaluations, job.config.seed,
                    progress=tracker.at, limits=limits,
                )  # fmt: skip
            except SelectionError as error:
                raise InputError(f"ensemble: {error}") from None
        fronts.append({"cost": rule, "unit": config.unit, "members": report.rows(chosen), "curse": report.curse(chosen)})
    doc = {**fronts[0], "other_costs": fronts[1:], "singles": report.rows(singles), "vote": config.vote}
    if ballot.temperature_M is not None:
        doc["temperatures"] = ballot.temperature_M.tolist()
    step.write_json(files.ENSEMBLES, doc)
    step.finish(job.config.seed)
    for found in fronts:
        best = found["members"][-1]
        job.reporter.say(
            f"ensemble: for the {found['cost']} of {config.unit}, {len(found['members'])} subsets; the best has "
            f"{len(best['members'])} members and test top-1 {best['test_top1']:.4f} "
            f"[{best['test_interval'][0]:.4f}, {best['test_interval'][1]:.4f}]; choosing it promised "
            f"{100 * found['curse']['gap']:+.2f} points too much"
        )


def scorer_of(job: Job, ballot: Voting, table: Table) -> Scorer:
    """On the driver's cores, or on as many actors as the config says."""
    actors = job.config.ray.scorers
    if not actors:
        return ballot.scorer(table)
    job.need_ray()
    pooled = PooledScorer(ballot.prepared(table), actors)
    job.stack.callback(pooled.close)
    return pooled


def check_same_members(selection: Table, test: Table, where: str) -> None:
    """A `TableError` unless both tables are of the same members."""
    if not np.array_equal(selection.cost_M, test.cost_M):
        raise TableError(
            f"{where}: the tables are of different members: {len(selection.cost_M)} and {len(test.cost_M)}, with costs "
            f"up to {selection.cost_M.max():g} and {test.cost_M.max():g}; predict both with one front"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What is said of subsets: on `images` they were chosen on, and by `judge` on the test split."""

    images: int
    judge: SubsetScorer
    singles: list[Chosen]
    rng: np.random.Generator

    def rows(self, chosen: list[Chosen]) -> list[dict[str, Any]]:
        """Each subset's scores, with 95 % intervals; and of ensembles what they gain over the best single of their cost."""
        named_SN = self.judge.named_right(weights_of(chosen, self.judge.members))
        rows = []
        for subset, named_N in zip(chosen, named_SN, strict=True):
            right = int(named_N.sum())
            row: dict[str, Any] = {
                "members": list(subset.members),
                "cost": subset.cost,
                "top1": subset.correct / self.images,
                "test_top1": right / self.judge.images,
                "test_interval": interval(right, self.judge.images),
            }
            if subset.weights:
                row["weights"] = list(subset.weights)
            cheaper = [single for single in self.singles if single.cost <= subset.cost * (1 + 1e-12)]
            if len(subset.members) > 1 and cheaper:
                rival = max(cheaper, key=lambda single: single.correct)
                rival_N = self.judge.named_right(weights_of([rival], self.judge.members))[0]
                row["single"] = rival.members[0]
                row["gain"] = (right - int(rival_N.sum())) / self.judge.images
                row["gain_interval"] = difference_interval(named_N, rival_N, self.rng)
            rows.append(row)
        return rows

    def curse(self, chosen: list[Chosen]) -> dict[str, float]:
        """Of the best subset: how much of its score was luck of being chosen."""
        scores = self.judge.correct_weighted(weights_of([chosen[-1], *self.singles], self.judge.members)) / self.judge.images
        singles = np.array([single.correct for single in self.singles]) / self.images, scores[1:]
        found = curse((chosen[-1].correct / self.images, float(scores[0])), singles)
        return {"drop": found.chosen, "typical_drop": found.typical, "gap": found.gap}


def weights_of(chosen: list[Chosen], members: int) -> np.ndarray:
    """The weight of every member in each subset's vote: [S, M]; equal ones are 1."""
    weights = np.zeros((len(chosen), members))
    for row, subset in zip(weights, chosen, strict=True):
        row[list(subset.members)] = subset.weights or 1.0
    return weights


def ensemble_of_table(
    path: str, rule: Literal["max", "sum"], algorithm: str, evaluations: int, seed: int, out: str, vote: str, limits: Limits
) -> list[Chosen]:
    """Chooses from a predictions file alone; leaves ensembles.json in `out`, its top-1 on that file's images."""
    try:
        table = Table.from_npz(Path(path).read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the path of a predictions file (.npz)") from None
    if (wrong := next((m for m in limits.must_have if not 0 <= m < len(table.cost_M)), None)) is not None:
        raise InputError(f"--must-have {wrong}: {path} has members 0 to {len(table.cost_M) - 1}")
    ballot = Voting(vote, None)
    if algorithm not in (*ALGORITHMS, *PUBLISHED):
        raise InputError(f"no algorithm is called {algorithm!r}; there are {', '.join((*ALGORITHMS, *PUBLISHED))}")
    try:
        chosen = ballot.choose(ballot.scorer(table), table, rule, algorithm, evaluations, seed, limits=limits)
    except SelectionError as error:
        raise InputError(f"--algorithm {algorithm}: {error}") from None
    images = len(table.labels_N)
    members = [
        {"members": list(c.members), "cost": c.cost, "top1": c.correct / images}
        | ({"weights": c.weights} if c.weights else {})
        for c in chosen
    ]
    doc = {"cost": rule, "unit": "cost", "vote": vote, "members": members}
    open_store(out).write(files.ENSEMBLES.key, json_lines(doc).encode())
    return chosen
