"""The command line: `ofa`, also `python -m jobs`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Literal

import typer

from cluster.errors import InputError, StepError
from cluster.kube.api import Lost
from cluster.kube.state import LOST
from cluster.progress import LOG
from cluster.texts import json_text, one_line
from ensemble.errors import EnsembleError
from jobs.cli import ensembles, kube, networks, results, runs, search, streams
from jobs.cli.options import make_strict
from jobs.job import code_version
from ofa.arch import ArchError
from ofa.documents import DocumentError
from search.errors import ProblemError

INPUT_ERRORS = (InputError, ArchError, DocumentError, EnsembleError, ProblemError)
LONGEST = 1200  # most characters of a message; of a longer one, such as with a long value of a file, the ends are shown
STOPPED = 130  # the exit code after Ctrl-C or SIGTERM

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
                  help="Train one elastic network, search it once for every device, combine what was found. "
                       "Exit code 0: done, 1: a step failed, 2: bad input, 5: the API server was lost, 130: stopped; "
                       "`ofa wait --help` lists those of a run on a cluster.")  # fmt: skip
for _group in (runs, search, ensembles, networks, results, kube):
    make_strict(_group.app)
for _group in (runs, search, ensembles, networks):
    app.add_typer(_group.app)
app.add_typer(results.app, name="results")
app.add_typer(kube.app)


def print_version(wanted: bool) -> None:
    """Prints the package's version, and the commit where it runs from a checkout, and ends."""
    if wanted:
        print(f"ofa-cluster {code_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version and the commit")
    ] = False,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(envvar="OFA_LOG_FORMAT", help="of the lines on stderr; json has time, level, run, step and message"),
    ] = "text",
) -> None:
    """Options of `ofa` itself, before any command."""
    LOG.format = log_format


@cache
def command() -> Callable[..., Any]:
    """All commands of `app`, made once for a process: it takes longer than most of them."""
    return typer.main.get_command(app)


def main() -> None:
    """Runs a command; a failure is one line on stderr and an exit code, which `--help` lists."""
    as_json = "--json" in sys.argv
    streams.prepare()
    try:
        code = command()(standalone_mode=False) or 0
        sys.stdout.flush()
        if code == STOPPED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        raise SystemExit(code)
    except typer.TyperException as error:  # an unknown command or option, or a value that it cannot have
        message = str(getattr(error, "format_message", error.__str__)())
        if message.startswith("Usage:"):  # no command at all: this is the help
            print(message, file=sys.stderr)
            raise SystemExit(2) from None
        fail(f"{message.rstrip('.')}; --help lists what is available", 2, as_json)
    except INPUT_ERRORS as error:
        fail(str(error), 2, as_json)
    except Lost as error:
        fail(str(error), LOST, as_json)
    except StepError as error:
        fail(str(error), 1, as_json)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped; the same command continues from here", STOPPED, as_json)
    except Exception as error:  # an unforeseen error: one line for the user, the traceback on request
        if streams.is_of_stdout(error):
            streams.drop_stdout()
            if isinstance(error, BrokenPipeError):  # such as of `| head`
                raise SystemExit(1) from None
            fail(f"stdout cannot be written: {error}; give it a place that is open and has room", 1, False)
        if os.environ.get("OFA_TRACEBACK"):
            traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        fail(f"{type(error).__name__}: {reason[0]}; OFA_TRACEBACK=1 shows where", 1, as_json)


def fail(message: str, code: int, as_json: bool) -> None:
    """Prints an error as one line on stderr (and as a JSON event on stdout) and exits with `code`."""
    message = one_line(message, LONGEST)
    with suppress(OSError):
        print(LOG.error(message), file=sys.stderr)
    if as_json:
        try:
            print(json_text({"event": "error", "message": message, "exit": code}), flush=True)
        except OSError:
            streams.drop_stdout()
    raise SystemExit(code)
