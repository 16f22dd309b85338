"""Several units in a worker's hands, and pools that grow by what was measured, on a real Ray."""

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from ray.data import DataContext
from ray.data._internal import actor_autoscaler
from ray.data._internal.execution.interfaces import PhysicalOperator
from ray.data._internal.execution.streaming_executor import StreamingExecutor

sys.path.insert(0, str(Path(__file__).parent))
from meeting import Meeting
from slowing import Lull, Slowing

from penstock.core.nouns import Pipeline, Place, Step
from penstock.report import pools, story
from penstock.runners import ray as runner
from penstock.runners.balance import lacking
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers


@pytest.fixture(scope="module", autouse=True)
def ray_up(importable):
    with Ray(cpus=2, object_store_bytes=200 << 20).session():
        yield


def test_a_worker_has_several_units_in_hand_and_a_step_as_many_as_its_place_allows(tmp_path):
    journals = [Journal(str(tmp_path / name), seconds=0.5) for name in ("many", "one")]
    steps = tuple(map(Step, journals, [Place(concurrency=4), Place("actor")]))
    Ray().run(Pipeline("line", Numbers(6), Parquet(str(tmp_path / "out")), steps))
    (told,) = story.runs(str(tmp_path / "out"))
    (pool,) = pools.pools(told)
    assert len(pool.workers) == 1
    assert 1 < pool.hands <= 4
    alone = told.traces.filter(pc.equal(told.traces["step"], "2-journal")).sort_by("began")
    begins, seconds = alone["began"].to_numpy(), alone["seconds"].to_numpy()
    assert (begins[1:] > begins[:-1] + seconds[:-1] - 0.05).all(), "one unit at a time"


def test_of_two_pools_the_one_with_the_queue_grows(tmp_path):
    """Its first worker waits with its queue full until a second one has come."""
    (tmp_path / "met").mkdir()
    places = [Place("actor", (1, 1), cpus=0.5), Place("actor", (1, 2), cpus=0.4)]
    slow = Meeting(str(tmp_path / "met"), first=220, seconds=1.0)  # far slower than reading, on a busy machine too
    steps = tuple(map(Step, [Journal(str(tmp_path / "fast")), slow], places))
    report = Ray().run(Pipeline("line", Numbers(16), Parquet(str(tmp_path / "out")), steps))
    assert (report.units, report.bad_rows) == (16, 0)
    assert len(list((tmp_path / "met").iterdir())) == 2


def test_the_pools_follow_a_stage_that_slows_down_half_way(tmp_path):
    """The first stage sets the pace, then the second one does; its second worker has come by then, and not before."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = Slowing(str(tmp_path / "a"), first=1 << 60, seconds=1.0, turn=200)
    second = Slowing(str(tmp_path / "b"), first=400, seconds=0.0, turn=200, later=1.0)
    places = [Place("actor", (1, 2), cpus=0.5), Place("actor", (1, 2), cpus=0.49)]
    report = Ray().run(
        Pipeline("line", Numbers(26), Parquet(str(tmp_path / "out")), tuple(map(Step, (first, second), places)))
    )
    assert (report.units, report.bad_rows) == (26, 0)
    (told,) = story.runs(str(tmp_path / "out"))
    slow = told.traces.filter(
        pc.and_(pc.equal(told.traces["step"], "2-slowing"), pc.greater_equal(told.traces["seconds"], 0.9))
    )
    came = sorted(path.stat().st_ctime for path in (tmp_path / "b").iterdir())
    assert len(came) == 2
    assert came[0] < min(slow["began"].to_pylist()) < came[1]


@pytest.mark.parametrize("place", [Place("actor"), Place("task")], ids=["sized together", "by Ray Data"])
def test_a_warm_pool_is_kept_in_a_short_lull(tmp_path, place):
    """Nothing comes for longer than Ray Data waits before it gives an idle worker up; nobody opens the stage again."""
    (tmp_path / "met").mkdir()
    warm = Meeting(str(tmp_path / "met"), first=220, seconds=0.5)
    steps = (Step(Lull(500, 14.0), replace(place, cpus=0.5)), Step(warm, Place("actor", (1, 2), cpus=0.4)))
    report = Ray().run(Pipeline("line", Numbers(34), Parquet(str(tmp_path / "out")), steps))
    assert (report.units, report.bad_rows) == (34, 0)
    assert len(list((tmp_path / "met").iterdir())) == 2, "each worker has opened it once"
    (told,) = story.runs(str(tmp_path / "out"))
    idle, (pool,) = told.traces.sort_by("began"), [p for p in pools.pools(told) if "2-meeting" in p.steps]
    held = pc.max(idle.filter(pc.equal(idle["step"], "1-lull"))["seconds"]).as_py()
    assert held > 13.9, "by the clock of the machine, which may be set meanwhile"
    assert len(pool.workers) == 2


# --- what is not public of Ray Data ----------------------------------------------------------------------


def test_this_ray_has_all_that_pools_are_sized_by():
    assert lacking() == ""


@pytest.mark.parametrize(
    ("owner", "name", "gone"),
    [
        (StreamingExecutor, "execute", "StreamingExecutor._topology"),
        (PhysicalOperator, "get_autoscaling_actor_pools", "PhysicalOperator.get_autoscaling_actor_pools"),
        (actor_autoscaler.AutoscalingActorPool, "scale", "AutoscalingActorPool.scale"),
        (actor_autoscaler, "ActorPoolScalingRequest", "'ActorPoolScalingRequest' from 'ray.data._internal."),
    ],
)
def test_what_another_ray_lacks_is_named(monkeypatch, owner, name, gone):
    if name == "execute":
        monkeypatch.setattr(owner, name, lambda self: None)
    else:
        monkeypatch.delattr(owner, name)
    assert gone in lacking()


def test_without_it_ray_data_sizes_the_pools_and_the_rows_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "lacking", lambda: "StreamingExecutor._topology")
    asked = []
    monkeypatch.setattr("penstock.runners.balance.Balance.on_execution_step", lambda self, executor: asked.append(1))
    places = [Place("actor", (1, 2), cpus=0.5), Place("actor", (1, 2), cpus=0.4)]
    steps = tuple(map(Step, [Journal(str(tmp_path / "one")), Journal(str(tmp_path / "two"))], places))
    with pytest.warns(RuntimeWarning, match=r"^line: Ray Data sizes each pool by its own queue.* no StreamingExecutor"):
        report = Ray().run(Pipeline("line", Numbers(9), Parquet(str(tmp_path / "out")), steps))
    assert (report.units, report.bad_rows, asked) == (9, 0, [])
    assert DataContext.get_current().custom_execution_callback_classes == []
