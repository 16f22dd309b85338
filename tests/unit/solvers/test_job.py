import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_type, to_numpy
from penstock.core.ledger import _identity
from penstock.core.nouns import Job, JobState
from penstock.core.plugins import adapter, describe
from penstock.errors import JobError, UnitError
from penstock.solvers import job as module
from penstock.solvers.job import Program, column_type, job_key, run_job, work_folder
from penstock.solvers.reference import REFERENCE


@dataclass
class Scripted:
    """A cluster that gives the states it is told to give."""

    states: list
    asked: int = 0
    jobs: list = field(default_factory=list)

    def submit(self, job):
        self.jobs.append(job)
        return "native-1"

    def poll(self, ids):
        self.asked += 1
        return {native_id: self.states[min(self.asked, len(self.states)) - 1] for native_id in ids}

    def cancel(self, native_id):
        raise AssertionError("nobody cancels here")


@pytest.fixture
def pauses(monkeypatch):
    """The pauses between polls; time goes by only in them."""
    made = []
    monkeypatch.setattr(module.time, "sleep", made.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(made))
    return made


def job_in(folder):
    folder.mkdir()
    return Job("key", ("solve", "--fast"), str(folder), tasks=3)


def test_waiting_backs_off_up_to_five_seconds(tmp_path, pauses):
    cluster = Scripted([JobState.PENDING] * 10 + [JobState.RUNNING] * 30 + [JobState.DONE])
    run_job(cluster, job_in(tmp_path / "job"))
    assert pauses[0] == 0.05
    assert pauses == sorted(pauses)
    assert pauses[-1] == 5.0
    assert len(pauses) == 40


def test_a_failed_job_tells_all_that_is_known(tmp_path, pauses):
    job = job_in(tmp_path / "job")
    (tmp_path / "job" / "exit").write_text('{"code": 9, "why": "ended after its time limit of 4 s"}')
    (tmp_path / "job" / "stderr").write_text("".join(f"line {i}\n" for i in range(100)))
    with pytest.raises(JobError) as caught:
        run_job(Scripted([JobState.FAILED]), job)
    text = str(caught.value)
    assert text.startswith("job native-1 failed: exit status 9, ended after its time limit of 4 s\n")
    assert "command: solve --fast" in text
    assert "tasks: 3" in text
    assert text.endswith("    line 98\n    line 99")
    assert "line 60" in text
    assert "line 59" not in text
    assert f"its files are kept in {tmp_path}/job.failed" in text
    assert (tmp_path / "job.failed" / "stderr").exists()
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (JobState.FAILED, "failed: it vanished without an exit status"),
        (JobState.CANCELLED, "was cancelled: it vanished without an exit status"),
    ],
)
def test_a_job_that_left_nothing_is_told_of_too(tmp_path, pauses, state, text):
    with pytest.raises(JobError, match=text) as caught:
        run_job(Scripted([state]), job_in(tmp_path / "job"))
    assert "(there is none)" in str(caught.value)


def test_a_second_failure_takes_the_place_of_the_first(tmp_path, pauses):
    for text in ("first", "second"):
        job = job_in(tmp_path / "job")
        (tmp_path / "job" / "stderr").write_text(text)
        with pytest.raises(JobError, match=text):
            run_job(Scripted([JobState.FAILED]), job)
    assert (tmp_path / "job.failed" / "stderr").read_text() == "second"


def test_a_cluster_that_is_silent_for_a_while_is_waited_for(tmp_path, pauses):
    states = [JobState.UNKNOWN] * 20 + [JobState.RUNNING] + [JobState.UNKNOWN] * 20 + [JobState.DONE]
    run_job(Scripted(states), job_in(tmp_path / "job"), patience_seconds=100)


def test_a_cluster_that_stays_silent_is_given_up_and_the_job_is_kept(tmp_path, pauses):
    with pytest.raises(JobError, match="nothing was heard of job native-1 for 60 s; it may still be running"):
        run_job(Scripted([JobState.UNKNOWN]), job_in(tmp_path / "job"), patience_seconds=60)
    assert 60 < sum(pauses) < 70
    assert (tmp_path / "job").exists()


def test_keys_follow_from_the_work_alone():
    assert job_key({"a": 1, "b": 2}, ("x",)) == job_key({"b": 2, "a": 1}, ("x",))
    assert job_key({"a": 1}) != job_key({"a": 2})


def test_a_work_folder_goes_when_all_is_well_and_stays_when_not(tmp_path):
    with work_folder(str(tmp_path), "k" * 64) as folder:
        assert folder == tmp_path / ("k" * 32)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), work_folder(str(tmp_path), "k"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    with pytest.raises(UnitError), work_folder(str(tmp_path), "k"):
        raise UnitError("bad result")
    assert [path.name for path in tmp_path.iterdir()] == ["k.failed"]


# --- the stage -------------------------------------------------------------------------------------------


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
        given = {"columns": columns, "form": "npz", "folder": str(tmp_path / "work"), **options}
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


def test_a_program_that_fails_says_why(solver, published, tmp_path):
    with pytest.raises(JobError, match="exit status 1") as caught:
        solve(solver("raise SystemExit('the matrix is singular')"), published(pa.table({"x": [1]})))
    assert "the matrix is singular" in str(caught.value)
    assert f"{sys.executable} {tmp_path}/solver.py" in str(caught.value)


def test_another_program_is_other_work(solver):
    one = _identity("stages", solver())
    assert one == _identity("stages", solver(tasks=2, cpus_per_task=3, time_seconds=4, folder="/elsewhere"))
    assert one != _identity("stages", solver(SOLVER + "# changed"))


def test_a_program_is_written_and_read_again(solver):
    stage = solver(tasks=2)
    assert adapter(Program).validate_python(json.loads(json.dumps(describe(stage)))) == stage


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"command": (), "columns": {"a": "int8"}}, "command is empty"),
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


def test_a_temporary_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module.os, "getuid", lambda: 12345)
    with pytest.raises(JobError, match="belongs to another user; set 'folder' of the step, or TMPDIR"):
        work_folder("", "k").__enter__()
    assert Path(tmp_path / "penstock-12345").exists()
