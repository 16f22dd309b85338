"""OpenFOAM's files: dictionaries, fields, meshes and cases, read and written with numpy alone."""

from penstock.formats.openfoam.cases import (
    field_files,
    pieces,
    read_case_field,
    read_case_mesh,
    times,
    written_whole,
)
from penstock.formats.openfoam.fields import DIMENSIONLESS, PRESSURE, VELOCITY, Field, read_field, write_field
from penstock.formats.openfoam.mesh import (
    Faces,
    Mesh,
    Patch,
    read_labels,
    read_mesh,
    read_points,
    write_mesh,
    write_points,
)
from penstock.formats.openfoam.syntax import read_dictionary, write_dictionary

__all__ = [
    "DIMENSIONLESS",
    "PRESSURE",
    "VELOCITY",
    "Faces",
    "Field",
    "Mesh",
    "Patch",
    "field_files",
    "pieces",
    "read_case_field",
    "read_case_mesh",
    "read_dictionary",
    "read_field",
    "read_labels",
    "read_mesh",
    "read_points",
    "times",
    "write_dictionary",
    "write_field",
    "write_mesh",
    "write_points",
    "written_whole",
]
