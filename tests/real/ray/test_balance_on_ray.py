"""Several units in a worker's hands, and pools that grow by what was measured, on a real Ray."""

import os
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from meeting import Meeting

from penstock.core.nouns import Pipeline, Place, Step
from penstock.report import pools, story
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers


@pytest.fixture(scope="module", autouse=True)
def ray_up():
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
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
    slow = Meeting(str(tmp_path / "met"), first=220, seconds=0.5)  # far slower than reading, on a busy machine too
    steps = tuple(map(Step, [Journal(str(tmp_path / "fast")), slow], places))
    report = Ray().run(Pipeline("line", Numbers(16), Parquet(str(tmp_path / "out")), steps))
    assert (report.units, report.bad_rows) == (16, 0)
    assert len(list((tmp_path / "met").iterdir())) == 2
