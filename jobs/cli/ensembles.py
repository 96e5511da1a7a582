"""The command that selects ensembles, of a run or of any predictions file."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.store import open_output
from jobs.cli.options import DEFAULT_STORE, Json, Sets, StoreUrl, open_job
from jobs.pipeline import run_steps

app = typer.Typer()


@app.command("ensemble")
def ensemble_command(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="a config file")] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE", help="a predictions file (.npz) instead of a run")
    ] = None,
    cost_rule: Annotated[
        str | None,
        typer.Option("--cost", help="with --predictions: max (members run in parallel) or sum (in turn); max if not given"),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(help="with --predictions: default, greedy, exhaustive, or as published nsga2, sms-emoa or spea2"),
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="with --predictions: subsets that the published algorithms score")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="with --predictions: random seed of the published algorithms")] = None,
    vote: Annotated[str | None, typer.Option(help="with --predictions: soft, hard or weighted; soft if not given")] = None,
    most_members: Annotated[int | None, typer.Option(min=1, help="with --predictions: maximum number of members")] = None,
    most_cost: Annotated[
        float | None, typer.Option(min=0, help="with --predictions: maximum cost of an ensemble; also with --unit")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="of a finished run: choose by this cost, such as latency_ms.phone, from the predictions that it has",
        ),
    ] = None,
    tables: Annotated[
        list[str],
        typer.Option(
            "--latency-table", metavar="NAME=FILE", help="with --unit: the latency table of a device that the run has not"
        ),
    ] = [],  # noqa: B006
    must_have: Annotated[
        list[int], typer.Option(metavar="MEMBER", help="with --predictions: a member of every ensemble; may be repeated")
    ] = [],  # noqa: B006
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="with --predictions: directory to write ensembles.json to; . if not given; also with --unit"
        ),
    ] = None,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Selects the best subsets of a run's front, or of any predictions file."""
    if (config is None) == (predictions is None):
        raise InputError("ofa ensemble: give a config file or --predictions, one of them")
    if config is not None:
        given: dict[str, object] = {
            "--cost": cost_rule,
            "--algorithm": algorithm,
            "--vote": vote,
            "--most-members": most_members,
            "--must-have": must_have or None,
            "--evaluations": evaluations,
            "--seed": seed,
        }
        if unit is None:
            given |= {"--out": out, "--most-cost": most_cost}
            if tables:
                raise InputError("ofa ensemble: --latency-table goes with --unit, such as --unit latency_ms.phone")
        if (wrong := next((name for name, value in given.items() if value is not None), None)) is not None:
            raise InputError(f"ofa ensemble: {wrong} goes with --predictions; for a run use --set ensemble.algorithm=...")
        if unit is None:
            with open_job(config, store, sets, as_json) as job:
                return run_steps(job, ["ensemble"])
        from jobs.tools.ensemble import ensemble_by
        from jobs.tools.inputs import tables_of

        folder, given_tables = open_output("." if out is None else out), tables_of(tables)
        with open_job(config, store, sets, as_json) as job:
            ensemble_by(job, unit, given_tables, most_cost, folder)
        return None
    if unit is not None or tables:
        raise InputError("ofa ensemble: --unit and --latency-table go with a config file, not with --predictions")
    from ensemble.subsets import Limits
    from jobs.tools.ensemble import ensemble_of_table

    assert predictions is not None
    out = "." if out is None else out
    limits, reporter = Limits(most_members, most_cost, tuple(must_have)), Reporter("json" if as_json else None)
    subsets = ensemble_of_table(
        predictions,
        "max" if cost_rule is None else cost_rule,
        "default" if algorithm is None else algorithm,
        evaluations or 200_000,
        1 if seed is None else seed,
        out,
        "soft" if vote is None else vote,
        limits,
        reporter,
    ).members
    return reporter.say(f"{len(subsets)} subsets in {out}/ensembles.json", event="result", out=out, subsets=len(subsets))
