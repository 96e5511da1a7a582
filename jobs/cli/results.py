"""The commands for runs in a store: `ofa results list`, show, pull, verify, compare, gc, study."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cluster.progress import Reporter
from cluster.store import canonical
from cluster.texts import json_text
from jobs.cli.options import DEFAULT_STORE, Json, RunId, StoreUrl
from jobs.operate import cleanup, results

_HELP = "Runs in a store: list, show, pull, verify, compare, gc, study."
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=_HELP)


@app.command("list")
def results_list(store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Lists the runs in a store."""
    found = False
    for row in results.listing(store):
        print(json_text(row) if as_json else f"{row['run']}  {row['last'][:19]:19}  {' '.join(row['steps'])}")
        found = True
    if not found and not as_json:
        print(f"{canonical(store)} has no runs; `ofa run` makes one", file=sys.stderr)


@app.command("show")
def results_show(run_id: RunId = None, store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Shows the objects that each step of a run wrote."""
    found = results.the_run(store, run_id)
    for name, record in found.steps().items():
        if as_json:
            print(json_text(record))
            continue
        print(f"{name}: {record['seconds']} s on {record['machine']}, code {record['code']}")
        for key, output in record["outputs"].items():
            print(f"  {key}  {output['bytes']} bytes  sha256 {output['sha256'][:16]}")


@app.command("pull")
def results_pull(
    run_id: RunId = None,
    store: StoreUrl = DEFAULT_STORE,
    to: Annotated[str, typer.Option(metavar="DIR", help="directory to copy to")] = "./results",
    as_json: Json = False,
) -> None:
    """Copies a run and verifies every object; the same command again continues."""
    results.pull(results.the_run(store, run_id), to, Reporter("json" if as_json else None))


@app.command("verify")
def results_verify(run_id: RunId = None, store: StoreUrl = DEFAULT_STORE, as_json: Json = False) -> None:
    """Verifies that every object has its recorded sha256; exit code 1 if not."""
    found = results.the_run(store, run_id)
    problems = results.verify(found)
    objects = sum(len(record["outputs"]) for record in found.steps().values())
    if as_json:
        print(json_text({"run": found.id, "objects": objects, "problems": problems}))
    else:
        for problem in problems:
            print(problem)
        print(f"{found.url}: {objects} objects, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


@app.command("compare")
def results_compare(
    one: Annotated[str, typer.Argument(metavar="RUN", help="a run's id")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="another run's id")],
    store: StoreUrl = DEFAULT_STORE,
    as_json: Json = False,
) -> None:
    """Shows the differences between two runs: settings, times, fronts and ensembles."""
    rows = results.compare(results.the_run(store, one), results.the_run(store, other))
    for row in rows:
        print(json_text(row) if as_json else f"{row['what']:36}{row['one']!s:>24}{row['other']!s:>24}")
    if not rows and not as_json:
        print("nothing differs")


@app.command("gc")
def results_gc(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="a run's id; all runs if not given")] = None,
    store: StoreUrl = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it they are only listed")] = False,
    as_json: Json = False,
) -> None:
    """Lists what no result needs: unfinished writes, checkpoints and parts of finished steps, old attempts' records."""
    found, busy = cleanup.garbage(store, run_id)
    if yes:
        cleanup.delete(store, found)
    for item in found:
        row = {**item.to_json(), "deleted": yes}
        print(json_text(row) if as_json else f"{item.bytes / 2**20:10.1f} MiB  {item.key}  {item.why}")
    for name in busy:
        print(f"run {name} is left alone: a driver works on it, or did within the last hour", file=sys.stderr)
    total = sum(item.bytes for item in found) / 2**20
    if not as_json:
        after = "deleted" if yes else "nothing was deleted; --yes deletes them" if found else "nothing to delete"
        print(f"{len(found)} objects, {total:.1f} MiB; {after}")


@app.command("study")
def results_study(
    run_id: RunId = None,
    store: StoreUrl = DEFAULT_STORE,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="the new file: NAME.db (SQLite) or NAME.log (Optuna's journal)")
    ] = "study.db",
    as_json: Json = False,
) -> None:
    """Writes the measured search as an Optuna study, which optuna-dashboard opens: genes, objectives, and the front."""
    from jobs.operate.study import write_study

    found = results.the_run(store, run_id)
    trials = write_study(found, out)
    if as_json:
        print(json_text({"run": found.id, "trials": trials, "out": out}))
    else:
        print(f"{out}: the study {found.id} of {trials} trials")
