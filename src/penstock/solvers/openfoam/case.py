"""Template cases, and runs that are made of them.

A template is a plain OpenFOAM case: ``system``, ``constant`` and ``0``. A run has links to what it shares with the
template and files of its own for what differs, so that a thousand runs hold one mesh.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.core.storage import Posix, Uri, store_of
from penstock.errors import JobError, SpecError, UnitError
from penstock.formats.openfoam import Field, read_dictionary, read_field, write_dictionary, write_field, write_points
from penstock.formats.openfoam.cases import cells_of
from penstock.formats.openfoam.mesh import read_patches
from penstock.solvers.openfoam.log import fault

__all__ = ["Case", "environment", "launched", "local_folder", "made", "prepared", "run", "unpacked"]

_HOMES = ("/usr/share/openfoam", "/usr/lib/openfoam/openfoam1912")
_SHARED = ("system", "constant", "0", "0.orig")
_NOBODY = 65534
_REFUSES_ROOT = re.compile(r"\b(?:systemCall|coded\w*)\b|#calc\b|#codeStream\b")
_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
_RANK = ("PMIX_", "PMI_", "OMPI_COMM_", "OMPI_MCA_ess", "OMPI_MCA_orte", "PRTE_")


@dataclass(frozen=True)
class Case:
    """A template.

    Attributes:
        folder: the OpenFOAM case; its mesh may be made already, else it has a ``blockMeshDict``.
        application: the solver; empty takes that of ``controlDict``.
        control: entries of ``controlDict`` that the runs have instead, such as ``{ endTime = 0.1 }``.
    """

    folder: Uri
    application: str = ""
    control: Mapping[str, str | float | int] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The folder, as a path. Raises `SpecError` when there is no case."""
        path = local_folder(self.folder).absolute()
        if not (path / "system" / "controlDict").is_file():
            raise SpecError(f"{path} is no OpenFOAM case: there is no system/controlDict; check the spelling")
        return path

    @property
    def program(self) -> str:
        """The solver's name. Raises `SpecError`."""
        found = self.application or str(read_dictionary(self.path / "system" / "controlDict").get("application", ""))
        if not found:
            raise SpecError(f"{self.path}/system/controlDict names no application; set it there or in the stage")
        return found

    def cells(self) -> int | None:
        """How many cells the mesh has, or None when it is yet to be made."""
        made = any((self.path / "constant" / "polyMesh" / f"owner{end}").is_file() for end in ("", ".gz"))
        return cells_of(self.path) if made else None

    def start(self, name: str) -> Field:
        """A field of the template's time 0. Raises `UnitError` when it has none."""
        return read_field(self.path / "0" / name)

    def packed(self) -> bytes:
        """The template as a tar file, the same for the same content."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in self._files():
                told = tarfile.TarInfo(str(path.relative_to(self.path)))
                data = path.read_bytes()
                told.size = len(data)
                tar.addfile(told, io.BytesIO(data))
        return out.getvalue()

    def sha256(self) -> str:
        """Of the template's content."""
        return hashlib.sha256(self.packed()).hexdigest()

    def _files(self) -> list[Path]:
        return sorted(p for name in _SHARED for p in (self.path / name).rglob("*") if p.is_file())


def local_folder(uri: Uri) -> Path:
    """The folder at *uri*. Raises `SpecError` when it is an address elsewhere: OpenFOAM knows folders only."""
    if not isinstance(store_of(uri), Posix):
        raise SpecError(f"{uri} is no folder, and OpenFOAM works in folders only; copy the case to one, and name that")
    return Path(uri.removeprefix("file://")).expanduser()


def unpacked(archive: Path, folder: Path) -> Path:
    """*folder* with the template in *archive* and its mesh; of any number of callers one makes it.

    Raises:
        JobError: ``blockMesh`` failed.
    """
    if folder.exists():
        return folder
    own = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(own, ignore_errors=True)
    _extract(archive, own)
    prepared(own)
    try:
        own.rename(folder)
    except OSError:  # another one was first
        shutil.rmtree(own, ignore_errors=True)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    """The files that `Template.packed` took, and nothing else; ``extractall(filter=...)`` needs Python 3.11.4.

    Raises:
        JobError: something in the archive is no plain file, or would lie elsewhere.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(os.path.normpath(folder / member.name))
            data = tar.extractfile(member) if member.isfile() and path.is_relative_to(folder) else None
            if data is None:
                raise JobError(f"{archive} has {member.name!r}, which is no file of a template; submit the job anew")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.read())


def prepared(case: Path) -> None:
    """Make the mesh by ``blockMesh``, unless it is there. Raises `JobError`."""
    made = any((case / "constant" / "polyMesh" / f"owner{end}").is_file() for end in ("", ".gz"))
    if not made and (why := run(["blockMesh"], case)[1]):
        raise JobError(f"the template's mesh cannot be made: {why}")


def made(
    template: Path,
    folder: Path,
    fields: Mapping[str, Field],
    control: Mapping[str, str | float | int],
    *,
    settings: Mapping[str, float] | None = None,
    points: npt.NDArray[np.float64] | None = None,
) -> Path:
    """A run of *template* in *folder*, which is new.

    Args:
        template: with its mesh.
        folder: where the run works.
        fields: of time 0; others are the template's.
        control: entries of ``controlDict`` that differ.
        settings: numbers in ``constant``, as ``{"transportProperties/nu": 0.01}``.
        points: of the mesh, ``"point xyz"``, when they differ.
    """
    for name in ("system", "constant", "0"):
        _linked(template / name, folder / name)
    _own(folder / "system" / "controlDict", control)
    for name, values in fields.items():
        _remove(folder / "0" / name)
        write_field(folder / "0" / name, values)
    for name, value in (settings or {}).items():
        file, _, entry = name.rpartition("/")
        _set(folder / "constant" / file, entry, value)
    if points is not None:
        (folder / "constant" / "polyMesh").unlink()
        _linked(template / "constant" / "polyMesh", folder / "constant" / "polyMesh")
        _remove(folder / "constant" / "polyMesh" / "points")
        write_points(folder / "constant" / "polyMesh" / "points", points)
    return folder


def _linked(source: Path, target: Path) -> None:
    """A folder with a link to each thing in *source*."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).symlink_to(path.resolve())


