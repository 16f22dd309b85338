"""A solver's run folder and its process, for runs that are streamed into.

::

    <folder>/0 constant system    made from the template, and system/controlDict with what the stream needs at its end
    <folder>/processor0 ...       when there are several ranks
    <folder>/log                  what the solver prints; runs that go on add to it
    <folder>/lock                 held by the driver and by its solver: one at a time
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import JobError
from penstock.formats.openfoam import pieces, read_dictionary, times, written_whole
from penstock.solvers.openfoam.case import environment, prepared, run
from penstock.solvers.openfoam.log import fault

__all__ = ["Solver", "configure", "controlled", "ended", "held", "made", "resumed", "solver_command"]

_NOBODY = 65534
_GOES_ON = "penstock: goes on from time"
_STEP = re.compile(rf"^Time = (\S+)$|^ExecutionTime = |^{_GOES_ON} (\S+)$", re.MULTILINE)
_TAIL_BYTES = 1 << 16
_GRACE_SECONDS = 30.0
_LOCK_SECONDS = 30.0


# --- the folder ------------------------------------------------------------------------------------------


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Hold *folder* for this run; gives the file descriptor that the solver inherits, so that it holds it too.

    A solver whose driver was killed ends at its next exchange; for that much time one waits here.

    Raises:
        JobError: another run goes on in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    try:
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise JobError(f"another run goes on in {folder}; wait for its end, or take another folder")
            time.sleep(0.05)
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def made(folder: Path, template: Path, ranks: int) -> bool:
    """Make the run's folders from the template, all or none; whether there was something to make.

    Args:
        folder: of the run.
        template: a case: ``0`` or ``0.orig``, ``constant``, ``system``.
        ranks: for more than one the case is decomposed.

    Raises:
        JobError: the template is no case, a program of OpenFOAM failed, or the run was begun on other ranks.
    """
    if (folder / "system").exists():
        begun = len(pieces(folder)) or 1
        if begun != ranks:
            raise JobError(
                f"the run in {folder} was begun on {begun} rank{'s' * (begun > 1)}, and {ranks} were asked for; go on "
                f"with ranks = {begun}, or take another folder"
            )
        return False
    missing = [name for name in ("constant", "system/controlDict") if not (template / name).exists()]
    if missing:
        raise JobError(f"{template} is no OpenFOAM case: {' and '.join(missing)} not found")
    for left in folder.glob("making-*"):
        shutil.rmtree(left)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
    start = "0.orig" if (template / "0.orig").exists() else "0"
    for name, source in (("0", start), ("constant", "constant"), ("system", "system")):
        shutil.copytree(template / source, work / name)
    prepared(work)
    if ranks > 1:
        _decompose(work, ranks)
    # The folder "system" comes last and says that all is there.
    for path in sorted(work.iterdir(), key=lambda path: path.name == "system"):
        if (folder / path.name).is_dir():
            shutil.rmtree(folder / path.name)
        path.rename(folder / path.name)
    work.rmdir()
    return True


def _decompose(case: Path, ranks: int) -> None:
    path = case / "system" / "decomposeParDict"
    if not path.exists() or str(read_dictionary(path).get("numberOfSubdomains")) != str(ranks):
        path.write_text(
            "FoamFile { version 2.0; format ascii; class dictionary; object decomposeParDict; }\n"
            f"numberOfSubdomains {ranks}; method simple; simpleCoeffs {{ n ({ranks} 1 1); delta 0.001; }}\n"
        )
    if why := run(["decomposePar"], case)[1]:
        raise JobError(f"{case} cannot be cut for {ranks} ranks: {why}")


def configure(folder: Path, template: Path, entries: str) -> None:
    """Write ``controlDict``: the template's, and *entries* after it, which count where both say something."""
    text = (template / "system" / "controlDict").read_text()
    path = folder / "system" / "controlDict"
    temporary = path.with_name("controlDict.new")
    temporary.write_text(f"{text}\n// What the stream needs\nstartFrom latestTime;\n{entries}\n")
    temporary.replace(path)


def forget_after(folder: Path, last: float) -> None:
    """Remove the times after *last*: a killed solver may have written them in part."""
    for case in (folder, *pieces(folder)):
        for name in times(case):
            if (case / name).exists() and float(name) > last:
                shutil.rmtree(case / name)


