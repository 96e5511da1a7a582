"""The command line: `ofa`, also `python -m jobs`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table as TextTable

from cluster.driver import attempt_at
from cluster.errors import InputError, StepError
from cluster.progress import Reporter
from ensemble.errors import EnsembleError
from jobs import config as configs
from jobs.cli import kube as cluster_cli
from jobs.job import Job, opened
from jobs.operate import results
from jobs.pipeline import STEPS, result, run_steps, wanted_steps
from ofa.arch import Arch, ArchError
from ofa.cost import cost
from ofa.spaces import get_space
from search.errors import ProblemError

if TYPE_CHECKING:
    from jobs.tools.inputs import Loaded

INPUT_ERRORS = (InputError, ArchError, EnsembleError, ProblemError)

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Train one elastic network, search it once for every device, combine what was found.")  # fmt: skip
results_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Runs in a store: list, show, pull, verify, compare."
)
app.add_typer(results_app, name="results")
app.add_typer(cluster_cli.app)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="a config file, such as configs/digits.toml")]
StoreUrl = Annotated[str, typer.Option("--store", help="where results go: a directory, or s3://bucket/prefix")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="a setting instead of the file's: search.evaluations=100")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line on stdout, for machines")]
SpaceName = Annotated[str | None, typer.Option("--space", help="a search space, such as ofa_mbv3_w1.2")]
Tables = Annotated[
    list[str],
    typer.Option(
        "--latency-table", metavar="[NAME=]FILE", help="of a device, in a published format; several: several costs"
    ),
]
PredictorPath = Annotated[
    str | None,
    typer.Option("--predictor", metavar="FILE", help="of top-1: a published one as npz, or one that `ofa fit` left"),
]
AtMost = Annotated[list[str], typer.Option("--at-most", metavar="NAME=NUMBER", help="a limit, such as latency_ms=25")]
AtLeast = Annotated[list[str], typer.Option("--at-least", metavar="NAME=NUMBER", help="a limit, such as top1=0.8")]
Fix = Annotated[list[str], typer.Option("--fix", metavar="NAME=VALUE", help="resolution=192, depth.0=3, kernel.4=5, ...")]
Classes = Annotated[int, typer.Option(min=1, help="that networks tell apart; MACs and params depend on it")]
RunId = Annotated[str | None, typer.Argument(metavar="RUN", help="the run's id; may be left out if there is only one")]

DEFAULT_STORE = "./runs"
STOPPED = 130  # the exit code after Ctrl-C or SIGTERM


@contextmanager
def a_job(config: str, store: str, sets: list[str], as_json: bool, in_cluster: bool = False) -> Iterator[Job]:
    """A job on the run that the command line asks for."""
    asked = ["--store", store, *(part for setting in sets for part in ("--set", setting))]
    experiment = configs.load(config, sets)
    with ExitStack() as stack:
        attempt = stack.enter_context(attempt_at(store, experiment.id)) if in_cluster else 0
        reporter = Reporter("json" if as_json else None)
        yield stack.enter_context(opened(experiment, store, reporter, shlex.join([config, *asked]), attempt))


@app.command()
def run(
    config: ConfigPath,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006  (typer reads the default, nothing writes to it)
    until: Annotated[str | None, typer.Option(metavar="STEP", help="stop after this step")] = None,
    only: Annotated[str | None, typer.Option(metavar="STEP", help="do only this step")] = None,
    in_cluster: Annotated[
        bool,
        typer.Option("--in-cluster", help="as `ofa submit` starts it: its log goes to the store, earlier attempts end"),
    ] = False,
    as_json: Json = False,
) -> None:
    """The whole pipeline; the same command again goes on where it was stopped."""
    steps = wanted_steps(until, only)
    with a_job(config, store, sets, as_json, in_cluster) as job:
        job.reporter.say(f"run {job.run.id} in {job.run.url}", event="run", run=job.run.id, url=job.run.url)
        run_steps(job, steps)
        if not job.run.finished("ensemble"):
            return
        found = result(job)
        if as_json:
            job.reporter.event("result", **found)
        else:
            print_result(found, job.asked)


def a_step(name: str) -> None:
    """Makes the command that does one step."""

    def command(
        config: ConfigPath,
        store: StoreUrl = DEFAULT_STORE,
        sets: Sets = [],  # noqa: B006
        as_json: Json = False,
    ) -> None:
        with a_job(config, store, sets, as_json) as job:
            run_steps(job, [name])

    app.command(name, help=f"One step of a run: {name}.")(command)


for _name in [name for name in STEPS if name not in ("measure", "search", "ensemble", "export")]:
    a_step(_name)


@app.command("measure")
def measure_command(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="a config file")] = None,
    latency_table: Annotated[
        str | None, typer.Option(metavar="FILE", help="instead of a step: times this machine's parts and writes them there")
    ] = None,
    space: Annotated[str | None, typer.Option(help="with --latency-table: a search space")] = None,
    resolution: Annotated[
        list[int], typer.Option(help="with --latency-table: one of its resolutions, may be repeated; all if not given")
    ] = [],  # noqa: B006
    runs: Annotated[int, typer.Option(min=4, help="with --latency-table: timed runs of every part")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="with --latency-table: CPU threads")] = 1,
    networks: Annotated[int, typer.Option(min=3, help="with --latency-table: whole networks to compare sums with")] = 20,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """One step of a run: measure; or, with --latency-table, what each part of a network takes on this machine."""
    if (latency_table is None) == (config is None) or (latency_table is None) != (space is None):
        raise InputError("ofa measure: give a config file, or --latency-table FILE and --space NAME")
    if latency_table is None:
        assert config is not None
        with a_job(config, store, sets, as_json) as job:
            return run_steps(job, ["measure"])
    from jobs.tools.latency_table import measure_table, write_table

    assert space is not None
    here = get_space(space)
    table, found = measure_table(here, resolution or here.resolutions, runs=runs, threads=threads, networks=networks)
    write_table(latency_table, table)
    return Reporter("json" if as_json else None).say(
        f"{latency_table}: {sum(map(len, (table[str(r)] for r in resolution or here.resolutions)))} parts of {space}; "
        f"{found.networks} whole networks take {found.ratio:.2f} times their sums, "
        f"{found.error:.1%} off after that, Kendall tau {found.kendall_tau:.3f}",
        event="result",
        table=latency_table,
        **{name: getattr(found, name) for name in type(found).__slots__},
    )


@app.command("export")
def export_command(
    config: ConfigPath,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    arch: Annotated[str | None, typer.Option(help="one sub-network instead: its name, JSON, or a file of JSON")] = None,
    as_json: Json = False,
) -> None:
    """Networks as safetensors and ONNX: the knee of the front and the best ensemble, or any one by its name."""
    with a_job(config, store, sets, as_json) as job:
        if arch is None:
            return run_steps(job, ["export"])
        from jobs.export import export_arch

        return export_arch(job, parse_arch(arch))


@app.command("eval")
def eval_command(
    config: ConfigPath,
    arch: Annotated[list[str], typer.Option(help="a sub-network: its name, JSON, or a file of JSON; may be repeated")],
    split: Annotated[Literal["selection", "test"], typer.Option(help="the images to score on")] = "test",
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """How good any sub-networks of a trained run are."""
    from jobs.tools.eval import evaluate

    with a_job(config, store, sets, as_json) as job:
        for row in evaluate(job, [parse_arch(text) for text in arch], split):
            low, high = row["interval"]
            found = f"top-1 {row['top1']:.4f} [{low:.4f}, {high:.4f}] on {row['images']} images of {split}"
            print(json.dumps(row) if as_json else f"{row['key']}: {found}, {row['macs']:,} MACs, {row['params']:,} params")


@app.command("finetune")
def finetune_command(
    config: ConfigPath,
    arch: Annotated[str, typer.Option(help="a sub-network of the run: its name, JSON, or a file of JSON")],
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training images")] = 25,
    lr: Annotated[float, typer.Option(min=1e-9, help="highest rate")] = 0.01,
    distil: Annotated[float, typer.Option(min=0, help="weight of the supernet's largest network as a teacher")] = 0.0,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Trains one sub-network of a trained run further, alone; a run of its own, with the network in subnets/."""
    from jobs.tools.finetune import finetune

    with a_job(config, store, sets, as_json) as job:
        found = finetune(job, parse_arch(arch), epochs, lr, distil)
        if as_json:
            return job.reporter.event("result", **found)
        for split, row in found["after"].items():
            low, high = row["interval"]
            print(
                f"top-1 on {split}: {found['before'][split]['top1']:.4f} before, {row['top1']:.4f} [{low:.4f}, {high:.4f}]"
            )
        return print(f"network  {found['url']}/subnets/{found['arch']}.safetensors, .onnx and .pt2")


