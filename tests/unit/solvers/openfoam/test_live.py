"""Feeding a solver that stands in for OpenFOAM: going on, waiting, and what is said of the dead."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_type
from penstock.errors import JobError, SpecError
from penstock.solvers.openfoam.case import Case
from penstock.solvers.openfoam.live import Forcing, Inlet

SOLVER = Path(__file__).with_name("streaming_solver.py")
STEPS = 12


@pytest.fixture
def inlet(tmp_path):
    """Makes an inlet of a case that the stand-in solves."""
    case = tmp_path / "case"
    for name in ("0", "constant/polyMesh", "system"):
        (case / name).mkdir(parents=True)
    (case / "constant/polyMesh/owner").touch()
    (case / "system/controlDict").write_text(f"application other;\nendTime {STEPS};\ndeltaT 1;\n")

    def make(**settings):
        return Inlet(str(case), application=str(SOLVER), plugin="/nowhere/libpenstock.so", **settings)

    return make


def planes_from(index):
    while True:
        yield np.random.default_rng(index).random((4, 3))
        index += 1


def fed(inlet, folder, planes=planes_from):
    return [(state.step, state.values.tolist()) for state in inlet.feed(planes, folder)]


def plane(index):
    return next(planes_from(index)).tolist()


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_every_step_has_its_plane(inlet, tmp_path, host):
    states = fed(inlet(host=host), tmp_path / "run")
    assert states == [(0, [[1.0] * 3] * 4)] + [(step, plane(step - 1)) for step in range(1, STEPS + 1)]


def test_a_solver_that_waits_for_its_planes_is_seen_to_wait(inlet, tmp_path):
    """No plane comes before the state is there: so the solver waits at least as long as the plane takes."""

    def slow(index):
        for plane in planes_from(index):
            time.sleep(0.01)
            yield plane

    states = list(inlet(ahead=0).feed(slow, tmp_path / "run"))
    assert states[0].waited_seconds == 0
    assert all(state.waited_seconds >= 0.01 for state in states[1:])


def test_a_plane_holds_for_its_interval(inlet, tmp_path):
    states = fed(inlet(interval=5), tmp_path / "run")
    assert [step for step, _ in states] == [0, 5, 10, 12]
    assert states[2][1] == plane(1)
    assert states[3][1] == plane(2)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "die",
            "the solver died after step 6, time 6: streaming_solver.py was ended by signal 9 at time 7; its log is",
        ),
        ("fatal", "the solver died after step 6, time 6: streaming_solver.py gave up at time 7: the mesh is bad"),
        ("nan", "the solver's U is NaN or infinite in 12 of 12 numbers, the first at [0, 0] at step 7, time 7"),
        ("short", "the solver sent 72 bytes of values, and 96 were due"),
    ],
)
def test_a_solver_that_dies_is_named_and_the_run_goes_on_from_what_was_written(inlet, tmp_path, monkeypatch, how, said):
    monkeypatch.setenv("MISBEHAVE", how)
    monkeypatch.setenv("AT", "7")
    with pytest.raises(JobError) as raised:
        fed(inlet(), tmp_path / "run")
    assert said in str(raised.value)
    monkeypatch.delenv("MISBEHAVE")
    states = fed(inlet(), tmp_path / "run")
    assert states[0] == (5, plane(4))
    assert states[-1] == (12, plane(11))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("stopped", "the solver fell silent after step 6, time 6: no sign of life for 1 s; is it stopped, or its node"),
        ("left", "the solver died after step 6, time 6: streaming_solver.py was ended by signal 9 at time 7; its log"),
    ],
)
@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_a_solver_that_is_not_heard_any_more_ends_the_run_in_seconds(inlet, tmp_path, monkeypatch, how, said, host):
    """Its end of the stream stays open: nothing else would tell that nobody will speak."""
    monkeypatch.setenv("MISBEHAVE", how)
    monkeypatch.setenv("AT", "7")
    with pytest.raises(JobError) as raised:
        fed(inlet(host=host, silent_seconds=1.0), tmp_path / "run")
    assert said in str(raised.value)
    monkeypatch.delenv("MISBEHAVE")
    states = fed(inlet(), tmp_path / "run")
    assert (states[0], states[-1]) == ((5, plane(4)), (12, plane(11)))


def test_a_slow_solver_is_waited_for(inlet, tmp_path, monkeypatch):
    """Two seconds for a step, where silence is borne for half a second."""
    monkeypatch.setenv("MISBEHAVE", "slow")
    monkeypatch.setenv("AT", "7")
    assert fed(inlet(silent_seconds=0.5), tmp_path / "run")[-1] == (12, plane(11))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("magic", "before it came to the stream (who connected is no solver of Penstock: it sent b'HTTP'"),
        ("version", "before it came to the stream (the solver's plugin speaks version 9 of the protocol, and Penstock"),
    ],
)
def test_a_solver_that_cannot_be_understood(inlet, tmp_path, monkeypatch, how, said):
    monkeypatch.setenv("MISBEHAVE", how)
    with pytest.raises(JobError) as raised:
        fed(inlet(), tmp_path / "run")
    assert said in str(raised.value)


def test_a_generator_that_dies_ends_the_solver_with_its_reason(inlet, tmp_path):
    def broken(_):
        yield from (np.zeros((4, 3)) for _ in range(3))
        raise RuntimeError("the GPU fell off")

    with pytest.raises(JobError, match="the generator died at plane 3: RuntimeError: the GPU fell off"):
        fed(inlet(), tmp_path / "run", broken)
    assert "the generator says: the generator died at plane 3" in (tmp_path / "run/log").read_text()


def test_a_reader_that_goes_away_ends_the_solver(inlet, tmp_path):
    states = inlet().feed(planes_from, tmp_path / "run")
    next(states)
    states.close()
    assert "the generator's reader went away" in (tmp_path / "run/log").read_text()


def test_a_finished_run_is_not_run_again(inlet, tmp_path):
    fed(inlet(), tmp_path / "run")
    assert fed(inlet(), tmp_path / "run") == []


def test_a_run_goes_on_with_its_number_of_ranks(inlet, tmp_path):
    fed(inlet(), tmp_path / "run")
    with pytest.raises(JobError, match=r"was begun on 1 rank, and 2 were asked for; go on with ranks = 1, or take"):
        fed(inlet(ranks=2), tmp_path / "run")


def test_a_folder_that_is_no_case(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match=r"empty is no OpenFOAM case: constant and system/controlDict not found"):
        fed(Inlet(str(tmp_path / "empty"), plugin="/nowhere/libpenstock.so"), tmp_path / "run")


def test_a_program_that_is_not_there(inlet, tmp_path):
    with pytest.raises(JobError, match="there is no program noFoam"):
        fed(Inlet(inlet().case, application="noFoam", plugin="/nowhere/libpenstock.so"), tmp_path / "run")


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="ranks and interval must be 1 or more, ahead 0 or more"):
        Inlet("case", interval=0)
    with pytest.raises(ValueError, match="fifo feeds one rank, and ranks is 2; use plugin or gate"):
        Inlet("case", ranks=2, transport="fifo")
    with pytest.raises(ValueError, match="ranks and interval"):
        Forcing("case", ranks=0)
    with pytest.raises(ValueError, match="silent_seconds is 0; it must be more than 0"):
        Forcing("case", silent_seconds=0)


@pytest.mark.parametrize("feeder", [Inlet, Forcing])
def test_addresses_that_are_no_folders(feeder, tmp_path, monkeypatch):
    """They do not become folders of that name here."""
    monkeypatch.chdir(tmp_path)
    said = "s3://lake/flow is no folder, and OpenFOAM works in folders only; copy the case to one, and name that"
    with pytest.raises(SpecError, match=said):
        feeder("s3://lake/flow", uri="run")
    with pytest.raises(SpecError, match=said):
        feeder("case", uri="s3://lake/flow")
    with pytest.raises(SpecError, match=said):
        Case("s3://lake/flow").sha256()
    assert not list(tmp_path.iterdir())


def test_an_address_that_is_a_folder(inlet, tmp_path):
    given = replace(inlet(), case=f"file://{inlet().case}", uri=f"file://{tmp_path}/run")
    fed(given, tmp_path / "run")
    given.schema(pa.schema([("plane", tensor_type(np.float64, 4, 3))]))
    assert given.done()
    assert not Path("file:").exists()
