import json
import sys

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core.batch import tensor_type, to_numpy
from penstock.core.ledger import identity_of
from penstock.core.plugins import adapter, describe
from penstock.errors import JobError, UnitError
from penstock.solvers.job import Program, column_type
from penstock.solvers.reference import REFERENCE

SOLVER = """
import json, sys
import numpy as np
config = json.load(open(sys.argv[-1]))
assert config["dataset"].endswith("dataset") and config["version"] == 1 and len(config["sha256"]) == 64
rows = config["rows"]
np.savez(config["result"], score=np.arange(rows, dtype="f4") / 2, place=np.ones((rows, 3), "f4"))
"""


@pytest.fixture
def solver(tmp_path):
    def program(text=SOLVER, **options):
        (tmp_path / "solver.py").write_text(text)
        columns = {"score": "float32", "place": "float32[3]"}
        given = {"columns": columns, "form": "npz", "cluster": Local(folder=str(tmp_path / "work")), **options}
        return Program((sys.executable, str(tmp_path / "solver.py")), **given)

    return program


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


def test_a_program_of_one_s_own_gives_a_line_for_each_row(solver, published, tmp_path):
    table = solve(solver(), published(pa.table({"x": np.arange(20)})))
    assert table.schema == solver().schema(REFERENCE)
    assert table["row"].to_pylist() == list(range(20))
    assert table["score"].to_pylist() == [i / 2 for i in range(20)]
    np.testing.assert_array_equal(to_numpy(table["place"]), np.ones((20, 3)))
    assert list((tmp_path / "work").iterdir()) == []


def test_a_parquet_result_with_plain_lists_is_taken(solver, published):
    text = """
import json, sys
import pyarrow as pa, pyarrow.parquet as pq
config = json.load(open(sys.argv[-1]))
pq.write_table(pa.table({"place": [[1, 2, 3]] * config["rows"], "score": [1] * config["rows"]}), config["result"])
"""
    table = solve(solver(text, form="parquet"), published(pa.table({"x": np.arange(5)})))
    assert table["score"].type == pa.float32()
    np.testing.assert_array_equal(to_numpy(table["place"]), [[1, 2, 3]] * 5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "No such file"),
        (SOLVER.replace("rows = config['rows']", "").replace('config["rows"]', "3"), "20 rows"),
        (SOLVER.replace("score=", "points="), "score"),
        (SOLVER.replace("(rows, 3)", "(rows, 2)"), "result.npz is not 20 rows of score: float32, place: float32[3]"),
    ],
    ids=["no file", "other rows", "other columns", "other shape"],
)
def test_a_result_that_is_not_what_was_promised_is_refused_and_made_anew(solver, published, text, found):
    reference = published(pa.table({"x": np.arange(20)}))
    with pytest.raises(UnitError) as caught:
        solve(solver(text), reference)
    assert found in str(caught.value)
    assert "the program ended well, but its result" in str(caught.value)
    assert str(caught.value).endswith("mend the program")
    assert solve(solver(), reference).num_rows == 20


ITEM = """
import json, os, sys
import numpy as np
config, item, items = json.load(open(sys.argv[-1])), int(os.environ["PENSTOCK_ITEM"]), int(os.environ["PENSTOCK_ITEMS"])
start, stop = (config["rows"] * edge // items for edge in (item, item + 1))
result = config["result"].replace("{item}", str(item))
np.savez(result, score=np.arange(start, stop, dtype="f4") / 2, place=np.full((stop - start, 3), item, "f4"))
"""


def test_slabs_that_are_computed_apart_are_put_together_in_their_order(solver, published):
    table = solve(solver(ITEM, items=3), published(pa.table({"x": np.arange(20)})))
    assert table["row"].to_pylist() == list(range(20))
    assert table["score"].to_pylist() == [i / 2 for i in range(20)]
    assert to_numpy(table["place"])[:, 0].tolist() == [0] * 6 + [1] * 7 + [2] * 7


def test_a_program_that_fails_says_why(solver, published, tmp_path):
    with pytest.raises(JobError, match="exit status 1") as caught:
        solve(solver("raise SystemExit('the matrix is singular')"), published(pa.table({"x": [1]})))
    assert "the matrix is singular" in str(caught.value)
    assert f"{sys.executable} {tmp_path}/solver.py" in str(caught.value)


def test_another_program_is_other_work(solver):
    one = identity_of("stages", solver())
    assert one == identity_of(
        "stages", solver(cluster=Local(tasks=2, cpus_per_task=3, time_minutes=4, folder="/elsewhere"))
    )
    assert one != identity_of("stages", solver(SOLVER + "# changed"))


def test_a_program_is_written_and_read_again(solver):
    stage = solver(cluster=Local(tasks=2), items=3, copy_dataset=True)
    assert adapter(Program).validate_python(json.loads(json.dumps(describe(stage)))) == stage


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"command": (), "columns": {"a": "int8"}}, "command is empty"),
        ({"command": ("x",), "columns": {"a": "int8"}, "items": 0}, "items must be 1 or more, not 0"),
        ({"command": ("x",), "columns": {}}, "columns must name what the program gives"),
        ({"command": ("x",), "columns": {"row": "int64"}}, 'beside "row"'),
        ({"command": ("x",), "columns": {"a": "float32[x]"}}, "is no type; write for example float32, string"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Program(**options)


def test_types_are_named_as_in_numpy_with_shapes_behind():
    assert column_type("float32") == pa.float32()
    assert column_type("string") == pa.string()
    assert column_type(" int64[3, 4] ") == tensor_type(np.int64, 3, 4)
    with pytest.raises(ValueError, match="floaty"):
        column_type("floaty")
