import pickle
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import penstock
from penstock.core.batch import tensor_column
from penstock.core.nouns import Record, Unit
from penstock.errors import SchemaError
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr

TABLE = pa.table(
    {
        "id": pa.array(range(100), pa.int64()),
        "text": [f"t{i}" for i in range(100)],
        "x": tensor_column(np.arange(300, dtype=np.float32).reshape(100, 3)),
    }
)


def written(sink, table):
    unit = Unit.of("test", "1", 0, 1)
    told = {"schema": table.schema.serialize().to_pybytes().hex(), "fingerprint": "f"}
    part = sink.write(unit, table)
    sink.commit(lambda: [(unit, Record(unit.key, part))], told)
    return penstock.read(sink.uri)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return written(Zarr(str(tmp_path_factory.mktemp("out")), chunk_bytes=60), TABLE)


def test_batches_are_tensors_in_order(dataset):
    stream = dataset.torch(30)
    assert isinstance(stream, IterableDataset)
    assert len(stream) == 4
    batches = list(stream)
    assert [len(batch["text"]) for batch in batches] == [30, 30, 30, 10]
    assert torch.equal(torch.cat([batch["x"] for batch in batches]), torch.arange(300.0).reshape(100, 3))
    assert batches[1]["text"][0] == "t30"


def test_a_loader_with_two_workers_gives_each_row_once(dataset):
    loader = DataLoader(dataset.torch(7), batch_size=None, num_workers=2)
    ids = torch.cat([batch["id"] for batch in loader])
    assert sorted(ids.tolist()) == list(range(100))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_blocks_and_none_has_more(dataset, world):
    shares = [list(dataset.torch(5, rank=rank, world=world)) for rank in range(world)]
    assert {len(share) for share in shares} == {20 // world}
    ids = [row for share in shares for batch in share for row in batch["id"].tolist()]
    assert len(ids) == len(set(ids)) == 20 // world * world * 5


def test_a_seed_shuffles_blocks_and_rows_and_nothing_is_lost(dataset):
    one, again, other = ([b["id"].tolist() for b in dataset.torch(9, seed=seed)] for seed in (1, 1, 2))
    assert one == again != other
    assert sorted(chain(*one)) == sorted(chain(*other)) == list(range(100))
    assert all(sorted(block) != block for block in one if len(block) > 1)


def test_ranks_with_a_seed_have_nothing_in_common(dataset):
    shares = [{row for b in dataset.torch(5, rank=r, world=2, seed=3) for row in b["id"].tolist()} for r in (0, 1)]
    assert shares[0] | shares[1] == set(range(100))
    assert not shares[0] & shares[1]


def test_a_view_can_be_sent_to_a_worker_that_is_started_anew(dataset):
    stream = pickle.loads(pickle.dumps(dataset.torch(30, rank=1, world=2)))
    assert [batch["id"][0].item() for batch in stream] == [30, 90]


def test_a_dataset_is_a_map_of_rows_for_samplers(dataset):
    loader = DataLoader(dataset.select("id", "x"), batch_size=10, sampler=list(range(99, -1, -1)))
    batches = list(loader)
    assert batches[0]["id"].tolist() == list(range(99, 89, -1))
    assert batches[0]["x"].shape == (10, 3)


def test_fewer_blocks_than_ranks_are_refused(dataset):
    with pytest.raises(ValueError, match="100 rows are 2 blocks of 50, too few for 3 ranks"):
        dataset.torch(50, rank=0, world=3)


def test_columns_that_are_no_numbers_are_refused(tmp_path):
    ragged = written(Parquet(str(tmp_path)), pa.table({"r": [[1], [2, 3]]}))
    with pytest.raises(SchemaError, match=r"column 'r' is list.*; tensors are made of numbers: leave it out"):
        ragged.torch()
