"""One archive for a report of a fault: versions, checks, and a run's config, records, events and logs, without secrets.

    ofa doctor digits-1a2b3c4d --store ./runs --bundle fault.zip

Contains no weights, images or results. Values of secrets in the environment, passwords in addresses, keys, tokens and
signatures are replaced by stars in every file; look into the archive before you pass it on all the same.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import quote

from cluster.attempts import ATTEMPTS
from cluster.errors import InputError, StepError
from cluster.kube.api import Api
from cluster.kube.rayjob import secrets
from cluster.run import CONFIG, DONE, Run
from cluster.stores.errors import MissingObject
from cluster.texts import json_lines, json_text, jsonl, machine
from jobs import files
from jobs.operate import kube
from jobs.operate.doctor import checks
from jobs.operate.places import new_file, unwritable

PACKAGES = ("ofa-cluster", "torch", "ray", "optuna", "numpy", "pyarrow", "pydantic", "boto3", "kubernetes", "horovod")
LONGEST = 2**20  # characters of a file; of a longer one the end

_KEY = r"(?:access|account|api|private)[_-]?key(?![_-]?id)"
_ASSIGNED = rf"[\w.-]*(?:secret|token|passw|credential|signature|{_KEY}|\bsig\b)[\w.-]*"
_PATTERNS = (
    (re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\Z)", re.S), r"\1***\2"),
    (re.compile(r"(\w://)[^\s\"']+@"), r"\1***@"),  # user:password@ in an address
    (re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{4})[0-9A-Z]{12}\b"), r"\1***"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), "***"),  # a JSON web token
    (re.compile(r"(authorization\W{1,4}(?:(?:bearer|basic|aws4-hmac-sha256)\s+)?)[^\s\"',}]+[^\n\"'}]*", re.I), r"\1***"),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.I), r"\1***"),
    (re.compile(rf"\b({_ASSIGNED}[\"']?\s*[=:]\s*)(\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&}}\"']+)", re.I), r"\1***"),
)


def write_bundle(run: Run, out: str, namespace: str, context: str | None) -> int:
    """Writes the archive to a new file; returns its number of files.

    out: a path that ends with .zip. Nothing has that name before the archive is complete.
    """
    place = new_file("--bundle", out, [".zip"], "a name that ends with .zip")
    keys, left_out, hidden = run.keys(), list[str](), hidden_values(os.environ)
    found = {
        "versions.json": json_lines({"packages": _versions(), "machine": machine()}),
        "checks.jsonl": jsonl([asdict(check) for check in checks(namespace, context, None)]).decode(),
        "objects.txt": "".join(f"{key}\n" for key in keys),
    }
    try:
        rows = kube.events(Api.connect(namespace, context), run.id)
        found["events.jsonl"] = jsonl(rows).decode()
    except (InputError, StepError) as error:
        left_out.append(f"events.jsonl: {error}")
    for key in keys:
        if key in (CONFIG, files.SCALE) or key.endswith(DONE) or key.startswith(("logs/", ATTEMPTS)):
            try:
                data = run.raw(key)
            except MissingObject:
                left_out.append(f"{key}: was deleted meanwhile")
                continue
            text = without_secrets(data.decode(errors="replace"), hidden)  # before a cut, which may divide a secret
            found[f"run/{key}"] = text[-LONGEST:]
            left_out += [f"run/{key}: the first {len(text) - LONGEST} characters"] if len(text) > LONGEST else []
    found["left-out.txt"] = "".join(f"{line}\n" for line in left_out)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
            part = Path(folder, place.name)
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in found.items():
                    archive.writestr(f"{run.id}/{without_secrets(name, hidden)}", without_secrets(text, hidden))
            os.replace(part, place)
    except OSError as error:
        raise unwritable("--bundle", out, error) from None
    return len(found)


def hidden_values(environment: Mapping[str, str]) -> list[str]:
    """The values of secrets in an environment, longest first, also as they are in addresses and in base64."""
    spellings = set[str]()
    for value in secrets(environment).values():
        spellings |= {
            value,
            quote(value, safe=""),
            quote(value),
            base64.b64encode(value.encode()).decode(),
            json_text(value)[1:-1],
        }
        spellings |= {line for line in value.splitlines() if len(line) >= 8}
    return sorted(spellings, key=len, reverse=True)


def without_secrets(text: str, hidden: Iterable[str]) -> str:
    """`text` with stars instead of the hidden values and of everything that has the form of a secret."""
    for value in hidden:
        text = text.replace(value, "***")
    for pattern, stars in _PATTERNS:
        text = pattern.sub(stars, text)
    return text


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
