"""Every command, and every file, directory and store that it can be given, with each kind of thing that is of no use there.

A new command, or a new option that takes text, fails here until `USES` or `NO_PATHS` names it.
"""

import re
import shutil
import sys

import pytest
import typer
from samples import THINGS

from cluster.config import dump
from cluster.run import File, Run
from jobs import files
from jobs.cli.main import app, main
from jobs.config import load

# Each use of a command: its arguments, in which {name} is a path of what `Things` makes, and > marks paths that are written.
USES = {
    "run": ["{config} --store {>store}", "{config} --store {>store} --only fit"],
    **{step: ["{config} --store {store}"] for step in ("fit", "validate", "predict", "report")},
    "train": ["{config} --store {>store}"],
    "adapt": ["{config} --store {store}"],
    "transfer": ["{config} --from {weights} --store {>store}", "{config} --from {run} --store {>store}"],
    "measure": [
        "{config} --store {store}",
        "--latency-table {>table} --space digits --runs 4 --networks 3 --resolution 24",
        "--parts {>out} --space digits --resolution 24",
    ],
    "tune": ["{config} --store {>store} --out {>tuned}"],
    "cite": ["{config}"],
    "search": [
        "{config} --store {store}",
        "--space digits --predictor {predictor} --latency-table {table} --evaluations 50 --population 5 --out {>out}",
        "--space digits --predictor {predictor} --latency-table {yaml} --evaluations 50 --population 5 --out {>out}",
    ],
    "targets": [
        "--space digits --predictor {predictor} --latency-table {table} --latency-ms 9 --evaluations 50 --out {>out}"
    ],
    "choose": ["{front} --knee", "{measured} --knee"],
    "ensemble": [
        "{config} --store {store}",
        "{config} --store {store} --unit latency_ms.table --latency-table {table} --out {>out}",
        "--predictions {predictions} --out {>out}",
    ],
    "export": ["{config} --store {store}", "{config} --store {store} --arch {arch}"],
    "eval": ["{config} --store {store} --arch {arch}"],
    "finetune": ["{config} --store {store} --arch {arch}"],
    "import": ["{checkpoint} --space digits --out {>out}"],
    "cost": ["--space digits --arch {arch}"],
    "serve": ["{network}", "{ensemble}", "{network} --token-file {token}"],
    "results list": ["--store {store}"],
    "results show": ["--store {store}"],
    "results verify": ["--store {store}"],
    "results pull": ["--store {store} --to {>out}"],
    "results gc": ["--store {store}"],
    "results compare": ["case case --store {store}"],
    "results study": ["case --store {store} --out {>study}"],
    "submit": ["{config} --store s3://bucket/x --dry-run", "{config} --store s3://bucket/x --dry-run --code {code}"],
    "doctor": ["case --store {store} --bundle {>bundle}"],  # without --bundle it reports what it finds, and exits with 1
    **{name: [] for name in ("list", "status", "wait", "logs", "events", "scale", "cancel", "pause", "resume", "retry")},
}
# Options that take text which is no path; a store of a command for clusters is used after the cluster has answered.
NO_PATHS = {
    *(
        "sets",
        "until",
        "exits",
        "only",
        "space",
        "algorithm",
        "at_most",
        "at_least",
        "fix",
        "latency_ms",
        "macs",
        "target",
        "strategy",
        "weights",
    ),
    *(
        "direction",
        "optimizer",
        "finetuned",
        "objectives",
        "cost_rule",
        "vote",
        "unit",
        "split",
        "address",
        "run_id",
        "one",
        "other",
        "run",
        "namespace",
        "image",
    ),
    *("context", "output", "role", "group", "host"),
}
OF_CLUSTERS = {("status", "store"), ("logs", "store"), ("scale", "store"), ("submit", "store"), ("doctor", "store")}

# Settings that are paths, as options of a command that reads them.
SETTINGS = {
    "data.source": "train {config} --store {>store} --set data.source={images}",
    "search.latency_tables": "train {config} --store {>store} --set search.latency_tables=[{name='a',file='{table}'}]",
    "train.weights": "train {config} --store {>store} --set train.weights={weights}",
}
LINE = 10 * 2**20  # bytes of the long line


