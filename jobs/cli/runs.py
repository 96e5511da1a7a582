"""The commands that work on a run: `run`, and its steps one by one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.texts import json_text
from jobs import config as configs
from jobs import files
from jobs.cli.options import DEFAULT_STORE, ConfigPath, Json, Sets, StoreUrl, open_job
from jobs.job import Job
from jobs.operate.places import output_file, write_output
from jobs.pipeline import FIRST, STEPS, result, run_steps, wanted_steps
from jobs.trials import Trials, ordered, shown
from ofa.spaces import get_space
from search.objective import objective_named

app = typer.Typer()
WHOLE_NETWORKS = 3  # that `ofa measure --parts` writes beside the parts


Until = Annotated[str | None, typer.Option(metavar="STEP", help="stop after this step")]
Only = Annotated[str | None, typer.Option(metavar="STEP", help="run only this step")]


@app.command()
def run(
    config: ConfigPath,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006  (typer reads the default, nothing writes to it)
    until: Until = None,
    only: Only = None,
    in_cluster: Annotated[
        bool,
        typer.Option("--in-cluster", help="used by `ofa submit`: stores the driver's log, and ends earlier attempts"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Runs the whole pipeline; the same command continues from where it was stopped."""
    steps = wanted_steps(until, only)
    with open_job(config, store, sets, as_json, in_cluster, begins=steps[0] == FIRST) as job:
        run_all(job, steps, as_json)


@app.command()
def transfer(
    config: ConfigPath,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RUN",
            help="a trained run: its id in the store, its path or URL; or a weights.safetensors, or what `ofa import` left",
        ),
    ],
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    until: Until = None,
    only: Only = None,
    as_json: Json = False,
) -> None:
    """Runs the pipeline from a supernet trained on other images, with a new head; the config's phases are the warm-up."""
    from jobs.tools.transfer import check_unchanged, settings_of, start_of

    steps = wanted_steps(until, only)
    start = start_of(source, store)
    with open_job(config, store, settings_of(config, sets, start), as_json, begins=steps[0] == FIRST) as job:
        check_unchanged(job, start)
        run_all(job, steps, as_json)


def run_all(job: Job, steps: Sequence[str], as_json: bool) -> None:
    """Runs these steps of a run, and shows its results once it has ensembles."""
    job.reporter.say(f"run {job.run.id} in {job.run.url}", event="run", run=job.run.id, url=job.run.url)
    run_steps(job, steps)
    if not job.run.finished("ensemble"):
        return
    found = result(job)
    if as_json:
        job.reporter.event("result", **found)
    else:
        print_result(found, job.asked)


def step_command(name: str) -> None:
    """Adds the command for one step."""

    def command(
        config: ConfigPath,
        store: StoreUrl = DEFAULT_STORE,
        sets: Sets = [],  # noqa: B006
        as_json: Json = False,
    ) -> None:
        reads = {"adapt": None, "fit": files.MEASURED}.get(name, files.FRONT)
        with open_job(config, store, sets, as_json, begins=name == FIRST, reads=reads) as job:
            run_steps(job, [name])

    app.command(name, help=f"Runs one step of a run: {name}.")(command)


for _name in [name for name in STEPS if name not in ("measure", "search", "ensemble", "export")]:
    step_command(_name)


@app.command("measure")
def measure_command(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="a config file")] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="measures a latency table on this machine and writes it to FILE, instead of a step"
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="writes each part as an ONNX file to DIR, with a script that times them elsewhere"),
    ] = None,
    space: Annotated[str | None, typer.Option(help="with --latency-table or --parts: a search space")] = None,
    resolution: Annotated[
        list[int], typer.Option(help="with these: a resolution, may be repeated; all of the space if not given")
    ] = [],  # noqa: B006
    runs: Annotated[int, typer.Option(min=4, help="with --latency-table: timed runs of each part")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="with --latency-table: CPU threads")] = 1,
    networks: Annotated[
        int, typer.Option(min=3, help="with --latency-table: number of whole networks that sums are compared with")
    ] = 20,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Runs the measure step of a run; with --latency-table, measures each part's latency on this machine."""
    if [config, latency_table, parts].count(None) != 2 or (config is None) == (space is None):
        raise InputError("ofa measure: give a config file, or --latency-table FILE and --space NAME, or --parts DIR and "
                         "--space NAME")  # fmt: skip
    if parts is not None:
        from jobs.tools.device_parts import export_parts

        assert space is not None
        here, reporter = get_space(space), Reporter("json" if as_json else None)
        return export_parts(here, resolution or here.resolutions, WHOLE_NETWORKS, parts, reporter)
    if latency_table is None:
        assert config is not None
        with open_job(config, store, sets, as_json) as job:
            return run_steps(job, ["measure"])
    from jobs.tools.latency_table import measure_table

    assert space is not None
    here, place = get_space(space), output_file("--latency-table", latency_table)
    table, found = measure_table(here, resolution or here.resolutions, runs=runs, threads=threads, networks=networks)
    write_output("--latency-table", place, (json_text(table, indent=1) + "\n").encode())
    return Reporter("json" if as_json else None).say(
        f"{latency_table}: {sum(map(len, (table[str(r)] for r in resolution or here.resolutions)))} parts of {space}; "
        f"{found.networks} whole networks take {found.ratio:.2f} times their sums, "
        f"{found.error:.1%} off after that, at most {found.farthest:.1%} without; Kendall tau {found.kendall_tau:.3f}; "
        f"timed again they are at most {found.repeated_farthest:.1%} off, tau {found.repeated_tau:.3f}",
        event="result",
        table=latency_table,
        **{name: getattr(found, name) for name in type(found).__slots__},
    )


