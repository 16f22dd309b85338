"""The service apart from HTTP: a request's rows in, an answer out, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from penstock.core.nouns import Batch
from penstock.core.work import Live as Opens
from penstock.core.work import here
from penstock.serving.batching import Batcher, Carrier
from penstock.serving.chain import MARK, Chain, Live, Refused, Schemas, Sifted, opened
from penstock.serving.codec import Answer
from penstock.serving.metrics import Metrics
from penstock.serving.request import RequestError
from penstock.serving.size import Size, size_of

__all__ = ["Door", "Limits"]

_REQUEST, _BATCH, _WAITING = (
    Size(4096, 32 << 20, 1 << 18),
    Size(1024, 16 << 20, 1 << 13),
    Size(1 << 16, 256 << 20, 1 << 22),
)


@dataclass(frozen=True)
class Limits:
    """How much is taken, and how requests are put together.

    Attributes:
        request: of one request; bytes are those of its body.
        budget: of one batch, in which requests are put together.
        waiting: of all requests that wait for a worker.
        wait_seconds: how long a request waits for others while a worker is free.
        together: most requests in one batch; 0 sets no limit, 1 sends each alone, which gives the very bits of a
            batch run over the same rows.
        body_seconds: how long a client may take to send its body.
    """

    request: Size = _REQUEST
    budget: Size = _BATCH
    waiting: Size = _WAITING
    wait_seconds: float = 0.002
    together: int = 0
    body_seconds: float = 30.0


@dataclass(frozen=True)
class Door:
    """Takes requests in, has their tokens made, and hands them to the batcher.

    Attributes:
        schemas: of all the steps that are served.
        head: the steps that are done here, request by request: those that make tokens.
        limits: of requests and batches.
        batcher: carries what is left to be done.
        metrics: what is counted.
    """

    schemas: Schemas
    head: Live
    limits: Limits
    batcher: Batcher
    metrics: Metrics
    thread: ThreadPoolExecutor
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def chain(self) -> Chain:
        """All the steps that are served."""
        return self.schemas.chain

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, chain: Chain, carrier: Carrier, limits: Limits, metrics: Metrics, opens: Opens = here
    ) -> AsyncIterator[Door]:
        """The service is ready inside. *carrier* carries out the second part of ``chain.cut()``."""
        head, body = chain.cut()
        together = limits.together if body.merges else 1
        batcher = Batcher(carrier, limits.budget, limits.wait_seconds, limits.waiting, together, metrics.sent)
        metrics.watch_waiting(lambda: batcher.load.rows)
        running = asyncio.create_task(batcher.run())
        with ThreadPoolExecutor(1, "penstock-door") as thread, opened(head, opens) as live:
            try:
                yield cls(Schemas(chain), live, limits, batcher, metrics, thread)
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running

    async def answer(self, batch: Batch, refused: tuple[Refused, ...] = ()) -> Answer:
        """Carry a request's marked rows through; *refused* are those that could not even be read.

        Raises:
            RequestError: it is above a limit, or too much waits already.
            SchemaError: columns are missing.
            PenstockError: it is no row's fault.
        """
        self._within(Size(batch.num_rows + len(refused)))
        line = self.schemas(batch.schema)  # missing columns are told before any work is done
        found = Sifted(line[-1].empty_table())
        if batch.num_rows:
            head = await asyncio.get_running_loop().run_in_executor(self.thread, self.head, batch)
            self._within(Size(tokens=size_of(head.good).tokens))
            found = await self.batcher.submit(head.good) if head.good.num_rows else found
            refused = (*refused, *head.bad, *found.bad)
        answer = _answer(found.good, refused)
        self.metrics.rows.labels("answered").inc(answer.rows.num_rows)
        self.metrics.rows.labels("refused").inc(len(refused))
        return answer

    def _within(self, size: Size) -> None:
        if above := size.excess(self.limits.request):
            raise RequestError(413, f"the request has {above} are taken; send it in parts")


def _answer(good: Batch, refused: tuple[Refused, ...]) -> Answer:
    marks = np.asarray(good[MARK].to_numpy())
    errors = tuple(sorted(refused, key=lambda one: one.row))
    return Answer(good.drop_columns([MARK]), tuple(marks.tolist()), errors)
