"""The commands for runs on a cluster, from `submit` to `doctor`; their implementation is in `jobs/operate/`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from cluster.address import shown
from cluster.errors import InputError, StepError
from cluster.kube.api import Lost
from cluster.kube.state import LOST, TIMED_OUT
from cluster.store import scheme_of
from cluster.texts import json_text
from jobs import config as configs
from jobs.cli.options import DEFAULT_STORE, ConfigPath, Json

if TYPE_CHECKING:
    from cluster.kube.api import Api
    from cluster.kube.outages import Outage
    from cluster.kube.runs import Seen
    from cluster.run import Run

app = typer.Typer()
WATCH_S = 2.0  # seconds between looks at a store

Sets = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="overrides a setting of the file: kube.search.max=8; may be repeated"),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="a run's id, as `ofa submit` and `ofa list` print it")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", envvar="OFA_NAMESPACE", help="namespace of the runs")]
Context = Annotated[str | None, typer.Option("--context", help="context of the kubeconfig; the current one if not given")]
Where = Annotated[str | None, typer.Option("--store", help="the run's store, if the run is no longer on the cluster")]


def connected(namespace: str, context: str | None) -> Api:
    """The client of a namespace, by the kubeconfig's context."""
    from cluster.kube.api import Api

    return Api.connect(namespace, context)


def print_line(text: str, as_json: bool, **facts: Any) -> None:
    """Prints a line of text to stderr, or a JSON object to stdout."""
    print(json_text(facts) if as_json else text, file=sys.stdout if as_json else sys.stderr, flush=True)


def note_printer(as_json: bool) -> Callable[[str], None]:
    """A function that prints a line that is no state and no log."""
    return lambda text: print_line(f"ofa: {text}", as_json, event="note", message=text)


def outage_printer(as_json: bool) -> Callable[[Outage], None]:
    """A function that prints that the API server was lost, or answers again."""

    def print_outage(outage: Outage) -> None:
        facts = {"lost": outage.lost, "seconds": round(outage.seconds, 1), "message": outage.message}
        print_line(f"ofa: {outage.message}", as_json, event="connection", **facts)

    return print_outage


def state_printer(as_json: bool) -> Any:
    """A function that prints every change of a run's state, and no line twice in a row, also with another count."""
    printed: set[str] = set()

    def print_state(seen: Seen) -> None:
        words = f"{seen.state}{': ' if seen.state.message else ''}{seen.state.message}"
        facts = {"state": seen.state.name, "reason": seen.state.reason, "message": seen.state.message}
        if as_json:
            print_line("", True, event="state", **facts, troubles=list(seen.troubles))
            return
        for line in (words, *seen.troubles):
            if line not in printed:  # troubles are equal by their kind
                print_line(line if line is words else f"  {line}", False)
        printed.clear()
        printed.update((words, *seen.troubles))

    return print_state


