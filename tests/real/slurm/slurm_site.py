"""A real Slurm on loopback, started by scripts/slurm: ways to ask it, to hurt it, and to send it jobs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.clusters.slurm import Slurm
from penstock.core.nouns import Cluster, Job, Status

SCRIPT = Path(__file__).parents[3] / "scripts" / "slurm"
# What slurmctld itself writes of each job that has ended (JobCompType=jobcomp/filetxt), for ever.
ENDED = re.compile(r"^JobId=(\d+) .* Name=(.*) JobState=(\S+) ", re.MULTILINE)
TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"

SAVED_SECONDS = 20
"""By then slurmctld has saved what it was told, which takes it five seconds where it is not disturbed; a SIGKILL before
makes Slurm forget it, and give its ids anew."""

LIVING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
"""What `Native.state` is before the end, of which an exit record may tell a while before Slurm does."""


@dataclass(frozen=True)
class Native:
    """A job as Slurm knows it."""

    id: int
    name: str
    state: str


@dataclass(frozen=True)
class Site:
    """A running Slurm: all below *base*; *host* is its login node's name for the ``ssh`` in ``base/bin``."""

    base: Path
    host: str

    @property
    def path(self) -> str:
        """PATH with our ssh first. Sessions on the login node have it too, so that programs can be wrapped."""
        return os.pathsep.join([str(self.base / "bin"), os.environ["PATH"]])

    @property
    def environment(self) -> dict[str, str]:
        """For a process on the login node."""
        return {**os.environ, "PATH": self.path, "SLURM_CONF": str(self.base / "etc/slurm.conf")}

    def cluster(self, **more: Any) -> Slurm:
        """This cluster over SSH; ``host=""`` for the local shell."""
        given = {"host": self.host, "partition": "main", "time_minutes": 10, "memory": "20M", "python": sys.executable}
        given["scratch"] = str(self.base / "scratch")
        return Slurm(**{**given, "poll_seconds": 0.2, **more})

    @contextmanager
    def reached(self, local: bool = False) -> Iterator[None]:
        """Inside, this process reaches the cluster by SSH, or as if it ran on the login node."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", self.path)
            if local:
                patch.setenv("SLURM_CONF", self.environment["SLURM_CONF"])
            yield

    def start(self, *daemons: str) -> None:
        """Start these daemons, or all that do not run."""
        self._script("start", *daemons)

    def stop(self, *daemons: str) -> None:
        """Have these daemons end by themselves."""
        assert daemons
        self._script("stop", *daemons)

    def _script(self, action: str, *more: str) -> None:
        done = subprocess.run([SCRIPT, action, self.base, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def pid(self, daemon: str) -> int:
        return int((self.base / "run" / f"{daemon}.pid").read_text())

    def kill(self, daemon: str) -> None:
        """SIGKILL a daemon."""
        process = psutil.Process(self.pid(daemon))
        process.kill()
        process.wait(60)

    def kill_node(self, node: str) -> None:
        """What a power cut does: SIGKILL the node's slurmd, all that it runs for jobs, and what watches them."""
        self.kill(f"slurmd-{node}")
        jobs = [process for process in psutil.process_iter() if self._on_node(process, node)]
        for process in {step for job in jobs for step in _steps(job)} | set(jobs):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _on_node(self, process: psutil.Process, node: str) -> bool:
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            ours = environment.get("SLURM_CONF") == str(self.base / "etc/slurm.conf")
            return ours and environment.get("SLURMD_NODENAME") == node
        return False

    def cut_connections(self) -> int:
        """SIGKILL the server's end of every open SSH connection; how many there were."""
        return self._kill_ends("sshd", "laddr")

    def kill_masters(self) -> int:
        """SIGKILL every ssh that holds a connection to the login node, thus each ControlMaster; how many there were."""
        return self._kill_ends("ssh", "raddr")

    def _kill_ends(self, program: str, end: str) -> int:
        port = json.loads((self.base / "settings.json").read_text())["port_sshd"]
        found = [process for process in psutil.process_iter(["name"]) if process.info["name"] == program]
        found = [process for process in found if _connected(process, end, port)]
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return len(found)

    def asked(self, *command: str) -> str:
        """What a command says on the login node."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def natives(self, folder: Path) -> list[Native]:
        """Every job that Slurm ever took for jobs of `shell` in or below *folder*, each task of an array by itself."""
        ended = (self.base / "log/ended_jobs").read_text() if (self.base / "log/ended_jobs").exists() else ""
        rows = [Native(int(number), name, state) for number, name, state in ENDED.findall(ended)]
        listed = self.asked("squeue", "-h", "-t", "all", "-o", "%A|%j|%T").splitlines()
        rows += [Native(int(number), name, state) for number, name, state in (line.split("|") for line in listed)]
        known = {row.id: row for row in reversed(rows) if f"{folder.name}." in row.name}
        return sorted(known.values(), key=lambda job: job.id)

    @contextmanager
    def wrapped(self, program: str, script: str) -> Iterator[None]:
        """Inside, *program* on the login node is a shell script, in which ``$real`` is the true one."""
        wrapper = self.base / "bin" / program
        new = wrapper.with_name(f".{program}")
        new.write_text(f"#!/bin/sh\nreal={shutil.which(program)}\n{script}\n")
        new.chmod(0o755)
        new.rename(wrapper)
        try:
            yield
        finally:
            wrapper.unlink()

    @contextmanager
    def counted(self, program: str) -> Iterator[Callable[[], int]]:
        """Inside, calls of *program* on the login node are counted."""
        calls = self.base / "log" / f"{program}.{time.time_ns()}"
        calls.touch()
        with self.wrapped(program, f'echo "$*" >> {calls}; exec $real "$@"'):
            yield lambda: len(calls.read_text().splitlines())

    def sbatch_that_times_out(self) -> object:
        """Inside, sbatch submits, and then says that it heard nothing of it."""
        return self.wrapped("sbatch", f'$real "$@" > /dev/null; echo "{TIMED_OUT}" >&2; exit 1')

    @contextmanager
    def without(self, daemon: str) -> Iterator[None]:
        """Inside, *daemon* has been killed."""
        if daemon == "slurmctld":
            time.sleep(SAVED_SECONDS)
        self.kill(daemon)
        try:
            yield
        finally:
            self.start(daemon)


def _steps(job: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [parent for parent in job.parents() if parent.name() == "slurmstepd"]
    return []


def _connected(process: psutil.Process, end: str, port: int) -> bool:
    with suppress(psutil.Error):
        connections = process.net_connections("tcp")
        return any(
            getattr(connection, end) and getattr(connection, end).port == port
            for connection in connections
            if connection.status == psutil.CONN_ESTABLISHED
        )
    return False


@contextmanager
def running(*options: str) -> Iterator[Site]:
    """A Slurm of its own, ended also when pytest is killed."""
    # A short path: sockets lie below it. Its name is the login node's, so no two sites share an SSH connection.
    base = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    started = subprocess.run([SCRIPT, "start", base, "--host", base.name, *options], capture_output=True, text=True)
    guard = 'tail --pid="$0" -f /dev/null; exec "$1" stop "$2" --wipe'
    command = ["sh", "-c", guard, str(os.getpid()), str(SCRIPT), str(base)]
    watcher = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    try:
        if started.returncode:
            pytest.fail(f"Slurm did not start: {started.stderr}\n{_logs(base)}")
        yield Site(base, base.name)
    finally:
        os.killpg(watcher.pid, signal.SIGKILL)
        watcher.wait()
        subprocess.run([SCRIPT, "stop", base, "--wipe"], check=True)


def _logs(base: Path) -> str:
    """The end of each log."""
    files = sorted((base / "log").iterdir())
    return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files if file.is_file())


SESSION = uuid.uuid4().hex

SHORT = {"time_minutes": 1, "warn_seconds": 15}
"""The least limit that Slurm has. It looks every half minute and warns by so much early: 15 to 45 s after the start,
when the program listens, and half a minute before the end."""


def shell(folder: Path, script: str, **more: Any) -> Job:
    """A job that runs a shell script in *folder*, under a key that no other run of the tests has."""
    key = hashlib.sha256(f"{SESSION} {folder}".encode()).hexdigest()
    return Job(key, ("sh", "-c", script), str(folder), f"{folder.parent.name}.{folder.name}", **more)


def once(folder: Path, seconds: float = 0) -> Job:
    """A job that counts its own runs, and leaves a result."""
    return shell(folder, f"echo $SLURM_JOB_ID >> ran; sleep {seconds}; echo {folder.name} > result")


def late(folder: Path) -> Job:
    """A job that notes that it was warned, and goes on."""
    return shell(folder, "trap 'touch warned' USR1; while true; do sleep 0.2; done")


def ran_once(folder: Path) -> bool:
    """Whether a job of `once` ran, and ran once."""
    return len((folder / "ran").read_text().split()) == 1 and (folder / "result").read_text() == f"{folder.name}\n"


def wait_until(done: Callable[[], Any], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


def ended(cluster: Cluster, ids: Sequence[str], seconds: float = 300) -> list[Status]:
    """Poll all until all have ended."""
    deadline = time.monotonic() + seconds
    while True:
        found = cluster.poll(ids)
        if all(status.state.final for status in found.values()):
            return [found[native_id] for native_id in ids]
        left = {native_id: status for native_id, status in found.items() if not status.state.final}
        assert time.monotonic() < deadline, f"not ended after {seconds:g} s: {left}"
        time.sleep(0.2)
