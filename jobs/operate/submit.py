"""Submit a run to KubeRay: render, lint, plan, the server's dry run, create.

    ofa submit configs/digits.toml --store s3://bucket/prefix
    ofa submit configs/digits.toml --store s3://bucket/prefix --dry-run --output yaml

Creates a RayJob, named by the run's id, and a ConfigMap with its settings. The same command again changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from cluster import address
from cluster.config import ConfigError, dump
from cluster.errors import InputError
from cluster.kube import lint, rules
from cluster.kube import runs as kuberay
from cluster.kube.api import Api, NotThere
from cluster.kube.rayjob import (
    AUTOSCALER_CPUS,
    COLLECTOR_CPUS,
    COLLECTOR_GIB,
    SUBMITTER_CPUS,
    WAITING_CPUS,
    Kube,
    Rendered,
    refuse_secrets,
    render,
)
from cluster.runtime.machine import GPU_SETTINGS
from cluster.store import canonical, open_store, scheme_of
from cluster.texts import json_text
from jobs.config import Address, Experiment, Source
from jobs.images.source import reader_of_text

GIB = 2**30


def rendered(experiment: Experiment, store_url: str, environment: Mapping[str, str], code_url: str = "") -> Rendered:
    """The run's objects, linted; settings that cannot work are a `ConfigError` or `LintError`."""
    check_size(experiment)
    check_hours(experiment.kube)
    check_deletion(experiment.kube)
    check_reach(experiment)
    # on a cluster the driver joins what is there, and what is not there yet the autoscaler brings
    placed = replace(experiment, ray=replace(experiment.ray, autoscales=not experiment.kube.queue))
    made = render(
        experiment.id,
        dump(placed),
        store_url,
        experiment.kube,
        version=installed("ofa-cluster"),
        ray_version=installed("ray"),
        code_url=code_url,
    )
    refuse_secrets(made, environment)
    for doc in made.docs:
        lint.check(doc)
    return made


def installed(package: str) -> str:
    """The version of an installed package; a missing one is an `InputError`."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise InputError(f"{package} is not installed here; its version is part of what is submitted") from None


def check_size(experiment: Experiment) -> None:
    """Raises a `ConfigError` if the groups can never hold what the run requests of Ray."""
    kube, train = experiment.kube, experiment.train
    for name, group in kube.groups.items():
        if group.min > group.max:
            raise ConfigError(f"kube.{name}: min is {group.min}, more than max ({group.max})")
    most = sum(group.max * group.cpus for group in kube.groups.values())
    both = (train.least_workers, experiment.ray.evaluators)
    needed = sum(both) if experiment.adapt.iterations else max(both)  # an adaptation's evaluators stay while it trains
    if most < needed:
        raise ConfigError(
            f"kube: groups have {most} CPUs at most, this run needs {needed} (train.workers, ray.evaluators); "
            "raise kube.train.max or kube.search.max"
        )
    gpus = sum(group.max * group.gpus for group in kube.groups.values())
    needed = experiment.gpus(train.least_workers if train.device == "cuda" else 0)
    if gpus < needed:
        raise ConfigError(
            f"kube: groups have {gpus} GPUs at most, this run needs {needed} ({GPU_SETTINGS}); set kube.train.gpus or "
            "kube.search.gpus, and max"
        )


def elastic_notes(experiment: Experiment) -> list[str]:
    """Notes on workers of a training for which the groups have no places at their largest size."""
    kube, train = experiment.kube, experiment.train
    resource = "gpus" if train.device == "cuda" else "cpus"
    places = int(sum(group.max * getattr(group, resource) for group in kube.groups.values()))
    if train.least_workers <= places < train.most_workers:
        return [f"train.workers may be {train.most_workers}, the groups have {places} {resource[:-1].upper()}s at most"]
    return []


def check_hours(kube: Kube) -> None:
    """Raises a `ConfigError` for a run that may use more GPU hours than `kube.most_gpu_hours`, if that is set."""
    gpus, longest_h = sum(group.max * group.gpus for group in kube.groups.values()), kube.longest_h
    if not kube.most_gpu_hours or not gpus:
        return
    limit = f"kube.most_gpu_hours is {kube.most_gpu_hours:g}"
    if longest_h is None:
        raise ConfigError(f"{limit}, but a run without kube.deadline_s has no upper bound; set kube.deadline_s")
    if gpus * longest_h > kube.most_gpu_hours:
        raise ConfigError(
            f"{limit}; this run may use {gpus * longest_h:.4g}: {gpus} GPUs for {longest_h:.4g} hours (kube.deadline_s and "
            "kube.ttl_s); lower them, or the groups' max"
        )


def check_deletion(kube: Kube) -> None:
    """Raises a `ConfigError` for a queue with deletion by rules."""
    if kube.delete_job_s and kube.queue:
        raise ConfigError(
            "kube.delete_job_s goes with no kube.queue: Kueue pauses runs, which KubeRay does not allow with deletion "
            "rules; leave one of them out"
        )


def check_reach(experiment: Experiment) -> None:
    """Raises a `ConfigError` for a setting that is an address which pods cannot reach."""
    for path, text in addresses(experiment):
        embedded = path == "data.source" and (reader := reader_of_text(text)) is not None and reader.embedded
        if text and not embedded and not scheme_of(text).shared:
            raise ConfigError(
                f"{path} is {text!r}, on this machine, which pods cannot reach; copy it to the bucket and give s3://bucket/..."
            )
    if experiment.ray.address not in ("local", "auto"):
        raise ConfigError(f"ray.address is {experiment.ray.address!r}; a run on Kubernetes has a cluster of its own: local")


def addresses(settings: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every setting of a dataclass, and of those in it, that is the address of a file, a folder or a bucket."""
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        name, value = f"{path}.{field.name}".lstrip("."), getattr(settings, field.name)
        if hints[field.name] in (Source, Address):
            yield name, value
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part):
                yield from addresses(part, name)


