"""Templates and runs made of them, and a solver that is a script: no OpenFOAM is needed here."""

import os
import shutil
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, tensor_type, to_numpy
from penstock.core.ledger import fingerprint
from penstock.core.nouns import Pipeline, Step
from penstock.errors import JobError, RowErrors, SchemaError, SpecError, UnitError
from penstock.formats.openfoam import (
    VELOCITY,
    Faces,
    Field,
    Mesh,
    Patch,
    read_dictionary,
    read_field,
    read_points,
    write_dictionary,
    write_field,
    write_mesh,
)
from penstock.sinks.parquet import Parquet
from penstock.solvers.openfoam.case import Case, environment, made, run, unpacked
from penstock.solvers.openfoam.fresh import Openfoam
from penstock.sources.fields import Fields

SOLVER = """#!{python}
# Halves the velocity, and prints what icoFoam prints. A first value of 9 kills it.
import sys
from penstock.formats.openfoam import Field, read_dictionary, read_field, write_field
end = read_dictionary("system/controlDict")["endTime"]
start = read_field("0/U")
nu = read_dictionary("constant/transportProperties")["nu"].split()[-1]
print("Time = " + end)
print("Courant Number mean: 0.1 max: 0.25")
if start.internal[0, 0] == 9:
    print("--> FOAM FATAL ERROR:\\nthe flow is too fast\\n\\n    From function solve()\\n")
    sys.exit(1)
print("time step continuity errors : sum local = " + nu + ", global = 0, cumulative = 0")
write_field(end + "/U", Field(start.internal / 2, start.dimensions, start.boundary, start.kind))
"""


def cubes(count):
    """Cells in a row, unit cubes."""
    points = np.array([(x, y, z) for x in range(count + 1) for y in (0, 1) for z in (0, 1)], float)
    inside = [[4 * i, 4 * i + 2, 4 * i + 3, 4 * i + 1] for i in range(1, count)]
    ends = [[0, 1, 3, 2], [4 * count, 4 * count + 2, 4 * count + 3, 4 * count + 1]]
    owner = np.array([*range(count - 1), 0, count - 1])
    patches = (Patch("ends", "patch", count - 1, 2, {}),)
    return Mesh(points, Faces.of(inside + ends), owner, np.arange(1, count), patches)


@pytest.fixture
def template(tmp_path):
    """A case of four cells whose solver is a script."""
    case, script = tmp_path / "template", tmp_path / "halfFoam"
    script.write_text(SOLVER.replace("{python}", sys.executable))
    script.chmod(0o755)
    write_mesh(case / "constant" / "polyMesh", cubes(4))
    write_dictionary(case / "constant" / "transportProperties", {"nu": "[0 2 -1 0 0 0 0] 0.01", "Pr": 1})
    write_dictionary(
        case / "system" / "controlDict", {"application": str(script), "endTime": 1, "writeFormat": "ascii"}
    )
    write_dictionary(case / "system" / "fvSchemes", {})
    write_field(case / "0" / "U", Field(np.zeros((4, 3)), VELOCITY, {"ends": {"type": "zeroGradient"}}))
    write_field(case / "0" / "p", Field(np.zeros(4)))
    return case


def solved(stage, batch):
    with stage.open() as transform:
        return transform(batch)


def test_a_run_shares_what_it_does_not_change(template, tmp_path):
    flow = Field(np.ones((4, 3)), VELOCITY)
    settings = {"transportProperties/nu": 0.5, "transportProperties/Pr": 2.0}
    folder = made(template, tmp_path / "run", {"U": flow}, {"endTime": 2.5}, settings=settings)
    control = read_dictionary(folder / "system" / "controlDict")
    assert (control["endTime"], control["writeFormat"]) == ("2.5", "binary")
    assert read_dictionary(folder / "constant" / "transportProperties") == {"nu": "[0 2 -1 0 0 0 0] 0.5", "Pr": "2.0"}
    links = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()}
    assert links == {"system/fvSchemes", "constant/polyMesh", "0/p"}
    np.testing.assert_array_equal(read_field(folder / "0" / "U").internal, 1)
    np.testing.assert_array_equal(read_field(template / "0" / "U").internal, 0)
    assert read_dictionary(template / "constant" / "transportProperties")["Pr"] == "1"
    with pytest.raises(UnitError, match="transportProperties has no entry 'mu'; there are: nu, Pr"):
        made(template, tmp_path / "other", {}, {}, settings={"transportProperties/mu": 1.0})


def test_a_run_may_have_points_of_its_own(template, tmp_path):
    points = read_points(template / "constant" / "polyMesh" / "points") * 2
    folder = made(template, tmp_path / "run", {}, {}, points=points)
    np.testing.assert_array_equal(read_points(folder / "constant" / "polyMesh" / "points"), points)
    np.testing.assert_array_equal(read_points(template / "constant" / "polyMesh" / "points"), points / 2)
    assert (folder / "constant" / "polyMesh" / "faces").is_symlink()


def test_the_hash_of_a_template_is_that_of_its_content(template, tmp_path):
    case = Case(str(template))
    before = case.sha256()
    os.utime(template / "system" / "fvSchemes", (1, 1))
    (template / "10").mkdir()
    (template / "log.icoFoam").write_text("not part of it")
    assert case.sha256() == before
    write_dictionary(template / "system" / "fvSchemes", {"a": 1})
    assert case.sha256() != before
    assert case.cells() == 4
    with pytest.raises(SpecError, match=r"is no OpenFOAM case: there is no system/controlDict"):
        Case(str(tmp_path / "none")).sha256()
    write_dictionary(template / "system" / "controlDict", {})
    with pytest.raises(SpecError, match="names no application; set it there or in the stage"):
        _ = case.program


