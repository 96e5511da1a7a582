"""Energy by the counters of a processor, imitated by files."""

import pytest

from ofa.energy import NoCounter, energy_mj, packages


@pytest.fixture
def counter(tmp_path):
    """Makes a counter, and a function that adds to it."""

    def make(name, start, most=10**9):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{start}\n")
        (tmp_path / name / "max_energy_range_uj").write_text(f"{most}\n")

        def add(microjoules):
            now = int((tmp_path / name / "energy_uj").read_text())
            (tmp_path / name / "energy_uj").write_text(str((now + microjoules) % most))

        return add

    return make


def test_the_energy_of_a_call_is_the_mean_over_all_packages_also_where_a_counter_begins_again(counter, tmp_path):
    one, other = counter("intel-rapl:0", 999_999_000), counter("intel-rapl:1", 5)
    part = counter("intel-rapl:0:0", 0)  # is counted in its package

    def run():
        one(2000)
        other(500)
        part(2000)

    assert [path.name for path in packages(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    assert energy_mj(run, seconds=0.02, root=tmp_path) == pytest.approx(2.5)


def test_a_machine_without_counters_is_named(tmp_path):
    with pytest.raises(NoCounter, match=r"no readable energy counter in .*; leave the objective out"):
        energy_mj(lambda: None, root=tmp_path)
