"""Dynamic batching: requests of many clients go through the steps together.

A batch leaves when a worker has room and either the budget is full or its oldest request has waited long enough.
While all workers are busy requests gather, so under load batches grow by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import pyarrow as pa

from penstock.core.nouns import Batch
from penstock.serving.chain import MARK, Refused, Sifted, marked
from penstock.serving.request import RequestError
from penstock.serving.size import Size, size_of

__all__ = ["Batcher", "Carrier", "Sent", "fill", "merged", "split"]


class Carrier(Protocol):
    """Where batches go through the steps."""

    @property
    def at_once(self) -> int:
        """How many batches may be on their way together."""

    async def carry(self, batch: Batch) -> Sifted:
        """Carry a marked batch through. Raises `PenstockError` for what is no row's fault."""

    async def ready(self) -> bool:
        """Whether a batch would be taken now."""


_REQUEST = 1 << 32
"""In a merged batch a mark is the request's number times this, plus the row's own mark."""


def merged(batches: Sequence[Batch]) -> Batch:
    """Marked batches of one schema as one, marked anew."""
    marks = [np.asarray(batch[MARK].to_numpy()) + number * _REQUEST for number, batch in enumerate(batches)]
    return marked(pa.concat_tables(batches), np.concatenate(marks)).combine_chunks()


def split(found: Sifted, count: int) -> list[Sifted]:
    """The inverse of `merged`, for what came of the batch: each request's rows in their order, with its own marks."""
    marks = np.asarray(found.good[MARK].to_numpy())
    order = np.argsort(marks // _REQUEST, kind="stable")
    good = marked(found.good, marks % _REQUEST)
    if not np.array_equal(order, np.arange(len(order))):
        good = good.take(pa.array(order))
    ends = np.searchsorted(marks[order] // _REQUEST, np.arange(count + 1))
    bad: list[list[Refused]] = [[] for _ in range(count)]
    for row in found.bad:
        bad[row.row // _REQUEST].append(replace(row, row=row.row % _REQUEST))
    return [Sifted(good.slice(a, b - a), tuple(bad[i])) for i, (a, b) in enumerate(pairwise(ends))]


def fill(sizes: Sequence[Size], budget: Size) -> int:
    """How many of the first requests go into a batch: as many as fit the budget, and at least one."""
    total, count = Size(), 0
    for size in sizes:
        total = total + size
        if count and not total.fits(budget):
            break
        count += 1
    return count


@dataclass
class _Request:
    """One that waits for its answer."""

    batch: Batch
    size: Size
    answer: asyncio.Future[Sifted]
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Sent:
    """What a batch was, for those who count: requests, size, and the seconds until its answer."""

    requests: int
    size: Size
    seconds: float


@dataclass
class Batcher:
    """Puts requests together and takes answers apart.

    Attributes:
        carrier: where batches go.
        budget: of one batch; a larger request goes alone.
        wait_seconds: how long a request may wait for others while a worker is free.
        waiting: of all requests that wait; above it more are refused.
        together: most requests in a batch; 0 sets no limit, 1 keeps each alone.
        sent: told of each batch.
    """

    carrier: Carrier
    budget: Size
    wait_seconds: float
    waiting: Size
    together: int = 0
    sent: Callable[[Sent], None] = lambda sent: None
    load: Size = field(default_factory=Size, init=False)
    _queue: deque[_Request] = field(default_factory=deque, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    async def submit(self, batch: Batch) -> Sifted:
        """The answer for one request's marked batch.

        Raises:
            RequestError: too much waits already.
            PenstockError: it cannot be carried through, and no row is to blame.
        """
        size = size_of(batch)
        if self._queue and (above := (self.load + size).excess(self.waiting)):
            raise RequestError(503, f"too much waits for an answer already ({above} may wait); try again in a moment")
        request = _Request(batch, size, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.load = self.load + size
        self._changed.set()
        return await request.answer

    async def run(self) -> None:
        """Send batches until cancelled."""
        while True:
            self._changed.clear()
            pause = self._pause()
            if pause is not None and pause <= 0:
                self._send()
                continue
            try:
                await asyncio.wait_for(self._changed.wait(), pause)
            except TimeoutError:
                continue

    def _pause(self) -> float | None:
        """Seconds until the next batch may leave; None when something else has to happen first."""
        if any(one.answer.done() for one in self._queue):
            self._keep([one for one in self._queue if not one.answer.done()])  # the others' clients have gone
        if not self._queue or len(self._under_way) >= self.carrier.at_once:
            return None
        chosen = self._chosen()
        if len(chosen) < len(self._queue) or len(chosen) == self.together or self._full(chosen):
            return 0.0
        return self._queue[0].since + self.wait_seconds - time.monotonic()

    def _chosen(self) -> list[_Request]:
        """The next batch: the oldest request, and those that came after it with the same columns."""
        alike = [one for one in self._queue if one.batch.schema.equals(self._queue[0].batch.schema)]
        return alike[: min(fill([one.size for one in alike], self.budget), self.together or len(alike))]

    def _full(self, requests: Sequence[_Request]) -> bool:
        """Whether not even the smallest row would fit beside these."""
        return not sum((one.size for one in requests), Size(1, 1, 1)).fits(self.budget)

    def _send(self) -> None:
        chosen = self._chosen()
        gone = {id(one) for one in chosen}
        self._keep([one for one in self._queue if id(one) not in gone])
        task = asyncio.create_task(self._carried(chosen))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _keep(self, requests: Sequence[_Request]) -> None:
        self._queue = deque(requests)
        self.load = sum((one.size for one in requests), Size())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._changed.set()

    async def _carried(self, requests: Sequence[_Request]) -> None:
        """Answer *requests*; when the batch fails for no row's fault, each of them is tried alone."""
        started = time.monotonic()
        try:
            found = split(await self.carrier.carry(merged([one.batch for one in requests])), len(requests))
        except Exception as error:  # whatever it is, somebody waits to be told
            if len(requests) > 1:
                for one in requests:
                    await self._carried([one])
            elif not requests[0].answer.done():
                requests[0].answer.set_exception(error)
            return
        self.sent(Sent(len(requests), sum((one.size for one in requests), Size()), time.monotonic() - started))
        for one, answer in zip(requests, found, strict=True):
            if not one.answer.done():  # the client may have gone
                one.answer.set_result(answer)