@app.command()
def submit(
    config: ConfigPath,
    store: Annotated[str, typer.Option("--store", help="the store of results, s3://bucket/prefix")],
    sets: Sets = [],  # noqa: B006  (typer reads the default, nothing writes to it)
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="overrides kube.namespace")] = None,
    image: Annotated[str | None, typer.Option(help="overrides kube.image")] = None,
    code: Annotated[
        str | None, typer.Option(metavar="DIR", help="a git checkout whose code runs instead of that in the image")
    ] = None,
    context: Context = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only render and lint, without a cluster")] = False,
    output: Annotated[Literal["yaml", "json"] | None, typer.Option(help="print the objects in this format")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="wait until the run has ended; exit codes as for `ofa wait`")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="do not wait until the run has started")] = False,
    as_json: Json = False,
) -> None:
    """Submits a run to KubeRay and waits until it has started; the same command again changes nothing."""
    from jobs.operate import submit as submitting

    if wait and detach:
        raise InputError("ofa submit: --wait and --detach exclude each other; give one of them")
    extra = {"kube.namespace": namespace, "kube.image": image}
    experiment = configs.load(config, [*sets, *(f"{key}={json_text(v)}" for key, v in extra.items() if v is not None)])
    code_url = ""
    if code is not None:
        code_url = submitting.packed(code, store)[0] if dry_run else submitting.ship(code, store)
    made = submitting.rendered(experiment, store, os.environ, code_url)
    if output is not None:
        print(submitting.as_text(made, output), end="", flush=True)
    elif dry_run and not as_json:
        print(submitting.as_text(made, "yaml"), end="", flush=True)
    api = None if dry_run else connected(experiment.kube.namespace, context)
    image = made.job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"]
    found = submitting.plan(experiment.kube, image, api)
    found = replace(found, notes=(*found.notes, *submitting.elastic_notes(experiment)))
    print_line(table(found), as_json, event="plan", run=made.name, **found.to_json())
    if api is None:
        return
    what = submitting.submit(api, made)
    words = "created" if what == "created" else "is there already, nothing changed"
    print_line(f"run {made.name} {words}; results in {store.rstrip('/')}/{experiment.id}\n"
        f"  ofa logs {made.name} --follow    ofa status {made.name} --watch    ofa cancel {made.name}",
        as_json, event="submitted", run=made.name, what=what, results=f"{store.rstrip('/')}/{experiment.id}")  # fmt: skip
    if detach:
        return
    until = () if wait else ("Running", "Queued", "Paused")
    ended = followed(api, made.name, as_json, until)
    if what == "unchanged" and ended.state.ended and not as_json:
        print_line(f"it had ended before; `ofa retry {made.name}` starts it again, from what is in its store", False)
    if wait or ended.state.name in ("Failed", "Invalid"):
        raise typer.Exit(ended.state.exit_code if ended.state.ended else TIMED_OUT)


def followed(api: Api, run: str, as_json: bool, until: tuple[str, ...] = (), timeout_s: float | None = None) -> Seen:
    """Follows a run and prints every change; the last observation."""
    from jobs.operate import kube as cluster

    return cluster.follow(api, run, state_printer(as_json), until=until, timeout_s=timeout_s,
                          note=note_printer(as_json), outage=outage_printer(as_json))  # fmt: skip


def table(plan: Any) -> str:
    """A plan as a table."""
    lines = [f"{'':20}{'pods':>8}{'CPUs':>8}{'GiB':>8}{'GPUs':>8}"]
    for row in plan.rows:
        pods = f"{row.least}" if row.least == row.most else f"{row.least}-{row.most}"
        lines.append(f"{row.what:20}{pods:>8}{row.cpus:>8g}{row.memory_gib:>8g}{row.gpus:>8g}")
    for name, most in (("to start", False), ("at most", True)):
        numbers = (plan.total(n, most=most) for n in ("pods", "cpus", "memory_gib", "gpus"))
        lines.append(f"{name:20}" + "".join(f"{number:>8g}" for number in numbers))
    return "\n".join([*lines, hours(plan), f"image {plan.image}", *plan.notes])


def hours(plan: Any) -> str:
    """The upper bound of a plan's CPU and GPU hours."""
    if plan.longest_h is None:
        return "no upper bound of CPU and GPU hours: kube.deadline_s is 0"
    return (
        f"at most {plan.hours('cpus'):.4g} CPU hours and {plan.hours('gpus'):.4g} GPU hours, in {plan.longest_h:.4g} hours "
        "(kube.deadline_s, then kube.ttl_s)"
    )


@app.command("list")
def list_command(namespace: Namespace = "ofa", context: Context = None, as_json: Json = False) -> None:
    """Lists the runs in the namespace."""
    from jobs.operate import kube as cluster

    rows = cluster.listing(connected(namespace, context))
    for row in rows:
        state = f"{row['state']} ({row['reason']})" if row["reason"] else row["state"]
        print(json_text(row) if as_json else f"{row['run']:48}{state:28}{row['workers']:4} workers  {ago(row['age_s'])}")
    if not rows and not as_json:
        print(f"namespace {namespace} has no runs; `ofa submit` makes one", file=sys.stderr)


