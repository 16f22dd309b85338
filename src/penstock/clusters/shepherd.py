"""Stays with one job of `penstock.clusters.local`: claims it, runs it, watches the clock, writes how it ended.

``python shepherd.py FOLDER``, with the standard library alone. It is a process of its own, so that the
job outlives whoever submitted it. What happens once is decided by one exclusive ``link``: of any
number of shepherds that are started for a folder, only the first gets its ``claim`` and runs the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_GRACE_SECONDS = 3.0
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


def main() -> None:
    """Come back to the submitter as soon as the job is claimed, and stay with it in the background."""
    folder = Path(sys.argv[1])
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    # Signals wait in line from here on, so that a cancellation that comes with the claim is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    ours = claim(folder)
    os.write(writer, b"1")
    os.close(writer)
    if ours:
        tend(folder)


def claim(folder: Path) -> bool:
    """Whether the job is ours to run. The claim says who to look for: host, process and its birth."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}
    temporary = folder / f".claim.{os.getpid()}"
    temporary.write_text(json.dumps(who))
    try:
        os.link(temporary, folder / "claim")
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def born(pid: int) -> str | None:
    """When process *pid* started, in a form that no later process of that number has; None when it is gone.

    Source: proc(5), ``/proc/PID/stat`` field 22, ticks since boot.
    """
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` from the state on; the name before it may hold any character."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tend(folder: Path) -> None:
    """Run the job to its end and write ``exit``."""
    started = time.time()
    if (folder / "cancelled").exists():
        code, why = -signal.SIGTERM, "cancelled before it started"
    else:
        code, why = run(json.loads((folder / "record.json").read_text()))
    ended = {"code": code, "why": why, "started": started, "ended": time.time()}
    temporary = folder / ".exit"
    temporary.write_text(json.dumps(ended))
    temporary.replace(folder / "exit")


def run(record: dict[str, Any]) -> tuple[int, str]:
    """Start the program and wait; its exit status, and why it was ended where that was not its own doing."""
    try:
        child = subprocess.Popen(record["command"], preexec_fn=_released())  # noqa: PLW1509  (one thread only)
    except OSError as error:
        print(f"{record['command'][0]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        return 127, ""
    why = _wait(child, record["time_seconds"])
    _end_all(child)
    return child.wait(), why


def _released() -> Any:
    """What the child does before it becomes the program: take signals again, and end when the shepherd does."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what the program leaves behind stays our descendant

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))

    return release


def _wait(child: subprocess.Popen[bytes], limit_seconds: float) -> str:
    deadline = time.monotonic() + limit_seconds if limit_seconds else float("inf")
    while child.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return f"ended after its time limit of {limit_seconds} s"
        got = signal.sigtimedwait(_SIGNALS, min(left, 3600.0))
        if got is not None and got.si_signo == signal.SIGTERM:
            return "ended by SIGTERM"
    return ""


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """End all that is left of the job: first asked, and after a while by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + _GRACE_SECONDS
        while _descendants() and time.monotonic() < deadline:
            child.poll()
            time.sleep(0.02)


def _descendants() -> list[int]:
    """Living processes below this one. Not a process group: MPI launchers give each rank its own."""
    children: dict[int, list[int]] = {}
    for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        fields = _stat(pid)
        if fields and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(pid)
    found = children.get(os.getpid(), [])
    for pid in found:  # grows while it is gone through
        found += children.get(pid, [])
    return found


if __name__ == "__main__":
    main()
