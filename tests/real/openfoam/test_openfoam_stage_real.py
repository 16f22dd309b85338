"""Each row starts a real icoFoam; the shipped suite, and physics with known answers."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.ledger import fingerprint
from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.errors import JobError, RowErrors, SchemaError
from penstock.flows.operators import dealiased, velocity
from penstock.formats.openfoam import read_case_mesh, read_dictionary, write_dictionary
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.solvers.openfoam.case import run
from penstock.solvers.openfoam.deform import Deform
from penstock.solvers.openfoam.fresh import Openfoam
from penstock.sources.fields import Fields
from penstock.sources.seeds import Seeds
from penstock.stages.kolmogorov import Kolmogorov
from penstock.testing import StageTests

N = 16
X = 2 * np.pi * np.arange(N) / N
VORTICES = np.stack([np.sin(X)[None] * np.cos(X)[:, None], -np.cos(X)[None] * np.sin(X)[:, None]])
SHORT = {"endTime": 0.01, "writeInterval": 2}


def random_flow(seed, n=N):
    flow = velocity(dealiased(np.random.default_rng(seed).standard_normal((n, n))))
    return flow / flow.std()


def solved(stage, batch):
    with stage.open() as transform:
        return transform(batch)


class TestOpenfoam(StageTests):
    needs = ("velocity", "viscosity")
    batch = pa.table(
        {
            "velocity": tensor_column(
                np.stack([VORTICES, random_flow(0), np.full_like(VORTICES, np.inf), random_flow(1)])
            ),
            "viscosity": [0.01, 0.02, 0.01, 0.1],
        }
    )

    @pytest.fixture(autouse=True)
    def _made(self, box, cluster):
        settings = {"viscosity": "transportProperties/nu"}
        self.stage = Openfoam(str(box), settings=settings, control=SHORT, projection="fluxes", cluster=cluster)


class TestDeform(StageTests):
    needs = ("seed",)
    batch = pa.table({"seed": [1, 2, 3, 4]})

    @pytest.fixture(autouse=True)
    def _made(self, channel, cluster):
        self.stage = Deform(str(channel), amplitude=0.2, length=0.7, steps=2, cluster=cluster)


def test_vortices_decay_as_taylor_and_green_found(box, cluster, tmp_path):
    """u exp(-2 nu t), within the error of second order on 16 points; half the viscosity, half the decay."""
    batch = pa.table({"velocity": tensor_column(np.stack([VORTICES] * 2)), "nu": [0.1, 0.05]})
    stage = Openfoam(
        str(box),
        gives={"later": "U", "pressure": "p"},
        settings={"nu": "transportProperties/nu"},
        times="all",
        control={"endTime": 0.5, "writeInterval": 50},
        log=("continuity", "courant", "steps", "seconds"),
        cluster=cluster,
    )
    table = solved(stage, batch)
    assert table["time"].to_pylist() == [0.25, 0.5] * 2
    assert table.schema == stage.schema(batch.schema)
    for nu, time, later in zip(
        table["nu"].to_pylist(), table["time"].to_pylist(), to_numpy(table["later"]), strict=True
    ):
        np.testing.assert_allclose(later, VORTICES * np.exp(-2 * nu * time), atol=0.02)
    assert to_numpy(table["pressure"]).shape == (4, N, N)
    assert table["steps"].to_pylist() == [100] * 4
    assert all(len(errors) == 200 and max(errors) < 1e-5 for errors in table["continuity"].to_pylist())
    assert 0.01 < max(table["courant"].to_pylist()) < 0.1
    assert list((tmp_path / "jobs").iterdir()) == []


def test_the_projection_takes_away_what_the_solver_sees(box, cluster):
    """The first continuity error of white noise, projected, is no larger than that of smooth vortices by much."""
    noise = np.random.default_rng(0).standard_normal((2, N, N))
    batch = pa.table({"velocity": tensor_column(np.stack([noise, VORTICES]))})
    first = {}
    for how in ("none", "fluxes"):
        stage = Openfoam(str(box), control=SHORT, projection=how, cluster=cluster)
        first[how] = [errors[0] for errors in solved(stage, batch)["continuity"].to_pylist()]
    assert first["fluxes"][0] < first["none"][0]


def test_a_row_whose_solver_fails_costs_itself_alone(box, cluster):
    """A flow that is far too fast for the step: the solver dies or goes astray, and the reason says so."""
    batch = pa.table({"velocity": tensor_column(np.stack([VORTICES, random_flow(0) * 1e200])), "name": ["good", "bad"]})
    with pytest.raises(RowErrors) as caught:
        solved(Openfoam(str(box), control=SHORT, cluster=cluster), batch)
    assert caught.value.good["name"].to_pylist() == ["good"]
    assert caught.value.bad["name"].to_pylist() == ["bad"]
    assert caught.value.bad.schema == batch.schema
    assert any(word in caught.value.reasons[0] for word in ("floating point exception", "converge", "not finite"))
    assert "icoFoam" in caught.value.reasons[0]


def test_a_setting_that_is_not_there_and_a_mesh_of_another_size_are_told(box, cluster):
    flow = pa.table({"velocity": tensor_column(np.stack([VORTICES])), "nu": [0.1]})
    with pytest.raises(RowErrors, match="transportProperties has no entry 'mu'; there are: nu"):
        solved(Openfoam(str(box), settings={"nu": "transportProperties/mu"}, control=SHORT, cluster=cluster), flow)
    other = pa.table({"velocity": tensor_column(np.ones((1, 7, 3)))})
    with pytest.raises(RowErrors, match="fit neither the mesh of 256 cells nor a grid"):
        solved(Openfoam(str(box), control=SHORT, cluster=cluster), other)
    with pytest.raises(SchemaError, match="needs column 'velocity' as a tensor, a field on cells; it is double"):
        Openfoam(str(box)).schema(pa.schema([("velocity", pa.float64())]))
    with pytest.raises(SchemaError, match="/nowhere is no OpenFOAM case: there is no system/controlDict"):
        Openfoam("/nowhere").schema(flow.schema)


def test_two_ranks_give_what_one_gives(box, tmp_path):
    """Up to the tolerance of the linear solvers, which is made tight here, since their path depends on the ranks."""
    case = tmp_path / "case"
    shutil.copytree(box, case)
    text = (case / "system" / "fvSolution").read_text().replace("0.01;", "0;").replace("1e-7", "1e-11")
    (case / "system" / "fvSolution").write_text(text.replace("1e-8", "1e-11"))
    batch = pa.table({"velocity": tensor_column(np.stack([random_flow(5)]))})
    found = []
    for ranks in (1, 2):
        stage = Openfoam(
            str(case), control=SHORT, ranks=ranks, cluster=Local(folder=str(tmp_path / str(ranks)), cpus_per_task=ranks)
        )
        found.append(to_numpy(solved(stage, batch)["later"]))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_a_whole_pipeline_from_case_to_dataset_and_what_changes_its_fingerprint(box, tmp_path, cluster):
    """The way out and the way back: what a solver wrote starts other solvers."""
    source = Fields(str(box), grid=(N, N))
    stage = Openfoam(str(box), control=SHORT, cluster=cluster)
    pipeline = Pipeline("p", source, Parquet(str(tmp_path / "out")), (Step(stage),))
    report = Inline().run(pipeline)
    assert (report.rows, report.bad_rows) == (1, 0)
    longer = Step(Openfoam(str(box), control={"endTime": 0.02}, cluster=cluster))
    assert fingerprint(pipeline) != fingerprint(Pipeline("p", source, pipeline.sink, (longer,)))
    elsewhere = Step(Openfoam(str(box), control=SHORT, cluster=Local(cpus_per_task=2)))
    assert fingerprint(pipeline) == fingerprint(Pipeline("p", source, pipeline.sink, (elsewhere,)))


def test_an_ensemble_of_another_solver_is_the_same_in_hdf5_and_parquet(box, tmp_path):
    """pisoFoam, laminar, solves what icoFoam does, with its own discretisation of the stresses."""
    case = tmp_path / "piso"
    shutil.copytree(box, case)
    write_dictionary(case / "constant" / "turbulenceProperties", {"simulationType": "laminar"})
    model = {**read_dictionary(case / "constant" / "transportProperties"), "transportModel": "Newtonian"}
    write_dictionary(case / "constant" / "transportProperties", model)
    schemes = read_dictionary(case / "system" / "fvSchemes")
    schemes["divSchemes"]["div((nuEff*dev2(T(grad(U)))))"] = "Gauss linear"
    write_dictionary(case / "system" / "fvSchemes", schemes)
    flows = (Step(Kolmogorov(resolution=N, spin_up_seconds=0.2)),)
    stage = Openfoam(
        str(case), gives={"later": "U", "pressure": "p"}, settings={"viscosity": "transportProperties/nu"},
        application="pisoFoam", control=SHORT, log=("courant", "steps"), cluster=Local(folder=str(tmp_path / "jobs")),
    )  # fmt: skip
    found = {}
    for name, sink in (("hdf5", Hdf5(str(tmp_path / "h"))), ("parquet", Parquet(str(tmp_path / "p")))):
        report = Inline().run(Pipeline(name, Seeds(3, unit_rows=2), sink, (*flows, Step(stage))))
        assert (report.rows, report.bad_rows) == (3, 0)
        found[name] = read_table(report.manifest.uri)
    assert found["hdf5"].equals(found["parquet"])
    later = to_numpy(found["hdf5"]["later"])
    assert later.shape == (3, 2, N, N)
    with h5py.File(tmp_path / "h" / "index.h5") as index:
        assert np.array_equal(index["later"][:], later)
        assert np.array_equal(index["pressure"][:], to_numpy(found["parquet"]["pressure"]))
    assert found["hdf5"]["steps"].to_pylist() == [2] * 3
    other = replace(stage, application="icoFoam")
    ico = to_numpy(solved(other, found["parquet"].select(["velocity", "viscosity"]))["later"])
    assert not np.array_equal(ico, later)
    np.testing.assert_allclose(ico, later, atol=1e-3)
    assert abs(later - to_numpy(found["parquet"]["velocity"])).max() > 1e-3


def test_moved_meshes_start_solvers_and_folded_ones_are_quarantined(channel, cluster):
    """A wavy channel passes; walls that meet do not, and the reason is what checkMesh found."""
    seeds = pa.table({"seed": [1, 2]})
    gentle = solved(Deform(str(channel), amplitude=0.05, length=0.5, steps=2, cluster=cluster), seeds)
    mesh = read_case_mesh(channel)
    moved = to_numpy(gentle["points"])
    assert moved.shape == (2, *mesh.points.shape)
    inlet, walls = mesh.patch_points("inlet"), mesh.patch_points("walls")
    np.testing.assert_allclose(moved[:, inlet], mesh.points[inlet][None].repeat(2, 0), atol=1e-3)
    assert abs(moved[:, walls] - mesh.points[walls])[..., 1].max() > 0.02
    assert (moved[..., [0, 2]] == mesh.points[:, [0, 2]]).all()
    cells = np.tile([1.0, 0, 0], (2, mesh.cells, 1))
    batch = gentle.append_column("velocity", pa.chunked_array([tensor_column(cells)]))
    flows = solved(Openfoam(str(channel), points="points", control=SHORT, cluster=cluster), batch)
    assert to_numpy(flows["later"]).shape == (2, mesh.cells, 3)
    assert not np.array_equal(*to_numpy(flows["later"]))
    with pytest.raises(RowErrors) as caught:
        solved(Deform(str(channel), amplitude=2.0, length=0.3, steps=2, cluster=cluster), seeds)
    assert all(reason.startswith("checkMesh: ") for reason in caught.value.reasons)
    assert "negative cell volume" in caught.value.reasons[0]


def test_openfoam_moves_the_mesh_where_its_boundary_goes(channel, cluster):
    """`pointDisplacement`: the boundary lies where `how = "points"` has it, to the last bits; inside is OpenFOAM's."""
    seeds = pa.table({"seed": [1, 2]})
    ours, theirs = (
        solved(Deform(str(channel), how=how, amplitude=0.05, length=0.5, steps=2, cluster=cluster), seeds)
        for how in ("points", "displacement")
    )
    assert ours.schema == theirs.schema
    a, b = to_numpy(ours["points"]), to_numpy(theirs["points"])
    mesh = read_case_mesh(channel)
    walls = np.concatenate([mesh.patch_points(name) for name in ("inlet", "outlet", "walls")])
    np.testing.assert_allclose(b[:, walls], a[:, walls], atol=1e-9)
    assert 1e-4 < abs(b - a).max() < abs(a - mesh.points).max(), "two ways to fill a channel, and alike"
    assert (b[..., [0, 2]] == mesh.points[:, [0, 2]]).all()
    assert 0 < theirs["courant"].to_pylist()[0] < 1