def ago(seconds: int) -> str:
    """A duration in words."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


@app.command()
def status(
    run: RunName,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="print every change until the run has ended")] = False,
    store: Where = None,
    namespace: Namespace = "ofa",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Shows a run's state, and on Kubernetes the problems that keep it from running.

    A run that `ofa run` works on, or did, is looked up in its store: --store, or ./runs.
    """
    from jobs.operate import kube as cluster
    from jobs.operate import standing

    local, unread = None, None
    try:
        local = standing.found_in(store or DEFAULT_STORE, run)
    except (InputError, StepError) as error:
        unread = error
    if local is not None:
        show_standing(local, watch, as_json)
        return
    if store is not None and unread is not None and not scheme_of(store).shared:  # no pod writes there
        raise unread
    try:
        api = connected(namespace, context)
    except InputError:
        if store is not None and unread is not None:  # the store is what was asked for
            raise unread from None
        raise
    if watch:
        followed(api, run, as_json)
        return
    found = cluster.status(api, run, store)
    if as_json:
        print(json_text(found))
        return
    print(
        f"{found['run']}: {found['state']}{' (' if found['reason'] else ''}{found['reason']}{')' if found['reason'] else ''}"
    )
    if found["message"]:
        print(f"  {found['message']}")
    if found["note"]:
        print(f"  {found['note']}")
    for trouble in found["troubles"]:
        print(f"  {trouble}")
    for pod in found["pods"]:
        print(f"  {pod['phase']:10} {pod['pod']}")
    print(f"  results in {found['results']}")


def show_standing(run: Run, watch: bool, as_json: bool) -> None:
    """Prints the status of a run by its store; with `watch` every change while its driver works."""
    from jobs.operate import standing

    before: dict[str, Any] = {}
    while True:
        found = standing.status(run)
        if {**found, "renewed": None} != before:
            print(json_text(found) if as_json else "\n".join(standing.lines(found)), flush=True)
        before = {**found, "renewed": None}
        if not watch or found["state"] != standing.RUNNING:
            return
        time.sleep(WATCH_S)


def end_with(code: int, message: str, as_json: bool) -> NoReturn:
    """Ends a command with an exit code, and a line on stderr (and as a JSON event on stdout)."""
    print(f"ofa: {message}", file=sys.stderr)
    if as_json:
        print(json_text({"event": "error", "message": message, "exit": code}), flush=True)
    raise typer.Exit(code) from None


@app.command()
def wait(
    run: RunName,
    timeout_s: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="maximum time to wait")] = None,
    namespace: Namespace = "ofa",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Waits until a run has ended.

    Exit code 0: succeeded, 1: failed, 2: timeout, 3: stopped or deleted, 4: invalid, 5: the API server was lost, the run may
    be healthy. While the API server does not answer, the command goes on until its timeout, or for 30 minutes without one.
    """
    try:
        last = followed(connected(namespace, context), run, as_json, timeout_s=timeout_s)
    except Lost as error:
        end_with(LOST, str(error), as_json)
    except InputError as error:  # 2 is taken here
        end_with(4, str(error), as_json)
    if not last.state.ended:
        end_with(TIMED_OUT, f"time is up, {run} is {last.state}", as_json)
    raise typer.Exit(last.state.exit_code)


@app.command()
def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="follow the log until the run has ended")] = False,
    role: Annotated[
        Literal["submitter", "head", "worker"], typer.Option(help="which log; the submitter has the driver's")
    ] = "submitter",
    tail: Annotated[int, typer.Option(min=0, help="number of last lines; 0: all")] = 0,
    store: Where = None,
    namespace: Namespace = "ofa",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Prints a run's log; after its pods are deleted, the driver's log from the store.

    With --follow, the log is followed over all pods of the run, through retries and pauses, until the run has ended.
    """
    from jobs.operate import kube as cluster

    lines = cluster.logs(connected(namespace, context), run, role, follow=follow, tail=tail, store=store,
                         note=note_printer(as_json), outage=outage_printer(as_json))  # fmt: skip
    for line in lines:
        print(json_text({"event": "log", "role": role, "line": line}) if as_json else line, flush=True)


