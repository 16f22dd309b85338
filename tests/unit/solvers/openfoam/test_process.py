"""Where a run goes on that was killed while its ranks were writing."""

import gzip
import shutil

import numpy as np
import pytest

from penstock.formats.openfoam import Field, times, write_field, written_whole
from penstock.solvers.openfoam.process import ended, resumed

LAST_LINE = b"\n\n// ************************************************************************* //\n"
VALUES = np.arange(12.0).reshape(4, 3)


@pytest.fixture(params=[1, 2])
def run(request, tmp_path):
    """A run that has ended on one rank or two, as the log of the first one says; its pieces."""
    (tmp_path / "system").mkdir()
    (tmp_path / "system" / "controlDict").write_text("endTime 0.3; deltaT 0.1;")
    places = [tmp_path] if request.param == 1 else [tmp_path / f"processor{rank}" for rank in range(2)]
    for place in places:
        write_field(place / "0" / "U", Field(VALUES))
        for name in ("0.1", "0.2", "0.3"):
            write_field(place / name / "U", Field(VALUES))
            with (place / name / "U").open("ab") as file:
                file.write(LAST_LINE)
            (place / name / "uniform").mkdir()
            (place / name / "uniform" / "time").write_bytes(b"value 1;" + LAST_LINE)
    (tmp_path / "0").mkdir(exist_ok=True)
    steps = "".join(f"Time = {name}\n\nExecutionTime = 1 s\n\n" for name in ("0.1", "0.2", "0.3"))
    (tmp_path / "log").write_text(steps)
    return tmp_path, places[-1]


def cut(path, size=-200):
    path.write_bytes(path.read_bytes()[:size])


def emptied(path):
    path.write_bytes(b"")


SPOILT = {
    "half a field": lambda time: cut(time / "U"),
    "a field without its boundary": lambda time: cut(time / "U", -len(LAST_LINE) - len("boundaryField\n{\n}\n")),
    "a field that was opened": lambda time: emptied(time / "U"),
    "no time": lambda time: (time / "uniform" / "time").unlink(),
    "half a time": lambda time: cut(time / "uniform" / "time", 5),
    "the folder alone": lambda time: (shutil.rmtree(time), time.mkdir()),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_time_that_one_rank_has_in_part_does_not_count(run, how):
    folder, last = run
    assert ended(folder)
    SPOILT[how](last / "0.3")
    assert not ended(folder)
    assert resumed(folder)
    assert times(folder) == ("0", "0.1", "0.2")
    assert written_whole(folder, "0.2")
    assert not ended(folder), "what was removed is not done, though the log says so further up"


def test_a_time_that_one_rank_lacks_does_not_count(run):
    folder, last = run
    shutil.rmtree(last / "0.3")
    (last / "0.3").mkdir()
    resumed(folder)
    assert all("0.3" not in times(place) for place in (folder, last))


def test_a_field_that_one_rank_lacks_does_not_count(run):
    folder, last = run
    shutil.copy(last / "0.3" / "U", last / "0.3" / "T")
    assert ended(folder) == (last == folder)


def test_two_times_may_be_spoilt(run):
    folder, last = run
    for name in ("0.2", "0.3"):
        cut(last / name / "U")
    resumed(folder)
    assert times(folder) == ("0", "0.1")


def test_a_run_that_is_whole_stays_as_it_is(run):
    folder, _ = run
    assert resumed(folder)
    assert times(folder) == ("0", "0.1", "0.2", "0.3")
    assert ended(folder)


def test_the_start_is_nobodys_to_take(run):
    """It was there before the solver, whoever wrote it."""
    folder, last = run
    (last / "0" / "notes").write_text("of the user")
    for name in ("0.1", "0.2", "0.3"):
        emptied(last / name / "U")
    resumed(folder)
    assert times(folder) == ("0",)


def test_what_was_not_done_is_not_kept_though_it_is_whole(run):
    folder, _ = run
    (folder / "log").write_text("Time = 0.1\n\nExecutionTime = 1 s\n\nTime = 0.2\n")
    resumed(folder)
    assert times(folder) == ("0", "0.1")


def test_compressed_and_rewritten_fields_are_whole_when_they_can_be_read(run):
    folder, last = run
    data = (last / "0.3" / "U").read_bytes()
    write_field(last / "0.3" / "U", Field(VALUES))
    assert written_whole(folder, "0.3")
    for place in {last, *last.parent.glob("processor*")}:
        (place / "0.3" / "U").unlink()
        (place / "0.3" / "U.gz").write_bytes(gzip.compress(data))
    assert written_whole(folder, "0.3")
    cut(last / "0.3" / "U.gz", -20)
    assert not written_whole(folder, "0.3")


def test_a_folder_without_a_log_was_never_run(tmp_path):
    assert not resumed(tmp_path)
    assert not ended(tmp_path)
