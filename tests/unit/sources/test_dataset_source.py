import pyarrow as pa
import pytest

from penstock.core.dataset import existing
from penstock.core.nouns import Pipeline
from penstock.core.spec import loads
from penstock.errors import DatasetError, SchemaError, SpecError, UnitError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.dataset import Dataset
from penstock.sources.text import Text


@pytest.fixture
def made(tmp_path):
    """A dataset of nine units, some of them without rows, packed into two files or so."""

    def made(lines=40):
        (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(lines)) + "a very long line" * 10)
        Inline().run(Pipeline("p", Text(str(tmp_path / "a.txt"), 50), Parquet(str(tmp_path / "out"), 4000)))
        return str(tmp_path / "out")

    return made


def test_a_dataset_gives_its_units_in_order(made):
    source = Dataset(made())
    units, parts = list(source.units()), existing(source.uri).parts()
    assert [unit.etag for unit in units] == parts["part_sha256"].to_pylist()
    assert [unit.start for unit in units] == parts["first_row"].to_pylist()
    assert [source.read(unit).num_rows for unit in units] == parts["rows"].to_pylist()
    assert 0 in parts["rows"].to_pylist()
    assert 1 < len(set(parts["path"].to_pylist())) < len(units)


def test_a_dataset_gives_its_rows(made):
    source = Dataset(made())
    rows = pa.concat_tables([source.read(unit) for unit in source.units()])
    assert rows["text"].to_pylist() == [f"line {i}" for i in range(40)] + ["a very long line" * 10]


def test_a_dataset_taken_whole_is_one_row_that_names_it(made):
    source = Dataset(made(), whole=True)
    manifest = existing(source.uri)
    (unit,) = source.units()
    assert (unit.etag, unit.start, unit.stop) == (manifest.sha256, 0, 41)
    batch = source.read(unit)
    assert batch.schema.equals(source.schema())
    assert batch.to_pylist() == [{"dataset": manifest.uri, "version": 1, "rows": 41, "sha256": manifest.sha256}]
    assert source.sample(unit) == (batch, unit.size_bytes)


def test_a_whole_dataset_has_no_columns():
    with pytest.raises(SpecError, match="whole = true gives a reference and no columns; leave 'columns' out"):
        Dataset("out", ("text",), whole=True)


def test_a_dataset_that_is_not_there_is_refused(tmp_path):
    for ask in (lambda source: source.schema(), lambda source: next(source.units())):
        with pytest.raises(
            DatasetError, match=r"nothing: there is no manifest, so no finished dataset; run the pipeline"
        ):
            ask(Dataset(str(tmp_path / "nothing")))


def test_a_column_that_is_not_there_is_refused(made):
    with pytest.raises(SchemaError, match=r"out has no column 'name'; there are: text"):
        Dataset(made(), ("name",)).schema()


@pytest.mark.parametrize("whole", [False, True])
def test_a_dataset_that_was_written_anew_is_refused(made, whole):
    source = Dataset(made(), whole=whole)
    units = list(source.units())
    made(30)
    with pytest.raises(UnitError, match=r"out: the dataset was written anew while the run was going on; run again"):
        source.read(units[-1])


def test_one_pipeline_reads_what_another_wrote(tmp_path, made):
    text = f"""
    [pipeline.second]
    source = {{ use = "dataset", uri = "{made()}", columns = ["text"] }}
    sink = {{ use = "parquet", uri = "{tmp_path}/again" }}
    """
    report = Inline().run(loads(text).pipelines[0])
    assert report.rows == 41
    source = Dataset(str(tmp_path / "again"))
    assert pa.concat_tables([source.read(unit) for unit in source.units()])["text"][7].as_py() == "line 7"


def test_a_sample_is_the_first_rows(made):
    source = Dataset(made())
    unit = next(source.units())
    batch, taken = source.sample(unit)
    assert batch.equals(source.read(unit))
    assert taken == unit.size_bytes
