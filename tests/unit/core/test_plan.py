"""The plan: how steps share workers, what fits, what may be used, and how much there will be."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plan
from penstock.core.batch import tensor_type
from penstock.core.dataset import promised
from penstock.core.nouns import Licence, Pipeline, Place, Step, Unit
from penstock.core.plan import Resources, admit, check, estimate, licences, operators, schemas, weighed
from penstock.errors import PlanError, RowErrors, SchemaError, StorageError, WeightsError
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Numbers

TEXT = pa.schema([("text", pa.string())])
MACHINE = Resources(8, 1, 64 << 30, "this machine")

FUNCTION, TASK = Place(), Place("task")
ACTOR, POOL, GPU = Place("actor"), Place("actor", (2, 4), cpus=2), Place("actor", (1, 2), cpus=1, gpus=0.5)


@dataclass(frozen=True)
class Lines:
    """A source of equal lines."""

    count: int = 4
    size_bytes: int = 1000
    rows: int = 10
    uri: str = "lines"

    def schema(self):
        return TEXT

    def units(self):
        return (Unit.of(self.uri, "1", i, i + 1, self.size_bytes * (i != 1)) for i in range(self.count))

    def read(self, unit):
        return pa.table({"text": ["x" * 96] * self.rows}, TEXT)


@dataclass(frozen=True)
class Plain:
    def schema(self, given):
        return given

    @contextmanager
    def open(self):
        yield lambda batch: batch


@dataclass(frozen=True)
class Vectors(Plain):
    """Replaces the text by a vector, with weights under some licence."""

    commercial: bool | None = True
    weights: int = 5000

    def schema(self, given):
        if "text" not in given.names:
            raise SchemaError("vectors needs a column 'text'; there are: v")
        return pa.schema([("v", tensor_type(np.float32, 100))])

    def weights_bytes(self):
        return self.weights

    def licences(self):
        return [Licence("tiny-model", "CC-BY-NC-4.0" if self.commercial is False else "unknown", self.commercial)]


def line(*places: Place, read: Place = TASK, source=None, sink=None, **more) -> Pipeline:
    steps = tuple(Step(Plain(), place) for place in places)
    return Pipeline("line", source or Lines(), sink or Parquet("/tmp/never-written"), steps, read, **more)


# --- operators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "places", "wanted"),
    [
        (TASK, [], [("task", 0, 0, TASK)]),
        (TASK, [FUNCTION, FUNCTION], [("task", 0, 2, TASK)]),
        (TASK, [TASK, TASK], [("task", 0, 2, TASK)]),
        (TASK, [Place("task", cpus=2)], [("task", 0, 0, TASK), ("task", 0, 1, Place("task", cpus=2))]),
        (TASK, [ACTOR], [("task", 0, 0, TASK), ("actor", 0, 1, ACTOR)]),
        (TASK, [ACTOR, FUNCTION, ACTOR], [("task", 0, 0, TASK), ("actor", 0, 3, ACTOR)]),
        (TASK, [ACTOR, POOL], [("task", 0, 0, TASK), ("actor", 0, 1, ACTOR), ("actor", 1, 2, POOL)]),
        (TASK, [ACTOR, TASK, FUNCTION], [("task", 0, 0, TASK), ("actor", 0, 1, ACTOR), ("task", 1, 3, TASK)]),
        (FUNCTION, [], [("task", 0, 0, TASK)]),
        (FUNCTION, [FUNCTION], [("task", 0, 1, TASK)]),
        (FUNCTION, [FUNCTION, GPU, FUNCTION], [("actor", 0, 3, GPU)]),
        (FUNCTION, [GPU, POOL], [("actor", 0, 1, GPU), ("actor", 1, 2, POOL)]),
    ],
)
def test_neighbours_share_workers_as_far_as_their_places_allow(read, places, wanted):
    found = [(o.kind, o.first, o.stop, o.place) for o in operators(line(*places, read=read))]
    assert found == wanted


def test_a_worker_has_as_many_units_in_hand_as_its_most_concurrent_step():
    places = [
        Place(concurrency=3),
        Place("actor", concurrency=2),
        Place("actor", concurrency=8),
        Place("actor", cpus=2),
    ]
    found = [(o.first, o.stop, o.concurrency) for o in operators(line(*places, read=Place(concurrency=4)))]
    assert found == [(0, 3, 8), (3, 4, 1)]
    found = [
        (o.first, o.stop, o.concurrency) for o in operators(line(ACTOR, read=Place("actor", concurrency=4, cpus=2)))
    ]
    assert found == [(0, 0, 4), (0, 1, 1)]


def test_tasks_have_one_unit_each():
    with pytest.raises(PlanError) as caught:
        admit(line(Place("task", concurrency=2)), MACHINE)
    assert str(caught.value) == (
        "line: read+plain runs as tasks, which have one unit each, and concurrency is 2; "
        'give one of these steps place = { kind = "actor" }'
    )


def test_units_in_hand_take_memory_each():
    one, four = (estimate(p, schemas(p)) for p in (line(ACTOR), line(Place("actor", concurrency=4))))
    assert four.worker_memory_bytes == 4 * one.worker_memory_bytes


def test_as_many_units_as_wanted_are_counted():
    pipeline = line(ACTOR, max_units=3)
    assert estimate(pipeline, schemas(pipeline)).units == len(list(pipeline.units())) == 3


def test_the_steps_of_all_operators_are_the_line():
    places = [FUNCTION, TASK, GPU, FUNCTION, POOL, POOL, TASK, FUNCTION]
    found = operators(line(*places))
    assert [i for o in found for i in range(o.first, o.stop)] == list(range(len(places)))


# --- resources -------------------------------------------------------------------------------------------


def test_the_arithmetic_adds_the_fewest_of_each_pool_and_the_largest_task():
    pipeline = line(POOL, Place("task", cpus=3), GPU)
    assert admit(pipeline, MACHINE) == (
        "cpus: plain 2 x 2 + plain 1 x 1 + plain 3 = 8 of 8 (this machine)\n"
        "gpus: plain 1 x 0.5 = 0.5 of 1 (this machine)"
    )


def test_what_would_starve_is_refused_at_once_with_the_arithmetic():
    pipeline = line(Place("actor", (4, 8), cpus=2))
    started = time.monotonic()
    with pytest.raises(PlanError) as caught:
        check(pipeline, MACHINE)
    assert time.monotonic() - started < 1
    assert str(caught.value) == (
        "line would never finish: its pools and the largest task beside them need more than there is.\n"
        "  cpus: plain 4 x 2 + read 1 = 9 of 8 (this machine)\n"
        "  lower replicas or cpus of a place, or give the runner more"
    )


def test_no_unit_is_looked_at_before_the_resources_fit():
    class Endless(Lines):
        def units(self):
            raise AssertionError("a million units were listed in vain")

    with pytest.raises(PlanError):
        check(line(Place("actor", (9, 9)), source=Endless()), MACHINE)


@pytest.mark.parametrize(
    ("place", "what", "wanted"),
    [
        (Place("actor", gpus=2), "gpus", "gpus: plain 1 x 2 = 2 of 1"),
        (Place("actor", (3, 3), gpus=0.4), "gpus", "gpus: plain 3 x 0.4 = 1.2 of 1"),
        (
            Place("actor", (5, 5), memory_bytes=16 << 30),
            "memory_bytes",
            "memory_bytes: plain 5 x 17,179,869,184 = 85,899,345,920 of 68,719,476,736",
        ),
    ],
)
def test_gpus_and_memory_count_as_well(place, what, wanted):
    with pytest.raises(PlanError, match=rf"{wanted} \(this machine\)\n  lower replicas or {what} of a place"):
        admit(line(place), MACHINE)


def test_thirds_of_a_gpu_fit_three_times():
    assert "= 0.3 of 0.3" in admit(line(Place("actor", (3, 3), gpus=0.1)), replace(MACHINE, gpus=0.3))


def encoded(place, weights=5000, source=None, stage=None, **more):
    stage = stage or Vectors(weights=weights)
    return Pipeline("line", source or Lines(), Parquet("/tmp/never-written"), (Step(stage, place),), TASK, **more)


def test_where_no_place_says_memory_the_weights_of_the_fewest_workers_count():
    small = replace(MACHINE, memory_bytes=14_999)
    with pytest.raises(PlanError) as caught:
        admit(encoded(Place("actor", (3, 4))), small)
    assert str(caught.value) == (
        "line would never finish: its pools and the largest task beside them need more than there is.\n"
        "  memory_bytes: weights of vectors 3 x 5,000 = 15,000 of 14,999 (this machine)\n"
        "  lower replicas, choose smaller weights, or give the runner more memory"
    )
    line = "memory_bytes: weights of vectors 2 x 5,000 = 10,000 of 14,999 (this machine)"
    assert admit(encoded(Place("actor", (2, 4))), small).endswith(line)


def test_what_a_place_says_of_memory_goes_before_the_weights():
    place = Place("actor", (2, 2), memory_bytes=7000)
    assert "memory_bytes: vectors 2 x 7,000 = 14,000 of" in admit(encoded(place), MACHINE)


def test_weights_count_beside_what_other_places_say():
    steps = (Step(Plain(), Place("task", memory_bytes=300)), Step(Vectors(), ACTOR))
    found = admit(Pipeline("line", Lines(), Parquet("x"), steps), MACHINE)
    assert "memory_bytes: weights of vectors 1 x 5,000 + read+plain 300 = 5,300 of" in found


@dataclass(frozen=True)
class Narrow(Vectors):
    compute: str = "int8"


@dataclass(frozen=True)
class Lost(Vectors):
    def weights_bytes(self):
        raise WeightsError("tiny-model is not here")


@pytest.mark.parametrize(
    ("place", "stage", "known"),
    [
        (Place("actor", gpus=0.5), Vectors(), 0),  # they lie on the GPU
        (ACTOR, Vectors(weights=plan._SHARED_BYTES + 1), 0),  # they lie in the file's pages, once for all workers
        (ACTOR, Lost(), 0),  # the plan says so where it looks for licences
        (ACTOR, Narrow(), 1250),
    ],
    ids=["on a GPU", "shared", "missing", "narrow"],
)
def test_weights_that_are_not_a_workers_own_refuse_nothing(place, stage, known):
    assert weighed(encoded(place, stage=stage))[-1].place.memory_bytes == known


def test_in_one_process_the_weights_are_there_once():
    process = Resources(float("inf"), float("inf"), 5000, "this process")
    assert "weights of vectors 1 x 5,000 = 5,000 of 5,000" in admit(encoded(Place("actor", (4, 8))), process)


@pytest.mark.parametrize(
    ("place", "who", "remedy"),
    [
        (
            ACTOR,
            "weights of vectors 1 x 5,000",
            "lower replicas, choose smaller weights, or give the runner more memory",
        ),
        (
            Place("actor", memory_bytes=6000),
            "vectors 1 x 6,000",
            "lower replicas or memory_bytes of a place, or give the runner more",
        ),
    ],
    ids=["weights", "said"],
)
def test_a_worker_that_no_node_has_room_for_is_refused(place, who, remedy):
    nodes = replace(MACHINE, node_memory_bytes=4000, what="16 nodes")
    with pytest.raises(PlanError) as caught:
        admit(encoded(place), nodes)
    assert str(caught.value) == (
        "line would never finish: no node has room for one worker.\n"
        f"  memory_bytes: {who} of 4,000 on the largest node (16 nodes)\n  {remedy}"
    )


def test_pools_that_may_outgrow_the_memory_are_warned_of(tmp_path):
    """A unit of 10 rows takes 1,000 bytes and then 4,000; eight cores let in four workers with two of them each."""
    pipeline = encoded(Place("actor", (1, 16), cpus=2), source=Lines(count=1))
    pipeline = replace(pipeline, read=Place(), sink=Parquet(str(tmp_path)))
    (warning,) = check(pipeline, replace(MACHINE, memory_bytes=30_000)).warnings
    batch = estimate(pipeline, schemas(pipeline)).batch_bytes
    assert batch == pytest.approx(5000, abs=10)
    assert warning == (
        f"memory may run out when all workers are there: read+vectors 4 x (5,000 + {batch:,} of units) = "
        f"{4 * (5000 + batch):,} of 30,000 bytes (this machine); lower the most of replicas, concurrency or unit_bytes"
    )
    assert check(pipeline, replace(MACHINE, memory_bytes=50_000)).warnings == ()


def test_a_machine_without_limits_takes_anything():
    endless = Resources(float("inf"), float("inf"), 1, "this process")
    assert "of inf (this process)" in admit(line(Place("actor", (99, 99), gpus=9)), endless)


@pytest.mark.parametrize("replicas", [(0, 1), (2, 1), (-1, -1)])
def test_a_pool_has_at_least_one_worker(replicas):
    with pytest.raises(ValueError, match=r"replicas must be \[fewest, most\] with 1 <= fewest <= most, not"):
        Place("actor", replicas)


def test_nothing_negative():
    for more in ({"cpus": -1}, {"gpus": -0.5}, {"memory_bytes": -1}):
        with pytest.raises(ValueError, match="cpus, gpus and memory_bytes must not be negative"):
            Place("actor", **more)


# --- schemas, licences -----------------------------------------------------------------------------------


def test_schemas_are_folded_down_the_line():
    pipeline = Pipeline("line", Lines(), Parquet("x"), (Step(Plain()), Step(Vectors())))
    assert [s.names for s in schemas(pipeline)] == [["text"], ["text"], ["v"]]


def test_a_step_that_cannot_take_its_columns_is_named():
    with pytest.raises(SchemaError, match=r"^line, step 2 \(vectors\): vectors needs a column 'text'; there are: v$"):
        schemas(Pipeline("line", Lines(), Parquet("x"), (Step(Vectors()), Step(Vectors()))))


def test_the_sink_is_asked_too():
    from penstock.sinks.hdf5 import Hdf5

    with pytest.raises(SchemaError, match=r"^line, sink: the hdf5 sink needs a column 'y'; there are: text$"):
        schemas(Pipeline("line", Lines(), Hdf5("x", columns=("y",))))


def test_weights_that_forbid_commercial_use_need_a_word():
    pipeline = Pipeline("line", Lines(), Parquet("x"), (Step(Vectors(commercial=False)),))
    wanted = (
        "line: the licence of tiny-model is CC-BY-NC-4.0, which forbids commercial use; "
        "choose other weights, or set allow_noncommercial = true if that is fine for you"
    )
    with pytest.raises(PlanError, match=wanted):
        licences(pipeline)
    (terms,) = licences(replace(pipeline, allow_noncommercial=True))
    assert terms.name == "CC-BY-NC-4.0"


# --- estimates -------------------------------------------------------------------------------------------


def test_the_estimate_scales_a_sample_up():
    """Rows of 100 bytes (96 and an offset) become vectors of 400; 3 of 4 units have 1,000 bytes, for 10 rows each."""
    pipeline = Pipeline("line", Lines(), Parquet("x"), (Step(Vectors()),))
    found = estimate(pipeline, schemas(pipeline))
    assert (found.units, found.bytes_in, found.largest_unit_bytes, found.empty_units) == (4, 3000, 1000, 1)
    assert (found.rows, found.bytes_out) == (30, 12_000)
    assert found.worker_memory_bytes == pytest.approx(10 * (100 + 400) + 5000, abs=10)


@dataclass(frozen=True)
class Copies(Plain):
    """So many rows for each."""

    times: float

    def rows_per_row(self):
        return self.times


@pytest.mark.parametrize("times", [3.0, 0.5])
def test_a_stage_may_say_how_many_rows_it_makes_of_one(times):
    """The 30 vectors of 400 bytes of before, copied; their memory counts as well."""
    pipeline = Pipeline("line", Lines(), Parquet("x"), (Step(Vectors()), Step(Copies(times)), Step(Plain())))
    found = estimate(pipeline, schemas(pipeline))
    assert (found.rows, found.bytes_out) == (30 * times, 12_000 * times)
    assert found.worker_memory_bytes == pytest.approx(10 * (100 + 400 + 2 * 400 * times) + 5000, abs=10)


@dataclass(frozen=True)
class Sampling(Lines):
    """A source that can read a few rows."""

    read_bytes: list = field(default_factory=list, compare=False)

    def read(self, unit):
        raise AssertionError("the whole unit was read for an estimate")

    def sample(self, unit):
        return pa.table({"text": ["x" * 96] * 2}, TEXT), 100


def test_a_source_that_can_sample_is_not_read():
    pipeline = line(source=Sampling())
    assert estimate(pipeline, schemas(pipeline)).rows == 60


def test_a_large_unit_is_not_read_for_an_estimate():
    class Large(Lines):
        def read(self, unit):
            raise AssertionError("the whole unit was read for an estimate")

    pipeline = line(source=Large(size_bytes=plan._SAMPLE_BYTES + 1))
    assert estimate(pipeline, schemas(pipeline)).rows is None


@pytest.mark.parametrize("error", [RowErrors(TEXT.empty_table(), TEXT.empty_table(), []), ZeroDivisionError("oh")])
def test_what_fails_in_the_sample_fails_later_where_it_costs_one_unit(error):
    class Bad(Lines):
        def read(self, unit):
            raise error

    pipeline = line(source=Bad())
    assert estimate(pipeline, schemas(pipeline)).rows is None


def test_a_million_units_are_counted_as_a_stream():
    import tracemalloc

    pipeline = line(source=Lines(count=100_000))
    tracemalloc.start()
    assert estimate(pipeline, schemas(pipeline)).units == 100_000
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# --- the whole check -------------------------------------------------------------------------------------


def test_a_plan_says_it_all(tmp_path):
    pipeline = Pipeline("line", Lines(), Parquet(str(tmp_path / "out")), (Step(Vectors(commercial=None), GPU),))
    found = check(pipeline, MACHINE)
    assert found.operators == operators(pipeline)
    assert found.arithmetic.startswith("cpus: read+vectors 1 x 1 = 1 of 8")
    assert [s.names for s in found.schemas] == [["text"], ["v"]]
    assert found.estimate.rows == 30
    assert found.warnings == ("the licence of tiny-model is not stated: unknown", "1 files are empty")
    assert found.free_bytes > 0
    assert not (tmp_path / "out").exists(), "a check writes nothing"


def test_a_disk_that_is_too_small_is_refused_and_a_tight_one_warned_of(tmp_path, monkeypatch):
    pipeline = Pipeline("line", Lines(), Parquet(str(tmp_path)), (Step(Vectors()),))
    monkeypatch.setattr(plan, "store_of", lambda uri: FreeDisk(11_999))
    wanted = rf"line: about 12,000 bytes will be written below {tmp_path}, 11,999 are free there; free some space or"
    with pytest.raises(PlanError, match=wanted):
        check(pipeline, MACHINE)
    monkeypatch.setattr(plan, "store_of", lambda uri: FreeDisk(23_999))
    assert check(pipeline, MACHINE).warnings[-1] == (
        "about 12,000 bytes will be written, and as much again while small parts are packed; 23,999 are free"
    )


@dataclass(frozen=True)
class FreeDisk:
    free: int

    def free_bytes(self, root):
        return self.free


def test_a_place_that_cannot_be_written_is_found_before_anything_runs(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(StorageError, match="file is a file, a folder was needed"):
        check(line(sink=Parquet(str(tmp_path / "file" / "out"))), MACHINE)


def test_warnings(tmp_path):
    sink = Parquet(str(tmp_path))
    assert check(line(sink=sink, source=Lines(count=0)), MACHINE).warnings == (
        "the source has no units: the dataset will be empty",
    )
    small = replace(MACHINE, memory_bytes=900)
    (warning,) = check(line(sink=sink, source=Lines(count=1), read=Place()), small).warnings
    wanted = r"the largest unit may take 1,0\d\d bytes of memory in a worker, there are 900; lower unit_bytes"
    assert re.fullmatch(wanted, warning)


def test_a_line_over_a_dataset_that_is_yet_to_be_made_is_checked_without_it(tmp_path):
    pipeline = line(sink=Parquet(str(tmp_path)), source=Lines(count=0, uri=str(tmp_path / "before")))
    with promised({str(tmp_path / "before"): TEXT}):
        found = check(pipeline, MACHINE)
    assert (found.estimate.units, found.estimate.rows, found.warnings) == (0, None, ())


def test_a_missing_package_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    line = Pipeline("line", Numbers(), Hdf5(str(tmp_path / "out")))
    with pytest.raises(
        PlanError, match=r"line: hdf5 needs h5py, which is not installed; pip install 'penstock\[hdf5\]'"
    ):
        check(line, Resources(1, 0, 10**9, "this machine"))
    assert check(line, Resources(1, 0, 10**9, "a cluster", here=False)).schemas, "a cluster has packages of its own"
