"""The steps in this very process: for one machine, and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from penstock.core.nouns import Batch
from penstock.core.work import Live as Opens
from penstock.core.work import here
from penstock.serving.chain import Chain, Live, Sifted, opened
from penstock.serving.door import Door, Limits
from penstock.serving.metrics import Metrics

__all__ = ["Here", "opened_here"]


@dataclass(frozen=True)
class Here:
    """Carries batches through in one thread, one after the other."""

    live: Live
    thread: ThreadPoolExecutor
    at_once: int = 1

    @classmethod
    @asynccontextmanager
    async def opened(cls, chain: Chain, opens: Opens = here) -> AsyncIterator[Here]:
        """Load what the steps need, each where *opens* says; leaving frees it."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "penstock-steps") as thread:
            context = opened(chain, opens)
            live = await loop.run_in_executor(thread, context.__enter__)
            try:
                yield cls(live, thread)
            finally:
                await loop.run_in_executor(thread, context.__exit__, None, None, None)

    async def carry(self, batch: Batch) -> Sifted:
        """Carry a marked batch through."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self.live, batch)

    async def ready(self) -> bool:
        """Always: it is loaded before anybody can ask."""
        return True


@asynccontextmanager
async def opened_here(chain: Chain, limits: Limits, opens: Opens = here) -> AsyncIterator[Door]:
    """The whole service in this process, ready inside; *opens* says where each step is."""
    async with (
        Here.opened(chain.cut()[1], opens) as carrier,
        Door.opened(chain, carrier, limits, Metrics(), opens) as door,
    ):
        yield door