@app.command("search")
def search_command(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="a config file")] = None,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    space: SpaceName = None,
    tables: Tables = [],  # noqa: B006
    predictor: PredictorPath = None,
    algorithm: Annotated[
        str, typer.Option(help="default (archive), nsga2, sms-emoa, spea2, nsga3, evolution (under limits) or random")
    ] = "default",
    evaluations: Annotated[int, typer.Option(min=1, help="networks that the predictor may be asked for")] = 100_000,
    population: Annotated[int, typer.Option(min=1, help="most networks in front.json; the population of the EMOAs")] = 100,
    seed: Annotated[int, typer.Option()] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="gets front.json")] = ".",
    at_most: AtMost = [],  # noqa: B006
    at_least: AtLeast = [],  # noqa: B006
    fix: Fix = [],  # noqa: B006
    classes: Classes = 1000,
    as_json: Json = False,
) -> None:
    """One step of a run: search; or, with --space, a search on a table's and a predictor's predictions alone."""
    if (config is None) == (space is None):
        raise InputError("ofa search: give a config file or --space, one of them")
    if config is not None:
        given = {
            "--latency-table": tables,
            "--predictor": predictor,
            "--at-most": at_most,
            "--at-least": at_least,
            "--fix": fix,
        }
        if (wrong := next((name for name, value in given.items() if value), None)) is not None:
            raise InputError(
                f"ofa search: {wrong} goes with --space; for a run use --set search.evaluations=... and the like"
            )
        with a_job(config, store, sets, as_json) as job:
            return run_steps(job, ["search"])
    from jobs.search import search_files

    loaded = a_problem(space, tables, predictor, at_most, at_least, fix, classes, "search")
    search_files(loaded, algorithm, evaluations, population, seed, out, Reporter("json" if as_json else None))
    return None


