"""Cost rules against their definition, and one that only this file has, in everything that takes a rule."""

import json

import numpy as np
import pytest

from bench.tables import realistic
from ensemble.document import Ensembles, SubsetFront
from ensemble.evolve import Budget
from ensemble.gains import Comparison
from ensemble.rule import RULES, Rule
from ensemble.score import SubsetScorer
from ensemble.select import select
from ensemble.subsets import Chosen
from ensemble.vote import Voting
from search.objective import MACS, TOP1
from search.selection import SURVIVAL


class Length(Rule):
    """The square root of the sum of squares."""

    members_run = "at angles"

    def costs(self, masks_SM, cost_M):
        return np.sqrt((np.where(masks_SM, cost_M, 0.0) ** 2).sum(axis=1))


COST = np.array([3.0, 1.0, 2.0, 2.0, 7.0, 5.0])
MASKS = (np.arange(64)[:, None] >> np.arange(6)) & 1 == 1


@pytest.mark.parametrize("rule", [*RULES.values(), Length()], ids=lambda rule: type(rule).__name__)
def test_the_cost_of_a_changed_subset_is_that_of_the_subset_it_becomes(rule):
    changed = rule.changed(MASKS, COST)
    for mask, costs in zip(MASKS, changed, strict=True):
        assert costs == pytest.approx(rule.costs(mask ^ np.eye(6, dtype=bool), COST))


@pytest.mark.parametrize("rule", [*RULES.values(), Length()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("cost", [COST, COST - 1, COST * 0], ids=["priced", "one is free", "all are free"])
def test_costs_never_fall_with_a_member_and_levels_reach_from_the_cheapest_to_all(rule, cost):
    costs = rule.costs(MASKS, cost)
    assert (rule.changed(MASKS, cost)[~MASKS] >= np.repeat(costs, 6)[~MASKS.ravel()] - 1e-12).all()
    levels = rule.levels(cost)
    assert (np.diff(levels) >= 0).all()
    assert levels[0] == pytest.approx(costs[1:].min())
    assert levels[-1] >= costs[-1] * (1 - 1e-12)


@pytest.fixture
def length(monkeypatch):
    monkeypatch.setitem(RULES, "length", Length())


def instance(members=8, images=300):
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(5), (members, images))
    kept = np.argsort(-probs, axis=2)
    scorer = SubsetScorer(kept, np.take_along_axis(probs, kept, axis=2).astype(np.float32), rng.integers(0, 5, images))
    return scorer, np.linspace(1, 4, members)


@pytest.mark.usefixtures("length")
@pytest.mark.parametrize("algorithm", ["default", "exhaustive", "greedy", "nsga2"])
def test_a_new_rule_needs_nothing_but_its_entry_to_be_selected_by(algorithm):
    scorer, cost = instance()
    masks = (np.arange(1, 256)[:, None] >> np.arange(8)) & 1 == 1
    costs, correct = np.sqrt((masks * cost**2).sum(axis=1)), scorer.correct(masks)
    found = select(scorer, cost, "length", algorithm, budget=Budget(evaluations=255, seed=1, survivals=SURVIVAL))
    for chosen in found:
        assert chosen.cost == pytest.approx(np.sqrt((cost[list(chosen.members)] ** 2).sum()))
        if algorithm in ("default", "exhaustive"):
            assert chosen.correct == correct[costs <= chosen.cost * (1 + 1e-12)].max()
    assert found[-1].correct >= correct.max() - (0 if algorithm in ("default", "exhaustive") else 5)


@pytest.mark.usefixtures("length")
def test_a_new_rule_is_a_setting_and_part_of_documents_and_reports():
    from helpers import TINY

    from jobs.config import load
    from jobs.report import ensemble_table, front_figure, test_figure
    from search.front import Front

    setting = 'ensemble.costs=["sum", "max", "length"]'
    rules = load(str(TINY), [setting]).ensemble.costs
    scorer, cost = instance()
    counts = scorer.correct(np.eye(8, dtype=bool))
    singles = [Chosen((m,), float(cost[m]), int(count)) for m, count in enumerate(counts)]
    comparison = Comparison(scorer.images, scorer, singles, np.random.default_rng(0))
    fronts = []
    for rule in rules:
        chosen = select(scorer, cost, rule)
        rows, optimism = comparison.scored(chosen), comparison.optimism(chosen[-1])
        fronts.append(SubsetFront(cost=rule, unit="macs", members=rows, optimism=optimism))
    found = Ensembles.of(fronts, comparison.scored(singles), Voting("soft"))
    assert Ensembles.from_json(found.to_json(), "ensembles.json") == found
    assert "cost is the length over the members" in ensemble_table(found)
    for figure in (front_figure(Front("digits", ()), found, [], [], (TOP1, MACS)), test_figure(found)):
        assert [trace.name for trace in figure.data][-3:] == [f"ensembles, cost = {rule}" for rule in rules]


@pytest.mark.usefixtures("length")
def test_a_new_rule_is_an_option_of_the_command_line(tmp_path, monkeypatch):
    from jobs.cli.main import main

    table = realistic(members=4, images=60, classes=20)
    (tmp_path / "t.npz").write_bytes(table.to_npz())
    command = ["ofa", "ensemble", "--predictions", str(tmp_path / "t.npz"), "--cost", "length", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit, match="0"):
        main()
    found = json.loads((tmp_path / "ensembles.json").read_text())
    assert found["cost"] == "length"
    for row in found["members"]:
        assert row["cost"] == pytest.approx(np.sqrt((table.cost_M[row["members"]] ** 2).sum()))
