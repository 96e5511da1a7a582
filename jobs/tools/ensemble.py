"""Choose ensembles from a predictions file alone, without a run; leaves ensembles.json in DIR.

ofa ensemble --predictions table.npz --cost max --out ./ensembles
"""

from __future__ import annotations

from cluster.errors import InputError
from cluster.reading import read_bytes, shortened
from cluster.store import open_output
from cluster.texts import json_lines
from ensemble.document import Subset, TableEnsembles
from ensemble.evolve import Budget
from ensemble.score import SubsetScorer
from ensemble.select import select
from ensemble.subsets import Limits
from ensemble.table import Table
from ensemble.vote import Voting
from jobs import files
from search.selection import SURVIVAL


def ensemble_of_table(
    path: str, rule: str, algorithm: str, evaluations: int, seed: int, out: str, vote: str, limits: Limits
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
    chosen = select(scorer, table.cost_M, rule, algorithm, limits=limits, vote=vote, budget=budget)
    members = tuple(
        Subset(members=c.members, cost=c.cost, top1=c.correct / scorer.images, weights=c.weights) for c in chosen
    )
    found = TableEnsembles(cost=rule, unit="cost", vote=vote, members=members)
    folder.write(files.ENSEMBLES.key, json_lines(found.to_json()).encode())
    return found
