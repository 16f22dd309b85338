"""The lookup stage, beside a plain array."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import to_numpy
from penstock.errors import DatasetError, RowErrors, SchemaError
from penstock.stages.lookup import Lookup
from penstock.tables.client import Hot, Local, bringing
from penstock.tables.layout import Table
from penstock.tables.making import create, save

ARRAY = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
LISTS = pa.table({"input_ids": pa.array([[1, 2, 3], [49], [7, 7]], pa.list_(pa.int64())), "name": list("abc")})


@pytest.fixture
def uri(tmp_path):
    return save(str(tmp_path / "table"), ARRAY).uri


def looked_up(stage, batch):
    with stage.open() as transform:
        return transform(batch)


@pytest.mark.parametrize(("pool", "operate"), [("mean", np.mean), ("sum", np.sum)])
@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.uint16()])
def test_lists_are_pooled(uri, pool, operate, kind):
    batch = LISTS.set_column(0, "input_ids", LISTS["input_ids"].cast(pa.list_(kind)))
    found = to_numpy(looked_up(Lookup(uri, pool=pool), batch)["embedding"])
    wanted = [operate(ARRAY[ids], axis=0) for ids in LISTS["input_ids"].to_pylist()]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_lists_may_stay_lists(uri):
    found = looked_up(Lookup(uri, pool="none", into="vectors", dtype="float16"), LISTS)
    assert found.schema.field("vectors").type == pa.list_(pa.list_(pa.float16(), 4))
    for vectors, ids in zip(found["vectors"].to_pylist(), LISTS["input_ids"].to_pylist(), strict=True):
        assert (np.array(vectors, np.float16) == ARRAY[ids].astype(np.float16)).all()


def test_single_ids_are_looked_up(uri):
    batch = pa.table({"id": pa.array([5, 0, 49], pa.int32())})
    for pool in ("none", "mean"):
        assert (to_numpy(looked_up(Lookup(uri, "id", pool=pool), batch)["embedding"]) == ARRAY[[5, 0, 49]]).all()


def test_bad_rows_say_why(uri):
    lists = [[1], None, [], [2, 50, -3], [3, None], [4]]
    batch = pa.table({"input_ids": pa.array(lists, pa.list_(pa.int64())), "row": range(6)})
    for pool in ("mean", "none"):
        with pytest.raises(RowErrors) as caught:
            looked_up(Lookup(uri, pool=pool), batch)
        assert caught.value.good["row"].to_pylist() == [0, 5]
        assert caught.value.bad.equals(batch.slice(1, 4))
        assert caught.value.reasons == [
            "input_ids is null or has no ids",
            "input_ids is null or has no ids",
            "input_ids has the id 50, the table takes ids from 0 to 49: it is another vocabulary's",
            "input_ids has the id -1, the table takes ids from 0 to 49: it is another vocabulary's",
        ]


def test_what_is_no_id_is_refused_before_anything_runs(uri, tmp_path):
    with pytest.raises(SchemaError, match="lookup needs a column 'tokens'"):
        Lookup(uri, "tokens").schema(LISTS.schema)
    with pytest.raises(SchemaError, match=r"lookup needs column 'name' as .*; it is string"):
        Lookup(uri, "name").schema(LISTS.schema)
    with pytest.raises(DatasetError, match="there is no manifest"):
        Lookup(str(tmp_path / "none")).schema(LISTS.schema)


def test_identity_follows_the_table(tmp_path):
    uri = str(tmp_path / "table")
    create(uri, 50, 4)
    before = Lookup(uri).identity()
    assert before == Lookup(uri).identity() == {"table": Table.at(uri).manifest.sha256}
    create(uri, 50, 4, seed=1)
    assert Lookup(uri).identity() != before


def test_a_runner_s_client_is_asked(uri):
    asked = []

    class Told(Local):
        def pooled(self, ids, offsets, mode="mean"):
            asked.append(ids.tolist())
            return super().pooled(ids, offsets, mode)

    with bringing(lambda address: Hot(Told(Table.at(address)), 4)):
        looked_up(Lookup(uri), LISTS)
    assert asked == [[1, 2, 3, 49, 7, 7]]


def test_hot_rows_give_the_same_vectors_and_ask_less(uri):
    asked = []

    class Told(Local):
        def lookup(self, ids):
            asked.append(np.size(ids))
            return super().lookup(ids)

    wanted = looked_up(Lookup(uri, pool="none"), LISTS)
    stage = Lookup(uri, pool="none", hot_rows=1000)
    with bringing(lambda address: Told(Table.at(address))), stage.open() as transform:
        assert transform(LISTS).equals(wanted)
        assert transform(LISTS).equals(wanted)
    assert asked == [5], "each of five different ids once"
    assert ledger_of(stage) == ledger_of(Lookup(uri, pool="none")), "what it keeps changes no row"


def ledger_of(stage):
    return {name: value for name, value in vars(stage).items() if name not in stage.ASIDE}


def test_hot_rows_without_rows_that_travel_are_refused(uri):
    with pytest.raises(ValueError, match="hot_rows is 5; it must not be negative, and goes with pool = 'none' alone"):
        Lookup(uri, hot_rows=5)
