"""The bench of adaptations: equal evaluations for every variant, and each differs from NATv2 in what its name says."""

from dataclasses import asdict, replace

import pytest

from bench.nat import NAT, NATV2, SMALL, SOURCE, SOURCE_PHASES, TARGET, VARIANTS, WARM_UP, evaluations, share_of, sized
from jobs.config import Adapt, load
from search.objective import OBJECTIVES


def test_the_published_settings_evaluate_as_many_sub_networks_as_published():
    natv2 = Adapt(iterations=30)
    assert evaluations(natv2) == 12_750
    nat = replace(natv2, archs=100, oversample=1, batch=8, archive="growing")
    assert evaluations(nat) == 7_060


@pytest.mark.parametrize("name", [name for name, setting in VARIANTS.items() if setting is not None])
def test_a_variant_spends_nearly_all_evaluations_and_no_more(name):
    setting = sized(VARIANTS[name], 240)
    assert 220 <= evaluations(setting) <= 240
    assert setting.survivors <= setting.archs


def test_too_few_evaluations_for_an_archive_end_the_bench_at_once_with_how_many_it_takes():
    with pytest.raises(SystemExit, match=r"160 evaluations: an archive of 10 archs takes 190 .*growing"):
        sized(NAT, 160)


def test_variants_differ_from_natv2_in_one_setting_and_nat_in_all_of_them():
    def changed(setting):
        return {key for key, value in asdict(setting).items() if value != getattr(NATV2, key)}

    single = [changed(setting) for name, setting in VARIANTS.items() if setting not in (None, NATV2, NAT)]
    assert all(len(keys) == 1 for keys in single)
    assert set.union(*single) == changed(NAT) | {"law"}


def test_the_source_and_the_target_have_one_space_and_other_classes():
    source = load(SOURCE, [*SMALL, SOURCE_PHASES.replace("EPOCHS", "1")])
    target = load(TARGET, [*SMALL, WARM_UP.replace("EPOCHS", "1")])
    assert source.search_space == target.search_space
    assert not set(source.data.classes) & set(target.data.classes)


def test_a_perfect_network_without_cost_has_the_whole_hypervolume():
    import numpy as np

    objectives = (OBJECTIVES["top1"], OBJECTIVES["macs"])
    assert share_of(objectives, np.array([0.0, 200.0])) == pytest.approx(200.0)
