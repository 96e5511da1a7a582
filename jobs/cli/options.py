"""The options that several commands share, and the job that they open."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cluster.driver import attempt_at
from cluster.progress import Reporter
from jobs import config as configs
from jobs.job import Job, opened
from ofa.arch import Arch, ArchError


def finite(value: float | None) -> float | None:
    """The callback of every option that is a number with a fraction: the value, which must be finite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number")
    return value


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
Classes = Annotated[int, typer.Option(min=1, help="number of classes; MACs and params depend on it")]
RunId = Annotated[str | None, typer.Argument(metavar="RUN", help="the run's id; not needed if the store has one run")]

DEFAULT_STORE = "./runs"


@contextmanager
def open_job(config: str, store: str, sets: list[str], as_json: bool, in_cluster: bool = False) -> Iterator[Job]:
    """Opens the job of a command on a run."""
    asked = ["--store", store, *(part for setting in sets for part in ("--set", setting))]
    experiment = configs.load(config, sets)
    with ExitStack() as stack:
        attempt = stack.enter_context(attempt_at(store, experiment.id)) if in_cluster else 0
        reporter = Reporter("json" if as_json else None)
        yield stack.enter_context(opened(experiment, store, reporter, shlex.join([config, *asked]), attempt))


def parse_arch(text: str) -> Arch:
    """The arch of a name, of JSON, or of a file with JSON, such as the one that an export writes beside a network."""
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