@app.command("targets")
def targets_command(
    space: SpaceName = None,
    tables: Tables = [],  # noqa: B006
    predictor: PredictorPath = None,
    latency_ms: Annotated[
        list[str], typer.Option(metavar="[DEVICE=]MS,MS,...", help="most latency of each target; several devices: once each")
    ] = [],  # noqa: B006
    macs: Annotated[str | None, typer.Option(metavar="N,N,...", help="most MACs of each, without a table")] = None,
    strategy: Annotated[str, typer.Option(help="shared, independent, top-down or bottom-up")] = "shared",
    evaluations: Annotated[int, typer.Option(min=1, help="of the shared archive; the others take what they take")] = 25_000,
    seed: Annotated[int, typer.Option()] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="gets targets.json")] = ".",
    at_least: AtLeast = [],  # noqa: B006
    fix: Fix = [],  # noqa: B006
    classes: Classes = 1000,
    as_json: Json = False,
) -> None:
    """The network with the best predicted top-1 for each of several limits."""
    from jobs.tools.targets import targets

    loaded = a_problem(space, tables, predictor, [], at_least, fix, classes, "targets")
    targets(loaded, latency_ms, macs, strategy, evaluations, seed, out, Reporter("json" if as_json else None))


@app.command("choose")
def choose_command(
    front: Annotated[str, typer.Argument(metavar="FRONT", help="a front.json, targets.json or measured.jsonl")],
    latency_ms: Annotated[
        list[str], typer.Option(metavar="[DEVICE=]MS", help="most latency; several devices: give it several times")
    ] = [],  # noqa: B006
    macs: Annotated[float | None, typer.Option(help="most MACs")] = None,
    top1: Annotated[float | None, typer.Option(help="least top-1, a fraction; alone: the cheapest that has it")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="where the front bends most")] = False,
    weights: Annotated[str | None, typer.Option(metavar="NAME=N,...", help="such as top1=2,latency_ms=1")] = None,
    direction: Annotated[
        str | None, typer.Option(metavar="NAME=N,...", help="how much of each may be given up, such as top1=1,latency_ms=2")
    ] = None,
    as_json: Json = False,
) -> None:
    """Decide afterwards: one network of a front, and what the choice gives up."""
    from jobs.tools import choose

    choice = choose.choose_from(front, latency_ms, macs, top1, knee, weights, direction)
    print(json.dumps(choose.to_json(choice)) if as_json else choose.words(choice))


def a_problem(
    space: str | None,
    tables: list[str],
    predictor: str | None,
    at_most: list[str],
    at_least: list[str],
    fix: list[str],
    classes: int,
    command: str,
) -> Loaded:
    """The problem that a search without a run works on."""
    from jobs.tools import inputs as problem

    if space is None or predictor is None:
        raise InputError(f"ofa {command}: give --space and --predictor, and --latency-table for latency instead of MACs")
    return problem.load(space, tables, predictor, at_most, at_least, fix, classes)


