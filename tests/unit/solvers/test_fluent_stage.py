"""Rows to Fluent folders and back, with a program that stands in for Fluent and parses all that it is given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core import plugins
from penstock.core.batch import digest, tensor_column, to_numpy
from penstock.errors import JobError, PlanError, RowErrors, SchemaError, UnitError
from penstock.formats.fluent import block, from_foam, read_cloud, read_profiles, write_case, write_msh
from penstock.solvers.fluent import Fluent, FluentCase, Grid

STAND_IN = Path(__file__).with_name("fluent_stand_in.py")
N = 4
PLANE = Grid("velocity", ("x-velocity", "y-velocity"), ((0, 1, 0), (2, 0, 0)))
INLET = Grid("inlet", ("u",), ((0, 1, 0),), (0, 0, 0.5))


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "bin" / "fluent"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def case(tmp_path):
    """A box of 4 x 4 cells in one layer, 2 long and 1 high."""
    path = tmp_path / "my channel.cas.h5"
    names = ("inlet", "outlet", "walls", "walls", "front", "back")
    write_case(path, from_foam(block((N, N, 1), (2, 1, 1), names), {"inlet": "velocity-inlet"}))
    return str(path)


def batch(rows=3):
    rng = np.random.default_rng(0)
    velocity = rng.standard_normal((rows, 2, N, N)).astype(np.float32)
    inlet = rng.standard_normal((rows, 5)).astype(np.float32)
    return pa.table({"seed": np.arange(rows), "velocity": tensor_column(velocity), "inlet": tensor_column(inlet)})


def stage(case, program, tmp_path, **more):
    cluster = Local(folder=str(tmp_path / "jobs"), cpus_per_task=2)
    return Fluent(case=case, **{"initial": PLANE, "program": str(program), "cluster": cluster, "iterations": 7} | more)


def solved(stage, table):
    with stage.open() as transform:
        return transform(table)


# --- folders ---------------------------------------------------------------------------------------------


def test_each_row_becomes_a_ready_folder(case, tmp_path, program):
    given = batch()
    writer = FluentCase(
        case=case,
        initial=PLANE,
        profiles={"inlet": INLET},
        folders=str(tmp_path / "out"),
        first=('/file/set-tui-version "24.1"',),
    )
    found = solved(writer, given)
    assert found.schema.equals(writer.schema(given.schema))
    folders = [Path(folder) for folder in found["folder"].to_pylist()]
    assert len(set(folders)) == 3
    assert (tmp_path / "out" / "my channel.cas.h5").read_bytes() == Path(case).read_bytes()
    for row, folder in enumerate(folders):
        assert {path.name for path in folder.iterdir()} == {"initial.ip", "inlet.prof", "run.jou"}
        cloud = read_cloud(folder / "initial.ip")
        field = to_numpy(given["velocity"])[row]
        for y in range(N):
            for x in range(N):
                assert cloud.points[y * N + x] == pytest.approx([2 * (x + 0.5) / N, (y + 0.5) / N, 0])
                assert cloud.fields["x-velocity"][y * N + x] == pytest.approx(float(field[0, y, x]))
                assert cloud.fields["y-velocity"][y * N + x] == pytest.approx(float(field[1, y, x]))
        (profile,) = read_profiles(folder / "inlet.prof")
        assert (profile.name, profile.kind, list(profile.fields)) == ("inlet", "point", ["x", "y", "z", "u"])
        assert profile.fields["y"].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
        assert profile.fields["z"].tolist() == [0.5] * 5
        assert np.array_equal(profile.fields["u"].astype(np.float32), to_numpy(given["inlet"])[row])
        command = [str(program), "3ddp", "-g", "-t1", "-i", "run.jou"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        assert (folder / "out.dat.h5").exists()


def test_folders_are_named_by_what_is_in_them(case, tmp_path):
    def named(table, **more):
        writer = FluentCase(**{"case": case, "initial": PLANE, "folders": str(tmp_path / "out")} | more)
        return solved(writer, table)["folder"].to_pylist()

    first = named(batch())
    assert named(batch()) == first
    assert named(batch().slice(1))[0] == first[1]
    assert not set(named(batch(), iterations=5)) & set(first)
    write_msh(tmp_path / "other.msh", from_foam(block((N, N, 1), (2, 1, 1), ("in", *["walls"] * 5))))
    assert not set(named(batch(), case=str(tmp_path / "other.msh"))) & set(first)
    assert len(list((tmp_path / "out" / ".tmp").iterdir())) == 0, "nothing half-written is left"


def test_two_dimensions_have_two_coordinates(case, tmp_path):
    writer = FluentCase(
        case=case, version="2ddp", initial=PLANE, profiles={"inlet": INLET}, folders=str(tmp_path / "out")
    )
    folder = Path(solved(writer, batch(1))["folder"][0].as_py())
    assert read_cloud(folder / "initial.ip").points.shape == (N * N, 2)
    assert list(read_profiles(folder / "inlet.prof")[0].fields) == ["x", "y", "u"]


def test_the_default_grid_is_the_periodic_box():
    points = Grid().points((2, 4))
    assert points[1] == pytest.approx([3 * np.pi / 4, np.pi / 2, 0])
    assert points[-1] == pytest.approx([7 * np.pi / 4, 3 * np.pi / 2, 0])
    assert Grid(offset=0.0).points((2, 4))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("more", "error", "text"),
    [
        ({"initial": None}, SchemaError, "fluent_case uses nothing of its rows"),
        ({"initial": Grid("speed")}, SchemaError, "needs a column 'speed'"),
        ({"initial": Grid("seed")}, SchemaError, "2 components .* on 2 axes; it is int64"),
        ({"initial": Grid("velocity", ("u", "v", "w"))}, SchemaError, "3 components"),
        ({"profiles": {"Inlet": INLET}}, ValueError, "no name for Fluent"),
        ({"case": "a;b.cas.h5"}, ValueError, "cannot stand in a Fluent journal"),
        ({"iterations": 0}, ValueError, "1 or more"),
        ({"commands": ("a\n/exit",)}, ValueError, "one line of ASCII"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_run(case, more, error, text):
    with pytest.raises(error, match=text):
        FluentCase(**{"case": case, "initial": PLANE, "folders": "out"} | more).schema(batch().schema)


# --- runs ------------------------------------------------------------------------------------------------


def test_solutions_come_back_row_for_row(case, program, tmp_path):
    given, fluent = batch(2), stage(case, program, tmp_path)
    found = solved(fluent, given)
    assert found.schema.equals(fluent.schema(given.schema))
    wanted = to_numpy(given["velocity"]).reshape(2, 2, N * N)
    np.testing.assert_allclose(to_numpy(found["SV_U"]), wanted[:, 0], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(found["SV_V"]), wanted[:, 1], rtol=1e-6)
    assert (to_numpy(found["SV_P"]) == 7).all()
    assert found["seed"].to_pylist() == [0, 1]
    assert not [path for path in (tmp_path / "jobs").rglob("*") if path.is_file()], "the job's folder is taken away"


def test_a_run_may_start_from_its_boundaries(case, program, tmp_path):
    fluent = stage(
        case, program, tmp_path, initial=None, profiles={"inlet": INLET}, time_steps=3, results=("SV_U", "SV_P")
    )
    found = solved(fluent, batch(1))
    assert to_numpy(found["SV_U"])[0] == pytest.approx([to_numpy(batch(1)["inlet"]).mean()] * N * N)
    assert (to_numpy(found["SV_P"]) == 3).all()


def test_a_row_that_diverges_or_is_not_finite_is_refused_alone(case, program, tmp_path):
    given = batch(3)
    values = to_numpy(given["velocity"]).copy()
    values[0] *= 1000
    values[1, 0, 0, 0] = np.nan
    given = given.set_column(1, "velocity", tensor_column(values))
    with pytest.raises(RowErrors) as caught:
        solved(stage(case, program, tmp_path), given)
    assert caught.value.good["seed"].to_pylist() == [2]
    assert digest(caught.value.bad) == digest(given.slice(0, 2))
    diverged, missing = caught.value.reasons
    assert "Fluent ended with status 0: Error: Divergence detected in AMG solver: x-momentum" in diverged
    assert "> /solve/iterate 7" in diverged, "the end of the transcript"
    assert missing == "velocity has NaN or infinite values, which Fluent does not read"
    np.testing.assert_allclose(to_numpy(caught.value.good["SV_U"])[0], values[2, 0].ravel(), rtol=1e-6)


def test_without_a_good_row_no_job_is_started(case, program, tmp_path):
    given = batch(2).set_column(1, "velocity", tensor_column(np.full((2, 2, N, N), np.inf)))
    with pytest.raises(RowErrors) as caught:
        solved(stage(case, program, tmp_path), given)
    assert caught.value.good.num_rows == 0
    assert caught.value.good.schema.equals(stage(case, program, tmp_path).schema(given.schema))
    assert not (tmp_path / "jobs").exists()


def test_a_missing_licence_fails_the_job_and_not_the_rows(case, program, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_LICENCE", "1")
    with pytest.raises(JobError, match="there is no licence for Fluent now"):
        solved(stage(case, program, tmp_path), batch(1))
    monkeypatch.delenv("NO_LICENCE")
    assert solved(stage(case, program, tmp_path), batch(1)).num_rows == 1, "the next attempt runs it anew"


def test_a_result_that_fluent_does_not_write_is_named(case, program, tmp_path):
    with pytest.raises(UnitError, match="it lacks SV_T at cells; it has SV_U, SV_V, SV_P"):
        solved(stage(case, program, tmp_path, results=("SV_T",)), batch(1))


def test_without_fluent_the_plan_says_so(case, tmp_path):
    with pytest.raises(PlanError, match=r"there is no program 'fluent' on PATH .* or take the stage fluent_case"):
        stage(case, "fluent", tmp_path).schema(batch().schema)


def test_fluent_is_found_on_path(case, program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert "SV_U" in stage(case, "fluent", tmp_path).schema(batch().schema).names


def test_a_program_that_is_gone_when_the_job_runs_is_named(case, program, tmp_path):
    fluent = stage(case, program, tmp_path)
    program.unlink()
    with pytest.raises(JobError, match=r"cannot be started on this node: No such file or directory; set 'program'"):
        solved(fluent, batch(1))


def test_fluent_starts_its_own_processes(case):
    with pytest.raises(ValueError, match="set tasks = 1 and cpus_per_task"):
        Fluent(case=case, initial=PLANE, cluster=Local(tasks=4))
    with pytest.raises(ValueError, match="results is empty"):
        Fluent(case=case, initial=PLANE, results=())


def test_cells_are_counted_in_a_mesh_file_too(tmp_path, program):
    path = tmp_path / "a.msh"
    write_msh(path, from_foam(block((N, N, 1), (2, 1, 1), ("in", *["walls"] * 5))))
    assert stage(str(path), program, tmp_path).schema(batch().schema).field("SV_U").type.shape == [N * N]
    shutil.copy(path, tmp_path / "a.cas")
    with pytest.raises(SchemaError, match=r"the cells are counted in \.cas\.h5 and text \.msh files"):
        stage(str(tmp_path / "a.cas"), program, tmp_path).schema(batch().schema)
    path.write_text("(10 (0 1 ")
    with pytest.raises(SchemaError, match=r"the case cannot be read: .*cut off"):
        stage(str(path), program, tmp_path).schema(batch().schema)


def test_the_stages_are_known_by_name(case):
    body = {"case": case, "initial": {"column": "velocity"}, "profiles": {"inlet": {"column": "inlet", "names": ["u"]}}}
    found = plugins.adapter(plugins.load("stages", "fluent")).validate_python(body)
    assert (found.initial.names, found.profiles["inlet"].names) == (("x-velocity", "y-velocity"), ("u",))
    assert plugins.name_of("stages", found) == "fluent"
    assert plugins.load("stages", "fluent_case") is FluentCase
