"""The docs site builds strictly, without a network, and holds every page and every public name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_page_of_the_docs_is_in_the_site(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}
    assert "make demo" in (site / "index.html").read_text()
    assert "Proof of value" in (site / "contributing.html").read_text()


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="?([^" >]+)', text)
        loaded += re.findall(r'<link[^>]*rel="?stylesheet"?[^>]* href="?([^" >]+)', text)
        assert loaded
        assert not [url for url in loaded if url.startswith(("http:", "https:", "//"))], page


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("ofa", "ofa.supernet.Supernet"),
        ("ofa", "ofa.extract.extract"),
        ("search", "search.measured.search"),
        ("search", "search.front.hypervolume"),
        ("ensemble", "ensemble.score.SubsetScorer.accuracy"),
        ("cluster", "cluster.store.open_store"),
        ("jobs", "jobs.config.Experiment"),
    ],
)
def test_the_reference_has_the_public_names(site, page, name):
    assert f'id="{name}"' in (site / f"reference/{page}.html").read_text()
