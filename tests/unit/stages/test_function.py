import hashlib
import importlib
import sys

import pyarrow as pa
import pytest

from penstock.core.batch import tensor_type
from penstock.errors import SchemaError, SpecError
from penstock.stages.function import Function

MODULE = """
import numpy as np
import pyarrow as pa
from penstock.core.batch import tensor_column

FACTOR = 2

def doubled(batch):
    return batch.append_column("double", pa.array(batch["x"].to_numpy() * FACTOR))

def pairs(batch):
    return batch.append_column("pair", tensor_column(np.stack([batch["x"].to_numpy()] * 2, 1).astype("f4")))

def nothing(batch):
    return None

class Inner:
    same = staticmethod(lambda batch: batch)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    path = tmp_path / "own_functions.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield path
    sys.modules.pop("own_functions", None)


def called(stage):
    batch = pa.table({"x": [1, 2], "y": ["a", "b"]})
    with stage.open() as transform:
        result = transform(batch)
    assert result.schema.equals(stage.schema(batch.schema))
    return result


def test_calls_a_function_and_drops_columns(module):
    found = called(Function("own_functions:doubled", adds={"double": "int64"}, drops=("y",)))
    assert found.to_pydict() == {"x": [1, 2], "double": [2, 4]}


def test_adds_tensors(module):
    found = called(Function("own_functions:pairs", adds={"pair": "float32[2]"}))
    assert found["pair"].type == tensor_type("f4", 2)


def test_finds_functions_inside_classes(module):
    assert called(Function("own_functions:Inner.same")).num_rows == 2


def test_identity_is_that_of_the_file_as_it_was_loaded(module):
    stage = Function("own_functions:doubled", adds={"double": "int64"})
    loaded = {"own_functions:doubled": hashlib.sha256(MODULE.encode()).hexdigest()}
    assert stage.identity() == loaded
    module.write_text(MODULE.replace("FACTOR = 2", "FACTOR = 3"))
    assert stage.identity() == loaded, "the function that runs in this process is still the old one"


def test_says_why_there_is_no_such_function(module):
    given = pa.schema({"x": pa.int64()})
    with pytest.raises(SpecError, match=r"'no_such:f' cannot be imported: No module named 'no_such'; install its pack"):
        Function("no_such:f").schema(given)
    with pytest.raises(SpecError, match=r"cannot be imported: .* has no attribute 'tripled'; .* on PYTHONPATH"):
        Function("own_functions:tripled").schema(given)
    with pytest.raises(SpecError, match="'own_functions:FACTOR' is int, a function was needed"):
        Function("own_functions:FACTOR").schema(given)
    with pytest.raises(ValueError, match="function is 'doubled'; 'module:name' was needed"):
        Function("doubled")


def test_checks_types_and_columns_before_anything_runs(module):
    given = pa.schema({"x": pa.int64()})
    with pytest.raises(SchemaError, match=r"there is no type 'float31\[3\]'; write an Arrow type such as"):
        Function("own_functions:pairs", adds={"pair": "float31[3]"}).schema(given)
    with pytest.raises(SchemaError, match="function, to drop it, needs a column 'y'; there are: x"):
        Function("own_functions:pairs", drops=("y",)).schema(given)


def test_a_function_must_give_a_table(module):
    with pytest.raises(SchemaError, match=r"'own_functions:nothing' gave NoneType, a pyarrow.Table was needed"):
        called(Function("own_functions:nothing"))
