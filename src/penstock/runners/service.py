"""A step in a service: batches go to an HTTP address, or to a deployment of Ray Serve that the run has made.

Both answer with Arrow. `penstock serve FILE#PIPELINE.STEP` tells refused rows by their positions, `penstock stage NAME
--http PORT` in the words of `penstock.core.wire`; either will do.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from penstock.core import wire
from penstock.core.batch import from_bytes
from penstock.core.nouns import Batch, Place, Step, Transform
from penstock.core.work import Assignment, entered
from penstock.errors import PlanError, RowErrors, UnitError
from penstock.runners import replicas
from penstock.serving.codec import ARROW

__all__ = ["deployed", "is_ours", "opened"]

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
    name = replicas.name_for(step.name)
    stack.enter_context(replicas.application(name, partial(_answering, step), step.place, f"step {step.name}"))
    return replace(step, place=replace(step.place, address=f"{_HANDLE}{name}"))


@contextmanager
def _answering(step: Step) -> Iterator[Callable[[bytes], bytes]]:
    """What a replica of a step's service does with a request."""
    with entered((step,)) as [transform]:
        yield lambda request: wire.answered(transform, from_bytes(request))


def _by_handle(application: str) -> Transform:
    from ray import serve

    handle = serve.get_app_handle(application)
    return lambda batch: wire.heard(BytesIO(_answered(handle, wire.asked(batch))))


def _answered(handle: Any, request: bytes) -> bytes:
    """The answer of a replica; of another one where the first was lost."""
    for pause in replicas.PAUSES_SECONDS:
        try:
            return bytes(handle.remote(request).result())
        except replicas.lost():
            time.sleep(pause)
    tries = len(replicas.PAUSES_SECONDS)
    raise UnitError(f"the service's worker ended {tries} times over one batch; if memory runs out, lower unit_bytes")


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
