"""Choose ensembles from a predictions file alone, or of a run by another cost; leaves ensembles.json in DIR.

    ofa ensemble --predictions table.npz --cost max --out ./ensembles
    ofa ensemble configs/digits.toml --unit latency_ms.phone --latency-table phone=FILE --out ./ensembles

The second uses the predictions that the run has: nothing is trained, measured or predicted again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.reading import read_bytes, shortened
from cluster.store import Store, open_output
from cluster.texts import json_lines
from ensemble.document import Ensembles, Subset, TableEnsembles
from ensemble.evolve import Budget
from ensemble.rule import RULES
from ensemble.score import SubsetScorer
from ensemble.select import select, subsets_to_score
from ensemble.subsets import Limits
from ensemble.table import Table
from ensemble.vote import Voting
from jobs import files
from jobs.ensemble import best_subsets, described
from jobs.job import Job
from jobs.predict import costs_of_members
from ofa.sharing import pieces
from search.costs.devices import DeviceCosts
from search.costs.latency import LatencyTable
from search.front import Front
from search.predict.terms import EXACT
from search.selection import SURVIVAL


def ensemble_of_table(
    path: str,
    rule: str,
    algorithm: str,
    evaluations: int,
    seed: int,
    out: str,
    vote: str,
    limits: Limits,
    reporter: Reporter,
) -> TableEnsembles:
    """The best subsets of a predictions file's members, with their top-1 on that file's images.

    rule, algorithm, vote: names in `RULES`, `ALGORITHMS` and `VOTES` of `ensemble`. evaluations, seed: of the published
    algorithms. Raises an `InputError` or an `EnsembleError` for a file, a name or a limit that cannot be used.
    """
    folder = open_output(out)
    table = Table.from_npz(read_bytes(path, "a predictions file (.npz)"), shortened(path))
    if (wrong := next((m for m in limits.must_have if not 0 <= m < len(table.cost_M)), None)) is not None:
        raise InputError(f"--must-have {wrong}: {path} has members 0 to {len(table.cost_M) - 1}")
    scorer, budget = SubsetScorer.of(Voting(vote).of_table(table)), Budget(evaluations, seed, SURVIVAL)
    total = subsets_to_score(algorithm, scorer.members)
    with reporter.track(f"ensemble ({rule})", total, "subsets") as tracker:
        chosen = select(scorer, table.cost_M, rule, algorithm, tracker.at, limits, vote=vote, budget=budget)
    members = tuple(
        Subset(members=c.members, cost=c.cost, top1=c.correct / scorer.images, weights=c.weights) for c in chosen
    )
    found = TableEnsembles(cost=rule, unit="cost", vote=vote, members=members)
    folder.write(files.ENSEMBLES.key, json_lines(found.to_json()).encode())
    return found


def ensemble_by(
    job: Job, unit: str, tables: Mapping[str, LatencyTable], most_cost: float | None, folder: Store
) -> Ensembles:
    """The best subsets of a finished run's front, whose cost is in another unit than the run's; its predictions are used.

    tables: by device, where the run has none. folder: for ensembles.json. most_cost: highest cost of an ensemble, in
    `unit`; without one, the setting of the run if the unit is the run's. Raises an `InputError` or a `ProblemError` where
    the cost of a member is not known.
    """
    setting, space = job.config.ensemble, job.config.search_space
    front = Front.from_json(json.loads(job.run.read(files.FRONT)))
    members = list(front.members)
    if tables:
        if (twice := next((device for device in tables if device in job.config.devices), None)) is not None:
            raise InputError(
                f"--latency-table {twice}: the run has a table of this device; leave it out, or name it otherwise"
            )
        members = DeviceCosts(space, job.data.classes, tables).completed(members)
    cost_M = costs_of_members(members, unit)
    if unit not in EXACT and any(RULES[rule].needs_pieces for rule in setting.costs):
        raise InputError(
            f"--unit {unit}: what members have in common is known of {' and '.join(EXACT)} only; use one of them, or leave "
            "'shared' out of ensemble.costs"
        )
    selection, test = (
        replace(Table.from_npz(job.run.read(files.predictions(split)), files.predictions(split).key), cost_M=cost_M)
        for split in (setting.chosen_on, "test")
    )
    parts = None
    if any(RULES[rule].needs_pieces for rule in setting.costs):
        parts = pieces(space, [member.arch for member in members], job.data.classes, unit)
    limit = most_cost if most_cost is not None else setting.most_cost if unit == setting.unit else 0.0
    found = best_subsets(job, selection, test, unit, limit, parts)
    folder.write(files.ENSEMBLES.key, json_lines(found.to_json()).encode())
    for subsets in found.fronts:
        job.reporter.say(described(subsets))
    return found