def test_openfoam_moves_free_forms_by_their_boundary(channel, cluster):
    seeds, lattice = pa.table({"seed": [3]}), (7, 3, 2)
    ours, theirs = (
        solved(Deform(str(channel), modes="free_form", how=how, lattice=lattice, steps=0, cluster=cluster), seeds)
        for how in ("points", "displacement")
    )
    walls = read_case_mesh(channel).patch_points("walls")
    a, b = to_numpy(ours["points"]), to_numpy(theirs["points"])
    np.testing.assert_allclose(b[:, walls], a[:, walls], atol=1e-9)


def test_a_mesh_that_openfoam_folds_is_put_aside(channel, cluster):
    stage = Deform(str(channel), how="displacement", amplitude=2.0, length=0.3, steps=2, cluster=cluster)
    with pytest.raises(RowErrors) as caught:
        solved(stage, pa.table({"seed": [1, 2]}))
    assert caught.value.good.num_rows == 0
    assert caught.value.good.schema == stage.schema(pa.schema([("seed", pa.int64())]))
    assert all(reason.startswith(("checkMesh: ", "moveDynamicMesh ")) for reason in caught.value.reasons)


def test_the_template_may_say_how_its_mesh_moves(channel, cluster, tmp_path):
    case = tmp_path / "case"
    shutil.copytree(channel, case)
    text = 'dynamicFvMesh dynamicMotionSolverFvMesh; motionSolverLibs ("libfvMotionSolvers.so"); motionSolver nothing;'
    head = "FoamFile { version 2.0; format ascii; class dictionary; object dynamicMeshDict; }\n"
    (case / "constant" / "dynamicMeshDict").write_text(head + text)
    stage = Deform(str(case), how="displacement", steps=0, cluster=cluster)
    with pytest.raises(RowErrors, match="moveDynamicMesh gave up: Unknown"):
        solved(stage, pa.table({"seed": [1]}))