@app.command()
def events(run: RunName, namespace: Namespace = "ofa", context: Context = None, as_json: Json = False) -> None:
    """Lists the Kubernetes and KubeRay events of a run's objects."""
    from jobs.operate import kube as cluster

    for event in cluster.events(connected(namespace, context), run):
        words = f"{event['time']}  {event['type']:8} {event['reason']:20} {event['object']}  {event['message']}"
        print(json_text(event) if as_json else words)


@app.command()
def scale(
    run: RunName,
    group: Annotated[str | None, typer.Option(help="a worker group: search or train")] = None,
    least: Annotated[int | None, typer.Option("--min", min=0, help="minimum number of pods, started now")] = None,
    most: Annotated[int | None, typer.Option("--max", min=0, help="maximum number of pods")] = None,
    evaluations: Annotated[int | None, typer.Option(min=4, help="new budget of the measured search, in evaluations")] = None,
    store: Annotated[str | None, typer.Option("--store", help="the run's store, if its URL is another from here")] = None,
    namespace: Namespace = "ofa",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Changes the number of workers or the search budget of a run in progress."""
    from jobs.operate import kube as cluster

    found = cluster.scale(connected(namespace, context), run, group=group, least=least, most=most,
                          evaluations=evaluations, store=store)  # fmt: skip
    if as_json:
        print(json_text(found))
        return
    if group is not None:
        print(f"group {group}: min-max {found['before'][0]}-{found['before'][1]} before, "
              f"{found['after'][0]}-{found['after'][1]} now; {found['pods']} pods there")  # fmt: skip
    for name in ("evaluators", "evaluations"):
        if found.get(name):
            print(f"search: {found[name]} {name}")


def change_command(name: str, help_text: str) -> None:
    """Adds a command that changes a run."""

    def command(run: RunName, namespace: Namespace = "ofa", context: Context = None, as_json: Json = False) -> None:
        from jobs.operate import kube as cluster

        words = getattr(cluster, name)(connected(namespace, context), run)
        print(json_text({"run": run, "did": name, "text": words}) if as_json else words)

    app.command(name, help=help_text)(command)


change_command("pause", "Releases a run's cluster; work that is not in its store yet is repeated after `ofa resume`.")
change_command("resume", "Starts a new cluster for a paused run, which continues from its store.")
change_command("retry", "Restarts an ended run, which continues from its store.")


@app.command()
def cancel(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="delete the run at once; its results are kept")] = False,
    namespace: Namespace = "ofa",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Stops a run; its results are kept."""
    from jobs.operate import kube as cluster

    words = cluster.cancel(connected(namespace, context), run, now=now)
    print(json_text({"run": run, "did": "cancel", "text": words}) if as_json else words)


@app.command()
def doctor(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="with --bundle: a run's id; not needed if the store has one run")
    ] = None,
    store: Annotated[str | None, typer.Option("--store", help="a bucket to check: s3://bucket/prefix")] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.zip", help="write versions, checks and a run's records, events and logs, without secrets"
        ),
    ] = None,
    namespace: Namespace = "ofa",
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Checks the requirements of runs on a cluster and reports how to meet them; exit code 1 if any is missing.

    What may not be looked at with this user's rights is `unknown`, which in --json is an `ok` of null.
    """
    if bundle is not None:
        from jobs.operate import results
        from jobs.operate.bundle import write_bundle

        count = write_bundle(results.the_run(store or DEFAULT_STORE, run_id), bundle, namespace, context)
        print(
            json_text({"out": bundle, "files": count}) if as_json else f"{bundle}: {count} files, secrets replaced by stars"
        )
        return
    if run_id is not None:
        raise InputError(f"RUN {shown(run_id)}: is of use only with --bundle FILE.zip; leave it out")
    from jobs.operate.doctor import checks

    missing = 0
    for check in checks(namespace, context, store):
        missing += check.ok is False
        if as_json:
            print(json_text({name: getattr(check, name) for name in type(check).__slots__}))
        else:
            mark = {True: "ok     ", False: "MISSING", None: "unknown"}[check.ok]
            print(f"{mark} {check.name}: {check.found}")
            if not check.ok:
                print(f"        {check.advice}")
    if missing:
        raise typer.Exit(1)
