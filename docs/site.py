"""Pages of the docs site that are made from other files: README, CHANGELOG, CONTRIBUTING, and a reference of each package.

`mkdocs.yml` names this file as a hook. Nothing is written to disk but the site itself.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
FROM_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
PACKAGES = ("ofa", "search", "ensemble", "cluster", "jobs")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds index.md, changelog.md, contributing.md and reference/<package>.md."""
    pages = {page: from_root(source) for source, page in FROM_ROOT.items()}
    pages |= {f"reference/{package}.md": reference(package) for package in PACKAGES}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def from_root(name: str) -> str:
    """A page at the project's root with its links as seen from docs/; files that are no page become plain code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text)
    for source, page in FROM_ROOT.items():
        text = text.replace(f"]({source})", f"]({page})")
    return re.sub(r"\[([^\]]+)\]\((?!https?://)(?![\w/]*\.(?:md|png))([\w./-]+)\)", r"`\2`", text)


def reference(package: str) -> str:
    """The public names of every module of a package, room by room, with their docstrings."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.name.startswith("_")
    ]
    lines = [f"# `{package}`", ""]
    lines += [f"::: {module}\n" for module in sorted(modules, key=lambda name: (name.count("."), name))]
    return "\n".join(lines)
