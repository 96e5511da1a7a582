"""The commands that search, and that choose networks from a front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.texts import json_text
from jobs.cli.options import (
    DEFAULT_STORE,
    AtLeast,
    AtMost,
    Classes,
    Fix,
    Json,
    PredictorPath,
    Sets,
    SpaceName,
    StoreUrl,
    Tables,
    open_job,
)
from jobs.pipeline import run_steps

if TYPE_CHECKING:
    from jobs.tools.inputs import Loaded

app = typer.Typer()


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
    evaluations: Annotated[int, typer.Option(min=1, help="number of predictor evaluations")] = 100_000,
    population: Annotated[
        int, typer.Option(min=1, help="maximum number of networks in front.json; population of the evolutionary algorithms")
    ] = 100,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="directory to write front.json and history.json to")] = ".",
    at_most: AtMost = [],  # noqa: B006
    at_least: AtLeast = [],  # noqa: B006
    fix: Fix = [],  # noqa: B006
    classes: Classes = 1000,
    as_json: Json = False,
) -> None:
    """Runs the search step of a run; with --space, searches with a predictor and a latency table, without a run."""
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
        with open_job(config, store, sets, as_json) as job:
            return run_steps(job, ["search"])
    from jobs.tools.search import search_files

    loaded = load_problem(space, tables, predictor, at_most, at_least, fix, classes, "search")
    search_files(loaded, algorithm, evaluations, population, seed, out, Reporter("json" if as_json else None))
    return None


@app.command("targets")
def targets_command(
    space: SpaceName = None,
    tables: Tables = [],  # noqa: B006
    predictor: PredictorPath = None,
    latency_ms: Annotated[
        list[str], typer.Option(metavar="[DEVICE=]MS,MS,...", help="maximum latency of each target; once for each device")
    ] = [],  # noqa: B006
    macs: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="maximum MACs of each target, if there is no latency table")
    ] = None,
    target: Annotated[
        list[str],
        typer.Option(metavar="NAME=N,N,...", help="maximum of any cost, such as params=4e6,5e6; once for each cost"),
    ] = [],  # noqa: B006
    strategy: Annotated[str, typer.Option(help="shared, independent, top-down or bottom-up")] = "shared",
    evaluations: Annotated[
        int,
        typer.Option(min=1, help="predictor evaluations of the shared strategy; the other strategies have fixed budgets"),
    ] = 25_000,
    seed: Annotated[int, typer.Option(help="random seed")] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="directory to write targets.json to")] = ".",
    at_least: AtLeast = [],  # noqa: B006
    fix: Fix = [],  # noqa: B006
    classes: Classes = 1000,
    as_json: Json = False,
) -> None:
    """Finds the network with the best predicted top-1 for each of several limits."""
    from jobs.tools.targets import named_targets, targets

    named = named_targets(target)
    loaded = load_problem(space, tables, predictor, [], at_least, fix, classes, "targets", tuple(named))
    targets(loaded, latency_ms, macs, named, strategy, evaluations, seed, out, Reporter("json" if as_json else None))


@app.command("choose")
def choose_command(
    front: Annotated[str, typer.Argument(metavar="FRONT", help="a front.json, targets.json or measured.jsonl")],
    latency_ms: Annotated[
        list[str], typer.Option(metavar="[DEVICE=]MS", help="maximum latency; may be repeated, once for each device")
    ] = [],  # noqa: B006
    macs: Annotated[float | None, typer.Option(help="maximum MACs")] = None,
    top1: Annotated[
        float | None,
        typer.Option(help="minimum top-1, a fraction; alone: the cheapest network that reaches it"),
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="the knee: where the front bends most")] = False,
    weights: Annotated[
        str | None, typer.Option(metavar="NAME=N,...", help="weights of the objectives, such as top1=2,latency_ms=1")
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(metavar="NAME=N,...", help="trade-off direction in objective space, such as top1=1,latency_ms=2"),
    ] = None,
    objectives: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="such as top1,macs,params; top-1 and the first cost if not given")
    ] = None,
    as_json: Json = False,
) -> None:
    """Chooses one network of a front, and reports what the choice gives up in each objective."""
    from jobs.tools import choose

    choice = choose.choose_from(front, latency_ms, macs, top1, knee, weights, direction, objectives)
    print(json_text(choose.to_json(choice)) if as_json else choose.words(choice))


def load_problem(
    space: str | None,
    tables: list[str],
    predictor: str | None,
    at_most: list[str],
    at_least: list[str],
    fix: list[str],
    classes: int,
    command: str,
    costs: Sequence[str] = (),
) -> Loaded:
    """The problem that a search without a run works on. costs: the names of its costs, if they are not the usual ones."""
    from jobs.tools import inputs as problem

    if space is None or predictor is None:
        raise InputError(f"ofa {command}: give --space and --predictor, and --latency-table for latency instead of MACs")
    return problem.load(space, tables, predictor, at_most, at_least, fix, classes, costs)
