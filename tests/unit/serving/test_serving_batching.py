import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import PenstockError
from penstock.serving.batching import Batcher, fill, merged, split
from penstock.serving.chain import MARK, Refused, Sifted, marked
from penstock.serving.request import RequestError
from penstock.serving.size import Size, size_of

SIZES = st.builds(Size, st.integers(1, 9), st.integers(1, 90), st.integers(0, 900))
LIMITS = st.builds(Size, st.integers(0, 9), st.integers(0, 90), st.integers(0, 900))


HUNDRED, ANY = Size(100), Size()


def request(values):
    return marked(pa.table({"x": pa.array(values, pa.int64())}), np.arange(len(values)))


@given(st.lists(SIZES, min_size=1), LIMITS)
def test_a_batch_is_the_longest_beginning_within_the_budget_and_never_empty(sizes, budget):
    def within(count):
        total = np.array([[s.rows, s.bytes, s.tokens] for s in sizes[:count]]).sum(0)
        return all(
            limit == 0 or found <= limit
            for found, limit in zip(total, (budget.rows, budget.bytes, budget.tokens), strict=True)
        )

    count = fill(sizes, budget)
    assert count == max([1, *(n for n in range(1, len(sizes) + 1) if within(n))])


@given(st.lists(st.lists(st.integers(0, 9), min_size=1), min_size=1), st.randoms(use_true_random=False))
def test_what_is_merged_comes_apart_whatever_was_refused_and_however_rows_were_moved(requests, random):
    whole = merged([request(values) for values in requests])
    refused = whole.filter(pa.array([x == 7 for x in whole["x"].to_pylist()]))
    order = list(range(whole.num_rows))
    random.shuffle(order)
    good = whole.take(pa.array(order))
    good = good.filter(pa.array([x != 7 for x in good["x"].to_pylist()]))
    bad = tuple(Refused(mark, "step", "seven") for mark in refused[MARK].to_pylist())
    found = split(Sifted(good, bad), len(requests))
    for values, answer in zip(requests, found, strict=True):
        pairs = sorted(zip(answer.good[MARK].to_pylist(), answer.good["x"].to_pylist(), strict=True))
        assert pairs == [(at, x) for at, x in enumerate(values) if x != 7]
        assert [one.row for one in answer.bad] == [at for at, x in enumerate(values) if x == 7]


def test_rows_that_steps_multiply_stay_with_their_request():
    whole = merged([request([1, 2]), request([3])])
    twice = pa.concat_tables([whole, whole])
    first, second = split(Sifted(twice), 2)
    assert first.good["x"].to_pylist() == [1, 2, 1, 2]
    assert second.good[MARK].to_pylist() == [0, 0]


def test_tokens_are_counted_where_there_are_some():
    assert size_of(pa.table({"input_ids": pa.array([[1, 2], [], None, [3]], pa.list_(pa.int32()))})).tokens == 3
    assert size_of(pa.table({"x": [1, 2]})) == Size(2, 16, 0)
    assert Size(3, 10, 5).excess(Size(0, 10, 4)) == "5 tokens, at most 4"


# --- the batcher -----------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """Doubles numbers; keeps the batches; fails on those that hold a 13."""

    at_once: int = 1
    seconds: float = 0.0
    batches: list = field(default_factory=list)
    busy: int = 0
    most: int = 0

    async def carry(self, batch):
        values = batch["x"].to_pylist()
        self.batches.append(values)
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(self.seconds)
        self.busy -= 1
        if 13 in values:
            raise PenstockError("thirteen")
        return Sifted(batch.set_column(0, "x", pa.array([2 * x for x in values])))

    async def ready(self):
        return True


@asynccontextmanager
async def running(carrier, budget=HUNDRED, wait=0.01, waiting=ANY, together=0):
    batcher = Batcher(carrier, budget, wait, waiting, together)
    task = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def asked(carrier, requests, **how):
    async def act():
        async with running(carrier, **how) as batcher:
            found = await asyncio.gather(*(batcher.submit(request(r)) for r in requests), return_exceptions=True)
        return [one if isinstance(one, Exception) else one.good["x"].to_pylist() for one in found]

    return asyncio.run(act())


