"""Ray Serve: batches go to replicas that scale; a replica that dies loses no request.

One process listens, puts the requests of all clients together and sends whole batches by a deployment's handle.
Serve's own HTTP proxies are left out: behind them each replica would see only its share of the requests, and
what a dying replica held would be lost to its clients. Steps have no effect but their answer, so a batch
whose replica died is simply sent again.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from penstock.core.batch import from_bytes, to_bytes
from penstock.core.nouns import Batch
from penstock.core.plan import Resources
from penstock.errors import PenstockError, PlanError
from penstock.runners import places
from penstock.runners.ray import Ray
from penstock.runners.service import ON_THE_WAY, cause, scale
from penstock.serving.batching import Carrier
from penstock.serving.chain import Chain, Refused, Sifted, opened
from penstock.serving.door import Door, Limits
from penstock.serving.metrics import Metrics

__all__ = ["Opening", "deployed"]

Opening = Callable[[], AbstractAsyncContextManager[Door]]
"""Opens the service inside a running event loop."""

_RETRIES = 3


@contextmanager
def deployed(chain: Chain, limits: Limits, ray: Ray) -> Iterator[Opening]:
    """The service with replicas on Ray Serve, which are up inside.

    Args:
        chain: the steps.
        limits: of requests and batches.
        ray: the cluster, or a Ray of our own.

    Raises:
        PlanError: the replicas do not fit, or cannot open their steps.
    """
    body, name = chain.cut()[1], f"penstock-{uuid.uuid4().hex[:12]}"
    _fits(body, ray.resources())
    with ray.session(), _application(body, name) as handle:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Door]:
            metrics = Metrics()
            carrier: Carrier = _Replicas(handle, name, ON_THE_WAY * body.place.replicas[1], metrics)
            async with Door.opened(chain, carrier, limits, metrics, places.live) as door:
                yield door

        yield opening


def _fits(chain: Chain, resources: Resources) -> None:
    place = chain.place
    for what, each, have in (("cpus", place.cpus, resources.cpus), ("gpus", place.gpus, resources.gpus)):
        if (need := place.replicas[0] * each) > have + 1e-9:
            raise PlanError(
                f"{chain.pipeline}: {place.replicas[0]} replicas x {each:g} {what} = {need:g} {what}, there are "
                f"{have:g} ({resources.what}); lower replicas or {what} of a place"
            )


# --- deploying -------------------------------------------------------------------------------------------


@contextmanager
def _application(chain: Chain, name: str) -> Iterator[Any]:
    """The handle of a running Serve application."""
    import logging

    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    with ExitStack() as stack:
        serve.start(proxy_location="Disabled", logging_config=quiet)
        stack.callback(serve.delete, name, _blocking=False)
        deployment = serve.deployment(_Replica).options(name="steps", **scale(chain.place), logging_config=quiet)
        try:
            handle = serve.run(deployment.bind(chain), name=name, route_prefix=None)
        except RuntimeError as error:
            raise PlanError(f"{chain.pipeline}: no replica could be started: {cause(error, name)}") from error
        yield handle


class _Replica:
    """A worker of the deployment: opens its steps when it starts, and has one thread for them."""

    def __init__(self, chain: Chain) -> None:
        self._stack = ExitStack()
        self._live = self._stack.enter_context(opened(chain, places.live))
        self._thread = ThreadPoolExecutor(1, "penstock-steps")

    async def __call__(self, batch: bytes) -> tuple[bytes, tuple[Refused, ...]] | str:
        """Carry a batch through; health checks are answered meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._carried, batch)

    def _carried(self, batch: bytes) -> tuple[bytes, tuple[Refused, ...]] | str:
        try:
            found = self._live(from_bytes(batch))
        except PenstockError as error:
            return str(error)
        return to_bytes(found.good).to_pybytes(), found.bad


# --- sending ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Replicas:
    """Carries batches by a deployment's handle, again where a replica was lost."""

    handle: Any
    name: str
    at_once: int
    metrics: Metrics

    async def carry(self, batch: Batch) -> Sifted:
        """Carry a marked batch through."""
        from ray.exceptions import ActorUnavailableError, RayActorError, WorkerCrashedError

        data = to_bytes(batch).to_pybytes()
        for _ in range(_RETRIES):
            try:
                return self._sifted(await self.handle.remote(data))
            except (RayActorError, ActorUnavailableError, WorkerCrashedError):
                self.metrics.retries.inc()
        raise PenstockError(f"its worker ended {_RETRIES} times; if memory runs out, send fewer rows or shorter ones")

    @staticmethod
    def _sifted(found: tuple[bytes, tuple[Refused, ...]] | str) -> Sifted:
        if isinstance(found, str):
            raise PenstockError(found)
        return Sifted(from_bytes(found[0]), found[1])

    async def ready(self) -> bool:
        """Whether a replica runs."""
        return await asyncio.to_thread(self._running)

    def _running(self) -> bool:
        from ray import serve

        application = serve.status().applications.get(self.name)
        states = [one.replica_states for one in application.deployments.values()] if application else []
        return any(state.get("RUNNING", 0) > 0 for state in states)
