"""Streams of a pipeline file into a running OpenFOAM: rows by one process and by Ray, killed and not."""

import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest

from penstock.core import spec
from penstock.core.batch import to_numpy
from penstock.core.streaming import making, runs
from penstock.errors import JobError, SchemaError, SpecError
from penstock.formats.openfoam import read_case_field, times, written_whole
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.solvers.openfoam.live import Forcing
from penstock.solvers.openfoam.process import held

FILE = """
[stream.flow]
source = {{ use = "seeds", count = 40, unit_rows = 1 }}
into = {{ use = "inlet", case = "{case}", uri = "run", column = "velocity", {more} }}

[[stream.flow.step]]
use = "kolmogorov"
resolution = 16
spin_up_seconds = 0.2
snapshots = 2
every_seconds = 0.1
place = {{ kind = "actor", replicas = [2, 2], cpus = 0.5 }}

[pipeline.back]
source = {{ use = "fields", uri = "run", columns = {{ velocity = "U" }}, times = "later" }}
sink = {{ use = "parquet", uri = "back" }}
"""
SWEEP = "sweep = { speed = 1.0, box = 0.25, scale = 0.1, wall = 0.2 }"


@pytest.fixture
def file(channel, tmp_path):
    """Writes a pipeline file into a folder of its own."""

    def write(name, more=SWEEP, **case):
        path = tmp_path / name / "flow.toml"
        path.parent.mkdir()
        path.write_text(FILE.format(case=channel(f"case-{name}", **case), more=more))
        return path

    return write


def velocity(folder):
    last = max(times(folder), key=float)
    return float(last), read_case_field(folder, last, "U").internal


def streamed(path, runner, said):
    runner.stream(spec.load(path).streams[0], said.append)
    return velocity(path.parent / "run")


def test_ray_feeds_what_one_process_feeds_and_the_fields_come_back(file):
    said = []
    time_, alone = streamed(file("alone"), Inline(), said)
    assert time_ == pytest.approx(0.3)
    told = said[-1]
    assert (told["solver_time"], told["end_time"], told["planes"]) == (pytest.approx(0.3), 0.3, 60)
    assert told["planes_per_second"] > 0
    assert told["generator_waited_seconds"] > 0
    assert told["first_plane_seconds"] > 0
    assert told["solver_waited_seconds"] > 0
    ray = Ray(object_store_bytes=100_000_000)
    fed = file("ray")
    with ray.session():
        assert np.array_equal(streamed(fed, ray, [])[1], alone)
    (noted,) = runs(str(fed.parent / "run"))
    assert (noted["runner"], noted["ended"], noted["told"]["planes"]) == ("ray", True, 60)
    assert np.abs(alone[:, 1]).max() > 1e-3, "the inlet's turbulence is in the channel"
    path = file("back")
    streamed(path, Inline(), [])
    report = Inline().run(spec.load(path).pipeline("back"))
    assert report.rows == len(times(path.parent / "run")) - 1
    again = []
    streamed(path, Inline(), again)
    assert not again, "a run that is done is not done again"


@pytest.fixture
def channel(channel):
    def make(name, steps=60, nx=8, ny=6, write_every=10):
        return channel(name, nx=nx, ny=ny, steps=steps, write_every=write_every)

    return make


# Tells of each step, and is killed at the first after a time: from outside nobody hits a step.
KILLED = """
import os, signal, sys
from penstock.core import spec
from penstock.runners.inline import Inline
from penstock.solvers.openfoam import live

def heard(told):
    if told["solver_time"] > float(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

live._TOLD_SECONDS = 0.0
Inline().stream(spec.load(sys.argv[1]).streams[0], heard)
"""