@app.command("ensemble")
def ensemble_command(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="a config file")] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="a predictions file (.npz) instead of a run")
    ] = None,
    cost_rule: Annotated[
        Literal["max", "sum"] | None,
        typer.Option("--cost", help="with --predictions: members run in parallel (max), or in turn; max if not given"),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(help="with --predictions: default, greedy, exhaustive, or as published nsga2, sms-emoa or spea2"),
    ] = None,
    evaluations: Annotated[int | None, typer.Option(min=1, help="with --predictions: of the published algorithms")] = None,
    seed: Annotated[int | None, typer.Option(help="with --predictions: of the published algorithms, which draw")] = None,
    vote: Annotated[
        Literal["soft", "hard", "weighted"] | None, typer.Option(help="with --predictions: soft if not given")
    ] = None,
    most_members: Annotated[int | None, typer.Option(min=1, help="with --predictions: of an ensemble")] = None,
    most_cost: Annotated[float | None, typer.Option(min=0, help="with --predictions: of an ensemble")] = None,
    must_have: Annotated[list[int], typer.Option(metavar="MEMBER", help="with --predictions: in every ensemble")] = [],  # noqa: B006
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="with --predictions: gets ensembles.json; . if not given")
    ] = None,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """The best subsets of a run's front, or of any predictions file."""
    if (config is None) == (predictions is None):
        raise InputError("ofa ensemble: give a config file or --predictions, one of them")
    if config is not None:
        given = {
            "--cost": cost_rule,
            "--algorithm": algorithm,
            "--out": out,
            "--vote": vote,
            "--most-members": most_members,
            "--most-cost": most_cost,
            "--must-have": must_have or None,
            "--evaluations": evaluations,
            "--seed": seed,
        }
        if (wrong := next((name for name, value in given.items() if value is not None), None)) is not None:
            raise InputError(f"ofa ensemble: {wrong} goes with --predictions; for a run use --set ensemble.algorithm=...")
        with a_job(config, store, sets, as_json) as job:
            return run_steps(job, ["ensemble"])
    from ensemble.select import Limits
    from jobs.ensemble import ensemble_of_table

    assert predictions is not None
    out = out or "."
    limits = Limits(most_members, most_cost, tuple(must_have))
    found = ensemble_of_table(
        predictions, cost_rule or "max", algorithm or "default", evaluations or 200_000, 1 if seed is None else seed,
        out, vote or "soft", limits,
    )  # fmt: skip
    reporter = Reporter("json" if as_json else None)
    return reporter.say(f"{len(found)} subsets in {out}/ensembles.json", event="result", out=out, subsets=len(found))


@app.command("serve")
def serve_command(
    network: Annotated[str, typer.Argument(metavar="FILE", help="an exported network or ensemble (.safetensors)")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    address: Annotated[str, typer.Option(help="a Ray cluster: local starts one, auto or host:port joins one")] = "local",
    as_json: Json = False,
) -> None:
    """Answers over HTTP until Ctrl-C, every member of an ensemble in a process of its own."""
    from jobs.tools.serve import serve

    serve(network, port, address, Reporter("json" if as_json else None))


@app.command("cost")
def cost_command(
    space: Annotated[str, typer.Option(help="a search space, such as digits")],
    arch: Annotated[str, typer.Option(help="a sub-network: its name, JSON, or a file of JSON")],
    classes: Annotated[int, typer.Option(min=1)] = 1000,
    as_json: Json = False,
) -> None:
    """Exact multiply-accumulates and parameters of a sub-network."""
    here = get_space(space)
    parsed = parse_arch(arch)
    if (objection := here.shape_objection(parsed)) is not None:
        raise ArchError(f"{parsed.key} is not in the space {space}: {objection}")
    macs, params = cost(here, parsed, classes)
    if as_json:
        print(json.dumps({"space": space, "arch": parsed.to_json(), "classes": classes, "macs": macs, "params": params}))
    else:
        print(f"{parsed.key}: {macs:,} MACs, {params:,} params, with {classes} classes")


@results_app.command("list")
def results_list(store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Every run in a store."""
    for row in results.listing(store):
        print(json.dumps(row) if as_json else f"{row['run']}  {row['last'][:19]:19}  {' '.join(row['steps'])}")


@results_app.command("show")
def results_show(run_id: RunId = None, store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """What each step of a run left."""
    found = results.the_run(store, run_id)
    for name, record in found.steps().items():
        if as_json:
            print(json.dumps(record))
            continue
        print(f"{name}: {record['seconds']} s on {record['machine']}, code {record['code']}")
        for key, output in record["outputs"].items():
            print(f"  {key}  {output['bytes']} bytes  sha256 {output['sha256'][:16]}")


@results_app.command("pull")
def results_pull(
    run_id: RunId = None,
    store: StoreUrl = DEFAULT_STORE,
    to: Annotated[str, typer.Option(metavar="DIR", help="where to")] = "./results",
    as_json: Json = False,
) -> None:
    """Copies a run, every object checked; again continues."""
    results.pull(results.the_run(store, run_id), to, Reporter("json" if as_json else None))


@results_app.command("verify")
def results_verify(run_id: RunId = None, store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Proves that every object is what its step wrote; exit code 1 if not."""
    found = results.the_run(store, run_id)
    problems = results.verify(found)
    objects = sum(len(record["outputs"]) for record in found.steps().values())
    if as_json:
        print(json.dumps({"run": found.id, "objects": objects, "problems": problems}))
    else:
        for problem in problems:
            print(problem)
        print(f"{found.url}: {objects} objects, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@results_app.command("compare")
def results_compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="a run's id")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="another's")],
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """What differs between two runs: settings, times, fronts and ensembles."""
    rows = results.compare(results.the_run(store, one), results.the_run(store, other))
    for row in rows:
        print(json.dumps(row) if as_json else f"{row['what']:36}{row['one']!s:>24}{row['other']!s:>24}")
    if not rows and not as_json:
        print("nothing differs")


