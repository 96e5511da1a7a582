"""The bench of post-processing: its methods are the schemes of weights, and its table the gains."""

from bench.ofav2 import TRAININGS
from bench.postprocess import EXITS, METHODS, SUPERNET, table
from ofa.exits import SCHEMES
from ofa.train import OPTIMIZERS


def test_every_scheme_of_weights_is_compared_with_a_networks_own_exit():
    assert {exits for _, exits in METHODS.values()} == {None, *SCHEMES}
    assert {optimizer for optimizer, _ in METHODS.values()} == set(OPTIMIZERS)
    assert TRAININGS[SUPERNET][0].startswith("ee")


def test_the_table_has_the_mean_the_lowest_and_the_highest_gain_in_points():
    rows = [
        {"method": name, "exit": last, "before": 0.5, "test_top1": 0.5 + 0.01 * (number + seed), "epochs": 2 + seed}
        for name in METHODS for seed in (0, 2) for number, last in enumerate(EXITS)
    ]  # fmt: skip
    lines = table(rows, EXITS, list(METHODS)).splitlines()
    assert len(lines) == 2 + len(METHODS) and lines[0] == "| method | exit 3 | exit 4 | exit 5 | all | epochs |"
    cells = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert cells == ["MIX", "+1.00 (+0.00 to +2.00)", "+2.00 (+1.00 to +3.00)", "+3.00 (+2.00 to +4.00)",
                     "+2.00 (+0.00 to +4.00)", "2 to 4"]  # fmt: skip
    lines = table(rows, [4], ["UNIF"]).splitlines()
    assert [line.split("|")[1].strip() for line in lines] == ["method", "---", "UNIF"]
    assert lines[-1].split("|")[2] == lines[-1].split("|")[3] == " +2.00 (+1.00 to +3.00) "