def test_requests_of_a_short_while_go_together():
    carrier = Recorder()
    assert asked(carrier, [[1], [2, 3], [4]]) == [[2], [4, 6], [8]]
    assert carrier.batches == [[1, 2, 3, 4]]


def test_a_full_batch_leaves_at_once():
    carrier, started = Recorder(), time.monotonic()
    found = asked(carrier, [[1, 2], [3, 4], [5, 6], [7, 8]], budget=Size(4), wait=300)
    assert found == [[2, 4], [6, 8], [10, 12], [14, 16]]
    assert carrier.batches == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert time.monotonic() - started < 300, "and does not wait for a third"


def test_while_workers_are_busy_requests_gather():
    carrier = Recorder(seconds=0.05)

    async def act():
        async with running(carrier, wait=0.0) as batcher:
            first = asyncio.create_task(batcher.submit(request([1])))
            await asyncio.sleep(0.02)
            return await asyncio.gather(first, *(batcher.submit(request([n])) for n in range(2, 8)))

    asyncio.run(act())
    assert carrier.batches == [[1], [2, 3, 4, 5, 6, 7]]


def test_no_more_batches_are_on_the_way_than_workers_have_room_for():
    carrier = Recorder(at_once=3, seconds=0.01)
    asked(carrier, [[n] for n in range(20, 40)], budget=Size(2), wait=0.0)
    assert carrier.most == 3
    assert sorted(x for batch in carrier.batches for x in batch) == list(range(20, 40))


def test_requests_can_be_kept_apart():
    carrier = Recorder()
    asked(carrier, [[1], [2], [3]], together=1)
    assert carrier.batches == [[1], [2], [3]]


def test_columns_that_differ_are_not_put_together():
    carrier = Recorder()

    async def act():
        async with running(carrier) as batcher:
            other = marked(pa.table({"x": [5], "y": ["a"]}), [0])
            found = await asyncio.gather(*(batcher.submit(one) for one in (request([1]), other, request([2]))))
            return [one.good.column_names for one in found]

    assert asyncio.run(act()) == [["x", MARK], ["x", "y", MARK], ["x", MARK]]
    assert carrier.batches == [[1, 2], [5]]


def test_a_request_that_fails_as_a_whole_costs_no_other():
    carrier = Recorder()
    found = asked(carrier, [[1], [13], [2]])
    assert [found[0], found[2]] == [[2], [4]]
    assert str(found[1]) == "thirteen"
    assert carrier.batches == [[1, 13, 2], [1], [13], [2]]


def test_too_much_waiting_is_refused_and_what_waits_is_answered():
    carrier = Recorder(seconds=0.02)
    found = asked(carrier, [[n] * 3 for n in range(1, 8)], waiting=Size(10))
    refused = [one for one in found if isinstance(one, RequestError)]
    assert len(refused) == 4
    assert "12 rows, at most 10 may wait" in str(refused[0])
    assert refused[0].status == 503
    assert [one for one in found if not isinstance(one, RequestError)] == [[2] * 3, [4] * 3, [6] * 3]


def test_a_client_that_has_gone_is_not_worked_for():
    carrier = Recorder(seconds=0.05)

    async def act():
        async with running(carrier, wait=0.0, together=1) as batcher:
            first = asyncio.create_task(batcher.submit(request([1])))
            await asyncio.sleep(0.01)
            gone = asyncio.create_task(batcher.submit(request([2])))
            await asyncio.sleep(0.01)
            gone.cancel()
            await asyncio.gather(first, batcher.submit(request([3])))

    asyncio.run(act())
    assert [1] in carrier.batches
    assert [3] in carrier.batches
    assert [2] not in carrier.batches


@pytest.mark.parametrize("count", [1, 50])
def test_many_requests_all_come_back_to_who_asked(count):
    carrier = Recorder(at_once=2, seconds=0.001)
    requests = [list(range(n, n + 1 + n % 5)) for n in range(100, 100 + count)]
    assert asked(carrier, requests, budget=Size(17), wait=0.001) == [[2 * x for x in values] for values in requests]
