import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.errors import DatasetError, SchemaError, UnitError
from penstock.solvers.job import Program
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.reference import REFERENCE, Reference
from penstock.solvers.spectral import Spectral

SOLVERS = [Neighbours(), Spectral(), Program(("true",), {"score": "float32"})]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_a_solver_takes_a_reference_and_nothing_else(solver):
    assert solver.schema(REFERENCE).names[0] == "row"
    assert solver.schema(REFERENCE).field("row").type == pa.int64()
    with pytest.raises(SchemaError) as caught:
        solver.schema(pa.schema([("row", pa.int64()), ("text", pa.string())]))
    assert "takes the reference to a dataset (dataset, version, rows, sha256); it was given: row, text" in str(
        caught.value
    )
    assert 'Use source = { use = "dataset", uri = "...", whole = true } and make this the first step' in str(
        caught.value
    )


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_a_solver_is_written_and_read_again(solver):
    part = type(solver)
    assert plugins.adapter(part).validate_python(plugins.describe(solver)) == solver
    assert plugins.load("stages", plugins.name_of("stages", solver)) is part


def test_two_references_are_refused(published):
    batch = published(pa.table({"x": [1, 2, 3]}))
    with pytest.raises(UnitError, match="2 references to datasets were given; a solver takes one at a time"):
        Reference.of(pa.concat_tables([batch, batch]))


def test_a_dataset_that_was_written_anew_is_refused(published):
    old = Reference.of(published(pa.table({"x": [1, 2, 3]})))
    new = Reference.of(published(pa.table({"x": [1, 2, 3, 4]})))
    assert new.manifest().rows == 4
    with pytest.raises(DatasetError, match=r"version 1 was to be read and version 2 is there now, .* run again"):
        old.manifest()
