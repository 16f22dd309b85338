"""The simulation, held against recursions and formulas of queueing theory that know nothing of events."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.simulation import Hardware, Profile, Station, forecast, play, stations
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares

STEPS = ("read", "1-journal", "2-squares", "write")


def line(*places, read=None, **more):
    stages = (Journal("journal"), Squares())
    steps = tuple(Step(stage, place) for stage, place in zip(stages, places, strict=True))
    return Pipeline("line", Numbers(), Parquet("out"), steps, read=read or Place(), **more)


def profile(*seconds, **more):
    costs = np.array([seconds], float)
    return Profile(STEPS, costs, np.array([100.0]), **more)


def flow_shop(seconds):
    """When units leave a line of single machines: C[i, j] = max(C[i-1, j], C[i, j-1]) + p[i, j] (Johnson 1954)."""
    ends = np.zeros((len(seconds) + 1, seconds.shape[1] + 1))
    for i, costs in enumerate(seconds, 1):
        for j, cost in enumerate(costs, 1):
            ends[i, j] = max(ends[i - 1, j], ends[i, j - 1]) + cost
    return ends[1:, -1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0.01, 5)] * 3), min_size=1, max_size=30))
def test_single_workers_are_a_flow_shop(costs):
    seconds = np.array(costs)
    shop = [Station(str(at), 1, 1, ((at, 1),)) for at in range(3)]
    assert play(shop, seconds) == pytest.approx(flow_shop(seconds))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=40), st.integers(1, 6))
def test_one_pool_takes_the_next_unit_with_the_worker_that_is_free_first(costs, workers):
    free = [0.0] * workers
    ends = []
    for cost in costs:
        at = int(np.argmin(free))
        free[at] += cost
        ends.append(free[at])
    found = play([Station("pool", workers)], np.array(costs)[:, None])
    assert found == pytest.approx(np.sort(ends))


@pytest.mark.parametrize(
    ("shop", "seconds"),
    [
        ([Station("a", 2), Station("b", 6, 1, ((1, 1),))], 10.3),
        ([Station("a+b", 1, 8, ((0, 8), (1, 8)))], 10.0),
        ([Station("a+b", 1, 8, ((0, 2), (1, 6)))], 10.3),
        ([Station("a+b", 8, 1, ((0, 1), (1, 1)))], 10.0),
        ([Station("a+b", 1, 8, ((0, 8), (1, 1)))], 60.1),
    ],
    ids=["pools", "threads", "gates", "workers", "one at a time"],
)
def test_the_toy_by_hand(shop, seconds):
    assert play(shop, np.tile([0.1, 0.3], (200, 1)))[-1] == pytest.approx(seconds)


def test_the_storage_is_shared_and_read_one_unit_after_the_other():
    found = play([Station("read", 8)], np.full((16, 1), 0.1), storage=np.full(16, 0.5))
    assert found == pytest.approx(0.6 + 0.5 * np.arange(16))


def test_the_driver_hands_out_one_unit_after_the_other():
    found = play([Station("read", 1000)], np.full((100, 1), 0.1), driver=0.02)
    assert found == pytest.approx(0.12 + 0.02 * np.arange(100))


def test_a_worker_has_its_gap_between_two_units():
    assert play([Station("read", 1)], np.full((10, 1), 0.1), gap=0.05)[-1] == pytest.approx(10 * (0.1 + 0.05))


def test_late_workers_come_when_the_others_are_at_work():
    found = play([Station("read", 3, late=2)], np.full((7, 1), 1.0), ramp=2.5)
    assert found.tolist() == [1, 2, 3, 3.5, 3.5, 4, 4.5]


def test_the_pace_of_many_random_units_is_that_of_the_busiest_pool():
    """A closed line under load: throughput tends to min over pools of workers / mean seconds."""
    seconds = np.random.default_rng(3).exponential([0.1, 0.4, 0.2], (4000, 3))
    shop = [Station("a", 1, 1, ((0, 1),)), Station("b", 5, 1, ((1, 1),)), Station("c", 3, 1, ((2, 1),))]
    ends = play(shop, seconds)
    assert 4000 / ends[-1] == pytest.approx(1 / seconds[:, 0].mean(), rel=0.02)


def test_pools_are_as_large_as_costs_and_hardware_make_them():
    costs = np.array([0.05, 0.05, 0.3, 0.0])
    pools = line(Place("actor", (1, 99), cpus=0.2), Place("actor", (1, 98), cpus=0.2))
    found = stations(pools, costs, Hardware(cpus=1.6).resources)
    assert [(s.name, s.workers) for s in found] == [("read+journal", 2), ("squares+write", 6)]
    threads = line(Place(), Place("actor", concurrency=4), read=Place(concurrency=2))
    (one,) = stations(threads, costs, Hardware(cpus=1).resources)
    assert (one.name, one.hands, one.gates) == ("read+journal+squares+write", 4, ((0, 2), (1, 1), (2, 4), (3, 4)))


def test_costs_go_with_the_size():
    scaled = profile(1.0, 2.0, 3.0, 4.0).scaled(np.array([100.0, 50.0]))
    assert scaled.tolist() == [[1, 2, 3, 4], [0.5, 1, 1.5, 2]]


def test_what_each_unit_costs_however_small_is_not_taken_for_a_cost_of_bytes():
    sizes = np.array([100.0, 200.0, 10.0])
    costs = np.stack([1 + sizes / 100, 0 * sizes, 3 + 0 * sizes, sizes / 50], axis=1)
    found = Profile(STEPS, costs, sizes)
    wanted = np.array([400.0, 10.0, 100.0, 50.0])
    told = np.stack([1 + wanted / 100, 0 * wanted, 3 + 0 * wanted, wanted / 50], axis=1)
    assert found.scaled(wanted) == pytest.approx(told)


def test_a_forecast_adds_start_work_and_commit():
    found = profile(0.1, 0.2, 0.3, 0.4, start_seconds=5, end_seconds=2)
    told = forecast(
        line(Place(), Place("actor", (1, 4))), found, np.full(100, 100.0), Hardware(cpus=4, driver_seconds=0)
    )
    late = play([Station("pool", 4, late=3)], np.full((100, 1), 1.0), ramp=5)
    assert told.seconds == pytest.approx(5 + late[-1] + 2)
    assert told.units_per_second == pytest.approx(4, rel=0.02)
    assert (told.limit, told.loads[0].workers) == ("read+journal+squares+write", 4)
    assert told.loads[0].busy_share == pytest.approx(1, rel=0.02)


def test_more_units_than_are_played_go_at_the_same_pace():
    place = Place("actor", (1, 10))
    told = forecast(line(Place(), place), profile(0.1, 0.2, 0.3, 0.4), np.full(50_000, 100.0), Hardware(cpus=10))
    assert told.seconds == pytest.approx(5000, rel=0.01)


def test_nobody_is_hired_for_whom_there_is_no_unit():
    place = Place("actor", (1, 4000))
    told = forecast(line(Place(), place), profile(1, 1, 1, 1, start_seconds=3), np.full(9, 100.0), Hardware(cpus=4000))
    assert told.loads[0].workers == 9


@pytest.mark.parametrize(
    ("given", "limit"),
    [(Hardware(100, 32, storage_gb_per_second=1e-6), "storage"), (Hardware(100, 32, driver_seconds=0.05), "driver")],
)
def test_what_many_nodes_share_sets_the_pace_at_last(given, limit):
    found = profile(0.1, 0.2, 0.3, 0.4)
    told = forecast(line(Place(), Place("actor", (1, 3200))), found, np.full(20_000, 100.0), given)
    assert told.limit == limit


def test_prices_are_those_of_all_nodes():
    given = Hardware(nodes=4, cpus=1, usd_per_hour=3.0, driver_seconds=0)
    told = forecast(line(Place(), Place("actor", (1, 4))), profile(0.1, 0.2, 0.3, 0.4), np.full(14400, 100.0), given)
    assert (told.node_hours, told.usd) == (pytest.approx(4, rel=1e-3), pytest.approx(12, rel=1e-3))


def test_no_units_take_no_time():
    told = forecast(line(Place(), Place("actor")), profile(1, 1, 1, 1), np.zeros(0), Hardware())
    assert (told.units, told.seconds) == (0, 0.0)


def test_hardware_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="nodes must be at least 1"):
        Hardware(nodes=0)


def test_tasks_that_reserve_nothing_take_a_core():
    free = line(Place(), Place(), read=Place("task", cpus=0))
    (one,) = stations(free, np.array([0.1, 0.1, 0.1, 0.1]), Hardware(cpus=6).resources)
    assert one.workers == 6


def test_of_two_pools_of_one_name_the_slower_one_limits():
    places = [Place("actor", cpus=0.5), Place("actor", cpus=0.25), Place("actor", cpus=0.5)]
    steps = tuple(Step(Squares(), place) for place in places)
    given = Pipeline("line", Numbers(), Parquet("out"), steps, read=Place("task"))
    costs = Profile(("read", *STEPS[1:2], "2", "3", "write"), np.array([[0.1, 2.0, 0.01, 0.1, 0.1]]), np.array([1.0]))
    told = forecast(given, costs, np.full(100, 1.0), Hardware(cpus=4, driver_seconds=0))
    assert [load.name for load in told.loads] == ["read", "squares", "squares", "squares+write"]
    assert told.limit == "squares"


@pytest.mark.parametrize("odd", [{"storage_gb_per_second": -1.0}, {"cpus": float("inf")}, {"gpus": float("nan")}])
def test_hardware_that_cannot_be_is_refused(odd):
    with pytest.raises(ValueError, match="nothing else negative or without end"):
        Hardware(**odd)