def as_text(made: Rendered, output: Literal["yaml", "json"]) -> str:
    """The objects for `kubectl create -f -`."""
    if output == "json":
        return json_text({"apiVersion": "v1", "kind": "List", "items": made.docs}, indent=1) + "\n"
    return yaml.dump_all(made.docs, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks, and no references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


# The plan


@dataclass(frozen=True, slots=True)
class Row:
    """Equal pods of a run: their number and the resources of each."""

    what: str
    least: int
    most: int
    cpus: float
    memory_gib: float
    gpus: int = 0


@dataclass(frozen=True)
class Plan:
    """The resources of a run at the start and at most, the hours of their use, and notes on the namespace's quota."""

    rows: tuple[Row, ...]
    image: str
    notes: tuple[str, ...]
    longest_h: float | None  # most hours for which the pods exist; None is no limit

    def total(self, name: str, *, most: bool) -> float:
        """The sum of a resource over all pods; `most` with every group at its maximum."""
        count = "most" if most else "least"
        return sum(getattr(row, count) * (1 if name == "pods" else getattr(row, name)) for row in self.rows)

    def hours(self, name: str) -> float | None:
        """The most CPU hours ("cpus") or GPU hours ("gpus"), with every group at its maximum; None is no limit."""
        return None if self.longest_h is None else self.total(name, most=True) * self.longest_h

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        names = ("pods", "cpus", "memory_gib", "gpus")
        return {
            "image": self.image,
            "rows": [{name: getattr(row, name) for name in Row.__slots__} for row in self.rows],
            "least": {name: self.total(name, most=False) for name in names},
            "most": {name: self.total(name, most=True) for name in names},
            "most_hours": {name: self.hours(name) for name in ("cpus", "gpus")},
            "notes": list(self.notes),
        }


def plan(kube: Kube, image: str, api: Api | None) -> Plan:
    """The plan with the containers that KubeRay adds; one that exceeds the namespace's quota is an `InputError`."""
    scaler = 0.0 if kube.queue else AUTOSCALER_CPUS
    beside, beside_gib = (COLLECTOR_CPUS, COLLECTOR_GIB) if kube.history else (0.0, 0.0)
    head_cpus, head_gib = kube.head.cpus + scaler + beside, kube.head.memory_gib + scaler + beside_gib
    rows = [
        Row("head" if kube.queue else "head + autoscaler", 1, 1, head_cpus, head_gib),
        Row("submitter", 1, 1, SUBMITTER_CPUS, 0.5),
    ]
    for name, group in kube.groups.items():
        cpus = max(group.cpus + beside, WAITING_CPUS)  # init containers come before, not beside
        memory = group.memory_gib + beside_gib
        rows.append(Row(f"workers {name}", kube.least(group), group.max, cpus, memory, group.gpus))
    made = Plan(tuple(rows), image, (), kube.longest_h)
    notes = [] if "@sha256:" in image else [f"image {image} has no digest; in production give image@sha256:..."]
    if api is not None:
        notes += quota_notes(made, api)
    return replace(made, notes=tuple(notes))


def quota_notes(made: Plan, api: Api) -> list[str]:
    """Notes on the namespace's quotas; a quota that the run can never satisfy is an `InputError`."""
    try:
        quotas = api.list("ResourceQuota")
    except InputError as error:
        return [f"quota unknown: {error}"]
    names = {"requests.cpu": "cpus", "cpu": "cpus", "pods": "pods", "requests.memory": "memory_gib",
             "limits.memory": "memory_gib", "memory": "memory_gib", "requests.nvidia.com/gpu": "gpus"}  # fmt: skip
    notes = []
    for quota in quotas:
        hard, used = quota["spec"].get("hard", {}), (quota.get("status") or {}).get("used", {})
        for resource, name in names.items():
            if resource not in hard:
                continue
            unit = GIB if name == "memory_gib" else 1
            limit, taken = rules.quantity(hard[resource]) / unit, rules.quantity(used.get(resource, "0")) / unit
            least, most = made.total(name, most=False), made.total(name, most=True)
            if least > limit:
                raise InputError(
                    f"quota {quota['metadata']['name']}: {resource} is {limit:g}, this run needs {least:g} to start; "
                    "make kube.head and groups smaller, or ask for more"
                )
            if least > limit - taken:
                notes.append(f"quota {resource}: {taken:g} of {limit:g} in use, {least:g} needed to start: it will wait")
            elif most > limit - taken:
                notes.append(f"quota {resource}: {taken:g} of {limit:g} in use, not all groups can reach max ({most:g})")
    return notes


# The code, where it is not that of the image


def ship(folder: str, store_url: str) -> str:
    """Uploads the files that git tracks in `folder` as `<store>/code/<sha256>.zip`, once; returns its URL."""
    url, data = packed(folder, store_url)
    open_store(store_url).create(url.removeprefix(f"{canonical(store_url)}/"), data)
    return url


def packed(folder: str, store_url: str) -> tuple[str, bytes]:
    """The URL that the files that git tracks in `folder` have as a zip in the store, and the zip; nothing is uploaded."""
    folder = str(address.directory(folder))
    listed = subprocess.run(["git", "-C", folder, "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode:
        raise InputError(f"--code {folder}: is no git checkout; only what git tracks is shipped")
    names = sorted(name for name in listed.stdout.decode().split("\0") if name and (Path(folder) / name).is_file())
    if "jobs/__main__.py" not in names:
        raise InputError(f"--code {folder}: there is no jobs/__main__.py; give the project's root")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:  # equal files give equal bytes: no times, no owners
            archive.writestr(zipfile.ZipInfo(name), (Path(folder) / name).read_bytes(), zipfile.ZIP_DEFLATED)
    data = content.getvalue()
    return f"{canonical(store_url)}/code/{hashlib.sha256(data).hexdigest()}.zip", data


def submit(api: Api, made: Rendered) -> Literal["created", "unchanged"]:
    """Creates the run's objects, or reports that they exist unchanged."""
    try:
        return kuberay.submit(api, made)
    except NotThere as error:
        raise NotThere(f"{error}: is KubeRay installed, and namespace {api.namespace} there? `ofa doctor` says") from None
