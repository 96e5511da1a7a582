"""An application on Ray Serve whose parts answer side by side: one deployment for each, and one that asks them all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray import serve

from cluster.errors import InputError


class RequestError(ValueError):
    """A client's request that cannot be answered; the message is sent back with status 400."""


Answer = Callable[[np.ndarray], np.ndarray]


class _Part:
    """Builds what answers once, in a process of its own."""

    def __init__(self, build: Callable[[], Answer]) -> None:
        self.answer = build()

    def __call__(self, question: np.ndarray) -> np.ndarray:
        return self.answer(question)


class _All:
    """Asks every part at once and adds up what they say; over HTTP the question is JSON."""

    def __init__(self, parts: list[Any], read: Callable[[Any], np.ndarray]) -> None:
        self.parts, self.read = parts, read

    async def ask(self, question: np.ndarray) -> np.ndarray:
        answers = await asyncio.gather(*(part.remote(question) for part in self.parts))
        return np.sum(answers, axis=0)

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        try:
            question = self.read(await _json(request))
        except RequestError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        answer = await self.ask(question)
        return JSONResponse({"classes": answer.argmax(axis=1).tolist(), "votes": answer.tolist()})


async def _json(request: Any) -> Any:
    try:
        return await request.json()
    except ValueError as error:  # of the parser: the body is foreign
        raise RequestError(f"the request is not JSON: {error}") from None


@contextmanager
def served(
    builders: Sequence[Callable[[], Answer]], read: Callable[[Any], np.ndarray], *, port: int, name: str
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """The parts as an application of this name at `http://127.0.0.1:port/name`, and a function that asks it.

    `read` makes a question of what a client sends; a `RequestError` is the client's fault. Needs a session with Ray.
    """
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment: Any = serve.deployment  # its types are those of its use as a decorator
    one = deployment(_Part, ray_actor_options={"num_cpus": 1})
    parts = [one.options(name=f"member-{index}").bind(build) for index, build in enumerate(builders)]
    gather = deployment(_All, name="ensemble", ray_actor_options={"num_cpus": 0}).bind(parts, read)
    there = int(ray.cluster_resources().get("CPU", 0))
    if there < len(builders):
        raise InputError(f"the cluster has {there} CPUs, an ensemble of {len(builders)} members needs one each; add nodes")
    handle: Any = serve.run(gather, name=name, route_prefix=f"/{name}")
    try:
        yield lambda question: handle.ask.remote(question).result()
    finally:
        serve.shutdown()