@pytest.mark.parametrize("name", ["../0/U", "/tmp/U", "0"], ids=["above", "absolute", "folder"])
def test_an_archive_of_something_else_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "template.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.type = tarfile.DIRTYPE if name == "0" else tarfile.REGTYPE
        tar.addfile(member)
    with pytest.raises(JobError, match=rf"{name}', which is no file of a template; submit the job anew"):
        unpacked(tmp_path / "template.tar", tmp_path / "template")
    assert not (tmp_path / "0").exists()


def test_programs_find_openfoam_and_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PMIX_RANK", "3")
    monkeypatch.setenv("PWD", "/elsewhere")
    found = environment(tmp_path)
    assert found["PWD"] == str(tmp_path)
    assert found["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    assert "PMIX_RANK" not in found
    with pytest.raises(JobError, match="there is no program 'noFoam' on this machine; install OpenFOAM"):
        run(["noFoam"], tmp_path)
    assert run(["sh", "-c", "echo hello"], tmp_path) == ("hello\n", "")
    assert (tmp_path / "log.sh").read_text() == "hello\n"


def test_each_row_runs_its_own_solver_and_the_bad_one_costs_itself(template, tmp_path):
    values = np.random.default_rng(0).standard_normal((4, 4, 3))
    values[1, 0, 0] = 9
    values[3, 2, 1] = np.nan
    batch = pa.table({"velocity": tensor_column(values), "nu": [0.1, 0.2, 0.3, 0.4], "name": list("abcd")})
    stage = Openfoam(
        str(template), settings={"nu": "transportProperties/nu"}, cluster=Local(folder=str(tmp_path / "jobs"))
    )
    with pytest.raises(RowErrors) as caught:
        solved(stage, batch)
    good = caught.value.good
    assert good.schema == stage.schema(batch.schema)
    assert good["name"].to_pylist() == ["a", "c"]
    assert good["time"].to_pylist() == [1, 1]
    assert good["continuity"].to_pylist() == [[0.1], [0.3]]
    assert good["courant"].to_pylist() == [0.25, 0.25]
    assert good["steps"].to_pylist() == [1, 1]
    np.testing.assert_array_equal(to_numpy(good["later"]), values[[0, 2]] / 2)
    assert caught.value.bad["name"].to_pylist() == ["b", "d"]
    assert caught.value.reasons == [
        "halfFoam gave up at time 1: the flow is too fast",
        "the values for U are not all finite; the solver would not start from them",
    ]
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_program_that_is_not_there_is_the_jobs_failure(template, tmp_path):
    stage = Openfoam(str(template), application="noFoam", cluster=Local(folder=str(tmp_path / "jobs")))
    with pytest.raises(JobError, match="there is no program 'noFoam' on this machine; install OpenFOAM"):
        solved(stage, pa.table({"velocity": tensor_column(np.ones((1, 4, 3)))}))


def test_columns_come_back_in_the_shape_of_the_mesh_or_of_the_grid(template):
    cells, grid = tensor_type(np.float32, 4, 3), tensor_type(np.float32, 2, 2, 2)
    stage = Openfoam(str(template), gives={"later": "U", "pressure": "p"}, log=())
    found = stage.schema(pa.schema([("velocity", cells)]))
    assert found.names == ["velocity", "time", "later", "pressure"]
    assert found.field("later").type == tensor_type(np.float64, 4, 3)
    assert found.field("pressure").type == tensor_type(np.float64, 4)
    found = stage.schema(pa.schema([("velocity", grid)]))
    assert found.field("later").type == tensor_type(np.float64, 2, 2, 2)
    assert found.field("pressure").type == tensor_type(np.float64, 2, 2)


def test_what_cannot_be_given_is_refused_before_anything_starts(template):
    flow = pa.schema([("velocity", tensor_type(np.float32, 4, 3))])
    with pytest.raises(SchemaError, match=r"openfoam cannot give 'T': .*there is no such file"):
        Openfoam(str(template), gives={"heat": "T"}).schema(flow)
    with pytest.raises(SchemaError, match="needs column 'velocity' as a tensor, a field on cells; it is double"):
        Openfoam(str(template)).schema(pa.schema([("velocity", pa.float64())]))
    (template / "constant" / "polyMesh" / "owner").unlink()
    with pytest.raises(
        SchemaError, match="has no mesh yet, so it is not known how many cells there are; run blockMesh"
    ):
        Openfoam(str(template)).schema(flow)


def test_the_place_of_the_template_and_of_the_work_is_no_part_of_the_result(template, tmp_path):
    def known(stage):
        return fingerprint(Pipeline("p", Fields(str(tmp_path)), Parquet(str(tmp_path)), (Step(stage),)))

    before = known(Openfoam(str(template)))
    shutil.copytree(template, tmp_path / "copy")
    assert known(Openfoam(str(tmp_path / "copy"), cluster=Local(cpus_per_task=2), ranks=2)) == before
    assert known(Openfoam(str(template), control={"endTime": 2})) != before
    write_dictionary(template / "system" / "fvSchemes", {"a": 1})
    assert known(Openfoam(str(template))) != before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"columns": {}}, "columns is empty"),
        ({"gives": {}}, "gives is empty"),
        ({"gives": {"courant": "U"}}, "gives names 'courant', which has another meaning here"),
        ({"ranks": 0}, "ranks must be 1 or more, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Openfoam("/case", **options)
