"""Take a trained supernet to other images: a run that starts from its weights, with a new head.

    ofa transfer configs/cifar10_transfer.toml --from cifar10-half-1a2b3c4d

The phases of the config are the warm-up on the new images. It is the run of `ofa run` with `train.weights` and
`train.head` set, so it is resumable, and other commands take it with these settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.address import shown, split
from cluster.config import ConfigError
from cluster.errors import InputError
from cluster.run import CONFIG, DONE, DamagedObject, Run
from cluster.store import canonical, open_store, read_object
from cluster.stores.errors import StoreError
from cluster.texts import sha256
from jobs import config as configs
from jobs import files
from jobs.job import Job
from jobs.tools.weights import space_of
from jobs.train import changed_weights

SUFFIX = ".safetensors"  # of an address of weights


@dataclass(frozen=True, slots=True)
class Start:
    """The weights that a transfer starts from. space: of the supernet, "" where the file does not have its name."""

    url: str
    sha256: str
    space: str = ""

    @property
    def settings(self) -> list[str]:
        """The settings of a run that starts from these weights."""
        return [f"train.weights={self.url}", "train.head=new"]


def start_of(text: str, store: str) -> Start:
    """The last weights of a run whose training is finished, or a file of weights; an `InputError` if there are none.

    text: the id of a run in `store`, the path or URL of a run, the address of a weights.safetensors, or that of the
    directory in which `ofa import` left one.
    """
    if text.endswith(SUFFIX):
        url = canonical(text)
    elif _is_imported(text):
        url = f"{canonical(text)}/{files.IMPORTED}"
    else:
        return _end_of(text, store)
    data = read_object(url)
    return Start(url, sha256(data), space_of(data))


def _is_address(text: str) -> bool:
    """Whether the text of --from is no id of a run."""
    return "/" in text or bool(split(text)[0])


def _is_imported(text: str) -> bool:
    """Whether this is a directory, or a prefix of a bucket, with the weights of `ofa import`."""
    if not _is_address(text):
        return Path(text, files.IMPORTED.key).is_file()
    try:
        open_store(text).open(files.IMPORTED.key).close()
        return True
    except StoreError:  # it may be a run; its errors are those of runs
        return False


def _end_of(text: str, store: str) -> Start:
    """The last weights of a run."""
    run = _run(text, store)
    record = run.done("train")
    if record is None:
        what = "its training is not finished" if run.keys(CONFIG) else f"has no {CONFIG}, so it is no run"
        raise InputError(f"--from {shown(text)}: {run.url}: {what}; give a run that `ofa train` has finished")
    settings = run.config()
    try:
        phases, space = settings["train"]["phases"], str(settings["space"])
        key = files.supernet(phases[-1]["name"] if phases else files.UNTRAINED).key
        return Start(f"{run.url}/{key}", record["outputs"][key]["sha256"], space)
    except (LookupError, TypeError):
        raise DamagedObject(
            f"{run.url}/train{DONE}: has no weights of the last phase in config.toml; restore the two files"
        ) from None


def _run(text: str, store: str) -> Run:
    """The run of an id in `store`, or at a path or URL."""
    place, run_id = store, text
    if _is_address(text):
        place, _, run_id = canonical(text).rpartition("/")
    try:
        return Run.existing(place or "/", run_id, code="")
    except InputError as error:
        raise InputError(f"--from {shown(text)}: {error}") from None


def settings_of(config: str, sets: Sequence[str], start: Start) -> list[str]:
    """The `--set` options of a run of `config` that starts there; a `ConfigError` for another space or invalid settings."""
    wanted = [*sets, *start.settings]
    space = configs.load(config, wanted).space
    if start.space and start.space != space:
        raise ConfigError(
            f"{config}: space is {space!r}, the supernet of {start.url} is of {start.space!r}; use the same space"
        )
    return wanted


def check_unchanged(job: Job, start: Start) -> None:
    """A `ConfigError` if the run was trained from other weights than there are now."""
    record = job.run.done("train")
    before = record["inputs"].get(files.GIVEN_WEIGHTS) if record is not None else None
    if before is not None and before != start.sha256:
        raise changed_weights(start.url, start.sha256, before)
