"""Files of Ansys Fluent: profiles, interpolation files, meshes, HDF5 cases and solutions, journals."""

from penstock.formats.fluent.cff import Solution, count_cells, read_case, read_solution, write_case, write_solution
from penstock.formats.fluent.interpolation import Cloud, read_cloud, write_cloud
from penstock.formats.fluent.journal import Journal, write_journal
from penstock.formats.fluent.mesh import Mesh, Zone, block, from_foam, to_foam
from penstock.formats.fluent.msh import read_msh, write_msh
from penstock.formats.fluent.profiles import Profile, Table, read_csv, read_profiles, write_csv, write_profiles

__all__ = [
    "Cloud",
    "Journal",
    "Mesh",
    "Profile",
    "Solution",
    "Table",
    "Zone",
    "block",
    "count_cells",
    "from_foam",
    "read_case",
    "read_cloud",
    "read_csv",
    "read_msh",
    "read_profiles",
    "read_solution",
    "to_foam",
    "write_case",
    "write_cloud",
    "write_csv",
    "write_journal",
    "write_msh",
    "write_profiles",
    "write_solution",
]