def resumed(folder: Path) -> bool:
    """Remove what a killed run has written in part, and note in its log where it goes on; whether there was a run.

    The log knows of the first rank only, so each rank's files of the time are looked at as well.
    """
    log = folder / "log"
    if not log.exists():
        return False
    last = _last_whole(folder, finished_time(log))
    forget_after(folder, float(last))
    with log.open("a") as file:
        file.write(f"\n{_GOES_ON} {last}\n")
    return True


def _last_whole(folder: Path, done: float | None) -> str:
    """The last time up to *done* that is written in full; else the first, with which the run was made."""
    first, *later = times(folder) or ("0",)
    reached = [name for name in later if done is not None and float(name) <= done]
    return next((name for name in reversed(reached) if written_whole(folder, name)), first)


def controlled(case: Path, name: str) -> float:
    """A number of the case's ``controlDict``. Raises `JobError`."""
    found = read_dictionary(case / "system" / "controlDict").get(name)
    try:
        return float(str(found))
    except ValueError as error:
        raise JobError(f"{case}: {name} of system/controlDict is {found!r}, a number was needed") from error


def ended(folder: Path) -> bool:
    """Whether the solver has done its last step and written it on all ranks; the time may be off by rounding."""
    if not (folder / "system" / "controlDict").exists():
        return False
    done = finished_time(folder / "log")
    if done is None or done < controlled(folder, "endTime") - 0.5 * controlled(folder, "deltaT"):
        return False
    return not _torn(folder)


def _torn(folder: Path) -> bool:
    """Whether the newest time that any rank has begun to write is not there in full."""
    begun = {name for case in pieces(folder) or (folder,) for name in times(case)}
    return len(begun) > 1 and not written_whole(folder, max(begun, key=float))


def finished_time(log: Path) -> float | None:
    """The time of the last step that the solver has finished, as the log of its first rank says.

    A run that went on from an earlier time has not finished what its log says of before.
    """
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    done = seen = None
    for match in _STEP.finditer(text):
        if match[1]:
            seen = float(match[1])
        elif match[2]:
            done = seen = float(match[2])
        elif seen is not None:
            done = seen
    return done


# --- the process -----------------------------------------------------------------------------------------


def solver_command(folder: Path, application: str, ranks: int, launcher: Sequence[str], ordinary: bool) -> list[str]:
    """The command line of a solver.

    Args:
        folder: of the run.
        application: the solver; empty takes the one that ``controlDict`` names.
        ranks: of MPI.
        launcher: what starts the ranks; empty takes Open MPI's ``mpirun``, the one that OpenFOAM is linked with.
        ordinary: run as an ordinary user when we are root, since OpenFOAM gives root no system calls.
    """
    program = application or str(read_dictionary(folder / "system" / "controlDict")["application"])
    mpirun = shutil.which("mpirun.openmpi") or "mpirun"
    start = [*(launcher or (mpirun, "-n", str(ranks), "-x", "PENSTOCK_TOKEN_FILE"))] if ranks > 1 else []
    user = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    as_user = ["setpriv", *user] if ordinary and os.getuid() == 0 else []
    return [*as_user, *start, program, *(["-parallel"] if ranks > 1 else [])]


class Solver:
    """A running solver; leaving the block ends it."""

    def __init__(self, command: Sequence[str], folder: Path, added: Mapping[str, str], lock: int) -> None:
        self.log = folder / "log"
        self._start = self.log.stat().st_size if self.log.exists() else 0
        self.name = Path(next(word for word in reversed(command) if not word.startswith("-"))).name
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command, cwd=folder, env={**environment(folder), **added}, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=(lock,),
                )  # fmt: skip
        except FileNotFoundError as error:
            text = f"there is no program {command[0]}; install OpenFOAM (Debian: apt-get install openfoam)"
            raise JobError(text) from error

    def __enter__(self) -> Solver:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait(self, seconds: float = _GRACE_SECONDS) -> int | None:
        """Its exit status, -N after signal N; None when it still runs after so long."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End it, if it has not ended: first by the signal that its launcher passes on to all ranks."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.running():
                return
            os.killpg(self._process.pid, number)
            # One that was stopped hears nothing else before.
            os.killpg(self._process.pid, signal.SIGCONT)
            self.wait()

    def death(self, when: str) -> str:
        """A text that says how it died."""
        status = self.wait()
        if status is None:
            return f"{self.name} left the stream {when}, and still ran; look at its log {self.log}"
        why = fault(self._said(), status, self.name) or f"{self.name} ended with status {status}"
        return f"the solver died {when}: {why}; its log is {self.log}"

    def _said(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")
