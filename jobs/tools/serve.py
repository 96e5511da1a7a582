"""Serve an exported ensemble on Ray, one deployment for each member, and compare its latency with the modelled one.

    ofa serve runs/digits-<id>/subnets/ensemble.safetensors --port 8000

Clients send one image file as the body (`Content-Type: image/jpeg`), or JSON: {"files": [...]}, image files in base64, or
{"images": [N, 3, S, S]}, colours 0 to 255. They get {"classes": [N], "votes": [N, C]}, and {"names": [N]}, the names of the
classes, if the exported file has them. Image files are decoded, cropped and resized as for `ofa eval`. It listens on
127.0.0.1 unless a token is set, which clients then send as `Authorization: Bearer TOKEN`.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from cluster.address import shown
from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.reading import existing_file, read_text
from cluster.runtime.serving import Predict, RequestError, served
from cluster.runtime.session import session
from ensemble.network import EnsembleNetwork, from_safetensors
from ensemble.rule import RULES
from ofa.decode import CorruptImage, centre, decode
from ofa.export import Description
from ofa.images import resize

RUNS = 30  # timed calls with one image, after the warm-up
LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE = "OFA_SERVE_TOKEN"
SHORTEST_TOKEN = 16  # characters
SHARED_BYTES = 256 * 2**20  # size of Ray's object store, for requests and responses


@dataclass(frozen=True, slots=True)
class Latency:
    """Median latencies (ms) of one image: each member alone, all in turn in one process, and the served application."""

    members_ms: list[float]
    in_turn_ms: float
    served_ms: float

    @property
    def modelled(self) -> dict[str, float]:
        """The latency by each cost rule: `max` of members that run side by side, `sum` of members in turn."""
        members_ms = np.array(self.members_ms)
        everyone = np.ones((1, len(members_ms)), dtype=bool)
        return {name: float(rule.costs(everyone, members_ms)[0]) for name, rule in RULES.items() if not rule.needs_pieces}


def token_of(file: str | None, environment: Mapping[str, str]) -> str:
    """The token that clients must send: the content of `file`, or `OFA_SERVE_TOKEN`; "" if neither is given."""
    if file is not None:
        where, token = file, read_text(file, "a file with a token").strip()
    else:
        where, token = TOKEN_VARIABLE, environment.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return ""
    if len(token) < SHORTEST_TOKEN or not re.fullmatch("[!-~]+", token):
        raise InputError(
            f"{where}: is no token; give at least {SHORTEST_TOKEN} letters and digits without spaces, such as "
            "`openssl rand -hex 32` makes"
        )
    return token


def check_host(host: str, token: str) -> None:
    """Raises an `InputError` for a host that is no address, and for one that others can reach without a token."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise InputError(
            f"--host is {shown(host)}; give an IP address of this machine, such as 127.0.0.1 or 0.0.0.0"
        ) from None
    if not loopback and not token:
        raise InputError(
            f"--host {host}: other machines can reach it; give a token that clients must send, by --token-file FILE or "
            f"{TOKEN_VARIABLE}"
        )


def serve(path: str, host: str, port: int, address: str, reporter: Reporter, token: str = "") -> None:
    """Serves until it is interrupted; reports first the latency of one image. token: see `served`."""
    check_host(host, token)
    path = str(existing_file(path, "an exported network or ensemble (.safetensors)").absolute())
    _, description = from_safetensors(path)
    if description.exits and not description.exit_weights and description.output != "probabilities":
        raise InputError(
            f"{path}: has {len(description.exits)} outputs, one for each exit; serve a cascade of them instead, which "
            "`ofa export --arch NAME --average-macs N` makes"
        )
    with session(address, len(description.archs), SHARED_BYTES), application(path, port, host=host, token=token) as ask:
        found, url = latency(path, ask), f"http://{f'[{host}]' if ':' in host else host}:{port}/ensemble"
        reporter.say(
            f"serve: {url}{', with the token' if token else ''}; one image takes {found.served_ms:.1f} ms, its members "
            f"alone {', '.join(f'{ms:.1f}' for ms in found.members_ms)} ms: modelled {found.modelled['max']:.1f} ms side by "
            f"side, {found.modelled['sum']:.1f} ms in turn, measured in turn {found.in_turn_ms:.1f} ms",
            event="serving",
            host=host,
            port=port,
            token=bool(token),
            **asdict(found),
            modelled=found.modelled,
        )
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    reporter.say("serve: stopped", event="stopped")


