"""Replicas of Ray Serve, each of which opens its steps when it starts and takes a batch at a time."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeAlias

from penstock.core.nouns import Place
from penstock.errors import PlanError

__all__ = ["ON_THE_WAY", "PAUSES_SECONDS", "application", "lost", "name_for", "scale"]

PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 0.0)
"""After each try of a batch whose replica was lost; Serve takes a moment to know it, and sends to it until then."""
ON_THE_WAY = 2
"""Batches for each replica: one at work, and one that has arrived when that is done."""
Answering: TypeAlias = Callable[[], AbstractContextManager[Callable[[bytes], Any]]]
"""What a replica opens: it gives the answer to a request. Pickled, since replicas are elsewhere."""


def lost() -> tuple[type[Exception], ...]:
    """What is raised for a batch whose replica has ended. It has no effect but its answer, so it is sent again."""
    from ray.exceptions import RayActorError, WorkerCrashedError

    return RayActorError, WorkerCrashedError


def name_for(what: str) -> str:
    """A name that no other application has."""
    return f"penstock-{what}-{uuid.uuid4().hex[:12]}"


@contextmanager
def application(name: str, answering: Answering, place: Place, what: str) -> Iterator[Any]:
    """The handle of an application that runs inside, with as many replicas as *place* says; requests are bytes.

    Raises:
        PlanError: no replica can be started; *what* begins the text.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    with ExitStack() as stack:
        serve.start(proxy_location="Disabled", logging_config=quiet)
        stack.callback(serve.delete, name, _blocking=False)
        deployment = serve.deployment(_Replica).options(name="steps", **scale(place), logging_config=quiet)
        try:
            handle = serve.run(deployment.bind(answering), name=name, route_prefix=None)
        except RuntimeError as error:
            raise PlanError(f"{what}: no replica could be started: {_cause(error, name)}") from error
        yield handle


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


def _cause(error: Exception, name: str) -> str:
    """What a replica of application *name* said when it could not start."""
    from ray import serve

    application = serve.status().applications.get(name)
    told = [one.message for one in application.deployments.values()] if application else []
    lines = [line.strip() for text in told for line in text.splitlines() if "Error" in line]
    return lines[-1] if lines else str(error)


class _Replica:
    """Has one thread for its batches, so that health checks are answered meanwhile."""

    def __init__(self, answering: Answering) -> None:
        self._stack = ExitStack()
        self._answer = self._stack.enter_context(answering())
        self._thread = ThreadPoolExecutor(1, "penstock-steps")

    async def __call__(self, request: bytes) -> Any:
        """Answer a batch."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, request)
