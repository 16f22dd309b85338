"""When pools grow and shrink; no Ray is needed for that."""

import warnings

import pytest

from penstock.core.nouns import Part, Pipeline, Place, Record, Step, Trace
from penstock.core.plan import Resources, operators
from penstock.core.simulation import Station
from penstock.core.work import Failure
from penstock.runners import ray as runner
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


def test_a_pool_that_has_finished_makes_room_and_is_left_alone(balance):
    """Ray Data keeps it, without workers and full of nothing."""
    for _ in range(8):
        balance.hear(done(0.05, 5.0, 0.3, 0.0))
    first, last = Pool(0), Pool(1)
    balance.on_execution_step(Executor(first, last))
    assert (first.asked, last.asked) == ([], [7]), "all eight slots, whatever the first one has cost"


def test_when_all_pools_have_finished_nothing_is_asked_for(balance):
    for _ in range(8):
        balance.hear(done(0.05, 0.05, 0.3, 0.0))
    pools = Pool(0), Pool(0)
    balance.on_execution_step(Executor(*pools))
    assert [pool.asked for pool in pools] == [[], []]


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


@pytest.mark.parametrize("gone", ["", "Executor._topology"])
def test_a_ray_that_lacks_something_sizes_the_pools_itself_and_that_is_told(monkeypatch, balance, gone):
    monkeypatch.setattr(runner, "lacking", lambda: gone)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert runner._steered(balance) is not bool(gone)
    assert [str(each.message) for each in caught] == [
        "line: Ray Data sizes each pool by its own queue, and not all of them together, since this version of Ray has "
        "no Executor._topology; use ray>=2.60,<2.64, or say replicas that suit the stages' speeds"
    ] * bool(gone)


def test_one_pool_needs_nothing_that_is_not_public(monkeypatch):
    monkeypatch.setattr(runner, "lacking", lambda: pytest.fail("looked for in vain"))
    assert not runner._steered(Balance(line(Place(), Place("actor", (1, 4))), lambda: Resources(1, 0, 0, "nothing")))


def test_what_a_worker_weighs_is_looked_up_once(balance, monkeypatch):
    looked = []
    monkeypatch.setattr("penstock.runners.balance.weighed", lambda pipeline: looked.append(1) or operators(pipeline))
    for _ in range(8):
        balance.hear(done(0.05, 0.05, 0.3, 0.0))
    for _ in range(3):
        balance.on_execution_step(Executor(Pool(1), Pool(1)))
    assert looked == [1]