def member_of(path: str, index: int) -> Predict:
    """The content of one deployment: the vote of one member."""
    torch.set_num_threads(1)
    network, description = from_safetensors(path)
    return partial(vote_of, network, description, index)


@torch.inference_mode()
def vote_of(network: nn.Module, description: Description, index: int, images_N3SS: np.ndarray) -> np.ndarray:
    """Votes [N, C] of one member for uint8 images."""
    x = resize(description.scale(torch.from_numpy(images_N3SS.copy())), description.input_resolution)
    if isinstance(network, EnsembleNetwork):
        return network.votes(index, x).numpy()
    answer = network(x)
    return (answer if description.output == "probabilities" else answer.softmax(1)).numpy()


def images_of(description: Description, kind: str, body: bytes) -> np.ndarray:
    """The images of a request, uint8 [N, 3, S, S]; raises a `RequestError` with the mistake if there is one.

    kind: the content type. body: an image file if the type is that of an image, else JSON.
    """
    if kind.startswith("image/"):
        return decoded(description, [body])
    try:
        doc = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the request is not JSON: {error}; an image file needs the content type image/...") from None
    if not isinstance(doc, dict) or not {"images", "files"} & doc.keys():
        raise RequestError('the request has no \'images\'; send {"images": [N, 3, S, S]}, or {"files": [...]} in base64')
    return decoded(description, _files(doc["files"])) if "files" in doc else _arrays(doc["images"])


def decoded(description: Description, files: Sequence[bytes]) -> np.ndarray:
    """Image files as uint8 [N, 3, S, S], as the images were decoded on which the network was evaluated."""
    if (decoding := description.decoding) is None:
        raise RequestError("the served network was exported without the size of decoded images; export it again")
    images = []
    for number, data in enumerate(files):
        try:
            images.append(centre(decode(data)[0], decoding.side, decoding.crop))
        except CorruptImage as error:
            raise RequestError(f"file {number} cannot be decoded: {error}") from None
    return np.stack(images)


def _files(texts: Any) -> list[bytes]:
    """The files in a request, each in base64."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestError("'files' is no list of texts; send image files in base64")
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except ValueError as error:
        raise RequestError(f"'files' is not in base64: {error}") from None


def _arrays(rows: Any) -> np.ndarray:
    """The images in a request as numbers."""
    try:
        images = np.asarray(rows)
    except ValueError:  # rows of different lengths
        raise RequestError("images have rows of different lengths; expected whole numbers [N, 3, S, S]") from None
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.dtype.kind not in "iu":
        raise RequestError(f"images are {images.shape} {images.dtype}; expected whole numbers [N, 3, S, S]")
    if images.min() < 0 or images.max() > 255:
        raise RequestError("some colours are out of range; expected 0 to 255")
    return images.astype(np.uint8)


def answer_of(names: Sequence[str], votes_NC: np.ndarray) -> dict[str, Any]:
    """The answer to a request with these votes; names: of the classes, if they are known."""
    classes = votes_NC.argmax(axis=1).tolist()
    named = {"names": [names[c] for c in classes]} if names else {}
    return {"classes": classes, **named, "votes": votes_NC.tolist()}


def application(path: str, port: int, name: str = "ensemble", *, host: str = LOOPBACK, token: str = "") -> Any:
    """The exported ensemble as a Ray Serve application, see `cluster.runtime.serving.served`."""
    _, description = from_safetensors(path)
    builders = [partial(member_of, path, index) for index in range(len(description.archs))]
    read, answer = partial(images_of, description), partial(answer_of, description.names)
    return served(builders, read, answer, port=port, name=name, host=host, token=token)


def latency(path: str, ask: Predict) -> Latency:
    """Times an application against its members in this process."""
    network, description = from_safetensors(path)
    side = description.input_resolution
    image = np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8)
    votes = [partial(vote_of, network, description, index) for index in range(len(description.archs))]
    members = [median_ms(partial(vote, image)) for vote in votes]
    return Latency(members, median_ms(lambda: sum(vote(image) for vote in votes)), median_ms(partial(ask, image)))


def median_ms(call: Callable[[], Any]) -> float:
    """The median time of a call in milliseconds, of `RUNS` after three warm-up calls."""
    seconds = []
    for run in range(RUNS + 3):
        started = time.perf_counter()
        call()
        if run >= 3:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3