def test_a_mesh_that_passes_the_check_may_still_fail_the_solver(channel, cluster, tmp_path):
    """The short run is a gate of its own: a step far too long for the cells."""
    (tmp_path / "case").mkdir()
    for name in ("0", "constant", "system"):
        (tmp_path / "case" / name).symlink_to(channel / name)
    seeds = pa.table({"seed": [1]})
    text = (channel / "system" / "controlDict").read_text()
    (tmp_path / "case" / "system").unlink()
    (tmp_path / "case" / "system").mkdir()
    for path in (channel / "system").iterdir():
        (tmp_path / "case" / "system" / path.name).write_text(path.read_text())
    (tmp_path / "case" / "system" / "controlDict").write_text(text.replace("0.005", "50"))
    stage = Deform(str(tmp_path / "case"), amplitude=0.05, length=0.5, steps=200, cluster=cluster)
    with pytest.raises(RowErrors, match="icoFoam"):
        solved(stage, seeds)


def test_free_forms(channel, cluster):
    stage = Deform(str(channel), modes="free_form", amplitude=0.05, lattice=(7, 3, 2), steps=0, cluster=cluster)
    table = solved(stage, pa.table({"seed": [3, 4]}))
    points = read_case_mesh(channel).points
    ends = (points[:, 0] == 0) | (points[:, 0] == 4)
    moved = to_numpy(table["points"])
    np.testing.assert_allclose(moved[:, ends], points[ends][None].repeat(2, 0), atol=1e-15)
    assert abs(moved - points).max() > 0.005
    assert not np.array_equal(*moved)


def test_what_openfoam_refuses_to_root_runs_as_somebody_else(box):
    """systemCall makes icoFoam refuse root; a folder that nobody else may enter is told."""
    with TemporaryDirectory() as name:
        case = Path(name) / "case"
        shutil.copytree(box, case)
        path = case / "system" / "controlDict"
        call = {"type": "systemCall", "libs": '("libutilityFunctionObjects.so")', "executeCalls": '("id -u > who")'}
        functions = {"functions": {"who": {**call, "writeCalls": "()", "endCalls": "()"}}}
        write_dictionary(path, {**read_dictionary(path), "endTime": 0.01, **functions})
        if os.geteuid() == 0:
            with pytest.raises(JobError, match="does not run systemCall and coded parts as root, and 'nobody' may not"):
                run(["icoFoam"], case)
        Path(name).chmod(0o755)
        assert run(["icoFoam"], case)[1] == ""
        assert (case / "who").read_text().strip() != "0"
