"""Random meshes: seeds to moved points that a mesh check and a short run of the solver have passed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import adding, field_of, tensor_column, tensor_type, to_numpy, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.core.storage import Uri
from penstock.errors import RowErrors
from penstock.formats.openfoam import Mesh, read_case_mesh, read_dictionary
from penstock.solvers.openfoam.case import Case, unpacked
from penstock.solvers.openfoam.ensemble import Ensemble
from penstock.solvers.openfoam.modes import CONSTRAINTS, FreeForm, KarhunenLoeve

__all__ = ["Deform"]


@dataclass(frozen=True)
class Deform:
    """Adds ``points`` (float64, ``"point xyz"``), the points of the template's mesh moved by chance: seed in, mesh out.

    With ``modes = "karhunen_loeve"`` the patches move along their normals by a Gaussian random field that is zero where
    they meet other patches; points inside follow. With ``modes = "free_form"`` a lattice about the mesh moves.

    With ``how = "points"`` the points inside are found here: by a Laplace equation on the mesh's edges, or as the
    lattice says. With ``how = "displacement"`` the boundary's displacement is written as ``pointDisplacement`` and
    OpenFOAM's ``moveDynamicMesh`` moves the rest, as the template's ``dynamicMeshDict`` says, or by
    ``displacementLaplacian``.

    Each mesh must pass ``checkMesh`` and some steps of the template's solver; ``courant`` is the largest Courant number
    of these. A row that does not pass is quarantined with what was found. `Openfoam` takes the points by
    ``points = "points"``; they are `penstock.formats.openfoam.write_points` for any other use.

    Attributes:
        case: the template's folder.
        patches: which move, by Karhunen-Loeve modes.
        modes: of what the deformation is made.
        how: who finds the points inside.
        amplitude: standard deviation of the displacement, in the mesh's unit.
        length: of correlation, in the mesh's unit.
        count: how many modes.
        lattice: control points along x, y and z, of the free form.
        direction: along which axis these move.
        steps: of the solver; 0 leaves the solver out.
        seed: the column of seeds.
        application: the solver; empty takes that of ``controlDict``.
        cluster: where the checks run.
    """

    case: Uri
    patches: tuple[str, ...] = ("walls",)
    modes: Literal["karhunen_loeve", "free_form"] = "karhunen_loeve"
    how: Literal["points", "displacement"] = "points"
    amplitude: float = 0.05
    length: float = 0.5
    count: int = 16
    lattice: tuple[int, int, int] = (9, 3, 2)
    direction: Literal["x", "y", "z"] = "y"
    steps: int = 10
    seed: str = "seed"
    application: str = ""
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("case", "cluster")
    NEEDS = ("scipy",)

    def __post_init__(self) -> None:
        if self.amplitude < 0 or self.length <= 0 or self.count < 1 or self.steps < 0 or min(self.lattice) < 1:
            raise ValueError("amplitude and steps must not be negative; length, count and lattice must be positive")
        if self.modes == "karhunen_loeve" and not self.patches:
            raise ValueError('patches is empty; write patches = ["walls"]')

    def identity(self) -> Mapping[str, str]:
        """The hash of the template."""
        return {"case": self._case.sha256()}

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``points`` and ``courant``. Raises `SchemaError`, and `UnitError` when there is no such patch."""
        field_of(given, self.seed, "deform", pa.int64(), pa.int32(), pa.uint64(), pa.uint32())
        mesh = self._mesh()
        return adding(given, {"points": tensor_type(np.float64, *mesh.points.shape), "courant": pa.float64()})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that makes meshes and has them checked."""
        mesh = self._mesh()
        maker, gate = self._maker(mesh), self._gate(mesh)
        yield lambda batch: self._deformed(maker, gate, batch)

    @property
    def _case(self) -> Case:
        return Case(self.case, self.application)

    def _mesh(self) -> Mesh:
        """The template's, made for the moment where it is not there."""
        if self._case.cells() is not None:
            return read_case_mesh(self._case.path)
        with TemporaryDirectory(prefix="penstock-") as name:
            (Path(name) / "template.tar").write_bytes(self._case.packed())
            return read_case_mesh(unpacked(Path(name) / "template.tar", Path(name) / "case"))

    def _maker(self, mesh: Mesh) -> KarhunenLoeve | FreeForm:
        if self.modes == "free_form":
            return FreeForm(mesh, self.amplitude, self.lattice, "xyz".index(self.direction))
        return KarhunenLoeve(mesh, self.patches, self.amplitude, self.length, self.count)

    def _deformed(self, maker: KarhunenLoeve | FreeForm, gate: Ensemble, batch: Batch) -> Batch:
        seeds = [int(seed) % (1 << 64) for seed in to_numpy(batch[self.seed])]
        make = maker.displaced if self.how == "points" else maker.on_boundary
        made = np.stack([make(seed) for seed in seeds])
        outcomes = gate.outcomes(pa.table({self.how: tensor_column(made)}), self.cluster)
        passed = np.array([not isinstance(outcome, str) for outcome in outcomes])
        found = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        points = made[passed] if self.how == "points" else np.array([each["points"] for each in found])
        courant = pa.array([float(each["courant"]) for each in found], pa.float64())
        columns = {"points": tensor_column(points.reshape(-1, *made.shape[1:])), "courant": courant}
        good = with_columns(batch.filter(pa.array(passed)), columns)
        if passed.all():
            return good
        bad = batch.filter(pa.array(~passed))
        raise RowErrors(good, bad, [outcome for outcome in outcomes if isinstance(outcome, str)])

    def _moving(self, mesh: Mesh) -> tuple[str, ...]:
        """The patches that move, for OpenFOAM."""
        if self.modes == "karhunen_loeve":
            return self.patches
        return tuple(patch.name for patch in mesh.patches if patch.kind not in CONSTRAINTS)

    def _gate(self, mesh: Mesh) -> Ensemble:
        step = float(str(read_dictionary(self._case.path / "system" / "controlDict")["deltaT"]))
        control: dict[str, str | float | int] = {"stopAt": "endTime", "endTime": step * self.steps}
        control |= {
            "writeControl": "timeStep",
            "writeInterval": max(1, self.steps),
            "startFrom": "startTime",
            "startTime": 0,
        }
        case = Case(self.case, self.application, control)
        points, displacement = ("points", "") if self.how == "points" else ("", "displacement")
        return Ensemble(
            case,
            points=points,
            displacement=displacement,
            moving=self._moving(mesh),
            checks=(("checkMesh",),),
            times="last" if self.steps else "none",
        )
