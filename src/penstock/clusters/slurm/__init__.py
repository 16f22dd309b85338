"""Slurm as a cluster, from its login node or over SSH.

On the cluster, below ``scratch``::

    jobs/KEY/1/          the record of a job's first attempt: script.sh, part.0 (Slurm's id), claim, exit=CODE, ...
    ids/NUMBER.KEY       which record a native id belongs to
    work/KEY             where the job works when its folder is on S3

Everything is asked by short scripts (``scripts/*.sh``), each of which may be run twice without harm. So a call
whose answer was lost is made again, and a driver that was killed finds its jobs.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from penstock.clusters.slurm.script import batch, folder_of, label, requests, shipped
from penstock.clusters.slurm.shell import MET, Here, Refused, Ssh, Unreachable
from penstock.clusters.slurm.states import doubtful, read, refusal, standing
from penstock.core.nouns import Job, JobState, Listed, Status
from penstock.core.storage import Uri
from penstock.errors import JobError

__all__ = ["Slurm"]

_UNMET_SECONDS = 6.0
"""Patience with a host that has never answered this process: more likely a mistake than an outage."""
_DOUBTFUL_SECONDS = 60.0
"""Patience with a policy of which Slurm does not say whether it is about this job or about how many there are."""


@dataclass(frozen=True)
class Slurm:
    """A cluster under Slurm, and how much of it each job gets.

    A program that is sent ``USR1`` (see *warn_seconds*) may keep its state in its working folder and exit with
    status 99: it is then started again in the same folder, as often as it does so, if *retries* is not 0.

    Attributes:
        host: the login node as ``ssh`` takes it, with all that ``~/.ssh/config`` says of it; empty: this is one.
        partition: where jobs run; empty takes Slurm's default, here and below.
        account: who pays.
        qos: quality of service.
        constraint: features that nodes must have.
        nodes: how many; 0 leaves that to Slurm.
        tasks: MPI ranks of a job.
        cpus_per_task: cores (and threads) for each rank.
        memory: for each node, ``4G``.
        gres: other resources for each node, ``gpu:1``.
        time_minutes: a job is ended after this long, in whole minutes; 0 takes the partition's default.
        warn_seconds: the program is sent ``USR1`` so long before that; 0 sends none.
        launcher: what starts the ranks, ``srun --mpi=pmix``; empty takes ``mpiexec`` (beside *python*, else on the
            node's PATH), and ``srun`` where there is none.
        prologue: lines of Bash before the program: modules, environments.
        lines: more options for sbatch, ``--exclusive``.
        dependency: of Slurm's kind, ``afterok:`` and an id; jobs whose dependency cannot be met any more are cancelled.
        at_once: how many items of a job may run side by side; 0 sets no limit.
        scratch: folder on the cluster, seen by all its machines, for records and for work whose folder is on S3.
        workspace: where jobs whose folder is on S3 work instead, ``$TMPDIR`` or ``/fsx/work``; all nodes of a job
            must see it.
        folder: below which jobs have their folders: a path that the cluster and this machine see, or ``s3://``.
        python: the Python that has Penstock on the cluster.
        copy: the command ``copy FROM TO`` by which the nodes copy from and to S3.
        retries: how often a job whose failure was none of its own is tried again.
        poll_seconds: squeue is asked this often at most.
        patience_seconds: for so long a cluster that answered before may be unable to take a job.
        ssh: more options for ``ssh``, ``("-F", "my_config")``.
    """

    host: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 0
    tasks: int = 1
    cpus_per_task: int = 1
    memory: str = ""
    gres: str = ""
    time_minutes: float = 60
    warn_seconds: int = 0
    launcher: str = ""
    prologue: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    dependency: str = ""
    at_once: int = 0
    scratch: str = "~/.penstock"
    workspace: str = ""
    folder: Uri = ""
    python: str = "python3"
    copy: tuple[str, ...] = ("penstock", "copy")
    retries: int = 2
    poll_seconds: float = 5.0
    patience_seconds: float = 600.0
    ssh: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        least = {"nodes": 0, "tasks": 1, "cpus_per_task": 1, "time_minutes": 0, "warn_seconds": 0, "at_once": 0}
        for name, low in {**least, "retries": 0, "poll_seconds": 0, "patience_seconds": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be {low} or more, not {getattr(self, name)}")
        self._check_texts()

    def _check_texts(self) -> None:
        for name in ("partition", "account", "qos", "constraint", "memory", "gres", "dependency"):
            if any(character.isspace() for character in getattr(self, name)):
                raise ValueError(f"{name} must have no white space: {getattr(self, name)!r}")
        for line in self.lines:
            if not line.startswith("-") or "\n" in line:
                raise ValueError(f'lines are options of sbatch, each like "--exclusive", not {line!r}')
        if set(self.workspace) & set('"`\\\n') or "$(" in self.workspace:
            raise ValueError(f"workspace is a path, which may have variables such as $TMPDIR, not {self.workspace!r}")
        if not self.scratch.startswith(("/", "~/")):
            raise ValueError(f"scratch is a path from / or ~/ on the cluster, not {self.scratch!r}")

    @property
    def shell(self) -> Here | Ssh:
        """How its login node is reached."""
        return Ssh(self.host, self.ssh) if self.host else Here()

    @property
    def queue(self) -> str:
        """Jobs of clusters with one of these are watched together, whatever each of them asks for."""
        return f"slurm {self.shell!r} {self.scratch}"

    # --- the protocol ------------------------------------------------------------------------------------

    def submit(self, job: Job) -> str:
        """Hand *job* to Slurm, unless that was done before; its id begins with its number in Slurm.

        Raises:
            JobError: Slurm refuses it, or could not be asked for `patience_seconds`.
        """
        if wrong := [name for name in job.environment if not name.isidentifier()]:
            raise JobError(f"job {job.name or job.key}: {wrong[0]!r} is no name of an environment variable")
        given = {
            "key": _record_key(job),
            "label": label(job),
            "jobkey": job.key,
            "folder": folder_of(job),
            "items": str(job.items),
            "at_once": str(self.at_once or ""),
            "script": batch(self, job),
        }
        return self._insisted("submit", given, f"job {job.name or job.key} cannot be submitted to {self._where}")

    def poll(self, ids: Sequence[str]) -> Mapping[str, Status]:
        """How all *ids* stand, by one call and at most one squeue; waits until `poll_seconds` after the call before."""
        if not ids:
            return {}
        _gate(self.shell).pass_after(self.poll_seconds)
        try:
            facts = read(self._asked("poll", {"ids": " ".join(dict.fromkeys(_word(id_) for id_ in ids))}))
        except JobError as error:
            return {id_: Status(JobState.UNKNOWN, str(error)) for id_ in ids}
        unknown = Status(JobState.UNKNOWN, f"there is no such job below {self.scratch} on {self._where}")
        return {id_: standing(facts[id_]) if id_ in facts else unknown for id_ in ids}

    def cancel(self, native_id: str) -> None:
        """Have a job ended; ending an ended job does nothing. Raises `JobError`."""
        self._insisted("cancel", {"id": _word(native_id)}, f"job {native_id} cannot be cancelled")

    def again(self, native_id: str, status: Status) -> None:
        """Put an ended attempt aside; of several items those that did not end well run again. Raises `JobError`."""
        if status.state.final:
            counts = "0" if status.continues else "1"
            self._insisted("again", {"id": _word(native_id), "counts": counts}, f"job {native_id} cannot be put aside")

    # --- for people --------------------------------------------------------------------------------------

    def jobs(self) -> tuple[Listed, ...]:
        """All jobs that the cluster remembers, oldest first. Raises `JobError`."""
        found = [line.split("|") for line in self._asked("jobs", {}) if line]
        found.sort(key=lambda fields: float(fields[2] or 0))
        stands = self.poll([fields[1] for fields in found])
        return tuple(
            Listed(
                id_, name, key, stands[id_].state, stands[id_].why, stands[id_].attempt, int(items), float(since or 0)
            )
            for _, id_, since, name, key, items in found
        )

    def log(self, native_id: str, name: str = "stdout", offset: int = 0) -> tuple[str, int]:
        """What was added to a log since *offset* (bytes), up to a million bytes, and the next offset.

        Args:
            native_id: of the job.
            name: ``stdout``, ``stderr``; with several items ``stdout.3``.
            offset: from where on; 0 begins.

        Raises:
            JobError: there is no such job, or the cluster cannot be asked.
        """
        given = {"id": _word(native_id), "name": _word(name), "offset": str(offset)}
        first, _, text = "\n".join(self._asked("log", given)).partition("\n")
        return text, int(first.split("|")[1])

    # --- asking ------------------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return self.host or "this machine"

    def _asked(self, name: str, given: Mapping[str, str], timeout_seconds: float = 180.0) -> list[str]:
        """The lines that one of the shipped scripts answers. Raises `Unreachable` or `Refused`."""
        values = "".join(f"{key}={shlex.quote(value)}\n" for key, value in {"root": self.scratch, **given}.items())
        script = "\n".join([values, shipped("common"), shipped(name)])
        lines = self.shell.run(script, timeout_seconds).split("\n")
        if lines[0].startswith("refused|"):
            raise Refused(lines[0].removeprefix("refused|"))
        return lines

    def _insisted(self, name: str, given: Mapping[str, str], failing: str) -> str:
        """The id that a script answers; asked again while the cause may pass."""
        begun = time.monotonic()
        for pause in _pauses():
            trouble = self._tried(name, given, failing)
            if trouble.startswith("id|"):
                return trouble.removeprefix("id|")
            patience = self.patience_seconds if self.shell in MET else _UNMET_SECONDS
            if doubtful(trouble):
                patience = min(patience, _DOUBTFUL_SECONDS)
            if time.monotonic() - begun + pause > patience:
                break
            time.sleep(pause)
        raise JobError(f"{failing}: {trouble}\n  tried for {time.monotonic() - begun:.0f} s; run again later")

    def _tried(self, name: str, given: Mapping[str, str], failing: str) -> str:
        """``id|ID``, or a trouble that may pass. Raises `JobError` for one that does not."""
        try:
            kind, text, *more = (*self._asked(name, given)[0].split("|"), "", "")
        except Unreachable as error:
            return str(error)
        except Refused as error:
            raise JobError(f"{failing}: {error}") from error
        if kind == "id":
            return f"id|{text}"
        if refusal(text):
            there = f"\n  partitions there: {more[0].strip()}" if more[0].strip() else ""
            raise JobError(f"{failing}: {text.strip()}\n  asked for: {' '.join(requests(self))}{there}")
        return text.strip() or f"{self._where} gave no answer"


def _record_key(job: Job) -> str:
    return hashlib.sha256(job.key.encode()).hexdigest()[:32]


def _word(text: str) -> str:
    """*text* where a file name is meant."""
    if not text or not all(character.isalnum() or character in "._-" for character in text) or text.startswith("."):
        raise JobError(f"{text!r} is no name of a job or log")
    return text


def _pauses() -> Iterator[float]:
    pause = 1.0
    while True:
        yield pause
        pause = min(pause * 1.6, 30.0)


class _Gate:
    """Lets one caller pass per interval."""

    def __init__(self) -> None:
        self._lock, self._last = threading.Lock(), float("-inf")

    def pass_after(self, seconds: float) -> None:
        with self._lock:
            time.sleep(max(0.0, self._last + seconds - time.monotonic()))
            self._last = time.monotonic()


@functools.cache
def _gate(shell: Here | Ssh) -> _Gate:
    return _Gate()
