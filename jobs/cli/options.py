"""The options that several commands share, what holds for the options of every command, and the job that they open."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from cluster.config import MOST
from cluster.driver import attempt_at
from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.reading import parse_json, read_json, shortened
from cluster.run import File
from cluster.runtime import horovod
from jobs import config as configs
from jobs.job import Job, opened
from jobs.pipeline import STEPS
from ofa.arch import Arch, ArchError
from ofa.checks import shown

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="a config file, such as configs/digits.toml")]
StoreUrl = Annotated[str, typer.Option("--store", help="the store of results: a directory, or s3://bucket/prefix")]
Sets = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="overrides a setting of the file: search.evaluations=100; may be repeated"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object per line on stdout")]
SpaceName = Annotated[str | None, typer.Option("--space", help="a search space, such as ofa_mbv3_w1.2")]
Tables = Annotated[
    list[str],
    typer.Option(
        "--latency-table", metavar="[NAME=]FILE", help="latency table of a device, in a published format; may be repeated"
    ),
]
PredictorPath = Annotated[
    str | None,
    typer.Option(
        "--predictor", metavar="FILE", help="predictor of top-1: a published one as npz, or one that `ofa fit` wrote"
    ),
]
AtMost = Annotated[list[str], typer.Option("--at-most", metavar="NAME=NUMBER", help="an upper limit, such as latency_ms=25")]
AtLeast = Annotated[list[str], typer.Option("--at-least", metavar="NAME=NUMBER", help="a lower limit, such as top1=0.8")]
Fix = Annotated[
    list[str], typer.Option("--fix", metavar="NAME=VALUE", help="fixes a gene: resolution=192, depth.0=3, kernel.4=5, ...")
]
Classes = Annotated[int, typer.Option(min=1, max=MOST, help="number of classes; MACs and params depend on it")]
RunId = Annotated[str | None, typer.Argument(metavar="RUN", help="the run's id; not needed if the store has one run")]

DEFAULT_STORE = "./runs"


class Command(TyperCommand):
    """A command whose options may be given once unless they are lists, and whose numbers are finite."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments; raises an `InputError` for an option given twice and for a number beyond 2^63."""
        asked = list(args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            given = self.make_parser(ctx).parse_args(args=asked)[2]
            for param in self.get_params(ctx):
                name, value = param.opts[0], ctx.params.get(param.name or "")
                if param.param_type_name == "option" and not param.multiple and given.count(param) > 1:
                    raise InputError(f"ofa {ctx.info_name}: {name} is given {given.count(param)} times; give it once")
                values = value if isinstance(value, list | tuple) else [value]
                if wrong := [v for v in values if isinstance(v, int | float) and not abs(v) < 2**63]:
                    raise InputError(f"ofa {ctx.info_name}: {name} is {shown(wrong[0])}; give a finite number below 2^63")
        return rest


def make_strict(app: typer.Typer) -> None:
    """Makes every command of `app` a `Command`."""
    for command in app.registered_commands:
        command.cls = Command


@contextmanager
def open_job(
    config: str, store: str, sets: list[str], as_json: bool, in_cluster: bool = False, *, begins: bool = False,
    reads: File | None = None,
) -> Iterator[Job]:  # fmt: skip
    """Opens the job of a command on a run, which must have begun before unless the command begins one.

    reads: an object that the command reads first, for the error about a run that has not begun. Of the processes that
    horovodrun started only the first opens it; the others train with it, and end here.
    """
    asked = ["--store", store, *(part for setting in sets for part in ("--set", setting))]
    processes = horovod.launched()
    if processes is not None:
        horovod.started()  # before the first process reads images, for which the others would not wait
        if processes[0] > 0:
            horovod.follow()
            raise typer.Exit
    experiment = configs.load(config, sets)
    if processes is not None and experiment.train.backend != "horovod":
        raise InputError(
            f"{config}: train.backend is {experiment.train.backend!r}, and horovodrun started {processes[1]} processes of "
            "this command; add --set train.backend=horovod, or start it without horovodrun"
        )
    with ExitStack() as stack:
        reporter, attempt = Reporter("json" if as_json else None), 0
        if in_cluster:
            last = f"{list(STEPS)[-1]}.done.json"
            deadline_s = experiment.kube.deadline_s
            attempt = stack.enter_context(
                attempt_at(store, experiment.id, deadline_s=deadline_s, last=last, progress=reporter.progress)
            )
        asked_for = shlex.join([config, *asked])
        try:
            job = stack.enter_context(opened(experiment, store, reporter, asked_for, attempt, begins=begins))
        except InputError as error:
            if begins or reads is None:
                raise
            raise InputError(f"{error}; {reads} of the run {experiment.id} is made by `ofa {reads.step}`") from None
        yield job


def named_in(config: str, sets: list[str]) -> Callable[[str], Arch]:
    """The function that finds the arch of a name in the space of a config, which it loads for that."""
    return lambda name: configs.load(config, sets).search_space.named(name)


def parse_arch(text: str, named: Callable[[str], Arch] = Arch.from_key) -> Arch:
    """The arch of a name, of JSON, or of a file with JSON, such as the one that an export writes beside a network.

    named: finds the arch of a name.
    """
    where = "--arch"
    if text.lstrip().startswith("{"):
        doc = parse_json(text, where, _ARCH)
    elif _names_a_file(text):
        where, doc = shortened(text), read_json(text, _ARCH)
    else:
        return named(text)
    if isinstance(doc, dict) and "archs" in doc:
        if not isinstance(doc["archs"], list) or len(doc["archs"]) != 1:
            found = f"{len(doc['archs'])} networks" if isinstance(doc["archs"], list) else shown(doc["archs"])
            raise ArchError(f"{where}: archs has {found}; expected a list of one network")
        [doc] = doc["archs"]
    return Arch.from_json(doc)


_ARCH = "the JSON of an arch, its file, or a name"


def _names_a_file(text: str) -> bool:
    """Whether the text of --arch is the path of a file; raises an `ArchError` for a path without one."""
    try:
        if Path(os.path.expanduser(text)).exists():
            return True
    except (OSError, ValueError):  # no path of this system, such as one that is too long
        pass
    if "/" in text or text.endswith(".json"):
        raise ArchError(f"--arch {shortened(text)}: no such file; give {_ARCH}")
    return False
