"""A step in a service: batches go to an HTTP address, or to a deployment of Ray Serve that the run has made.

Both answer with Arrow. `penstock serve FILE#PIPELINE.STEP` tells refused rows by their positions, `penstock stage NAME
--http PORT` in the words of `penstock.core.wire`; either will do.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from penstock.core import wire
from penstock.core.batch import from_bytes
from penstock.core.nouns import Batch, Place, Step, Transform
from penstock.core.work import Assignment, entered
from penstock.errors import PlanError, RowErrors, UnitError
from penstock.serving.codec import ARROW

__all__ = ["ON_THE_WAY", "cause", "deployed", "is_ours", "opened", "scale"]

_HANDLE = "ray-serve:"
"""Before the name of a Serve application, as an address."""
_TRIES = 5
_PAUSE_SECONDS = 0.2
_PATIENCE_SECONDS = 600


@contextmanager
def opened(step: Step) -> Iterator[Transform]:
    """The live function of *step*: each batch is a request to the address of its place.

    Raises:
        PlanError: the address is none.
    """
    address = step.place.address
    if is_ours(step.place):
        yield _by_handle(address.removeprefix(_HANDLE))
        return
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError(f"step {step.name}: place.address is '{address}'; http://HOST:PORT was needed")
    yield lambda batch: _by_http(address, batch)


# --- Ray Serve -------------------------------------------------------------------------------------------


@contextmanager
def deployed(assignment: Assignment) -> Iterator[Assignment]:
    """The steps whose place is ``serve`` without an address are services of Ray Serve inside; *assignment* with these.

    Raises:
        PlanError: a replica cannot be started.
    """
    pipeline = assignment.pipeline
    with ExitStack() as stack:
        steps = [
            _deployed(stack, step) if step.place.kind == "serve" and not step.place.address else step
            for step in pipeline.steps
        ]
        yield replace(assignment, pipeline=replace(pipeline, steps=tuple(steps)))


def is_ours(place: Place) -> bool:
    """Whether it is a service that `deployed` has set up."""
    return place.address.startswith(_HANDLE)


def _deployed(stack: ExitStack, step: Step) -> Step:
    """*step* with the address of its deployment."""
    from ray import serve

    name, place = f"penstock-{step.name}-{uuid.uuid4().hex[:12]}", step.place
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.start(proxy_location="Disabled", logging_config=quiet)
    stack.callback(serve.delete, name)
    deployment = serve.deployment(_Replica).options(name="step", **scale(place), logging_config=quiet)
    try:
        serve.run(deployment.bind(step), name=name, route_prefix=None)
    except RuntimeError as error:
        raise PlanError(f"step {step.name}: no replica could be started: {cause(error, name)}") from error
    return replace(step, place=replace(place, address=f"{_HANDLE}{name}"))


def scale(place: Place) -> dict[str, Any]:
    """A deployment's options by its place."""
    low, high = place.replicas
    scaled = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": 1, "upscale_delay_s": 5}
    actor = {"num_cpus": place.cpus, "num_gpus": place.gpus, "memory": place.memory_bytes or None}
    return {
        **({"num_replicas": low} if low == high else {"autoscaling_config": scaled}),
        "ray_actor_options": actor,
        "max_ongoing_requests": ON_THE_WAY,
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 5,
    }


ON_THE_WAY = 2
"""Batches for each replica: one at work, and one that has arrived when that is done."""


def cause(error: Exception, name: str) -> str:
    """What a replica of application *name* said when it could not start."""
    from ray import serve

    application = serve.status().applications.get(name)
    told = [one.message for one in application.deployments.values()] if application else []
    lines = [line.strip() for text in told for line in text.splitlines() if "Error" in line]
    return lines[-1] if lines else str(error)


class _Replica:
    """A worker of a step's service: the stage is open for as long as it lives, and takes a batch at a time."""

    def __init__(self, step: Step) -> None:
        self._stack = ExitStack()
        [self._transform] = self._stack.enter_context(entered((step,)))
        self._thread = ThreadPoolExecutor(1, "penstock-step")

    async def __call__(self, request: bytes) -> bytes:
        """Answer a batch; health checks are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, request)

    def _answer(self, request: bytes) -> bytes:
        return wire.answered(self._transform, from_bytes(request))


def _by_handle(application: str) -> Transform:
    from ray import serve

    handle = serve.get_app_handle(application)
    return lambda batch: wire.heard(BytesIO(_answered(handle, wire.asked(batch))))


def _answered(handle: Any, request: bytes) -> bytes:
    """The answer of a replica; of another one where the first was lost, since a batch has no effect but its answer."""
    from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError

    for _ in range(_TRIES):
        try:
            return bytes(handle.remote(request).result())
        except (RayActorError, ActorUnavailableError, WorkerCrashedError):
            time.sleep(_PAUSE_SECONDS)
    raise UnitError(f"the service's worker ended {_TRIES} times over one batch; if memory runs out, lower unit_bytes")


# --- HTTP ------------------------------------------------------------------------------------------------


def _by_http(address: str, batch: Batch) -> Batch:
    status, body = _sent(address, wire.asked(batch))
    if status not in (200, 207, 422) or (status == 422 and not _is_arrow(body)):
        text = body.decode(errors="replace").strip()[:500]
        raise UnitError(f"{address} answered {status}: {text or 'nothing'}")
    answer = from_bytes(body)
    metadata = dict(answer.schema.metadata or {})
    if b"penstock.errors" not in metadata:
        return wire.heard(BytesIO(body))
    metadata.pop(b"penstock.positions")
    refused = json.loads(metadata.pop(b"penstock.errors"))
    good = answer.replace_schema_metadata(metadata or None)
    if refused:
        raise RowErrors(good, batch.take([one["row"] for one in refused]), [one["reason"] for one in refused])
    return good


def _is_arrow(body: bytes) -> bool:
    return body[:4] == b"\xff\xff\xff\xff"


def _sent(address: str, body: bytes) -> tuple[int, bytes]:
    """Status and body; a service that is away or full for a moment is asked again."""
    problem = ""
    for attempt in range(_TRIES):
        try:
            status, found = _posted(address, body)
        except (OSError, http.client.HTTPException) as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            if status != 503:
                return status, found
            problem = f"503: {found.decode(errors='replace').strip()[:200]}"
        time.sleep(_PAUSE_SECONDS * 2**attempt)
    raise UnitError(f"{address} cannot be reached ({problem}); is the service up? Tried {_TRIES} times")


def _posted(address: str, body: bytes) -> tuple[int, bytes]:
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_PATIENCE_SECONDS)
    try:
        token = os.environ.get("PENSTOCK_TOKEN", "")
        more = {"authorization": f"Bearer {token}"} if token else {}
        connection.request("POST", f"{parts.path.rstrip('/')}/rows", body, {"content-type": ARROW, **more})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