def test_a_driver_that_was_killed_goes_on_to_the_same_bits(file):
    """Two drivers are killed in the middle; each later one goes on where the one before it was."""
    whole = streamed(file("whole", steps=200), Inline(), [])[1]
    path = file("killed", steps=200)
    reached = [killed_after(time_, path) for time_ in (0.23, 0.53)]
    assert reached == [0.2, 0.5]
    assert runs(str(path.parent / "run")) == [], "a kill leaves nothing of its run"
    command = [sys.executable, "-m", "penstock", "run", str(path), "--only", "flow"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "flow: the solver has ended" in done.stdout
    (noted,) = runs(str(path.parent / "run"))
    assert noted["ended"]
    assert noted["told"]["planes"] == round((1.0 - reached[1]) / 0.005), "the third made the rest, and no more"
    end, found = velocity(path.parent / "run")
    assert end == pytest.approx(1.0)
    assert np.array_equal(found, whole)


def killed_after(time_, path):
    """The last whole time that a driver leaves which is killed after *time_*, when its solver has ended too."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(time_)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = path.parent / "run"
    with held(run):
        return max(float(name) for name in times(run) if written_whole(run, name))


def test_an_actor_that_was_killed_makes_its_rows_again(file):
    whole = streamed(file("whole", steps=200), Inline(), [])[1]
    path, killed = file("lost", steps=200), []

    def kill(_):
        """The first maker that is seen, once the solver has done some steps."""
        if not killed and (path.parent / "run" / "0.1").exists():
            ours = {child.pid for child in psutil.Process().children(recursive=True)}
            ours = [one for one in psutil.process_iter(["cmdline"]) if one.pid in ours]
            makers = [one for one in ours if "ray::_Maker" in str(one.info["cmdline"])]
            makers[0].kill()
            killed.append(makers[0].pid)

    ray = Ray(object_store_bytes=100_000_000)
    ray.stream(spec.load(path).streams[0], kill)
    assert killed
    assert np.array_equal(velocity(path.parent / "run")[1], whole)


FORCED = """
[stream.flow]
source = {{ use = "seeds", count = 20, unit_rows = 3 }}
into = {{ use = "forcing", case = "{case}", uri = "run", column = "velocity", force = "kick" }}

[[stream.flow.step]]
use = "kolmogorov"
resolution = 16
spin_up_seconds = 0.2
"""


def test_a_column_on_a_grid_is_a_force_in_all_cells(box, tmp_path):
    """Held against planes that are put together by hand: two components become three, x runs fastest."""
    case, path = box(), tmp_path / "flow.toml"
    path.write_text(FORCED.format(case=case))
    stream, said = spec.load(path).streams[0], []
    Inline().stream(stream, said.append)
    with making(stream) as make:
        fields = np.concatenate([to_numpy(make(unit)["velocity"]) for unit in stream.source.units()])
    assert fields.shape == (20, 2, 16, 16)
    assert np.abs(fields[:, 0] - fields[:, 1].transpose(0, 2, 1)).max() > 0.1, "rows and columns differ"

    def planes(first):
        for u, v in fields[first:]:
            yield np.array([[u[y, x], v[y, x], 0.0] for y in range(16) for x in range(16)])

    states = list(Forcing(str(case), force="kick").feed(planes, tmp_path / "fed"))
    end, found = velocity(tmp_path / "run")
    assert end == pytest.approx(0.2)
    assert np.array_equal(found, states[-1].values)
    assert np.array_equal(found, velocity(tmp_path / "fed")[1])
    assert np.abs(found[:, :2]).max() > 0.01
    assert (said[-1]["solver_time"], said[-1]["planes"]) == (pytest.approx(0.2), 20)
    told = len(said)
    Inline().stream(stream, said.append)
    assert len(said) == told, "a run that is done is not done again"


def test_a_force_of_another_grid_is_refused(box, tmp_path):
    path = tmp_path / "flow.toml"
    path.write_text(FORCED.format(case=box(n=8)))
    with pytest.raises(
        JobError, match=r"the plane for step 0 has shape \[256, 3\], and the mesh needs \[64, 3\] for U"
    ):
        Inline().stream(spec.load(path).streams[0], print)


def test_addresses_that_are_no_folders_are_refused_in_the_file(file):
    path = file("away")
    said = "s3://lake/x is no folder, and OpenFOAM works in folders only; copy the case to one, and name that"
    for name in ("case", "uri"):
        with pytest.raises(SpecError, match=said):
            spec.load(path, {f"stream.flow.into.{name}": "s3://lake/x"})


def test_what_cannot_be_fed_is_refused_before_the_solver_starts(file, tmp_path):
    path = file("planes", more='patch = "inlet"')
    found = spec.load(path, {"stream.flow.into.column": "seed"}).streams[0]
    with pytest.raises(SchemaError, match="flow, solver: inlet needs a column 'seed' of planes, tensors"):
        Inline().stream(found, print)
    assert not (path.parent / "run" / "system").exists()
    lost = spec.load(path, {"stream.flow.into.case": str(tmp_path / "nowhere")}).streams[0]
    with pytest.raises(SchemaError, match="is no OpenFOAM case: system/controlDict not found"):
        Inline().stream(lost, print)