@app.command()
def tune(
    config: ConfigPath,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="writes the config with the best settings to FILE too")
    ] = None,
    as_json: Json = False,
) -> None:
    """Searches settings of training and search over short runs; leaves a config with the best ones, tuned.toml."""
    place = None if out is None else output_file("--out", out)
    with open_job(config, store, sets, as_json, begins=True) as job:
        from jobs.tools.tune import tune_settings  # torch and Ray take seconds to import

        job.reporter.say(f"run {job.run.id} in {job.run.url}", event="run", run=job.run.id, url=job.run.url)
        found = tune_settings(job)
        written = f"{job.run.url}/{files.TUNED}"
        if place is not None:
            write_output("--out", place, job.run.read(files.TUNED))
            written = str(out)
        if as_json:
            return job.reporter.event("result", tuned=written, **found.to_json())
        print_trials(found)
    return print(f"\nsettings  {written}\nrun them  ofa run {shlex.quote(written)} --store {shlex.quote(store)}")


def print_trials(found: Trials) -> None:
    """Prints the trials as a table, the best one first."""
    table = Table(show_edge=False, pad_edge=False)
    for head in ("trial", *found.objectives, "ended", "settings"):
        table.add_column(head)
    for trial in ordered(found):
        values = [f"{trial.values[name]:.4f}" if trial.values else "" for name in found.objectives]
        state = trial.state if trial.state == "complete" else f"{trial.state} after {len(trial.compared)}"
        settings = "as in the config" if trial.trial == 0 else shown(trial.settings, found.relative)
        table.add_row(str(trial.trial), *values, state, settings)
    Console().print(table)


@app.command("cite")
def cite_command(
    config: ConfigPath,
    sets: Sets = [],  # noqa: B006
    bibtex: Annotated[bool, typer.Option("--bibtex", help="print BibTeX entries instead of lines of text")] = False,
    as_json: Json = False,
) -> None:
    """Lists the papers behind what a config uses: space, training, search, predictors, ensembles."""
    from jobs.tools.cite import PAPERS, cited

    for key, cited_for in cited(configs.load(config, sets)).items():
        paper = PAPERS[key]
        if as_json:
            facts = {"key": key, **asdict(paper), "url": paper.url, "cited_for": cited_for, "bibtex": paper.bibtex(key)}
            print(json_text(facts))
        elif bibtex:
            print(paper.bibtex(key))
        else:
            print(f"{paper.text()}\n  for {', '.join(cited_for)}")


def print_result(found: dict[str, Any], asked: str) -> None:
    """Prints a run's numbers as a table."""
    table = Table(show_edge=False, pad_edge=False)
    unit = objective_named(found["unit"])
    assert unit is not None, found["unit"]
    for head in ("", unit.title, "top-1 selection", "top-1 test [95 %]"):
        table.add_column(head)
    ensemble = found["ensemble"]
    rows = [("best single", found["single"]), (f"best ensemble ({len(ensemble['members'])} members)", ensemble)]
    for name, row in rows:
        low, high = row["test_interval"]
        cost = f"{row['cost']:,.0f}" if row["cost"] >= 1000 else f"{row['cost']:.4g}"
        table.add_row(name, cost, f"{row['top1']:.4f}", f"{row['test_top1']:.4f} [{low:.4f}, {high:.4f}]")
    console = Console()
    console.print(f"\n{found['front']} networks on the front, their MACs span a factor of {found['macs_span']:.1f}\n")
    console.print(table)
    print(f"\nreport    {found['url']}/report.html\nnetworks  {found['url']}/subnets\n"
          f"export    ofa export {asked} --arch NAME   (names are in the report)\n"
          f"check     ofa results verify {found['run']} --store {shlex.quote(found['url'].rsplit('/', 1)[0])}")  # fmt: skip
