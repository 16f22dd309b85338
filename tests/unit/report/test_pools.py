"""Who worked and what set the pace, told from made-up times, and from a run."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import PlanError
from penstock.report import pools, story
from penstock.report.story import Run


def run(*stays, seconds=20.0, started=1000.0):
    """A run of (unit, step, worker, began, ended), times since it started."""
    lines = [
        {"unit": unit, "step": step, "worker": worker, "began": started + began, "seconds": ended - began}
        for unit, step, worker, began, ended in stays
    ]
    return Run({"started": started, "seconds": seconds, "pipeline": "line"}, pa.Table.from_pylist(lines))


def two_pools():
    """One reader is done at 4 s; two workers share what is slow."""
    reads = [(f"u{at}", "read", "a:1", at, at + 0.5) for at in range(4)]
    slow = [(f"u{at}", "1-encode", f"b:{1 + at % 2}", 2 + 4 * (at // 2), 6 + 4 * (at // 2) - 0.2) for at in range(4)]
    writes = [(unit, "write", worker, end, end + 0.1) for unit, _, worker, _, end in slow]
    return run(*reads, *slow, *writes, seconds=10.5)


def test_steps_with_the_same_workers_are_a_pool():
    reading, encoding = pools.pools(two_pools())
    assert (reading.steps, reading.workers, reading.hands) == (("read",), ("a:1",), 1)
    assert (encoding.steps, encoding.workers, encoding.hands) == (("1-encode", "write"), ("b:1", "b:2"), 1)
    assert encoding.busy == pytest.approx((4 * 3.8, 4 * 0.1))
    assert encoding.busy_share == pytest.approx((4 * 3.9) / (2 * 7.9))
    assert encoding.spans == pytest.approx(np.array([[2, 9.9], [2, 9.9]]))
    assert encoding.gap_seconds == pytest.approx(0.1)


def test_the_slowest_pool_is_named_with_the_share_of_its_steps():
    found = two_pools()
    assert pools.limit(found, pools.pools(found)) == (
        "1-encode sets the pace: busy 99% of 2 workers (1-encode 96%, write 3%); reading 57%."
    )


def test_units_in_hand_at_once_are_counted():
    stays = [(f"u{at}", "read", "a:1", at // 3, at // 3 + 0.9) for at in range(9)]
    found = run(*stays, seconds=3.0)
    (pool,) = pools.pools(found)
    assert (pool.hands, pool.gap_seconds) == (3, 0.0)
    assert pools.limit(found, [pool]) == "reading sets the pace: busy 93% of 1 worker with 3 units each."


def test_a_run_that_mostly_started_says_so():
    found = run(("u0", "read", "a:1", 15, 19))
    assert pools.limit(found, pools.pools(found)) == (
        "Starting took 15.0 of 20.0 s, more than the work; with more units it would not matter."
    )


def test_workers_that_mostly_waited_for_units_say_so():
    found = run(*[(f"u{at}", "read", "a:1", 2 * at, 2 * at + 0.1) for at in range(9)])
    assert "No stage sets the pace: the busiest, reading, was busy 6% of its time" in pools.limit(
        found, pools.pools(found)
    )


def test_runs_of_an_older_penstock_tell_nothing():
    old = Run({"started": 0.0, "seconds": 1.0}, two_pools().traces.drop_columns(["began"]))
    assert pools.pools(old) == []
    assert pools.limit(old, []) == ""


def test_the_profile_has_what_each_unit_cost():
    found = pools.profile(two_pools(), {f"u{at}": 10.0 * at for at in range(1, 4)})
    assert found.steps == ("read", "1-encode", "write")
    assert found.seconds == pytest.approx(np.array([[0.5, 3.8, 0.1]] * 3))
    assert found.size_bytes.tolist() == [10, 20, 30]
    assert (found.start_seconds, found.end_seconds) == (pytest.approx(0.0), pytest.approx(0.6))
    assert found.gap_seconds == pytest.approx(0.1)


def test_a_profile_of_other_units_is_refused():
    with pytest.raises(PlanError, match=r"line: its last run did not record .* penstock run FILE --sample 20"):
        pools.profile(two_pools(), {"other": 1.0})


def test_a_real_run_is_one_pool_of_one_worker(world):
    (found,) = story.runs(world.embeddings)
    (pool,) = pools.pools(found)
    assert pool.steps == ("read", "1-vectors", "write")
    assert (len(pool.workers), pool.hands) == (1, 1)
    assert 0 < pool.busy_share <= 1
    assert sum(found.traces["bytes_out"].to_pylist()) > 0
