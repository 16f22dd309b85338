"""Meshes that OpenFOAM moves itself: displacements of the boundary in, points of the whole mesh out.

The boundary's displacement is the field ``pointDisplacement`` of time 0; ``moveDynamicMesh`` solves a Laplace equation
for the cells' displacement, stiffer near the patches that move, and writes the points.

Source: Jasak, Tukovic, Automatic mesh motion for the unstructured finite volume method, Trans. FAMENA 30 (2006) 1;
https://www.openfoam.com/documentation/guides/latest/api/classFoam_1_1displacementLaplacianFvMotionSolver.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam import Field, Mesh, read_case_mesh, times, write_dictionary, write_field
from penstock.formats.openfoam.mesh import read_points
from penstock.solvers.openfoam.case import run
from penstock.solvers.openfoam.modes import CONSTRAINTS

__all__ = ["displacement_field", "moved"]

Floats = npt.NDArray[np.float64]

_LENGTH = (0, 1, 0, 0, 0, 0, 0)
_SCHEMES = {
    "ddtSchemes": {"default": "Euler"},
    "gradSchemes": {"default": "Gauss linear"},
    "divSchemes": {"default": "none"},
    "laplacianSchemes": {"default": "Gauss linear corrected"},
    "interpolationSchemes": {"default": "linear"},
    "snGradSchemes": {"default": "corrected"},
}
_SOLUTION = {
    "solvers": {
        '"cellDisplacement.*"': {"solver": "PCG", "preconditioner": "DIC", "tolerance": 1e-10, "relTol": 0},
    }
}
_ONE_STEP = {
    "application": "moveDynamicMesh",
    "startFrom": "startTime",
    "startTime": 0,
    "stopAt": "endTime",
    "endTime": 1,
    "deltaT": 1,
    "writeControl": "timeStep",
    "writeInterval": 1,
    "writeFormat": "binary",
    "timeFormat": "general",
}


def displacement_field(mesh: Mesh, displacement: Floats) -> Field:
    """``pointDisplacement``: *displacement*, ``"point xyz"``, on the patches; inside it is what is to be found."""
    boundary: dict[str, Mapping[str, Any]] = {}
    for patch in mesh.patches:
        if patch.kind in CONSTRAINTS:
            boundary[patch.name] = {"type": patch.kind}
        else:  # also of a patch without faces, which OpenFOAM asks for like any other
            value = displacement[mesh.patch_points(patch.name)] if patch.size else np.zeros(3)
            boundary[patch.name] = {"type": "fixedValue", "value": value}
    return Field(np.zeros(3), _LENGTH, boundary, "pointVectorField")


def moved(template: Path, folder: Path, displacement: Floats, patches: Sequence[str]) -> Floats:
    """The points, ``"point xyz"``, of a template's mesh after its boundary was displaced.

    Args:
        template: with its mesh; its own ``constant/dynamicMeshDict`` is followed where there is one.
        folder: where the program works; it is new.
        displacement: of the mesh's points, ``"point xyz"``; those inside are not looked at.
        patches: that move; near them cells keep their shapes.

    Raises:
        UnitError: OpenFOAM does not move the mesh.
    """
    mesh = read_case_mesh(template)
    (folder / "constant").mkdir(parents=True)
    (folder / "constant" / "polyMesh").symlink_to((template / "constant" / "polyMesh").resolve())
    own = template / "constant" / "dynamicMeshDict"
    if own.exists():
        (folder / "constant" / own.name).symlink_to(own.resolve())
    else:
        write_dictionary(folder / "constant" / own.name, _motion(patches))
    for name, entries in (("controlDict", _ONE_STEP), ("fvSchemes", _SCHEMES), ("fvSolution", _SOLUTION)):
        write_dictionary(folder / "system" / name, entries)
    write_field(folder / "0" / "pointDisplacement", displacement_field(mesh, displacement))
    if why := run(["moveDynamicMesh"], folder)[1]:
        raise UnitError(why)
    return read_points(folder / times(folder)[-1] / "polyMesh" / "points")


def _motion(patches: Sequence[str]) -> Mapping[str, Any]:
    return {
        "dynamicFvMesh": "dynamicMotionSolverFvMesh",
        "motionSolverLibs": '("libfvMotionSolvers.so")',
        "motionSolver": "displacementLaplacian",
        "displacementLaplacianCoeffs": {"diffusivity": f"quadratic inverseDistance ({' '.join(patches)})"},
    }
