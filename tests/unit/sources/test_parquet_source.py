import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.batch import tensor_column, to_numpy
from penstock.core.nouns import Pipeline
from penstock.errors import SchemaError, SpecError, StorageError, UnitError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet as ParquetSink
from penstock.sources.fasta import Fasta
from penstock.sources.parquet import Parquet

few = settings(deadline=None, max_examples=40)

TABLE = pa.table(
    {"id": pa.array(range(1000)), "name": [f"name {i}" for i in range(1000)], "x": [i / 7 for i in range(1000)]}
)


@pytest.fixture
def file(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=100)
    return tmp_path / "a.parquet"


def together(source):
    return pa.concat_tables([source.schema().empty_table(), *(source.read(unit) for unit in source.units())])


@few
@given(size=st.integers(1, 40_000), rows=st.integers(60, 1000), dictionary=st.booleans())
def test_parquet_gives_all_rows_however_it_is_cut(tmp_path_factory, size, rows, dictionary):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=rows, use_dictionary=dictionary)
    source = Parquet(str(path), unit_bytes=size)
    assert together(source).equals(TABLE)
    assert all(source.read(unit).num_rows for unit in source.units())


def test_units_hold_as_many_row_groups_as_fit(file):
    groups = pq.ParquetFile(file).metadata
    size = sum(groups.row_group(0).column(i).total_compressed_size for i in range(3))
    assert [Parquet(str(file)).read(unit).num_rows for unit in Parquet(str(file), unit_bytes=1).units()] == [100] * 10
    units = list(Parquet(str(file), unit_bytes=int(3.5 * size)).units())
    assert [Parquet(str(file)).read(unit).num_rows for unit in units] == [300, 300, 300, 100]
    assert (units[0].start, units[-1].stop) == (0, file.stat().st_size)


def test_columns_are_chosen_in_the_order_asked_for(file):
    source = Parquet(str(file), ("x", "id"), unit_bytes=5000)
    assert source.schema().names == ["x", "id"]
    assert together(source).equals(TABLE.select(["x", "id"]))
    with pytest.raises(SchemaError, match=r"has no column 'y'; there are: id, name, x"):
        Parquet(str(file), ("y",)).schema()


def test_tensors_come_back(tmp_path):
    tensors = tensor_column(to_numpy(pa.chunked_array([pa.array(range(24))])).reshape(4, 2, 3))
    pq.write_table(pa.table({"field": tensors}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path))
    assert to_numpy(together(source)["field"]).tolist() == to_numpy(pa.chunked_array([tensors])).tolist()


def test_a_file_without_rows_gives_none(tmp_path):
    pq.write_table(TABLE.slice(0, 0), tmp_path / "a.parquet")
    assert together(Parquet(str(tmp_path))).equals(TABLE.slice(0, 0))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (TABLE.drop_columns(["x"]), "there is no column 'x: double' as in the first file"),
        (TABLE.set_column(0, "id", TABLE["id"].cast(pa.int32())), "column 'id' is int32 and not int64 as in the first"),
    ],
)
def test_a_file_with_other_columns_is_refused(tmp_path, other, said):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(other, tmp_path / "b.parquet")
    source = Parquet(str(tmp_path))
    first, second = source.units()
    assert source.read(first).equals(TABLE)
    with pytest.raises(UnitError, match=rf"b\.parquet: {said}"):
        source.read(second)
    assert together(Parquet(str(tmp_path), ("name",))).num_rows == 2000


def test_columns_in_another_order_or_beside_are_fine(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE.select(["x", "name", "id"]).append_column("more", TABLE["x"]), tmp_path / "b.parquet")
    assert together(Parquet(str(tmp_path))).equals(pa.concat_tables([TABLE, TABLE]))


@pytest.mark.parametrize("data", [b"", b"no parquet at all", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path, file, data):
    (tmp_path / "b.parquet").write_bytes(data)
    source = Parquet(str(tmp_path))
    *_, unit = source.units()
    with pytest.raises(UnitError, match=r"b\.parquet: this is no Parquet file, or a damaged one \(.*\); copy it again"):
        source.read(unit)


def test_a_truncated_file_is_refused(tmp_path, file):
    (tmp_path / "b.parquet").write_bytes(file.read_bytes()[:-100])
    *_, unit = Parquet(str(tmp_path)).units()
    with pytest.raises(UnitError, match=r"b\.parquet: this is no Parquet file, or a damaged one"):
        Parquet(str(tmp_path)).read(unit)


def test_a_file_that_changed_is_refused(file):
    source = Parquet(str(file))
    (unit,) = source.units()
    pq.write_table(TABLE.slice(1), file)
    with pytest.raises(StorageError, match="it changed while the run was going on"):
        source.read(unit)


def test_a_sample_is_cheap_and_true(file):
    source = Parquet(str(file))
    (unit,) = source.units()
    batch, taken = source.sample(unit)
    assert batch.equals(TABLE.slice(0, 100))
    assert 5 < unit.size_bytes / taken < 20


def test_a_unit_has_a_byte(file):
    with pytest.raises(SpecError, match=r"unit_bytes = 0: 1 or more was needed"):
        next(Parquet(str(file), unit_bytes=0).units())


def test_a_published_dataset_is_read_by_its_manifest(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nMK\n>b\n>c\nGG\n")
    Inline().run(Pipeline("p", Fasta(str(tmp_path / "a.fa")), ParquetSink(str(tmp_path / "out"))))
    with pytest.raises(SchemaError, match=r'out is a dataset that Penstock wrote; write use = "dataset" to read it'):
        Parquet(str(tmp_path / "out")).schema()


def test_what_was_quarantined_can_be_fed_back(tmp_path):
    (tmp_path / "a.fa").write_text(">a\nMK\n>b one\n>c\nGG\n>d\n")
    Inline().run(Pipeline("p", Fasta(str(tmp_path / "a.fa"), unit_bytes=8), ParquetSink(str(tmp_path / "out"))))
    rows = together(Parquet(str(tmp_path / "out/quarantine/read"), ("id", "description", "_error"))).to_pylist()
    assert sorted(rows, key=lambda row: row["id"]) == [
        {"id": "b", "description": "one", "_error": "the record has no sequence"},
        {"id": "d", "description": "", "_error": "the record has no sequence"},
    ]
