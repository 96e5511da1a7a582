"""Serves an ensemble with Ray Serve: one deployment for each member, and one that sums their predictions.

Clients send a token where one is set. The deployments, whose arguments Ray keeps, know only its sha256.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray import serve

from cluster.errors import InputError


class RequestError(ValueError):
    """A client's request that cannot be answered; the message is sent back with status 400."""


Predict = Callable[[np.ndarray], np.ndarray]  # images [N, ...] to votes [N, C]
Read = Callable[[str, bytes], np.ndarray]  # the content type and the body of a request to images; may raise a `RequestError`
Answer = Callable[[np.ndarray], Any]  # votes [N, C] to a document for JSON


class _Member:
    """The deployment of one member: builds its function once, in a process of its own."""

    def __init__(self, build: Callable[[], Predict]) -> None:
        self.predict = build()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.predict(images)


class _Ensemble:
    """The deployment that calls all members concurrently and adds up their predictions.

    digest: the sha256 of the token that clients send as `Authorization: Bearer TOKEN`; empty if they need none.
    """

    def __init__(self, members: list[Any], read: Read, answer: Answer, digest: bytes) -> None:
        self.members, self.read, self.answer, self.digest = members, read, answer, digest

    async def predict(self, images: np.ndarray) -> np.ndarray:
        """The sum of the members' votes [N, C]."""
        votes = await asyncio.gather(*(member.remote(images) for member in self.members))
        return np.sum(votes, axis=0)

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        if self.digest and not hmac.compare_digest(digest_of(_bearer(request)), self.digest):
            error = "no token, or another one; send the header Authorization: Bearer TOKEN"
            return JSONResponse({"error": error}, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        kind, body = request.headers.get("content-type", ""), await request.body()
        try:
            images = await asyncio.to_thread(self.read, kind, body)
        except RequestError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(self.answer(await self.predict(images)))


def digest_of(token: str) -> bytes:
    """The sha256 of a token."""
    return hashlib.sha256(token.encode()).digest()


def _bearer(request: Any) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


@contextmanager
def served(
    builders: Sequence[Callable[[], Predict]],
    read: Read,
    answer: Answer,
    *,
    port: int,
    name: str,
    host: str = "127.0.0.1",
    token: str = "",
) -> Iterator[Predict]:
    """Serves the members as an application at `http://host:port/name`; yields a function that calls it.

    builders: make the members' predict functions. read: makes the input array of a client's request; its `RequestError` is
    returned to the client as an error 400. answer: makes the document that the client gets. token: without it clients get
    an error 401; empty: they need none. Needs a session with Ray; an `InputError` if it has fewer CPUs than members.
    """
    serve.start(http_options={"host": host, "port": port})
    deployment: Any = serve.deployment  # its types are those of its use as a decorator
    one = deployment(_Member, ray_actor_options={"num_cpus": 1})
    members = [one.options(name=f"member-{index}").bind(build) for index, build in enumerate(builders)]
    gather = deployment(_Ensemble, name="ensemble", ray_actor_options={"num_cpus": 0}).bind(
        members, read, answer, digest_of(token) if token else b""
    )
    there = int(ray.cluster_resources().get("CPU", 0))
    if there < len(builders):
        raise InputError(f"the cluster has {there} CPUs, an ensemble of {len(builders)} members needs one each; add nodes")
    handle: Any = serve.run(gather, name=name, route_prefix=f"/{name}")
    try:
        yield lambda images: handle.predict.remote(images).result()
    finally:
        serve.shutdown()
