"""What the docs name is there: commands with their options, make targets, files, settings."""

import re
from pathlib import Path

import pytest
import typer

from jobs.cli.main import app

ROOT = Path(__file__).parent.parent
DOCS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = [
    path for folder in ("cluster", "ensemble", "jobs", "ofa", "search", "configs") for path in (ROOT / folder).rglob("*.*")
]
COMMAND = typer.main.get_command(app)
PAGES = [*DOCS, *(path for path in SOURCES if path.suffix in (".py", ".toml"))]


def commands(text, program):
    """Every command of `program` in a page: a line of a code block, of a docstring or comment, or inline code."""
    lines = [
        *re.findall(rf"^[ #]*(?:\S*/)?{program} ([a-z].*)$", text, re.M),
        *re.findall(rf"`(?:\S*/)?{program} ([a-z][^`]*)`", text),
    ]
    return [re.split(r"\s+#|\s{2,}|;", line)[0].strip() for line in lines]


def objection(words):
    """What is wrong with an `ofa` command line, if anything."""
    command = COMMAND
    names = []
    for word in words:
        if not hasattr(command, "commands"):
            break
        if word in ("|", "CONFIG") or not re.fullmatch(r"[a-z|]+", word):
            return f"no command {word!r}"
        for name in word.split("|"):  # `list|show` names several
            if name not in command.commands:
                return f"no command {name!r}"
        names.append(word)
        command = command.commands[word.split("|")[0]]
    options = {"--help", *(o for parameter in command.params for o in (*parameter.opts, *parameter.secondary_opts))}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in options]
    return f"{' '.join(names)} has no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist_with_their_options(page):
    for line in commands(page.read_text(encoding="utf-8"), "ofa"):
        assert (wrong := objection(line.split())) is None, f"`ofa {line}`: {wrong}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_and_linked_files_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in commands(text, "make"):
        assert line.split()[0] in targets, f"`make {line}`"
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for path in re.findall(r"`((?:jobs|cluster|ofa|search|ensemble|tests|configs|docs|bench|k8s)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_check_finds_what_is_not_there():
    text = "Call `ofa cost --spice digits` or `ofa sing`.\n\n    ofa results fetch\n    bin/ofa run a.toml --set a=b  # so\n"
    assert [objection(line.split()) for line in commands(text, "ofa")] == [
        "no command 'fetch'",
        None,
        "cost has no option --spice",
        "no command 'sing'",
    ]


def test_readme_commands_are_found():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(commands(text, "ofa")) >= 10
    assert {line.split()[0] for line in commands(text, "make")} >= {"demo", "test"}


def test_every_entry_of_the_log_says_where_it_is_from():
    entries = re.split(r"^## ", (ROOT / "docs/log.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(entries) >= 7
    for entry in entries:
        title, _, text = entry.partition("\n\n")
        assert re.match(r"\*Commits? [0-9a-f]{7,}\b|\*`python -m bench\.", text), (
            f"{title}: begin with its commit or command"
        )


def test_bench_commands_name_benches_that_exist():
    for page in DOCS:
        for name in re.findall(r"python -m bench\.(\w+)", page.read_text(encoding="utf-8")):
            assert (ROOT / f"bench/{name}.py").is_file(), f"{page}: bench.{name}"