def _remove(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}.gz")):
        name.unlink(missing_ok=True)


def _own(path: Path, changes: Mapping[str, str | float | int]) -> None:
    """A copy in place of a link, with entries changed. What is generated is binary and whole."""
    entries = read_dictionary(path)
    path.unlink()
    write_dictionary(path, {**entries, "writeFormat": "binary", "writeCompression": "off", **changes})


def _set(path: Path, entry: str, value: float) -> None:
    """Set a number; one with dimensions keeps them."""
    entries = read_dictionary(path)
    if entry not in entries:
        raise UnitError(f"{path.name} has no entry '{entry}'; there are: {', '.join(entries)}")
    dimensions = re.search(r"\[[^\]]*\]", str(entries[entry]))
    path.unlink()
    write_dictionary(path, {**entries, entry: f"{dimensions[0]} {value!r}" if dimensions else repr(value)})


# --- programs --------------------------------------------------------------------------------------------


def environment(folder: Path) -> dict[str, str]:
    """What OpenFOAM's programs need around them, on top of our own.

    ``PWD`` must name the folder, or each look-up prints a warning; a rank of another MPI job they are not.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_RANK)}
    home = {"WM_PROJECT_DIR": _home()} if _home() else {}
    return {**_MPI, **home, **ours, "PWD": str(folder.absolute())}


@functools.cache
def _home() -> str:
    given = os.environ.get("WM_PROJECT_DIR", "")
    return given or next((home for home in _HOMES if Path(home, "etc", "controlDict").exists()), "")


def run(command: Sequence[str], folder: Path, log: str = "") -> tuple[str, str]:
    """Run one of OpenFOAM's programs in a case: what it printed, and what went wrong first, or nothing.

    As root, cases that OpenFOAM refuses to run as root (``systemCall``, ``coded`` conditions) are run as ``nobody``.

    Raises:
        JobError: the program is not there.
    """
    words = [*_ordinary(folder), *command]
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise JobError(
            f"there is no program '{words[0]}' on this machine; install OpenFOAM (Debian: apt-get install openfoam) "
            "or set PATH and WM_PROJECT_DIR"
        ) from error
    text = done.stdout.decode(errors="replace")
    (folder / (log or f"log.{Path(command[0]).name}")).write_text(text)
    return text, fault(text, done.returncode, Path(command[0]).name)


def _ordinary(folder: Path) -> list[str]:
    files = [folder / "system" / "controlDict", *sorted((folder / "0").glob("*"))]
    if os.geteuid() or not any(_REFUSES_ROOT.search(_head(path)) for path in files if path.is_file()):
        return []
    if closed := [above for above in folder.absolute().parents if not above.stat().st_mode & stat.S_IXOTH]:
        raise JobError(
            f"OpenFOAM does not run systemCall and coded parts as root, and 'nobody' may not enter {closed[-1]}; "
            "run as an ordinary user, or set 'folder' of the cluster to a place that everybody may enter"
        )
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    return ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(1 << 16).decode(errors="replace")


def launched(program: str, folder: Path, ranks: int) -> tuple[str, str]:
    """Run the solver, on as many ranks; what it printed, and what went wrong first, or nothing."""
    if ranks == 1:
        return run([program], folder)
    _remove(folder / "system" / "decomposeParDict")
    write_dictionary(folder / "system" / "decomposeParDict", _cut(folder, ranks))
    if why := run(["decomposePar"], folder)[1]:
        return "", why
    launcher = "mpirun.openmpi" if shutil.which("mpirun.openmpi") else "mpirun"
    text, why = run([launcher, "-np", str(ranks), program, "-parallel"], folder, f"log.{program}")
    return text, why.replace(launcher, program)


def _cut(folder: Path, ranks: int) -> dict[str, Any]:
    """Slabs along x. Both sides of a periodic patch stay on one rank: across ranks the solver's results differ."""
    cut: dict[str, Any] = {"numberOfSubdomains": ranks, "method": "simple", "coeffs": {"n": f"({ranks} 1 1)"}}
    periodic = [p.name for p in read_patches(folder / "constant" / "polyMesh" / "boundary") if p.kind == "cyclic"]
    if periodic:
        cut["constraints"] = {"periodic": {"type": "preservePatches", "patches": f"({' '.join(periodic)})"}}
    return cut