def parameters():
    """(command, parameter, its options) of every parameter of every command that takes text."""

    def commands(command, names):
        for name, inner in getattr(command, "commands", {}).items():
            yield from commands(inner, [*names, name])
        if not hasattr(command, "commands"):
            yield " ".join(names), command

    for name, command in commands(typer.main.get_command(app), []):
        for parameter in command.params:
            kind = parameter.type_descriptor.annotation
            if "str" in str(kind) and "Literal" not in str(kind):
                yield name, parameter.name, parameter.opts


def test_every_command_and_every_text_that_it_takes_is_tried_here():
    assert {name for name, *_ in parameters()} <= set(USES)
    for command, parameter, options in parameters():
        if parameter in NO_PATHS or (command, parameter) in OF_CLUSTERS:
            continue
        uses = [use.split() for use in USES[command]]
        flag = options[0] if options[0].startswith("-") else None
        given = [part for use in uses for before, part in zip(["", *use], use, strict=False) if not flag or before == flag]
        assert any(part.startswith("{") for part in given), f"{command}: no use here gives {options[0]} a path"


TEXTS = ("config", "arch", "front", "measured", "table", "yaml")
DIRECTORIES = ("store", "images", "code", "run")

BAD_FILES = ("an empty file", "a binary file", "a long line", "a long name", "a name of two lines")
BAD = {
    **dict.fromkeys(THINGS, (*BAD_FILES, "a directory", "a missing path", "NaN", "a cut file")),
    "token": ("an empty file", "a binary file", "a long name", "a name of two lines", "a directory", "a missing path"),
    **dict.fromkeys(DIRECTORIES, (*BAD_FILES, "a directory", "a missing path")),
    **dict.fromkeys((">store", ">out", ">study", ">bundle"), BAD_FILES),
    **dict.fromkeys((">table", ">tuned"), ("a directory", "a long name")),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """The path of each thing, as a use needs it."""
    folder = tmp_path_factory.mktemp("valid")
    for name, (write, suffix) in THINGS.items():
        write(folder / f"{name}.{suffix}")
    step = Run.open(str(folder / "store"), "case", (folder / "config.toml").read_text(), "test").begin("report")
    step.write(File("report.html", "report"), b"<html>")
    step.finish(seed=1)
    step = Run.open(str(folder), "run", dump(load(str(folder / "config.toml"))), "test").begin("train")
    step.write(files.supernet("width"), (folder / "weights.safetensors").read_bytes())
    step.finish(seed=1)
    things = {name: folder / f"{name}.{suffix}" for name, (_, suffix) in THINGS.items()}
    return {**things, "store": folder / "store", "run": folder / "run"}


@pytest.fixture(scope="module")
def bad(tmp_path_factory, valid):
    """The path of each bad thing in place of a thing of this name."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "directory").mkdir()
    contents = {"an empty file": b"", "a binary file": bytes(range(256)) * 40, "a long line": b"x" * LINE}
    for kind, content in contents.items():
        for suffix in ("", *{suffix for _, suffix in THINGS.values()}):
            name = kind.split()[1] + (f".{suffix}" if suffix else "")
            (folder / name).write_bytes(content)

    def path(name, kind):
        write, suffix = THINGS.get(name, (None, ""))
        end = f".{suffix}" if suffix else ""
        if kind in contents:
            return folder / f"{kind.split()[1]}{end}"
        if kind == "NaN":
            write(folder / f"nan-{name}{end}", nan=True)
            return folder / f"nan-{name}{end}"
        if kind == "a cut file":
            data = valid[name].read_bytes()
            (folder / f"cut-{name}{end}").write_bytes(data[: len(data) * 2 // 3].rstrip(b"\n\r\"'"))
            return folder / f"cut-{name}{end}"
        names = {"a directory": "directory", "a missing path": f"nowhere/missing{end}", "a long name": "long" * 100 + end}
        return folder / names.get(kind, f"two\nlines{end}")

    return path


@pytest.fixture
def ofa(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty directory: (exit code, stdout, stderr)."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))

    def call(use, **paths):
        arguments = use.split()
        for name, path in paths.items():
            arguments = [argument.replace(f"{{{name}}}", path) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["ofa", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def placeholders(use):
    return re.findall(r"\{(>?\w+)\}", use)


ALL = [f"{command} {use}" for command, uses in USES.items() for use in uses] + [*SETTINGS.values()]
# What is no fault: YAML that is cut at the end of a line, and a directory without runs, in which nothing
# is listed or left over.
FINE = {("yaml", "a cut file"), ("results list", "a directory"), ("results gc", "a directory")}
TRIED = [
    (use, name, kind)
    for use in ALL
    for name in dict.fromkeys(placeholders(use))
    for kind in BAD[name]
    if not {(name, kind), (use.partition(" -")[0], kind)} & FINE
]


@pytest.mark.parametrize(("use", "name", "kind"), TRIED)
def test_what_cannot_be_used_is_one_line_and_nothing_is_written(ofa, valid, bad, tmp_path, use, name, kind):
    written = {n: tmp_path / "here" / n.strip(">") for n in placeholders(use) if n.startswith(">")}
    given = bad(name, kind)
    before = snapshot(tmp_path), snapshot(given.parent) if given.parent.is_dir() else {}
    code, out, err = ofa(use, **{**{n: str(path) for n, path in {**valid, **written}.items()}, name: str(given)})
    assert (code, out) == (2, ""), err
    assert err.count("\n") <= 3
    assert len(err) < 2000
    assert "Traceback" not in err
    assert "OFA_TRACEBACK" not in err
    if len(given.name) < 50:
        assert given.name.split("\n")[-1] in err, err
    assert (snapshot(tmp_path), snapshot(given.parent) if given.parent.is_dir() else {}) == before


# Commands that begin to work on a valid file, which takes minutes or Ray; their files are read as those of the others.
AT_WORK = ("run", "train", "transfer", "tune", "serve", "measure --latency-table", "measure --parts")
MARKS = {"UTF-8": "utf-8-sig", "UTF-16": "utf-16"}
MARKED = [(u, n, m) for u in ALL if not u.startswith(AT_WORK) for n in placeholders(u) if n in TEXTS for m in MARKS]


@pytest.mark.parametrize(("use", "name", "mark"), MARKED)
def test_a_byte_order_mark_changes_nothing(ofa, valid, tmp_path, use, name, mark):
    marked = tmp_path / valid[name].name
    marked.write_text(valid[name].read_text(), encoding=MARKS[mark])
    results = []
    for given in (valid[name], marked):
        written = {n: tmp_path / "here" / n.strip(">") for n in placeholders(use) if n.startswith(">")}
        code, out, err = ofa(use, **{**{n: str(path) for n, path in {**valid, **written}.items()}, name: str(given)})
        files = {path.name: path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}
        results.append((code, out.replace(str(given), "FILE"), err.replace(str(given), "FILE") if code else "", files))
        shutil.rmtree(tmp_path / "here/out", ignore_errors=True)
    assert results[0] == results[1]


KUBE = "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: nan}}]\nusers: []\n"
KUBE_FILES = {
    "an empty file": b"",
    "a binary file": bytes(range(256)) * 40,
    "a long line": b"x" * 2**18,
    "a list": b"[1, 2]",
    "no server": KUBE.encode(),
    "a byte order mark": b"\xef\xbb\xbfx",
    "a directory": None,
}


@pytest.mark.parametrize("kind", KUBE_FILES)
@pytest.mark.parametrize("command", ["list", "submit {config} --store s3://bucket/x"])
def test_a_kubeconfig_that_cannot_be_used_is_one_line(ofa, valid, tmp_path, monkeypatch, kind, command):
    content = KUBE_FILES[kind]
    place = tmp_path / "kubeconfig"
    place.mkdir() if content is None else place.write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(place))
    before = snapshot(tmp_path)
    code, _, err = ofa(command, config=str(valid["config"]))
    assert code == 2, err
    assert err.splitlines()[-1].startswith("ofa: ")
    assert "Traceback" not in err
    assert "OFA_TRACEBACK" not in err
    assert max(map(len, err.splitlines())) < 2000
    assert snapshot(tmp_path) == before
