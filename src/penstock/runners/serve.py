"""Ray Serve: batches go to replicas that scale; a replica that dies loses no request.

One process listens, puts the requests of all clients together and sends whole batches by a deployment's handle.
Serve's own HTTP proxies are left out: behind them each replica would see only its share of the requests, and
what a dying replica held would be lost to its clients. Steps have no effect but their answer, so a batch
whose replica died is simply sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from penstock.core.batch import from_bytes, to_bytes
from penstock.core.nouns import Batch
from penstock.core.plan import Resources
from penstock.errors import PenstockError, PlanError
from penstock.runners import places, replicas
from penstock.runners.ray import Ray
from penstock.serving.batching import Carrier
from penstock.serving.chain import Chain, Live, Refused, Sifted, opened
from penstock.serving.door import Door, Limits
from penstock.serving.metrics import Metrics

__all__ = ["Opening", "deployed"]

Opening = Callable[[], AbstractAsyncContextManager[Door]]
"""Opens the service inside a running event loop."""


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
    body, name = chain.cut()[1], replicas.name_for("service")
    _fits(body, ray.resources())
    with ray.session(), replicas.application(name, partial(_answering, body), body.place, chain.pipeline) as handle:

        @asynccontextmanager
        async def opening() -> AsyncIterator[Door]:
            metrics = Metrics()
            carrier: Carrier = _Replicas(handle, name, replicas.ON_THE_WAY * body.place.replicas[1], metrics)
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


_Answer: TypeAlias = tuple[bytes, tuple[Refused, ...]] | str
"""A batch and the rows that were refused, or why nothing could be done."""


@contextmanager
def _answering(chain: Chain) -> Iterator[Callable[[bytes], _Answer]]:
    """What a replica does with a request."""
    with opened(chain, places.live) as live:
        yield partial(_answered, live)


def _answered(live: Live, request: bytes) -> _Answer:
    try:
        found = live(from_bytes(request))
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
        data = to_bytes(batch).to_pybytes()
        for pause in replicas.PAUSES_SECONDS:
            try:
                return self._sifted(await self.handle.remote(data))
            except replicas.lost():
                self.metrics.retries.inc()
            await asyncio.sleep(pause)
        tries = len(replicas.PAUSES_SECONDS)
        raise PenstockError(f"its worker ended {tries} times; if memory runs out, send fewer rows or shorter ones")

    @staticmethod
    def _sifted(found: _Answer) -> Sifted:
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
