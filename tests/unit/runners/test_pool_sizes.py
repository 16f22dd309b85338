"""When pools grow and shrink; no Ray is needed for that."""

import pytest

from penstock.core.nouns import Part, Pipeline, Place, Record, Step, Trace
from penstock.core.plan import Resources
from penstock.core.simulation import Station
from penstock.core.work import Failure
from penstock.runners.balance import Balance, changes
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares


def test_pools_with_queues_grow_as_far_as_the_speeds_say():
    best = [Station("a", 2), Station("b", 6)]
    assert changes(best, [0.1, 0.3], [1, 1], [True, True]) == [1, 5]
    assert changes(best, [0.1, 0.3], [1, 1], [False, True]) == [0, 5]


def test_a_lull_shrinks_nothing():
    assert changes([Station("a", 2), Station("b", 6)], [0.1, 0.3], [4, 6], [False, False]) == [0, 0]


def test_a_warm_worker_is_given_up_for_a_slower_pool_with_a_queue():
    """The second stage has become three times as slow: the first gives three of its workers to it."""
    assert changes([Station("a", 1), Station("b", 7)], [0.1, 0.9], [4, 4], [False, True]) == [-3, 3]


def test_a_small_gain_is_not_worth_a_change():
    assert changes([Station("a", 9), Station("b", 11)], [1.0, 1.2], [10, 10], [True, True]) == [0, 0]


class Pool:
    """As Ray Data's pools look from outside."""

    def __init__(self, size):
        self.size, self.asked = size, []

    def current_size(self):
        return self.size

    def get_pool_util(self):
        return 2.0

    def scale(self, request):
        self.asked.append(request.delta)


class Executor:
    def __init__(self, *pools):
        self._topology = [
            type("Op", (), {"get_autoscaling_actor_pools": lambda _, pool=pool: [pool]})() for pool in pools
        ]


def line(*places):
    steps = tuple(Step(stage, place) for stage, place in zip((Journal("j"), Squares()), places, strict=True))
    return Pipeline("line", Numbers(), Parquet("out"), steps)


def done(*seconds):
    names = ("read", "1-journal", "2-squares", "write")
    traces = tuple(Trace(name, cost, 0.0, 1, 1, 0) for name, cost in zip(names, seconds, strict=True))
    return Record("key", Part("path", 1, "0", 1), traces=traces)


@pytest.fixture
def balance():
    times = iter(range(0, 1000, 10))
    slots = Resources(1.6, 0, 1 << 60, "eight slots")
    pools = line(Place("actor", (1, 8), cpus=0.2), Place("actor", (1, 9), cpus=0.2))
    return Balance(pools, lambda: slots, lambda: next(times))


def test_sizes_are_asked_for_when_enough_units_were_measured(balance):
    first, second = Pool(1), Pool(1)
    for _ in range(7):
        balance.hear(done(0.05, 0.05, 0.3, 0.0))
    balance.hear(Failure(next(iter(Numbers().units())), "unit 0 is not told"))
    balance.on_execution_step(Executor(first, second))
    assert (first.asked, second.asked) == ([], [])
    balance.hear(done(0.05, 0.05, 0.3, 0.0))
    balance.on_execution_step(Executor(first, second))
    assert (first.asked, second.asked) == ([1], [5])


def test_a_pool_that_has_finished_ends_it(balance):
    for _ in range(8):
        balance.hear(done(0.05, 0.05, 0.3, 0.0))
    last = Pool(1)
    balance.on_execution_step(Executor(last))
    assert last.asked == []


@pytest.mark.parametrize(
    ("places", "needed"),
    [
        ((Place("actor", (1, 4)), Place("actor", (1, 2))), True),
        ((Place("actor", (2, 2)), Place("actor", (1, 1))), False),
        ((Place(), Place("actor", (1, 4))), False),
        ((Place("actor", (1, 4)), Place("actor", (1, 4))), False),
    ],
    ids=["two pools", "fixed", "one", "the same workers"],
)
def test_one_pool_alone_is_left_to_ray_data(places, needed):
    assert Balance(line(*places), lambda: Resources(1, 0, 0, "nothing")).needed is needed
