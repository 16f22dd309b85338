"""Penstock's datasets for plain Ray Data, and recordings that workers make, on a real Ray."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest

import penstock
from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.replay import replay
from penstock.core.verify import verify
from penstock.errors import SchemaError
from penstock.runners.inline import Inline
from penstock.runners.ray import HDF5Datasink, Ray, datasink, read_manifest
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr
from penstock.testing.parts import Numbers, Squares


@pytest.fixture(scope="module", autouse=True)
def ray_up():
    with Ray(cpus=2, object_store_bytes=200 << 20).session():
        yield


@pytest.fixture(autouse=True)
def strict(monkeypatch, ray_up):
    """A process in which Penstock's own runner was at work lets Ray Data pass over blocks that fail."""
    from ray.data import DataContext

    monkeypatch.setattr(DataContext.get_current(), "max_errored_blocks", 0)
    monkeypatch.setattr(DataContext.get_current(), "custom_execution_callback_classes", [])


def vectors(batch):
    return {"id": batch["id"], "x": np.stack([batch["id"], batch["id"] ** 2], 1).astype(np.float32)}


def dying_once(marker):
    """As `vectors`, in a worker that dies after its first block was made; Ray does that task again."""

    def made(batch):
        if 20 in batch["id"] and not os.path.exists(marker):  # noqa: PTH110 (sent to a worker)
            with open(marker, "x"):  # noqa: PTH123
                os.kill(os.getpid(), 9)
        return vectors(batch)

    return made


def test_rows_of_plain_ray_data_become_a_dataset_once_though_a_worker_died(tmp_path):
    import ray.data

    rows = ray.data.range(100, override_num_blocks=5).map_batches(dying_once(str(tmp_path / "died")))
    rows.write_datasink(HDF5Datasink(str(tmp_path / "out"), file_bytes=10_000))
    assert (tmp_path / "died").exists()
    found = penstock.read(verify(str(tmp_path / "out")).uri)
    ids = found["id"][:]
    assert sorted(ids.tolist()) == list(range(100))
    np.testing.assert_array_equal(found["x"][:], vectors({"id": ids})["x"])


def test_writing_the_same_again_is_the_same_version(tmp_path):
    import ray.data

    sink = Zarr(str(tmp_path / "out"), file_bytes=3000)
    for _ in range(2):
        rows = ray.data.range(60, override_num_blocks=3).map_batches(vectors)
        rows.write_datasink(datasink(sink))
    found = penstock.read(sink.uri)
    assert (found.version, found.manifest.format, len(found)) == (1, "zarr", 60)
    assert found["x"].shape == (60, 2)


def test_tensors_of_several_shapes_are_refused(tmp_path):
    import ray.data

    rows = ray.data.from_items([{"x": np.zeros(1 + at % 2, np.float32)} for at in range(4)], override_num_blocks=1)
    with pytest.raises(Exception, match=r"the tensors in column 'x' have several shapes; solvers need one: pad them"):
        rows.write_datasink(datasink(Parquet(str(tmp_path))))


def test_a_dataset_is_seen_by_ray_data_in_order(tmp_path):
    line = Pipeline("line", Numbers(6, 10), Parquet(str(tmp_path)), (Step(Squares()),))
    Inline().run(line)
    found = penstock.read(str(tmp_path)).select("number", "powers").ray(rows=7)
    assert found.context.execution_options.preserve_order, "else blocks come as their tasks end"
    batches = list(found.iter_batches(batch_size=None))
    assert [len(batch["number"]) for batch in batches] == [7] * 8 + [4]
    numbers = np.concatenate([batch["number"] for batch in batches])
    powers = np.concatenate([np.asarray(batch["powers"]) for batch in batches])
    np.testing.assert_array_equal(numbers, np.arange(60))
    np.testing.assert_array_equal(powers, (np.arange(60)[:, None] ** np.arange(1, 5)).astype(np.float32))
    assert read_manifest(str(tmp_path), ["name"], rows=50).take(1) == [{"name": "n0"}]


@pytest.mark.parametrize("place", [Place(), Place("actor")], ids=["task", "actor"])
def test_workers_record_what_inline_records(tmp_path, place):
    def line(root):
        steps = (Step(Squares(bad=(5,)), place),)
        return Pipeline("line", Numbers(6, 10), Parquet(str(root)), steps, record="squares", record_units=2)

    assert Ray().run(line(tmp_path / "ray")).manifest.sha256 == Inline().run(line(tmp_path / "inline")).manifest.sha256
    kept = {runner: told(tmp_path / runner / "recorded") for runner in ("ray", "inline")}
    assert kept["ray"] == kept["inline"]
    assert len(kept["ray"]) == 2
    (folder,) = (tmp_path / "ray" / "recorded").iterdir()
    assert [unit.differences for unit in replay(str(folder))] == [(), ()]


def told(root):
    """What was kept of each unit; batches go by the names of their content."""
    units = [json.loads(path.read_text()) for path in root.glob("*/units/*.json")]
    return {unit["unit"]["key"]: (unit["given"], unit["made"], unit["refused"]) for unit in units}


def test_where_ray_data_may_lose_blocks_nothing_is_written(tmp_path, monkeypatch):
    import ray.data

    monkeypatch.setattr(ray.data.DataContext.get_current(), "max_errored_blocks", -1)
    with pytest.raises(Exception, match="max_errored_blocks is -1, so it would leave out blocks that fail"):
        ray.data.range(3).write_datasink(HDF5Datasink(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_rows_that_the_sink_cannot_hold_fail_the_write(tmp_path):
    import ray.data

    rows = ray.data.from_arrow(pa.table({"x": [1.0, None]}))
    with pytest.raises(Exception, match="1 rows cannot be written, the first: column 'x' is null") as caught:
        rows.write_datasink(HDF5Datasink(str(tmp_path)))
    assert SchemaError.__name__ in str(caught.value)
