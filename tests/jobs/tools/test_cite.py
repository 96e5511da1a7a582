"""Every name that a config may have is cited, or marked as without a paper."""

import json
import re
import sys
from collections import Counter
from dataclasses import replace

import helpers
import pytest

from jobs import config as configs
from jobs.tools.cite import PAPERS, SOURCES, SPACES, SWITCHES, cited, of_space


def known():
    """Of each setting with an open list: the names in its dictionary."""
    from ensemble import select
    from search import measured, predicted
    from search.predict.models import FITS

    return {
        "search.algorithm": set(measured.ALGORITHMS),
        "search.predicted_algorithm": set(predicted.ALGORITHMS),
        "fit.predictor": {"default", *FITS},
        "ensemble.algorithm": {"default", *select.ALGORITHMS},
    }


@pytest.mark.parametrize("setting", known())
def test_every_name_of_an_open_list_has_its_papers_or_is_marked_as_without(setting):
    missing = known()[setting] - set(SOURCES[setting])
    assert missing == set(), f"add {missing} to SOURCES[{setting!r}] in jobs/tools/cite.py, () if there is no paper"


def test_every_space_has_its_papers():
    import ofa.spaces

    names = [name for family in ofa.spaces._families() for name in family.NAMES]
    assert len(names) >= 5
    assert [name for name in names if not of_space(name)] == []


def test_every_paper_is_cited_somewhere_and_every_key_is_a_paper():
    keys = [*SPACES.values(), *(keys for *_, keys in SWITCHES),
            *(keys for sources in SOURCES.values() for keys in sources.values())]  # fmt: skip
    assert {key for found in keys for key in found} == set(PAPERS)


def test_papers_are_distinct_and_can_be_found():
    assert max(Counter(paper.source for paper in PAPERS.values()).values()) == 1
    for key, paper in PAPERS.items():
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/\S+", paper.source), key
        assert str(paper.year) in key, key


def test_what_a_config_uses_is_cited_and_nothing_else():
    tiny = configs.load(str(helpers.TINY))
    guided = replace(tiny, search=replace(tiny.search, algorithm="guided"), ensemble=replace(tiny.ensemble, calibrate=True))
    assert "cummings2022hardware" not in cited(tiny)
    assert "guo2017calibration" not in cited(tiny)
    assert cited(guided)["cummings2022hardware"] == ["search.algorithm guided"]
    assert cited(guided)["guo2017calibration"] == ["ensemble.calibrate"]
    other = replace(tiny, search=replace(tiny.search, algorithm="optuna:TPESampler"))
    assert cited(other)["akiba2019optuna"] == ["search.algorithm optuna:TPESampler"]
    assert "he2019bag" in cited(replace(tiny, space="ofa_resnet50"))
    delayed = configs.load("configs/nas_bench_macro.toml")
    assert {"su2021prioritized", "annavajjala2024deps"} <= set(cited(delayed))
    assert {"sahni2021compofa", "wang2021alphanet", "jordan2024airbench"}.isdisjoint(cited(delayed))


def test_the_command_prints_text_bibtex_and_json(monkeypatch, capsys):
    from jobs.cli.main import main

    def printed(*options):
        monkeypatch.setattr(sys, "argv", ["ofa", "cite", str(helpers.TINY), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    keys = list(cited(configs.load(str(helpers.TINY))))
    assert [line for line in printed().splitlines() if not line.startswith(" ")] == [PAPERS[key].text() for key in keys]
    assert re.findall(r"^@\w+\{(\w+),$", printed("--bibtex"), re.M) == keys
    rows = [json.loads(line) for line in printed("--json").splitlines()]
    assert [row["key"] for row in rows] == keys
    assert all(row["url"].startswith("https://") and row["cited_for"] for row in rows)


def test_a_bibtex_entry_has_balanced_braces_and_the_paper_s_identifier():
    for key, paper in PAPERS.items():
        entry = paper.bibtex(key)
        assert entry.count("{") == entry.count("}")
        assert paper.source.partition(":")[2] in entry
