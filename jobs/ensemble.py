"""Choose ensembles of the front's members; leaves the best subsets with their scores on both splits.

    ofa ensemble configs/digits.toml --store ./runs

Ensembles are chosen on the selection split, which trained no member, and evaluated on the held-out test split: its table
only gives the scores of subsets that are chosen already. The published protocol (OFA³ chose on images that its supernet was
trained on) is `ensemble.chosen_on = "train"`.
"""

from __future__ import annotations

import numpy as np

from cluster.errors import InputError
from cluster.run import Step
from cluster.seeds import stream
from ensemble.document import Ensembles, SubsetFront
from ensemble.errors import SelectionError, TableError
from ensemble.evolve import Budget
from ensemble.gains import Comparison
from ensemble.rule import RULES
from ensemble.score import Scorer, SubsetScorer
from ensemble.select import select, subsets_to_score
from ensemble.subsets import Chosen, Limits
from ensemble.table import Table
from ensemble.vote import Voting
from jobs import files
from jobs.job import Job
from jobs.workers.scorer import PooledScorer
from ofa.sharing import Pieces, pieces
from search.front import Front
from search.selection import SURVIVAL


def ensemble(job: Job) -> None:
    """Runs the step `ensemble`: chooses the best subsets of the front, and writes them with their scores on both splits."""
    config, step = job.config.ensemble, job.run.begin("ensemble")
    selection, test = (
        Table.from_npz(step.read(files.predictions(split)), files.predictions(split).key)
        for split in (config.chosen_on, "test")
    )
    found = best_subsets(job, selection, test, config.unit, config.most_cost, pieces_of(job, step))
    step.write_json(files.ENSEMBLES, found.to_json())
    step.finish(job.config.seed)
    for front in found.fronts:
        job.reporter.say(described(front))


def best_subsets(job: Job, selection: Table, test: Table, unit: str, most_cost: float, parts: Pieces | None) -> Ensembles:
    """The best subsets of the tables' members for each cost rule of the settings, with their scores on both splits.

    unit, most_cost: of the tables' costs, and the highest of an ensemble in it (0 is no limit). parts: what the members have
    in common, for the rules that need it.
    """
    config = job.config.ensemble
    check_same_members(selection, test, job.run.url)
    voting = Voting.fitted(config.vote, selection) if config.calibrate else Voting(config.vote)
    tester, scorer = SubsetScorer.of(voting.of_table(test)), scorer_of(job, voting.of_table(selection))
    limits = Limits(config.most_members or None, most_cost or None)
    budget = Budget(config.evaluations, job.config.seed, SURVIVAL)
    correct_M = scorer.correct(np.eye(scorer.members, dtype=bool))
    singles = [Chosen((i,), float(selection.cost_M[i]), int(correct)) for i, correct in enumerate(correct_M)]
    bootstrap = np.random.default_rng(stream(job.config.seed, "bootstrap").getrandbits(63))
    comparison = Comparison(scorer.images, tester, singles, bootstrap)
    fronts: list[SubsetFront] = []
    total = subsets_to_score(config.algorithm, scorer.members)
    for rule in config.costs:
        with job.reporter.track(f"ensemble ({rule})", total, "subsets") as tracker:
            try:
                chosen = select(
                    scorer,
                    selection.cost_M,
                    rule,
                    config.algorithm,
                    tracker.at,
                    limits,
                    vote=config.vote,
                    budget=budget,
                    pieces=parts,
                )
            except SelectionError as error:
                raise InputError(f"ensemble: {error}") from None
        scored = comparison.scored(chosen)
        fronts.append(SubsetFront(cost=rule, unit=unit, members=scored, optimism=comparison.optimism(chosen[-1])))
    return Ensembles.of(fronts, comparison.scored(singles), voting)


def described(front: SubsetFront) -> str:
    """The best subset for one cost rule, as a line of text."""
    best = front.members[-1]
    return (
        f"ensemble: for the {front.cost} of {front.unit}, {len(front.members)} subsets; the best has "
        f"{len(best.members)} members and test top-1 {best.test_top1:.4f} "
        f"[{best.test_interval[0]:.4f}, {best.test_interval[1]:.4f}]; its score on the split that it was chosen on "
        f"is optimistic by {100 * front.optimism.gap:+.2f} points"
    )


def pieces_of(job: Job, step: Step) -> Pieces | None:
    """What the front's members have in common, in the unit of the ensembles' cost; None if no cost rule needs it."""
    if not any(RULES[rule].needs_pieces for rule in job.config.ensemble.costs):
        return None
    archs = [member.arch for member in Front.from_json(step.read_json(files.FRONT)).members]
    return pieces(job.config.search_space, archs, job.data.classes, job.config.ensemble.unit)


def scorer_of(job: Job, table: Table) -> Scorer:
    """A scorer on the driver's cores, or on the configured number of actors. table: of votes."""
    actors = job.config.ray.scorers
    if not actors:
        return SubsetScorer.of(table)
    job.need_ray()
    pooled = PooledScorer(table, actors, job.config.ray.scorer_gpus)
    job.stack.callback(pooled.close)
    return pooled


def check_same_members(selection: Table, test: Table, where: str) -> None:
    """Raises a `TableError` unless both tables have the same members."""
    if not np.array_equal(selection.cost_M, test.cost_M):
        raise TableError(
            f"{where}: the tables are of different members: {len(selection.cost_M)} and {len(test.cost_M)}, with costs "
            f"up to {selection.cost_M.max():g} and {test.cost_M.max():g}; predict both with one front"
        )