def parse_arch(text: str) -> Arch:
    """An arch from its name, from JSON, or from a file that holds JSON, such as what an export leaves beside a network."""
    where = "--arch"
    if not text.lstrip().startswith("{"):
        if not Path(text).is_file():
            if "/" in text or text.endswith(".json"):
                raise ArchError(f"--arch {text}: no such file; give a file, JSON, or a name")
            return Arch.from_key(text)
        where, text = text, Path(text).read_text(encoding="utf-8", errors="replace")
    try:
        doc = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArchError(f"{where} is not JSON: {error}") from None
    if isinstance(doc, dict) and "archs" in doc:
        if len(doc["archs"]) != 1:
            raise ArchError(f"{where} describes {len(doc['archs'])} networks; expected one")
        doc = doc["archs"][0]
    return Arch.from_json(doc)


def print_result(found: dict[str, Any], asked: str) -> None:
    """What was found, for people."""
    table = TextTable(show_edge=False, pad_edge=False)
    for head in ("", "MACs", "top-1 selection", "top-1 test [95 %]"):
        table.add_column(head)
    ensemble = found["ensemble"]
    rows = [("best single", found["single"]), (f"best ensemble ({len(ensemble['members'])} members)", ensemble)]
    for name, row in rows:
        low, high = row["test_interval"]
        table.add_row(name, f"{row['cost']:,.0f}", f"{row['top1']:.4f}", f"{row['test_top1']:.4f} [{low:.4f}, {high:.4f}]")
    console = Console()
    console.print(f"\n{found['front']} networks on the front, their MACs span a factor of {found['macs_span']:.1f}\n")
    console.print(table)
    print(f"\nreport    {found['url']}/report.html\nnetworks  {found['url']}/subnets\n"
          f"take one  ofa export {asked} --arch NAME   (names are in the report)\n"
          f"check     ofa results verify {found['run']} --store {shlex.quote(found['url'].rsplit('/', 1)[0])}")  # fmt: skip


def main() -> None:
    """Runs a command; a failure is one line on stderr and an exit code: 2 for bad input, 1 a failed step, 130 stopped."""
    as_json = "--json" in sys.argv
    try:
        code = app(standalone_mode=False) or 0
        if code == STOPPED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        raise SystemExit(code)
    except typer.TyperException as error:  # an unknown command or option, or a value that it cannot have
        message = str(getattr(error, "format_message", error.__str__)())
        if message.startswith("Usage:"):  # no command at all: this is the help
            print(message, file=sys.stderr)
            raise SystemExit(2) from None
        fail(f"{message.rstrip('.')}; --help says what there is", 2, as_json)
    except INPUT_ERRORS as error:
        fail(str(error), 2, as_json)
    except StepError as error:
        fail(str(error), 1, as_json)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped; the same command again goes on from here", STOPPED, as_json)
    except Exception as error:  # the last stop for what nobody foresaw: a line for the user, the rest on demand
        if os.environ.get("OFA_TRACEBACK"):
            traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        fail(f"{type(error).__name__}: {reason[0]}; OFA_TRACEBACK=1 shows where", 1, as_json)


def fail(message: str, code: int, as_json: bool) -> None:
    print(f"ofa: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"event": "error", "message": message, "exit": code}), flush=True)
    raise SystemExit(code)
